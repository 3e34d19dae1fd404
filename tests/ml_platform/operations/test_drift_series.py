"""Reports as Prometheus reads them: what stays, what goes, what is exported elsewhere."""

from __future__ import annotations

import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.drift_monitor import Window, drift_report
from ml_platform.operations.drift_series import DriftSeries
from ml_platform.operations.reference_profile import Monitored, build_profile

COLUMNS = (Monitored("count", "item"), Monitored("score", PREDICTION))


def rows(n: int, seed: int, middle: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, 1, size=(n, 2)).astype(np.float32)


def report_of(seen: np.ndarray):
    profile = build_profile(rows(500, 0), np.arange(500), COLUMNS)
    return drift_report(profile, Window(seen, np.arange(len(seen)), np.zeros(seen.shape, bool)))


def found(severity: str, kind: str = "shift") -> Finding:
    return Finding("count", "item", "", "", kind, severity, 1.0, 0.1, 0.5, "up", "because")  # type: ignore[arg-type]


def test_numbers_of_every_column_and_the_verdicts():
    registry = CollectorRegistry()
    report = report_of(rows(300, 1, middle=3.0))
    DriftSeries(registry).report("launch", report)
    for comparison in report.comparisons:
        labels = {"feature": comparison.column.info.name, "reference": "launch"}
        assert registry.get_sample_value("drift_psi", labels) == comparison.psi > 1
        assert registry.get_sample_value("drift_psi_noise", labels) == comparison.noise < 0.2
    assert registry.get_sample_value("drift_window_rows") == 300
    labels = {"feature": "count", "kind": "shift", "reference": "launch"}
    assert registry.get_sample_value("drift_severity", labels) == 2


def test_a_group_set_apart_has_verdicts_and_no_psi():
    registry = CollectorRegistry()
    DriftSeries(registry, apart=PREDICTION).report("launch", report_of(rows(300, 1, middle=3.0)))
    score = {"feature": "score", "reference": "launch"}
    assert registry.get_sample_value("drift_psi", score) is None
    assert registry.get_sample_value("drift_psi_noise", score) is None
    assert registry.get_sample_value("drift_psi", {**score, "feature": "count"}) > 1
    assert registry.get_sample_value("drift_severity", {**score, "kind": "prediction"}) is not None


def test_a_verdict_that_is_gone_loses_its_series_under_its_reference_only():
    registry = CollectorRegistry()
    series = DriftSeries(registry)

    def severity(reference: str, kind: str = "shift") -> float | None:
        labels = {"feature": "count", "kind": kind, "reference": reference}
        return registry.get_sample_value("drift_severity", labels)

    series.findings("launch", [found("alert"), found("warning", "missing")])
    series.findings("training", [found("warning")])
    assert (severity("launch"), severity("launch", "missing"), severity("training")) == (2, 1, 1)
    series.findings("launch", [found("warning", "missing")])
    assert (severity("launch"), severity("launch", "missing"), severity("training")) == (None, 1, 1)
    series.findings("launch", [])
    series.findings("launch", [])
    assert (severity("launch", "missing"), severity("training")) == (None, 1)


def test_a_window_too_small_to_judge_has_only_its_size():
    registry = CollectorRegistry()
    DriftSeries(registry).report("launch", report_of(rows(3, 1)))
    assert registry.get_sample_value("drift_window_rows") == 3
    labels = {"feature": "count", "reference": "launch"}
    assert registry.get_sample_value("drift_psi", labels) is None


def test_the_last_report_is_now_from_the_start_and_after_each_round(monkeypatch):
    registry = CollectorRegistry()
    begun = time.time()
    series = DriftSeries(registry)
    assert registry.get_sample_value("drift_last_report_timestamp_seconds") >= begun
    monkeypatch.setattr(time, "time", lambda: 7.5)
    series.finished()
    assert registry.get_sample_value("drift_last_report_timestamp_seconds") == pytest.approx(7.5)
