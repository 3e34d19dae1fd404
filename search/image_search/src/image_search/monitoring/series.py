"""Drift of the queries as Prometheus reads it.

In: reports. Out: series in the service's registry. What counts as drift is decided by the monitor,
which knows sample sizes; a rule reads the verdict (``drift_severity``), people the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from ml_platform.operations.drift_causes import Finding
from ml_platform.operations.drift_monitor import DriftReport

SEVERITY = {"warning": 1, "alert": 2}


class DriftSeries:
    """Series of one monitor, in the service's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.psi = Gauge(
            "drift_psi", "PSI of a column.", ("feature", "reference"), registry=registry
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
        self.rows = Gauge("drift_window_rows", "Queries in the window.", registry=registry)
        self.last_report = Gauge(
            "drift_last_report_timestamp_seconds",
            "Unix time of the last report.",
            registry=registry,
        )
        self.last_report.set(time.time())
        self._found: dict[str, set[tuple[str, str]]] = {}

    def report(self, reference: str, report: DriftReport) -> None:
        """The window against one reference."""
        self.rows.set(report.n_rows)
        for comparison in report.comparisons:
            name = comparison.column.info.name
            self.psi.labels(name, reference).set(comparison.psi)
            self.noise.labels(name, reference).set(comparison.noise)
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
