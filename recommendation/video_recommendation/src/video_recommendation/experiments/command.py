"""``video-recommendation experiments``: what the statistics promise and keep on real users.

In: the data set. Out: six tables on the terminal, ``experiments.json`` and four pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import write_atomic
from video_recommendation.experiments import false_alarms, lost_users, precision
from video_recommendation.experiments.plots import (
    duels_figure,
    false_alarms_figure,
    peeking_figure,
    power_figure,
)
from video_recommendation.experiments.population import (
    by_calendar,
    first_events,
    returning_users,
)
from video_recommendation.experiments.rankers import duels
from video_recommendation.experiments.settings import FULL, QUICK, ExperimentSettings
from video_recommendation.experiments.tables import (
    cuped_grid,
    duel_grid,
    false_alarm_grid,
    peeking_grid,
    power_grid,
    ratio_grid,
    record_false_alarms,
    record_precision,
    record_rest,
)
from video_recommendation.reporting.console import MAX_WIDTH, draw
from video_recommendation.reporting.grid import Grid, sentences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ml_platform.evaluation.progress import Step
    from video_recommendation.commands import Run
    from video_recommendation.data import SystemData
    from video_recommendation.experiments.precision import CupedRow


def run_experiments(run: Run, *, quick: bool) -> None:
    """Runs every study, prints what it shows, writes results and pictures."""
    settings = QUICK if quick else FULL
    data = run.load()
    results = run.start_results(data)
    note = sentences(
        "QUICK RUN, not a result." if quick else "", "SYNTHETIC data." if data.synthetic else ""
    )
    people = returning_users(data)
    with run.progress.stage("A/A tests, read once", settings.n_seeds) as step:
        draws = false_alarms.draw_experiments(people, settings)
        analyses = false_alarms.fixed_end(people, draws, step)
    with run.progress.stage("A/A tests, read daily; then an effect", 2 * settings.n_seeds) as step:
        peeks = false_alarms.peeking(people, draws, settings.looks, step)
        price = false_alarms.price_of_looking(people, draws, settings.looks, step)
    with run.progress.stage("CUPED, five metrics", 5 * settings.n_seeds) as step:
        rows = _cuped_rows(data, settings, step)
    n_points = len(settings.power_users) * settings.power_seeds
    with run.progress.stage("power curve", n_points) as step:
        curve = precision.likes_power(first_events(data), settings, step)
    n_losses = len(settings.loss_users) * settings.loss_seeds
    with run.progress.stage("sample ratio, lost users", n_losses) as step:
        ratios = lost_users.ratio_rows(settings)
        losses = [
            lost_users.heavy_users_lost(people, n, settings, step) for n in settings.loss_users
        ]
    with run.progress.stage("interleaving and A/B tests of rankers", 2) as step:
        found = duels(data, settings, step)

    for grid in (
        false_alarm_grid(analyses, note, settings),
        peeking_grid(peeks, price, note, settings),
        cuped_grid(rows, note),
        power_grid(curve, note),
        ratio_grid(ratios, losses, note),
        duel_grid(found, note),
    ):
        _print(run, grid)
    protocol = (
        f"{data.name}, {len(people):,} users drawn with replacement, {settings.n_users:,} an "
        f"experiment, {settings.n_seeds:,} experiments"
    )
    record_false_alarms(results, analyses, peeks, price, protocol)
    record_precision(results, rows, curve, protocol)
    record_rest(results, ratios, losses, found, protocol)
    folder = _folder(run, quick=quick)
    results.write(folder / "experiments.json")
    figures = {
        "experiments_false_alarms": false_alarms_figure(analyses, note),
        "experiments_peeking": peeking_figure(peeks, note),
        "experiments_power": power_figure(curve, note),
        "experiments_interleaving": duels_figure(found, note),
    }
    _save(folder, figures)
    run.console.print(f"Numbers and pictures: {folder}", highlight=False, soft_wrap=True)


def _cuped_rows(data: SystemData, settings: ExperimentSettings, step: Step) -> tuple[CupedRow, ...]:
    """Five pairs of metric and period before, from useless to useful."""
    people, dated, tens = returning_users(data), by_calendar(data), first_events(data)
    studies = (
        ("events", ("events per user", "first visit"), people.events_per_user, people),
        ("liked_share", ("liked share", "first visit"), people.liked_share, people),
        ("events_by_date", ("events per user", "before a date"), dated.events_per_user, dated),
        ("liked_share_by_date", ("liked share", "before a date"), dated.liked_share, dated),
        ("likes_of_ten", ("likes of ten events", "ten events"), tens.likes_per_user, tens),
    )
    return tuple(
        precision.cuped_row(key, words, arm_of, len(users), settings, step)
        for key, words, arm_of, users in studies
    )


def _print(run: Run, grid: Grid) -> None:
    draw(run.console, grid, min(run.console.width, MAX_WIDTH))


def _folder(run: Run, *, quick: bool) -> Path:
    folder = run.artifacts / "demonstrations" if quick else run.results_folder()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    return folder


def _save(folder: Path, figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
