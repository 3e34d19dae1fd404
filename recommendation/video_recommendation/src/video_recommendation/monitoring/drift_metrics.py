"""The monitor's findings as Prometheus gauges, in the registry of the service.

In: a `DriftReport`, a calibration. Out: series whose labels are bounded by the feature schema, the
two references and the kinds of finding. What counts as drift is decided in the monitor, which knows
sample sizes and clusters; an alert rule reads the verdict (`drift_severity`), and a person reads
the numbers behind it (`drift_psi` beside `drift_psi_noise`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.drift_monitor import DriftReport
from ml_platform.operations.health import Calibration
from ml_platform.operations.reference_profile import DEFAULT, MISSING

SEVERITY = {"warning": 1, "alert": 2}


class DriftMetrics:
    """Gauges of one monitor."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.psi = gauge("drift_psi", "PSI of a feature.", "feature", "reference")
        self.noise = gauge("drift_psi_noise", "What PSI is without drift.", "feature", "reference")
        self.severity = gauge(
            "drift_severity",
            "2 alert, 1 warning; no series where nothing was found.",
            *("feature", "kind", "reference"),
        )
        self.missing = gauge(
            "feature_missing_ratio", "Share of values that are NaN or the default.", "feature"
        )
        self.stale = gauge(
            "feature_stale_ratio", "Share of values older than allowed, or filled.", "feature"
        )
        self.prediction = gauge("prediction_psi", "PSI of the shown scores.", "reference")
        self.calibration_error = gauge("calibration_error", "Expected calibration error.")
        self.calibration_ratio = gauge(
            "calibration_ratio", "Outcomes over predictions: value, low, high.", "bound"
        )
        self.top_share = gauge(
            "events_top_share", "Share of the last events that fall on the ten most watched items."
        )
        self.window_rows = gauge("drift_window_rows", "Shown items in the window.")
        self.last_report = gauge(
            "drift_last_report_timestamp_seconds", "Unix time of the last report."
        )
        self._found: dict[str, set[tuple[str, str]]] = {}

    def report(self, reference: str, report: DriftReport) -> None:
        """The window against one reference."""
        self.window_rows.set(report.n_rows)
        for comparison, stale in zip(report.comparisons, report.stale, strict=False):
            name = comparison.column.info.name
            if comparison.column.info.group == PREDICTION:
                self.prediction.labels(reference).set(comparison.psi)
                continue
            self.psi.labels(name, reference).set(comparison.psi)
            self.noise.labels(name, reference).set(comparison.noise)
            self.missing.labels(name).set(comparison.shares.share[[MISSING, DEFAULT]].sum())
            self.stale.labels(name).set(stale)
        self.findings(reference, report.findings)

    def finished(self) -> None:
        """A round of reports is done."""
        self.last_report.set(time.time())

    def findings(self, reference: str, findings: Iterable[Finding]) -> None:
        """Verdicts under one reference; those that are gone lose their series."""
        now = {(f.feature, f.kind): SEVERITY[f.severity] for f in findings}
        for feature, kind in self._found.get(reference, set()) - set(now):
            self.severity.remove(feature, kind, reference)
        for (feature, kind), severity in now.items():
            self.severity.labels(feature, kind, reference).set(severity)
        self._found[reference] = set(now)

    def calibration(self, calibration: Calibration, finding: Finding | None) -> None:
        """Calibration of the joined labels, and the verdict on it."""
        self.calibration_error.set(calibration.error[0])
        for bound, value in zip(("value", "low", "high"), calibration.ratio, strict=True):
            self.calibration_ratio.labels(bound).set(value)
        self.findings("labels", [finding] if finding else [])

    def concentration(self, share: float, finding: Finding | None) -> None:
        """How the last events crowd on items, and the verdict on it."""
        self.top_share.set(share)
        self.findings("events", [finding] if finding else [])
