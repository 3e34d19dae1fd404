"""``shorts-recommendation lab NAME``: runs one lab, prints what it shows, writes its numbers.

In: a name of ``LABS``. Out: tables on the terminal; ``labs_<name>.json`` and a picture in the
results folder of the run. ``list`` prints the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ml_platform.evaluation.lab import Lab
from ml_platform.evaluation.lab_command import run_lab as perform
from shorts_recommendation.artifacts import SYSTEM, SYSTEM_FOLDER

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

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
    package = "shorts_recommendation.labs"
    status = perform(run, name, LABS, package=package, system=SYSTEM, root=SYSTEM_FOLDER)
    if status:
        raise typer.Exit(status)
