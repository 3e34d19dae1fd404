"""``video-recommendation drift-demo``: three faults, and what the monitor says of each.

In: the production version (or the last bundle) and the test window of its data. Out: tables on the
terminal, ``drift.json``, a picture. The requests are real ones of the test window, each answered at
its own moment by the path that serves; the faults are built in (``faults``). Two are found in the
lists. The third, a popularity shift, hardly reaches the lists of a ranker that reads the person; it
is found in the events.

The requests come in random order. In their own order a window of 300 holds a dozen users, and
MovieLens's traffic is uneven, so windows do differ and the monitor rightly says so. Shuffled, all
windows come from one population: an alarm on an undrifted one is false by construction, and can be
counted.

First, without any fault, the served rows are held against the training reference. What that table
shows is true of this system, and nobody built it in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.operations.drift_monitor import DriftMonitor, DriftReport, drift_report
from ml_platform.operations.health import Calibration, measure_calibration
from video_recommendation.bundle import load_bundle
from video_recommendation.data import SystemData
from video_recommendation.monitoring.drift_replay import (
    Detection,
    EventWatch,
    ShownList,
    ask_each,
    detect,
    false_alarms,
    profile_of,
    watch_events,
    window_of,
)
from video_recommendation.monitoring.faults import (
    broken_upstream,
    burst_events,
    popularity_shift,
    sound,
    unit_change,
)
from video_recommendation.monitoring.monitor import EVENTS_OWNER
from video_recommendation.monitoring.reference import explain_family
from video_recommendation.pipeline import train_system
from video_recommendation.recommender import Recommender
from video_recommendation.rollout.registry_commands import open_registry

if TYPE_CHECKING:
    from video_recommendation.commands import Run


@dataclass(frozen=True)
class Sizes:
    """Requests of each part, and random divisions for the false alarm rate."""

    launch: int
    window: int
    clean: int
    drifted: int
    splits: int


FULL = Sizes(launch=1000, window=300, clean=900, drifted=360, splits=25)
QUICK = Sizes(launch=200, window=60, clean=120, drifted=80, splits=3)
"""So few that only the largest changes can be told from noise."""


@dataclass(frozen=True)
class Fault:
    """One fault: its name, what was done, and how to tell that a report of lists names it."""

    name: str
    truth: str
    named: Callable[[DriftReport], bool]


def _names_unit(report: DriftReport) -> bool:
    return any(f.feature == "log_gap_s" and f.kind == "unit change" for f in report.findings)


def _concludes(words: str) -> Callable[[DriftReport], bool]:
    return lambda report: any(line.startswith(words) for line in report.conclusions)


UNIT, POPULARITY, UPSTREAM = FAULTS = (
    Fault("unit change", "log_gap_s is handed over in minutes", _names_unit),
    Fault("popularity shift", "a burst of events on five items", _concludes("popularity shift")),
    Fault("broken upstream", "events no longer reach the counters", _concludes("broken upstream")),
)


@dataclass(frozen=True)
class DriftDemo:
    """What was found.

    Attributes:
        version: Of the bundle.
        sizes: Requests of each part.
        skew: Undrifted lists against the training reference; None for a bundle without one.
        clean: The last undrifted window against the launch reference.
        alarms: bool[W], false alarms on undrifted windows.
        detections: Of each fault in the lists, in the order of ``FAULTS``.
        events: The events themselves, sound and with the burst; None for a bundle without a
            reference.
        trained: Calibration of the shown items in training; None for a bundle without one.
        calibration: The same of sound requests, then of each fault.
        observe_us: Microseconds that ``DriftMonitor.observe`` takes for one list.
        report_ms: Milliseconds of a report.
    """

    version: str
    sizes: Sizes
    skew: DriftReport | None
    clean: DriftReport
    alarms: np.ndarray
    detections: tuple[Detection, ...]
    events: EventWatch | None
    trained: Calibration | None
    calibration: tuple[Calibration, ...]
    observe_us: float
    report_ms: float


def run_drift_demo(run: Run, quick: bool = False) -> None:
    """See the module's docstring.

    Args:
        run: The command.
        quick: Few requests; writes beside the artifacts.
    """
    from video_recommendation.monitoring.demo_report import print_demo, write_demo

    data = run.load()
    results = run.start_results(data)
    recommender = open_recommender(run, data)
    found = drift_demo(run, data, recommender, QUICK if quick else FULL)
    folder = run.results_folder() if not quick else run.artifacts / "demonstrations"
    print_demo(run.console, found, data, quick=quick)
    write_demo(folder, results, found, data, quick=quick)
    run.console.print(f"numbers and picture in {folder}", highlight=False)


def open_recommender(run: Run, data: SystemData) -> Recommender:
    """The registry's production version, else the last bundle, else one trained now.

    Raises:
        ValueError: if the bundle was made from other data than the run's.
    """
    registry, latest = open_registry(run.artifacts), run.artifacts / "latest" / "bundle"
    if "production" in registry.aliases():
        recommender = load_bundle(registry.path("production"))
    elif latest.is_dir():
        recommender = load_bundle(latest)
    else:
        run.console.print("no bundle yet: training one", highlight=False)
        recommender = train_system(data, run.config, run.progress).recommender
    if not np.array_equal(recommender.catalogue.item_ids, data.catalogue.item_ids):
        raise ValueError(
            f"bundle {recommender.version} has other items than {data.name}: train one with the "
            "same data (make train, same CONFIG and DATASET)"
        )
    return recommender


def drift_demo(run: Run, data: SystemData, recommender: Recommender, sizes: Sizes) -> DriftDemo:
    """All parts of the demonstration."""
    rng = np.random.default_rng(run.config.seed)
    parts = _request_parts(data, sizes, rng)
    served = sound(recommender, data)
    with run.progress.stage("sound requests", len(parts[0])) as step:
        lists = ask_each(served, data, parts[0], step)
    launch, clean = lists[: sizes.launch], lists[sizes.launch :]
    profile = profile_of(launch)
    before = clean[-sizes.window :]
    burst = burst_events(data, rng)
    broken = (
        unit_change(served),
        popularity_shift(served, *burst),
        broken_upstream(served, data),
    )
    detections, drifted = [], []
    for fault, queries, system in zip(FAULTS, parts[1:], broken, strict=True):
        with run.progress.stage(f"fault: {fault.name}", len(queries)) as step:
            drifted.append(ask_each(system, data, queries, step))
            detections.append(detect(profile, before, drifted[-1], fault.named))
    with run.progress.stage("false alarms on undrifted windows", 1):
        alarms = false_alarms(
            lists,
            n_reference=sizes.launch,
            n_window=sizes.window,
            n_splits=sizes.splits,
            seed=run.config.seed,
        )
    begin = time.perf_counter()
    report = drift_report(profile, window_of(before), explain_family)
    report_ms = (time.perf_counter() - begin) * 1e3
    reference = recommender.reference
    edges = reference.calibration.edges if reference else np.array([0.01, 0.02, 0.05])
    return DriftDemo(
        version=recommender.version,
        sizes=sizes,
        skew=drift_report(reference.profile, window_of(lists)) if reference else None,
        clean=report,
        alarms=alarms,
        detections=tuple(detections),
        events=watch_events(reference.concentration, data, burst, EVENTS_OWNER)
        if reference
        else None,
        trained=reference.calibration if reference else None,
        calibration=tuple(_calibration(part, edges) for part in (lists, *drifted)),
        observe_us=_observe_us(len(profile.columns), before[0]),
        report_ms=report_ms,
    )


def _request_parts(data: SystemData, sizes: Sizes, rng: np.random.Generator) -> list[Queries]:
    """Requests of the test window in random order: sound ones, then those of each fault.

    Raises:
        ValueError: if the window has too few requests.
    """
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    ends = np.cumsum([0, sizes.launch + sizes.clean, *([sizes.drifted] * len(FAULTS))])
    if ends[-1] > len(queries):
        raise ValueError(f"the test window has {len(queries)} requests, {ends[-1]} are needed")
    order = rng.permutation(len(queries))
    return [queries.subset(order[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _calibration(lists: list[ShownList], edges: np.ndarray) -> Calibration:
    window = window_of(lists)
    watched = np.concatenate([shown.watched for shown in lists])
    return measure_calibration(window.rows[:, -1], watched, window.clusters, edges)


def _observe_us(n_columns: int, shown: ShownList, n: int = 2000) -> float:
    monitor = DriftMonitor(n_columns)
    begin = time.perf_counter()
    for _ in range(n):
        monitor.observe(shown.rows, shown.user_idx, shown.stale)
    return (time.perf_counter() - begin) / n * 1e6
