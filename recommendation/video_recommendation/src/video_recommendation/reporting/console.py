"""The report on the terminal, at the end of ``make e2e``.

In: what a run measured. Out: rich tables. They are drawn for 80 columns and never wider than 100,
so that they can be pasted; whole intervals and plots stand in report.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.lists import Table
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.pipeline import Trained
from video_recommendation.reporting.aims import aims_grid
from video_recommendation.reporting.grid import Cell, Grid, flags
from video_recommendation.reporting.people import CHOICE_NOTE, Person, two_people
from video_recommendation.reporting.tables import (
    ablations_grid,
    funnel_grid,
    knobs_line,
    load_line,
    pool_grid,
    ranking_grid,
    retrieval_grid,
)
from video_recommendation.reporting.tables_quality import reranking_grid
from video_recommendation.serving.load_session import LoadSession

MAX_WIDTH = 100
SPREAD_NOTE = "± is half the width of a 95% interval; both ends stand in the report."
LOOK: dict[str, Any] = {
    "box": SIMPLE_HEAD,
    "show_edge": False,
    "padding": (0, 0, 0, 1),
    "pad_edge": False,
}
STYLES = {"good": "green", "bad": "red", "dim": "bright_black", "strong": "bold", "": ""}
OUTCOMES = {"next": "✓", "later": "○", "": ""}
SHORT_SOURCES = {
    "two_tower": "tower",
    "co_visitation": "co-visits",
    "ease": "ease",
    "recent_popularity": "popular",
    "fresh": "fresh",
}


def print_report(
    console: Console,
    data: SystemData,
    trained: Trained,
    evaluation: Evaluation,
    config: Config,
    *,
    served: LoadSession | None = None,
    report_path: Path,
) -> None:
    """Prints everything a newcomer should see of a run.

    Args:
        console: Where to; widths over 100 columns are not used.
        data: The run's data.
        trained: The trained system, for the two people's lists.
        evaluation: What was measured offline.
        config: The run's configuration.
        served: What was measured under load, when a load was served.
        report_path: Where report.html lies.
    """
    width = min(console.width, MAX_WIDTH)
    flag = flags(config, data)
    grids = [
        funnel_grid(evaluation, served, flag),
        retrieval_grid(evaluation, flag),
        pool_grid(evaluation, config, flag),
        ranking_grid(evaluation, config, flag),
        reranking_grid(evaluation, config, flag),
    ]
    _line(console, SPREAD_NOTE, width)
    for grid in grids:
        draw(console, grid, width)
        if grid.title.startswith("Retrieval"):
            _line(console, f"{knobs_line(evaluation)} {evaluation.retrieval.protocol}.", width)
    for someone in two_people(data, trained, evaluation):
        _draw_person(console, someone, flag, width)
    draw(console, aims_grid(evaluation, flag), width)
    console.print(Text(load_line(served), style="bold"), width=width, soft_wrap=False)
    console.print(Text.assemble("Report: ", (str(report_path), "bold cyan")), soft_wrap=True)


def print_ablations(console: Console, table: Table) -> None:
    """The two-tower ablations, each against "default".

    Args:
        console: Where to.
        table: One row an ablation and one named "default"; its protocol stands beneath.
    """
    width = min(console.width, MAX_WIDTH)
    _line(console, SPREAD_NOTE, width)
    draw(console, ablations_grid(table), width)


def draw(console: Console, grid: Grid, width: int) -> None:
    """One grid as a rich table with its title above and its caption below."""
    table = _plain_table(grid.title)
    for place, head in enumerate(grid.columns):
        table.add_column(head, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for place, row in enumerate(grid.rows):
        style = "bold" if place in grid.marked else ""
        table.add_row(*map(_cell, row), style=style, end_section=place + 1 in grid.breaks)
    console.print(table, width=width)
    _line(console, grid.caption, width)


def _draw_person(console: Console, someone: Person, flag: str, width: int) -> None:
    history = _plain_table(escape(someone.headline))
    history.add_column("stars", justify="right")
    history.add_column(f"last watched, newest first ({len(someone.history)})", ratio=3)
    history.add_column("genres", ratio=2, style="bright_black")
    for event in someone.history:
        history.add_row(f"{event.rating:g}", Text(event.title), Text(event.genres))
    listed = RichTable(expand=True, **LOOK)
    listed.add_column("", width=1)
    listed.add_column("recommended", ratio=10)
    listed.add_column("P", justify="right", min_width=5)
    listed.add_column("because", ratio=11)
    for item in someone.shown:
        listed.add_row(
            Text(OUTCOMES[item.outcome], style="bold green"),
            _two_lines(item.title, item.genres),
            f"{item.score:.1%}",
            _two_lines(item.reason, ", ".join(SHORT_SOURCES.get(s, s) for s in item.sources)),
        )
    console.print(history, width=width)
    console.print()
    console.print(listed, width=width)
    note = "✓ watched next, ○ later in the test window. P: calibrated probability of a watch."
    _line(console, " ".join(part for part in (flag, note, CHOICE_NOTE) if part), width)


def _plain_table(title: str) -> RichTable:
    return RichTable(
        title=title,
        title_justify="left",
        title_style="bold",
        **LOOK,
    )


def _cell(cell: Cell) -> Text:
    return Text.assemble((cell.text, STYLES[cell.tone]), (cell.spread, "bright_black"))


def _two_lines(first: str, second: str) -> Text:
    return Text.assemble(first, ("\n" + second if second else "", "bright_black"))


def _line(console: Console, words: str, width: int) -> None:
    """Small print under a table; words of a quick run or generated data stand out."""
    line = Text(words, style="bright_black")
    line.highlight_words(["QUICK RUN, not a result", "SYNTHETIC data"], "bold yellow")
    console.print(Padding(line, (0, 0, 1, 0)), width=width)
