"""What Prometheus reads of the feed beside the platform's own metrics.

In: what the monitor saw. Out: series in the service's registry. Labels are bounded: features of the
schema, kinds of finding, reasons of the re-ranker.

What counts as drift is decided in the monitor, which knows sample sizes and people; a rule reads
the verdict (``drift_severity``), a person the numbers behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.drift_monitor import DriftReport
from ml_platform.operations.reference_profile import DEFAULT, MISSING
from shorts_recommendation.reranking import REASONS

SEVERITY = {"warning": 1, "alert": 2}
OUTCOMES = ("shown", "long_view", "skip", "like")
# Seconds. The promise is 0.1; an event whose user asks no more takes what it takes, and in a quiet
# service the computing ahead waits for company: the alert asks for a busy one.
_EFFECT_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class FeedWatchMetrics:
    """Series of one monitor.

    Args:
        registry: Of the service.
        snapshot_age_s: Seconds since the published counters' moment, read at each scrape.
    """

    def __init__(self, registry: CollectorRegistry, snapshot_age_s: Callable[[], float]) -> None:
        self.watched = Counter(
            "feed_watched_total",
            "Events by outcome; every event counts as shown.",
            ("outcome",),
            registry=registry,
        )
        self.slots = Counter(
            "feed_slots_total",
            "Places of a slate's first answer by why the video stands there.",
            ("reason",),
            registry=registry,
        )
        self.effect = Histogram(
            "feed_event_effect_seconds",
            "From the first question after an event to the slate that knows it.",
            buckets=_EFFECT_S,
            registry=registry,
        )
        age = Gauge(
            "feed_snapshot_age_seconds",
            "Server time less the moment of the published counters.",
            registry=registry,
        )
        age.set_function(snapshot_age_s)
        self.psi = Gauge(
            "drift_psi", "PSI of a feature.", ("feature", "reference"), registry=registry
        )
        self.noise = Gauge(
            "drift_psi_noise",
            "What PSI is without drift.",
            ("feature", "reference"),
            registry=registry,
        )
        self.severity = Gauge(
            "drift_severity",
            "2 alert, 1 warning; no series where nothing was found.",
            ("feature", "kind", "reference"),
            registry=registry,
        )
        self.missing = Gauge(
            "feature_missing_ratio",
            "Share of values that are NaN or the default.",
            ("feature",),
            registry=registry,
        )
        self.prediction = Gauge(
            "prediction_psi", "PSI of the shown values.", ("reference",), registry=registry
        )
        self.rows = Gauge("drift_window_rows", "Shown videos in the window.", registry=registry)
        self.last_report = Gauge(
            "drift_last_report_timestamp_seconds",
            "Unix time of the last report.",
            registry=registry,
        )
        # A series that appears with its first count has no increase: alert rules need the zero.
        for outcome in OUTCOMES:
            self.watched.labels(outcome)
        for reason in REASONS.values():
            self.slots.labels(reason)
        self._found: dict[str, set[tuple[str, str]]] = {}

    def report(self, reference: str, report: DriftReport) -> None:
        """The window against one reference."""
        self.rows.set(report.n_rows)
        for comparison in report.comparisons:
            name = comparison.column.info.name
            if comparison.column.info.group == PREDICTION:
                self.prediction.labels(reference).set(comparison.psi)
                continue
            self.psi.labels(name, reference).set(comparison.psi)
            self.noise.labels(name, reference).set(comparison.noise)
            self.missing.labels(name).set(comparison.shares.share[[MISSING, DEFAULT]].sum())
        self._verdicts(reference, report.findings)

    def finished(self) -> None:
        """A round of reports is done."""
        self.last_report.set(time.time())

    def _verdicts(self, reference: str, findings: Iterable[Finding]) -> None:
        """Those that are gone lose their series."""
        now = {(f.feature, f.kind): SEVERITY[f.severity] for f in findings}
        for feature, kind in self._found.get(reference, set()) - set(now):
            self.severity.remove(feature, kind, reference)
        for (feature, kind), severity in now.items():
            self.severity.labels(feature, kind, reference).set(severity)
        self._found[reference] = set(now)
