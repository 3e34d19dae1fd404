"""The monitor's findings as Prometheus gauges, in the registry of the service.

In: a `DriftReport`, a calibration. Out: series whose labels are bounded by the feature schema, the
two references and the kinds of finding. What counts as drift is decided in the monitor, which knows
sample sizes and clusters; an alert rule reads the verdict (`drift_severity`), and a person reads
the numbers behind it (`drift_psi` beside `drift_psi_noise`).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.drift_monitor import DriftReport
from ml_platform.operations.drift_series import DriftSeries
from ml_platform.operations.health import Calibration
from ml_platform.operations.reference_profile import DEFAULT, MISSING


class DriftMetrics(DriftSeries):
    """The gauges that every system has, and this one's own.

    Args:
        registry: Of the service.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, apart=PREDICTION)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

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

    def report(self, reference: str, report: DriftReport) -> None:
        """The window against one reference."""
        for comparison, stale in zip(report.comparisons, report.stale, strict=False):
            name = comparison.column.info.name
            if comparison.column.info.group == PREDICTION:
                self.prediction.labels(reference).set(comparison.psi)
                continue
            self.missing.labels(name).set(comparison.shares.share[[MISSING, DEFAULT]].sum())
            self.stale.labels(name).set(stale)
        super().report(reference, report)

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
