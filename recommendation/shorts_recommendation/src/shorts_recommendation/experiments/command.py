"""``shorts-recommendation experiments``: A/B tests on simulated people, and what one hides.

In: the configuration. Out: tables on the terminal, ``experiments.json`` and pictures. The world is
a smaller one than the system's own and goes on after its log (``settings``): models learn from the
log, then the people are simulated and only the arms differ.

Everything here is a simulation whose truth was written down. It shows that the machinery finds what
is there, and what a proxy hides; it says nothing about the size of any effect on real people.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.operations.experiments import unit_values
from shorts_recommendation.data import load_data
from shorts_recommendation.experiments import tables
from shorts_recommendation.experiments.false_alarms import FalseAlarms, false_alarms, stop_alarms
from shorts_recommendation.experiments.ground import prepare
from shorts_recommendation.experiments.market import over_seeds
from shorts_recommendation.experiments.plots import (
    days_figure,
    effects_figure,
    false_alarms_figure,
    uploads_figure,
)
from shorts_recommendation.experiments.settings import FULL, QUICK, ExperimentSettings
from shorts_recommendation.experiments.studies import (
    FRESH_PLACES,
    Ground,
    Outcome,
    Study,
    aa_study,
    diversity_study,
    draw_people,
    exploration_study,
    ranker_study,
    run_study,
    trap_study,
)
from shorts_recommendation.log import DAY_S

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shorts_recommendation.commands import Run

AA_METRICS = ("ctr", "watch_s_per_day", "sessions_per_day")
TRAP_METRICS = ("ctr", "sessions_per_day", "satisfaction")


def main(run: Run, settings: ExperimentSettings | None = None) -> Results:
    """Trains on a log, plays every experiment, prints, records, draws.

    Args:
        run: The command.
        settings: Sizes; by default the full ones, or the small ones for a quick configuration.
    """
    settings = settings or (QUICK if run.config.quick else FULL)
    config = settings.config(run.config)
    data = load_data(config, progress=run.progress)
    results = run.start_results(data)
    play_all(run, prepare(data, config, settings, run.progress), results)
    return results


def play_all(run: Run, ground: Ground, results: Results) -> None:
    """Every experiment from one ground; writes results and pictures."""
    settings = ground.settings
    note = "QUICK RUN, simulated" if run.config.quick else "simulated"
    pictures: dict[str, Figure] = {}
    for study in (ranker_study(settings), diversity_study(settings)):
        outcome = _play(run, ground, study, results, note)
        pictures[f"experiment_{study.name}"] = effects_figure(outcome, study.arms[1].name, note)
    pictures["experiment_aa"] = _aa(run, ground, results, note)
    pictures["experiment_exploration"] = _exploration(run, ground, results, note)
    pictures |= _trap(run, ground, results, note)
    folder = run.results_folder()
    results.write(folder / "experiments.json")
    for name, figure in pictures.items():
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
    run.console.print(f"Numbers and pictures: {folder}", highlight=False, soft_wrap=True)


def protocol_of(ground: Ground, study: Study, repeats: int = 1) -> str:
    """What stands beside every number of a study."""
    settings, config = ground.settings, ground.world.config
    counters = "shared counters" if study.shared_counters else "a platform for each arm"
    length = study.slate_length or settings.slate_length
    played = study.refetch_after or settings.refetch_after
    caveat = f"; {study.caveat}" if study.caveat else ""
    return (
        f"simulated, {config.n_users} people and {config.n_videos} videos, models from "
        f"{settings.log_days} days of log; then {study.people} people in {len(study.arms)} arms by "
        f"salted hash, {study.days} days, {counters}, slates of {length}, {played} played; "
        f"world seed {ground.seed}, {repeats} run{'s' if repeats > 1 else ''}; 95% intervals"
        f"{caveat}"
    )


def _play(run: Run, ground: Ground, study: Study, results: Results, note: str) -> Outcome:
    """One run of a study: played, printed, recorded."""
    outcome = _timed(run, ground, study, results)
    run.console.print(tables.effects_table(outcome, note))
    tables.record(results, outcome, protocol_of(ground, study))
    return outcome


def _timed(
    run: Run, ground: Ground, study: Study, results: Results | None, repeat: int = 0
) -> Outcome:
    started = time.perf_counter()
    name = f"experiment {study.name}" + (f", run {repeat + 1}" if repeat else "")
    periods = study.days * DAY_S // ground.platform.counters.period_s
    with run.progress.stage(name, periods) as step:
        outcome = run_study(ground, study, step, repeat=repeat)
    if results is not None:
        seconds = time.perf_counter() - started
        words = f"{protocol_of(ground, study)}; {outcome.n_impressions} impressions"
        key = f"experiment_speed/{study.name}"
        rate = outcome.n_impressions / seconds
        results.add(f"{key}/impressions_per_s", rate, protocol=words)
        results.add(f"{key}/requests_per_s", outcome.n_requests / seconds, protocol=words)
        results.add(f"{key}/wall_s", seconds, protocol=words)
    return outcome


def _aa(run: Run, ground: Ground, results: Results, note: str) -> Figure:
    """Everybody gets the same; then CUPED and power on the same people."""
    study = aa_study(ground.settings)
    outcome = _play(run, ground, study, results, note)
    tables.record_precision(results, outcome, protocol_of(ground, study))
    ids = ground.world.users.user_ids[draw_people(ground, study.people)]
    found: dict[str, FalseAlarms] = {}
    n_splits = ground.settings.aa_splits
    with run.progress.stage("A/A splits", n_splits * len(AA_METRICS)) as step:
        for name in AA_METRICS:
            found[name] = false_alarms(name, outcome.by_day, outcome.before, ids, n_splits, step)
    run.console.print(tables.false_alarm_table(found, note))
    words = f"{protocol_of(ground, study)}; {n_splits} splits of the same people"
    tables.record_false_alarms(results, found, words)
    with run.progress.stage("A/A splits, the stopping rules", n_splits) as step:
        stops = stop_alarms(outcome.by_day, outcome.before, ids, n_splits, step)
    run.console.print(tables.stop_alarm_table(stops, note))
    tables.record_stop_alarms(results, stops, words)
    return false_alarms_figure(found, note)


def _exploration(run: Run, ground: Ground, results: Results, note: str) -> Figure:
    """Four budgets, some runs each: uploads and creators vary by run, not by person."""
    study, repeats = exploration_study(ground.settings), ground.settings.market_seeds
    outcomes = [
        _timed(run, ground, study, results if repeat == 0 else None, repeat)
        for repeat in range(repeats)
    ]
    run.console.print(tables.effects_table(outcomes[0], note))
    tables.record(results, outcomes[0], protocol_of(ground, study))
    names = [arm.name for arm in study.arms]
    markets = {name: over_seeds([one.markets[name] for one in outcomes]) for name in names}
    run.console.print(tables.market_table(markets, "Uploads and creators", note))
    words = protocol_of(ground, study, repeats)
    tables.record_markets(results, "experiment_exploration_market", markets, words)
    return uploads_figure(markets, _felt(outcomes, names), FRESH_PLACES, note)


def _felt(outcomes: list[Outcome], names: list[str]) -> dict[str, Estimate]:
    """Satisfaction of each arm, all runs together, by person."""
    found = {}
    for name in names:
        parts = [
            unit_values(one.measured["satisfaction"].arm(one.of_arm(name))) for one in outcomes
        ]
        found[name] = bootstrap_mean(np.concatenate(parts), resamples=tables.RESAMPLES)
    return found


def _trap(run: Run, ground: Ground, results: Results, note: str) -> dict[str, Figure]:
    """A proxy that rises, a guardrail that falls, and the days on which it stops the arm."""
    study, repeats = trap_study(ground.settings), ground.settings.trap_repeats
    outcome = _play(run, ground, study, results, note)
    later = [_timed(run, ground, study, None, repeat) for repeat in range(1, repeats)]
    run.console.print(tables.stop_table([outcome, *later], note))
    tables.record_stops(results, [outcome, *later], protocol_of(ground, study, repeats))
    pictures = {}
    for spec in study.arms[1:]:
        run.console.print(tables.guardrail_table(outcome, spec.name, note))
        tables.record_guardrail(results, outcome, spec.name, protocol_of(ground, study))
        pictures[f"experiment_trap_{spec.name}"] = effects_figure(outcome, spec.name, note)
    trapped = study.arms[1].name
    return pictures | {"experiment_trap_days": days_figure(outcome, trapped, TRAP_METRICS, note)}
