"""``video-recommendation lab NAME``: runs one lab, prints what it shows, writes its numbers.

In: a name of ``LABS``. Out: tables on the terminal; ``labs_<name>.json`` and a picture in the
run's results folder. ``list`` prints the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ml_platform.evaluation.lab import Lab
from ml_platform.evaluation.lab_command import run_lab as perform
from video_recommendation.artifacts import SYSTEM_FOLDER

if TYPE_CHECKING:
    from video_recommendation.commands import Run

SYSTEM = "video_recommendation"
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
    package = "video_recommendation.labs"
    status = perform(run, name, LABS, package=package, system=SYSTEM, root=SYSTEM_FOLDER)
    if status:
        raise typer.Exit(status)
