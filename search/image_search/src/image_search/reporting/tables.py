"""The results of a run on the terminal: what stands in the results is printed, nothing else.

In: ``Results``. Out: a table a stage, a row a variant, a column a metric, protocols below.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ml_platform.evaluation.results import Metric, Results

TITLES = {
    "retrieval": "Retrieval by each embedding, all classes",
    "retrieval_unseen": "Retrieval among classes that no fit has seen",
    "retrieval_class": "By class",
}
FORM = ".4f"
MOST_PROTOCOLS = 3


def print_tables(console: Console, results: Results, *, quick: bool) -> None:
    """Prints every stage of TITLES that the run has, and what the run cost."""
    note = "QUICK RUN, no result. " if quick else ""
    note += "SYNTHETIC" if results.run.dataset.synthetic else results.run.dataset.name
    for stage, title in TITLES.items():
        found = by_variant(results, stage)
        if not found:
            continue
        console.print(f"\n[bold]{title}[/bold] [yellow]({note})", highlight=False)
        console.print(_table(found))
        protocols = list(dict.fromkeys(m.protocol for row in found.values() for m in row.values()))
        for protocol in protocols[:MOST_PROTOCOLS]:
            console.print(f"  {protocol}", style="dim", highlight=False, markup=False)
    seconds = results["seconds/all_stages/wall_s"].value
    peak = results["memory/main_process/peak_bytes"].value / 2**30
    console.print(f"\n{seconds:.1f} s, peak memory {peak:.2f} GiB", highlight=False)


def by_variant(results: Results, stage: str) -> dict[str, dict[str, Metric]]:
    """Variant -> metric -> value, of one stage."""
    found: dict[str, dict[str, Metric]] = {}
    for key in results:
        of_stage, variant, metric = key.split("/")
        if of_stage == stage:
            found.setdefault(variant, {})[metric] = results[key]
    return found


def _table(found: dict[str, dict[str, Metric]]) -> Table:
    metrics = sorted({metric for row in found.values() for metric in row}, key=_order)
    table = Table("")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for variant, row in found.items():
        table.add_row(variant, *(_cell(row.get(metric)) for metric in metrics))
    return table


def _order(metric: str) -> tuple[str, int]:
    """map@r first, then by the number behind the @."""
    name, _, cut = metric.partition("@")
    return name, int(cut) if cut.isdigit() else 0


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    if metric.low is None or metric.high is None:
        return format(metric.value, FORM)
    return f"{metric.value:{FORM}} [{metric.low:.3f}, {metric.high:.3f}]"
