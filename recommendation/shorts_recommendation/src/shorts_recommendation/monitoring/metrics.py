"""What Prometheus reads of the feed beside the platform's own metrics.

In: what the monitor saw. Out: series in the service's registry. Labels are bounded: features of the
schema, kinds of finding, reasons of the re-ranker.

Verdicts on drift and the numbers behind them are the platform's (``DriftSeries``); the feed exports
the PSI of its values as ``prediction_psi`` and the share of missing features.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ml_platform.operations.drift_causes import PREDICTION
from ml_platform.operations.drift_monitor import DriftReport
from ml_platform.operations.drift_series import DriftSeries
from ml_platform.operations.reference_profile import DEFAULT, MISSING
from shorts_recommendation.reranking import REASONS

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
        self.drift = DriftSeries(registry, apart=PREDICTION)
        self.missing = Gauge(
            "feature_missing_ratio",
            "Share of values that are NaN or the default.",
            ("feature",),
            registry=registry,
        )
        self.prediction = Gauge(
            "prediction_psi", "PSI of the shown values.", ("reference",), registry=registry
        )
        # A series that appears with its first count has no increase: alert rules need the zero.
        for outcome in OUTCOMES:
            self.watched.labels(outcome)
        for reason in REASONS.values():
            self.slots.labels(reason)

    def report(self, reference: str, report: DriftReport) -> None:
        """What the feed shows of a report beside the ``drift_`` series."""
        for comparison in report.comparisons:
            info = comparison.column.info
            if info.group == PREDICTION:
                self.prediction.labels(reference).set(comparison.psi)
            else:
                share = comparison.shares.share[[MISSING, DEFAULT]].sum()
                self.missing.labels(info.name).set(share)
