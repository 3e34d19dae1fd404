"""``video-recommendation feedback-loop``: days of the loop with and without exploration.

In: nothing but settings; the world is generated. Out: a line for each day of the first world, a
table, ``feedback_loop.json`` and two pictures. What the runs wrote (logs, registry, days) stays
under the artifacts until the next run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.feedback_loop.loop import DayRecord
from video_recommendation.feedback_loop.report import (
    DAY_HEAD,
    arms_grid,
    catalogue_figure,
    day_line,
    record,
    regret_figure,
    story,
)
from video_recommendation.feedback_loop.runs import run_experiment
from video_recommendation.feedback_loop.settings import FULL, QUICK, LoopSettings
from video_recommendation.reporting.console import MAX_WIDTH, draw
from video_recommendation.reporting.grid import sentences

if TYPE_CHECKING:
    from video_recommendation.commands import Run

SYSTEM = "video_recommendation"


def run_feedback_loop(run: Run, *, quick: bool) -> None:
    """Runs every arm in every world, prints what it shows, writes results and pictures."""
    settings = QUICK if quick else FULL
    note = sentences(
        "QUICK RUN, not a result." if quick else "",
        "SYNTHETIC world: shows the mechanics, not how good a system is on people.",
    )
    results = _start(run, settings)
    work = run.artifacts / "feedback_loop"
    shutil.rmtree(work, ignore_errors=True)
    console = run.console
    console.print(f"[yellow]{note}[/yellow]", highlight=False)
    console.print(DAY_HEAD, highlight=False, soft_wrap=True)
    total = len(settings.seeds) * len(settings.arms) * settings.n_days
    with run.progress.stage("days of all arms and worlds", total) as step:

        def on_day(arm: str, seed: int, day: DayRecord) -> None:
            step(1)
            if seed == settings.seeds[0]:  # one world is enough to read along
                console.print(day_line(arm, day), highlight=False, soft_wrap=True)

        found = run_experiment(settings, work, on_day)
    draw(console, arms_grid(found, note), min(console.width, MAX_WIDTH))
    for line in story(found):
        console.print(f"  {line}", highlight=False)
    record(results, found)
    folder = _folder(run, quick=quick)
    results.write(folder / "feedback_loop.json")
    figures = {"regret": regret_figure(found, note), "catalogue": catalogue_figure(found, note)}
    for name, figure in figures.items():
        write_atomic(folder / "plots" / f"feedback_loop_{name}.png", png(figure))
    console.print(f"Numbers and pictures: {folder}", highlight=False, soft_wrap=True)


def _start(run: Run, settings: LoopSettings) -> Results:
    """Results that name the first world's history as their data."""
    seed = settings.seeds[0]
    dataset = settings.world_of(seed).dataset()
    return Results.start(
        system=SYSTEM,
        config=settings.as_dict(),
        dataset_name=dataset.name,
        dataset_sha256=dataset.sha256,
        synthetic=True,
        seed=seed,
        root=SYSTEM_FOLDER,
    )


def _folder(run: Run, *, quick: bool) -> Path:
    folder = run.artifacts / "demonstrations" if quick else run.results_folder()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    return folder
