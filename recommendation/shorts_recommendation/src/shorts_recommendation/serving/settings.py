"""How one serving process runs, and what it counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from ml_platform.serving.metrics import ServiceMetrics
from shorts_recommendation.config import ServingConfig

ANSWERS = ("cache", "store", "computed", "stale", "trending")


def _nothing() -> None:
    """No set-up."""


@dataclass(frozen=True)
class ServingSettings:
    """How one serving process runs."""

    data_dir: Path
    """Folder of the event log, the request log and the embedded store."""
    config: ServingConfig = field(default_factory=ServingConfig)
    redis_url: str | None = None
    """A real Redis; the embedded store when absent."""
    refresh_s: float = 1.0
    """Pause between checks of the store and of the counters' clock."""
    thread_start: Callable[[], None] = _nothing
    """Run by the computing thread when it starts; some libraries count threads for each."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that pass on the server's clock; a simulation stops them and moves the clock."""
    store_timeout_s: float = 0.5
    """Longest wait for one command of the store. Only background threads wait so long."""
    worker: int = 0
    """This process among those that serve one data_dir; worker 0 publishes the stream."""
    workers: int = 1
    """How many there are."""
    store_read_ms: float = 20.0
    """What a request gives the store for a slate, where this process has none."""


class FeedMetrics(ServiceMetrics):
    """The platform's metrics and those of a feed."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = Counter(
            "feed_answers_total", "Feeds by who answered.", ("by",), registry=self.registry
        )
        self.batch_size = Histogram(
            "feed_batch_size",
            "Requests that shared one call of the models.",
            buckets=(1, 2, 4, 8, 12, 16, 24, 32),
            registry=self.registry,
        )
        self.compute_ahead = Counter(
            "feed_computed_ahead_total", "Slates recomputed before asked.", registry=self.registry
        )
        self.store_failures = Counter(
            "store_failures_total",
            "Background work that the store refused: publish, write, read.",
            ("work",),
            registry=self.registry,
        )
        self.stream_lag = Gauge(
            "stream_lag_events",
            "Events of the log that the consumer has not handled.",
            registry=self.registry,
        )
        self.skipped = Counter(
            "log_records_skipped_total",
            "Records of the log that could not be applied: unreadable, unknown_video, bad_upload.",
            ("reason",),
            registry=self.registry,
        )
        self.states_lost = Counter(
            "newcomer_states_lost_total",
            "States of newcomers that made room and are nowhere any more.",
            registry=self.registry,
        )
        self.thread_failures = Counter(
            "thread_failures_total",
            "Turns of background threads that raised; the threads went on.",
            ("thread",),
            registry=self.registry,
        )
        self.stream_gaps = Counter(
            "stream_gaps_total",
            "Events that the stream did not have and the log gave.",
            registry=self.registry,
        )
        for reason in ("unreadable", "unknown_video", "bad_upload"):
            self.skipped.labels(reason)
        for thread in ("keeper", "publisher", "consumer", "write-behind", "compute"):
            self.thread_failures.labels(thread)
        for by in ANSWERS:
            self.answers.labels(by)
        for work in ("publish", "write", "read"):
            self.store_failures.labels(work)

    def thread_failed(self, thread: str) -> None:
        """Count a turn of a background thread that raised."""
        self.thread_failures.labels(thread).inc()
