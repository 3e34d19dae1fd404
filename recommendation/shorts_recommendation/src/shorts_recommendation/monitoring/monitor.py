"""The monitor of a serving engine: counts what happens to the feed, and compares what is shown.

In: every batch of slates that was computed, every batch of events that was applied. Out: series at
``/metrics``, findings in the log and in ``describe``. The serving threads only put things aside; a
thread of its own compares, every few seconds.

Two references, for two questions (``ml_platform.operations.drift_monitor``): "training", from the
bundle: are the models given what they learnt on? And "launch", the first slates of this process:
has something changed since? The second one wakes people. Departure from the sister system: the
launch sample is what came first, not a day's, because features here are shares and rates over
minutes and hours; a long-lived process should be given the sample of a whole day.

Only one slate in ``every`` is looked at: drift needs hundreds of people, not all of them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from prometheus_client import CollectorRegistry

from ml_platform.operations.drift_monitor import WINDOW_ROWS
from ml_platform.operations.drift_watch import DriftWatch, ReportThread, line
from ml_platform.operations.reference_profile import ReferenceProfile
from shorts_recommendation.config import StateConfig
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.items import ItemTable
from shorts_recommendation.monitoring.metrics import FeedWatchMetrics
from shorts_recommendation.monitoring.reference import (
    SlateLike,
    explain_family,
    monitored_columns,
    shown_rows,
)
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.state import Outcomes

WAITING = 2_000
"""Slates put aside between two reports; older ones fall out."""
AWAITED = 50_000
"""Users whose event has had no effect yet; beyond it the oldest are forgotten."""


class ReasonedSlate(SlateLike, Protocol):
    """A slate with why each video stands there."""

    @property
    def reasons(self) -> Sequence[str]:
        """K names."""


@dataclass(frozen=True)
class MonitorSettings:
    """How often, over how much.

    Attributes:
        interval_s: Between two reports.
        window_rows: Shown videos of the sliding window.
        launch_rows: Shown videos that become the launch reference.
        every: One slate in so many is compared.
    """

    interval_s: float = 15.0
    window_rows: int = WINDOW_ROWS
    launch_rows: int = 10_000
    every: int = 10


class FeedMonitor:
    """Watches one engine; thread-safe.

    Args:
        registry: Of the service's metrics.
        config: Of the states: names the columns.
        items: The catalogue now; asked anew for each slate, because uploads replace it.
        snapshot_age_s: For the gauge.
        trained: The profile of the bundle; None where it has none.
        answered: Places of a slate that an answer holds: more are computed than most people see,
            and only these are counted by reason. None counts all.
        settings: How often, over how much.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        config: StateConfig,
        items: Callable[[], ItemTable],
        *,
        snapshot_age_s: Callable[[], float],
        trained: ReferenceProfile | None = None,
        answered: int | None = None,
        settings: MonitorSettings | None = None,
    ) -> None:
        self.settings = settings or MonitorSettings()
        self.registry = registry
        self.metrics = FeedWatchMetrics(registry, snapshot_age_s)
        self._items, self._answered = items, answered
        self.watch = DriftWatch(
            self.metrics.drift,
            monitored_columns(config),
            {"training": trained} if trained else {},
            window_rows=self.settings.window_rows,
            launch_rows=self.settings.launch_rows,
            explain=explain_family,
        )
        self._aside: deque[tuple[RequestBatch, CounterSnapshot, ReasonedSlate]] = deque(
            maxlen=WAITING
        )
        self._n_slates = 0
        self._awaited: dict[int, float] = {}
        self._thread = ReportThread(self.refresh, self.settings.interval_s)

    # --- told by the serving threads --------------------------------------------------------------

    def events_applied(self, rows: Sequence[int], outcomes: Outcomes) -> None:
        """Events are in the states: counts them, and waits for their effect.

        Args:
            rows: ``user_idx`` of each event; -1 where the bundle does not know the user.
            outcomes: What happened.
        """
        watched = self.metrics.watched
        watched.labels("shown").inc(len(rows))
        for name in ("long_view", "skip", "like"):
            watched.labels(name).inc(int(np.sum(getattr(outcomes, name))))
        now = time.perf_counter()
        for row in rows:
            if row >= 0:
                self._awaited.setdefault(int(row), now)
        while len(self._awaited) > AWAITED:
            self._awaited.pop(next(iter(self._awaited)), None)

    def slates_made(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        slates: Sequence[ReasonedSlate],
        asked_s: Sequence[float | None],
    ) -> None:
        """Slates were computed for these requests: counts places, puts some aside.

        An event's effect is timed from the moment at which its user asks, for until then there is
        nobody to see it: ``asked_s`` is that moment, None for a slate made ahead of it.
        """
        now = time.perf_counter()
        reasons = Counter(reason for slate in slates for reason in slate.reasons[: self._answered])
        for reason, n in reasons.items():
            self.metrics.slots.labels(reason).inc(n)
        for place, slate in enumerate(slates):
            applied, asked = self._awaited.pop(int(batch.user_idx[place]), None), asked_s[place]
            if applied is not None and asked is not None:
                self.metrics.effect.observe(now - max(applied, asked))
            self._n_slates += 1
            if self._n_slates % self.settings.every == 0 and len(slate.video_idx):
                self._aside.append((batch.take(slice(place, place + 1)), snapshot, slate))

    # --- in the background ------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to report."""
        self._thread.start()

    def close(self) -> None:
        """Stops the thread."""
        self._thread.close()

    def refresh(self) -> None:
        """Compares and reports, now."""
        while self._aside:
            request, snapshot, slate = self._aside.popleft()
            rows = shown_rows(request, slate, snapshot, self._items())
            self.watch.observe(rows, int(request.user_idx[0]))
        self.watch.report()
        for name, report in self.watch.reports.items():
            self.metrics.report(name, report)

    def describe(self) -> dict[str, Any]:
        """Findings under each reference, worst first."""
        return {
            name: [*report.conclusions, *(line(finding) for finding in report.findings)]
            for name, report in self.watch.reports.items()
        }
