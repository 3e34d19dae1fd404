"""A drift report as Prometheus reads it: the verdicts, and the numbers behind them.

In: reports of a `DriftMonitor`. Out: gauges in the registry of a service. Labels are bounded: the
columns of a schema, the references, the kinds of finding. What counts as drift is decided in the
monitor, which knows sample sizes and clusters: an alert rule reads its verdict
(``drift_severity``), a person the numbers (``drift_psi`` beside ``drift_psi_noise``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from ml_platform.operations.drift_causes import Finding
from ml_platform.operations.drift_monitor import DriftReport

SEVERITY = {"warning": 1, "alert": 2}


class DriftSeries:
    """Gauges of one monitor; a registry holds one.

    Args:
        registry: Of the service.
        apart: A group of columns without ``drift_psi`` here, because the system exports them
            under a name of its own; their verdicts are here like all others.
    """

    def __init__(self, registry: CollectorRegistry, *, apart: str | None = None) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.psi = gauge("drift_psi", "PSI of a column.", "feature", "reference")
        self.noise = gauge("drift_psi_noise", "What PSI is without drift.", "feature", "reference")
        self.severity = gauge(
            "drift_severity",
            "2 alert, 1 warning; no series where nothing was found.",
            *("feature", "kind", "reference"),
        )
        self.rows = gauge("drift_window_rows", "Rows in the window.")
        self.last_report = gauge(
            "drift_last_report_timestamp_seconds", "Unix time of the last report, or of the start."
        )
        self.last_report.set(time.time())  # at 0 the first report would look fifty years late
        self._apart = apart
        self._found: dict[str, set[tuple[str, str]]] = {}

    def report(self, reference: str, report: DriftReport) -> None:
        """The window against one reference."""
        self.rows.set(report.n_rows)
        for comparison in report.comparisons:
            name, group = comparison.column.info.name, comparison.column.info.group
            if group != self._apart:
                self.psi.labels(name, reference).set(comparison.psi)
                self.noise.labels(name, reference).set(comparison.noise)
        self.findings(reference, report.findings)

    def findings(self, reference: str, findings: Iterable[Finding]) -> None:
        """All verdicts under one reference; those that are gone lose their series."""
        now = {(f.feature, f.kind): SEVERITY[f.severity] for f in findings}
        for feature, kind in self._found.get(reference, set()) - set(now):
            self.severity.remove(feature, kind, reference)
        for (feature, kind), severity in now.items():
            self.severity.labels(feature, kind, reference).set(severity)
        self._found[reference] = set(now)

    def finished(self) -> None:
        """A round of reports is done."""
        self.last_report.set(time.time())
