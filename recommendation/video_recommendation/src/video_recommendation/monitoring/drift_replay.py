"""Requests of the test window through the request path, and what the monitor makes of them.

In: requests, a served system (sound or broken). Out: a ``ShownList`` for each; then, request by
request through a sliding window, the report and how many requests it took. ``replay`` beside this
plays the test window through HTTP in its own order; here each request is asked alone, at its own
moment, so that they can come in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.operations.concentration import Concentration, concentration_drift
from ml_platform.operations.drift_causes import Finding
from ml_platform.operations.drift_monitor import DriftMonitor, DriftReport, Window, drift_report
from ml_platform.operations.reference_profile import ReferenceProfile, build_profile
from ml_platform.serving.stages import RequestStages
from video_recommendation.data import SystemData
from video_recommendation.monitoring.faults import Served
from video_recommendation.monitoring.monitor import shown_matrix
from video_recommendation.monitoring.reference import explain_family, monitored_columns
from video_recommendation.serving.protocol import UserState

LOOK_EVERY = 10
"""Requests between two reports while the delay is measured."""


@dataclass(frozen=True)
class ShownList:
    """One answer.

    Attributes:
        rows: f32[K, F + 1], features and score of the shown items.
        stale: bool[K, F + 1].
        user_idx: Who asked.
        watched: bool[K], whether it was the user's next event.
    """

    rows: np.ndarray
    stale: np.ndarray
    user_idx: int
    watched: np.ndarray


@dataclass(frozen=True)
class Detection:
    """What became of one fault.

    Attributes:
        report: With the window full of broken requests.
        seen: Requests after the fault until a report found anything; None if none did.
        named: Requests until a report named it; events, where events are watched.
    """

    report: DriftReport
    seen: int | None
    named: int | None


@dataclass(frozen=True)
class EventWatch:
    """What the concentration of events says of the test window.

    Attributes:
        sound: bool[W], whether a window of sound events was reported.
        finding: When the burst was named; None if it was not.
        delay: Events after its begin until then.
    """

    sound: np.ndarray
    finding: Finding | None
    delay: int | None


def ask_each(
    served: Served, data: SystemData, queries: Queries, step: Callable[[int], None]
) -> list[ShownList]:
    """Answers each request as the server would, at its own moment.

    Requests without a list (everything proposed was seen) are left out.
    """
    shown = []
    recommender, log = served.recommender, data.log
    for q in range(len(queries)):
        user, now = int(queries.user_idx[q]), int(queries.timestamp[q])
        past = slice(int(queries.history_begin[q]), int(queries.history_end[q]))
        items = recommender.recommend(
            user_id=int(data.users.user_ids[user]),
            state=UserState(log.item_idx[past], log.rating[past], log.timestamp[past]),
            now=now,
            k=recommender.config.reranking.k,
            exclude=np.zeros(0, dtype=np.int32),
            counter=served.counter,
            stages=RequestStages(),
            surface="home",
        )
        step(1)
        features = [item.features for item in items if item.features is not None]
        if not features or len(features) < len(items):
            continue
        rows, stale = shown_matrix(items, np.stack(features), now)
        next_items = log.item_idx[int(queries.history_end[q]) : int(queries.relevant_end[q])]
        watched = np.isin([item.item_idx for item in items], next_items)
        shown.append(ShownList(rows, stale, user, watched))
    return shown


def profile_of(lists: Sequence[ShownList]) -> ReferenceProfile:
    """A reference made of lists."""
    window = window_of(lists)
    return build_profile(window.rows, window.clusters, monitored_columns())


def window_of(lists: Sequence[ShownList]) -> Window:
    """Lists as a window."""
    return Window(
        np.concatenate([shown.rows for shown in lists]),
        np.repeat([shown.user_idx for shown in lists], [len(shown.rows) for shown in lists]),
        np.concatenate([shown.stale for shown in lists]),
    )


def detect(
    profile: ReferenceProfile,
    before: Sequence[ShownList],
    after: Sequence[ShownList],
    named: Callable[[DriftReport], bool],
) -> Detection:
    """Slides the window from sound requests into broken ones.

    Args:
        profile: The reference.
        before: Fills the window first.
        after: Then come these, one by one.
        named: Whether a report names the fault.
    """
    k = len(before[0].rows)
    monitor = DriftMonitor(len(profile.columns), {"launch": profile}, capacity=k * len(before))
    for shown in before:
        monitor.observe(shown.rows, shown.user_idx, shown.stale)
    seen = by_name = None
    for n, shown in enumerate(after, start=1):
        monitor.observe(shown.rows, shown.user_idx, shown.stale)
        if by_name is None and n % LOOK_EVERY == 0:
            report = monitor.report("launch", explain_family)
            seen = seen or (n if report.findings else None)
            by_name = n if named(report) else None
    return Detection(monitor.report("launch", explain_family), seen, by_name)


def watch_events(
    reference: Concentration, data: SystemData, burst: tuple[np.ndarray, np.ndarray], owner: str
) -> EventWatch:
    """The events of the test window by time: sound ones, then with a burst from its middle on.

    Args:
        reference: Of the training log.
        data: Holds the test window.
        burst: item_idx and timestamp of the events that are mixed in.
        owner: Named in the finding.
    """
    log, block = data.log, reference.block
    test = np.flatnonzero(log.timestamp >= data.windows.validation_end)
    test = test[np.argsort(log.timestamp[test], kind="stable")]
    items, moments = log.item_idx[test], log.timestamp[test]
    ends = range(block, len(items) + 1, block)
    sound = [concentration_drift(reference, items[:end], owner) is not None for end in ends]
    middle = moments[len(moments) // 2]
    late = burst[1] >= middle
    order = np.argsort(np.concatenate([moments, burst[1][late]]), kind="stable")
    mixed = np.concatenate([items, burst[0][late]])[order]
    begin = int((moments < middle).sum())
    for end in range(max(block, begin + LOOK_EVERY), len(mixed) + 1, LOOK_EVERY):
        finding = concentration_drift(reference, mixed[max(0, end - block) : end], owner)
        if finding is not None:
            return EventWatch(np.array(sound), finding, end - begin)
    return EventWatch(np.array(sound), None, None)


def false_alarms(
    lists: Sequence[ShownList], *, n_reference: int, n_window: int, n_splits: int, seed: int
) -> np.ndarray:
    """bool[W]: whether a window of sound requests was reported to have drifted.

    The lists are divided at random into a reference and windows, again and again: all come from
    one population, so every finding is false.
    """
    rng = np.random.default_rng(seed)
    alarms = []
    for _ in range(n_splits):
        order = rng.permutation(len(lists))
        profile = profile_of([lists[i] for i in order[:n_reference]])
        for begin in range(n_reference, len(lists) - n_window + 1, n_window):
            window = window_of([lists[i] for i in order[begin : begin + n_window]])
            alarms.append(bool(drift_report(profile, window).findings))
    return np.array(alarms)
