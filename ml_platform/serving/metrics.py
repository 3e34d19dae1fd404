"""Prometheus metrics of one service, in a registry of its own.

In: what the middleware and the stages report. Out: the text that ``GET /metrics`` serves. A
registry for each service, instead of the library's global one, lets two services (or two tests)
live in one process. Labels are bounded: routes are templates ("/v1/similar/{item_id}"), never
paths, so that no client can create time series.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ml_platform.serving.stages import Degradation

# Seconds. Dense where the budget lies (30 ms p50, 100 ms p99), so a histogram can show it.
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0)  # noqa: E501  # fmt: skip


class ServiceMetrics:
    """Counters and histograms that every service has; implements `stages.StageObserver`."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests_total", "Requests.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "http_request_seconds",
            "Time to answer.",
            ("route",),
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "stage_seconds", "Time in a stage.", ("stage",), buckets=_BUCKETS_S, registry=registry
        )
        self.stage_overruns = Counter(
            "stage_overruns_total", "Stages over their budget.", ("stage",), registry=registry
        )
        self.degraded = Counter(
            "degraded_total",
            "Stages that did not do their work.",
            ("stage", "reason"),
            registry=registry,
        )
        self.events = Counter(
            "events_total",
            "Events by outcome: accepted, duplicate, conflict.",
            ("outcome",),
            registry=registry,
        )
        self.request_log = Counter(
            "request_log_records_total",
            "Records of the request log: written, queue_full (dropped), write_failed (dropped).",
            ("outcome",),
            registry=registry,
        )
        self.feature_rows = Counter(
            "feature_rows_total",
            "Rows read from the feature store: hit, missing or stale (defaults took their place).",
            ("feature_set", "outcome"),
            registry=registry,
        )
        self.model_info = Gauge(
            "model_info", "1 for the version in each slot.", ("slot", "version"), registry=registry
        )
        self.model_swaps = Counter(
            "model_swaps_total",
            "Versions by outcome: installed, refused (the running one stayed).",
            ("slot", "outcome"),
            registry=registry,
        )
        self.observer_failures = Counter(
            "observer_failures_total",
            "Observers of requests that raised; the responses went out.",
            ("observer",),
            registry=registry,
        )
        self.shadow_requests = Counter(
            "shadow_requests_total",
            "Requests copied to a shadow, by outcome: answered, dropped, timeout, rubbish_*, ...",
            ("shadow", "outcome"),
            registry=registry,
        )
        self.canary_share = Gauge(
            "canary_share", "Share of users whom the candidate answers.", registry=registry
        )
        # A series that appears with its first count has no increase: alert rules need the zero.
        for outcome in ("written", "queue_full", "write_failed"):
            self.request_log.labels(outcome)
        for outcome in ("installed", "refused"):
            self.model_swaps.labels("production", outcome)
        self._versions: dict[str, str] = {}

    def model_installed(self, slot: str, version: str | None) -> None:
        """A version took a slot, or left it empty; the series of the old one ends."""
        old = self._versions.pop(slot, None)
        if old is not None:
            self.model_info.remove(slot, old)
        if version is not None:
            self._versions[slot] = version
            self.model_info.labels(slot, version).set(1)
            self.model_swaps.labels(slot, "installed").inc()

    def model_refused(self, slot: str) -> None:
        """A version could not be loaded; the running one stays."""
        self.model_swaps.labels(slot, "refused").inc()

    def feature_rows_read(self, feature_set: str, outcome: str, n: int) -> None:
        """Count rows of a feature set; see `feature_engineering.online_store.CountRows`."""
        self.feature_rows.labels(feature_set, outcome).inc(n)

    def observer_failed(self, observer: str) -> None:
        """Count an observer that raised."""
        self.observer_failures.labels(observer).inc()

    def request_logged(self, outcome: str, n: int) -> None:
        """Count records of the request log; see `request_log.RequestLog`."""
        self.request_log.labels(outcome).inc(n)

    def request_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def stage_finished(self, stage: str, elapsed_ms: float) -> None:
        """See `StageObserver`."""
        self.stage_seconds.labels(stage).observe(elapsed_ms / 1e3)

    def stage_overran(self, stage: str) -> None:
        """See `StageObserver`."""
        self.stage_overruns.labels(stage).inc()

    def stage_degraded(self, degradation: Degradation) -> None:
        """See `StageObserver`."""
        self.degraded.labels(degradation.stage, degradation.reason).inc()

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
