"""``shorts-recommendation lab NAME``: runs one lab, prints what it shows, writes its numbers.

In: a name of ``LABS``. Out: tables on the terminal; ``labs_<name>.json`` and a picture in the
results folder of the run. ``list`` prints the names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import typer

from ml_platform.evaluation.lab import Lab, Source, find_lab, perform_lab, print_labs
from ml_platform.evaluation.results import Results
from shorts_recommendation.artifacts import SYSTEM, SYSTEM_FOLDER

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

UNKNOWN_NAME = 2
"""Exit code, as for any other mistake in the command line."""

LABS = (
    Lab("duration-bias", "Seconds or share watched: which label makes people content?"),
    Lab("feedback-collapse", "A feed learns from its own slates. Which dashboard sees it narrow?"),
    Lab("stale-trending", "The counters stop at eight. What do readers get at eight next morning?"),
    Lab("upload-starvation", "A ranker has never seen an upload. When does anybody notice?"),
)


def run_lab(run: Run, name: str) -> None:
    """Runs the lab, or lists them all.

    Raises:
        typer.Exit: with code 2 for a name that no lab has.
    """
    if name == "list":
        print_labs(run.console, LABS)
        return
    try:
        lab = find_lab(LABS, name)
    except ValueError as unknown:
        run.console.print(f"[red]{unknown}", highlight=False)
        raise typer.Exit(UNKNOWN_NAME) from unknown
    module = importlib.import_module(f"shorts_recommendation.labs.{lab.key}")
    perform_lab(
        lab,
        lambda: module.run(run),
        lambda source: _results(run, source),
        folder=run.results_folder(),
        console=run.console,
    )


def _results(run: Run, source: Source) -> Results:
    return Results.start(
        system=SYSTEM,
        config=run.config.model_dump(mode="json"),
        dataset_name=source.name,
        dataset_sha256=source.sha256,
        synthetic=source.synthetic,
        seed=run.config.seed,
        root=SYSTEM_FOLDER,
    )
