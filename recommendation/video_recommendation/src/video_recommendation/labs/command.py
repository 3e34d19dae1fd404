"""``video-recommendation lab NAME``: runs one lab, prints what it shows, writes its numbers.

In: a name of ``LABS``. Out: tables on the terminal; ``labs_<name>.json`` and a picture in the
run's results folder. ``list`` prints the names.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from ml_platform.evaluation.results import Results, write_atomic
from video_recommendation.artifacts import SYSTEM_FOLDER

if TYPE_CHECKING:
    from video_recommendation.commands import Run
    from video_recommendation.labs.report import LabReport

SYSTEM = "video_recommendation"
UNKNOWN_NAME = 2
"""Exit code, as for any other mistake in the command line."""


@dataclass(frozen=True)
class Lab:
    """One lab: its name on the command line and the question to answer before running it."""

    name: str
    question: str

    @property
    def key(self) -> str:
        """Its name in Python and in the results."""
        return self.name.replace("-", "_")


LABS = (
    Lab("label-leakage", "A feature is read from a daily table. What does the offline test say?"),
    Lab("train-serve-skew", "Serving reads the history in the wrong order. Which monitor rings?"),
    Lab("stale-index", "A new tower meets yesterday's index. Which dashboard turns red?"),
    Lab("popularity-collapse", "A ranker learns from its own lists. What is left after a week?"),
    Lab("position-bias", "Clicks train the ranker that chose the positions. What does it learn?"),
    Lab("sampled-metrics", "Model A beats B against 100 negatives. Does it on the catalogue?"),
)


def run_lab(run: Run, name: str) -> None:
    """Runs the lab, or lists them all.

    Raises:
        typer.Exit: with code 2 for a name that no lab has.
    """
    if name == "list":
        for lab in LABS:
            run.console.print(f"  lab-{lab.name:<22}{lab.question}", highlight=False)
        return
    chosen = next((lab for lab in LABS if lab.name == name), None)
    if chosen is None:
        known = ", ".join(lab.name for lab in LABS)
        run.console.print(f"[red]no lab is called {name!r}; there are {known}", highlight=False)
        raise typer.Exit(UNKNOWN_NAME)
    _run(run, chosen)


def _run(run: Run, lab: Lab) -> None:
    from video_recommendation.labs.report import print_report, record_report

    started = time.perf_counter()
    run.console.print(f"[bold]{lab.question}[/bold] Answer before you read on.", highlight=False)
    module = importlib.import_module(f"video_recommendation.labs.{lab.key}")
    report: LabReport = module.run(run)
    results = _results(run, report)
    record_report(results, f"lab_{lab.key}", report)
    folder = run.results_folder()
    results.write(folder / f"labs_{lab.key}.json")
    if report.figure is not None:
        from ml_platform.evaluation.plot_style import png

        write_atomic(folder / "plots" / f"lab_{lab.key}.png", png(report.figure))
    print_report(run.console, report)
    page = f"labs/{lab.key}.md"
    run.console.print(
        f"{time.perf_counter() - started:.0f} s. The story: {page}; numbers and picture: {folder}",
        highlight=False,
    )


def _results(run: Run, report: LabReport) -> Results:
    return Results.start(
        system=SYSTEM,
        config=run.config.model_dump(mode="json"),
        dataset_name=report.source.name,
        dataset_sha256=report.source.sha256,
        synthetic=report.source.synthetic,
        seed=run.config.seed,
        root=SYSTEM_FOLDER,
    )
