"""The report of a run: on the terminal, and as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from ml_platform.evaluation.results import Results, write_atomic
from shorts_recommendation.config import Config
from shorts_recommendation.reporting.tables import Table, tables

MOST_PROTOCOLS = 3


def print_report(console: Console, results: Results, config: Config, report: Path) -> None:
    """Prints the tables, what it cost, and where the page is."""
    note = "QUICK RUN, SIMULATED WORLD" if config.quick else "simulated world"
    for table in tables(results, intervals=False):
        console.print(f"\n[bold]{table.title}[/bold] [yellow]({note})", highlight=False)
        console.print(_rich(table))
        for protocol in table.protocols[:MOST_PROTOCOLS]:
            console.print(f"  [dim]{protocol}[/dim]", highlight=False)
        if (more := len(table.protocols) - MOST_PROTOCOLS) > 0:
            console.print(f"  [dim]and {more} more in the report[/dim]", highlight=False)
    seconds = results["seconds/all_stages/wall_s"].value
    peak = results["memory/main_process/peak_bytes"].value / 2**30
    console.print(
        f"\n{seconds:.0f} s, peak memory {peak:.2f} GiB. Report: {report}", highlight=False
    )


def write_report(folder: Path, results: Results, config: Config) -> Path:
    """Writes ``report.html`` into the run's folder, with its pictures inside; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("shorts_recommendation.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
    )
    pictures = [
        (path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode())
        for path in sorted((folder / "plots").glob("*.png"))
    ]
    page = environment.get_template("report.html.j2").render(
        run=results.run, quick=config.quick, tables=tables(results), pictures=pictures
    )
    path = folder / "report.html"
    write_atomic(path, page)
    return path


def _rich(table: Table) -> RichTable:
    shown = RichTable()
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown
