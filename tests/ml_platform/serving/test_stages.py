"""Budgets, ladder and degradations, by a clock that the test moves."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ml_platform.serving.metrics import ServiceMetrics
from ml_platform.serving.stages import (
    Degradation,
    RequestStages,
    StageError,
    StageMonitor,
    Step,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, ms: float, result: str = "done"):
        """A stage that takes this long."""

        def run() -> str:
            self.now += ms / 1e3
            return result

        return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> StageMonitor:
    return StageMonitor({"rank": 10.0}, observer=ServiceMetrics(), clock=clock)


def sample(monitor: StageMonitor, name: str, **labels: str) -> float:
    return monitor.observer.registry.get_sample_value(name, labels)


def test_times_add_up_by_stage(monitor, clock):
    stages = RequestStages(monitor)
    assert stages.run("features", clock.work(2.0)) == "done"
    stages.run("features", clock.work(3.0))
    assert stages.attempt("rank", clock.work(4.0)) == "done"
    assert stages.stages_ms == pytest.approx({"features": 5.0, "rank": 4.0})
    assert stages.degradations == []
    assert sample(monitor, "stage_seconds_sum", stage="rank") == pytest.approx(0.004)


def test_p95_is_the_nearest_rank(monitor):
    for ms in range(1, 20):
        monitor.record("s", ms, 1e9)
    assert monitor.p95_ms("s") == 0.0  # 19 samples say nothing
    monitor.record("s", 20, 1e9)
    assert monitor.p95_ms("s") == 19.0  # 95% of 20 samples are at or below the 19th


def test_an_overrun_is_used_counted_and_makes_the_next_skip(monitor, clock):
    for _ in range(20):
        assert RequestStages(monitor).attempt("rank", clock.work(12.0)) == "done"
    assert sample(monitor, "stage_overruns_total", stage="rank") == 20.0
    stages = RequestStages(monitor)
    assert stages.attempt("rank", clock.work(12.0)) is None
    assert stages.degradations == [Degradation("rank", "budget", "10.0 ms left, p95 is 12.0 ms")]
    assert sample(monitor, "degraded_total", stage="rank", reason="budget") == 1.0


def test_a_skipped_stage_is_probed_and_comes_back(monitor, clock):
    for _ in range(20):
        RequestStages(monitor).attempt("rank", clock.work(12.0))
    assert RequestStages(monitor).attempt("rank", clock.work(2.0)) is None
    clock.now += 1.5
    assert RequestStages(monitor).attempt("rank", clock.work(2.0)) == "done"  # the probe
    assert monitor.p95_ms("rank") == 0.0  # it fitted: old samples are gone
    assert RequestStages(monitor).attempt("rank", clock.work(2.0)) == "done"


def test_a_probe_that_does_not_fit_keeps_the_stage_out(monitor, clock):
    for _ in range(20):
        RequestStages(monitor).attempt("rank", clock.work(12.0))
    clock.now += 1.5
    RequestStages(monitor).attempt("rank", clock.work(12.0))
    assert RequestStages(monitor).attempt("rank", clock.work(12.0)) is None


def test_only_one_request_probes(monitor, clock):
    for _ in range(20):
        monitor.record("rank", 12.0, 10.0)
    clock.now += 1.5
    assert [monitor.fits("rank", 10.0) for _ in range(3)] == [True, False, False]


def test_the_deadline_counts_from_arrival_and_binds_optional_stages_only(monitor, clock):
    stages = RequestStages(monitor, deadline_ms=50.0, started=clock.now - 0.06)
    assert stages.attempt("rank", clock.work(1.0)) is None
    assert stages.degradations[0].reason == "budget"
    assert stages.run("popularity", clock.work(1.0, "popular")) == "popular"


def test_ladder_goes_down_one_rung_at_a_time(monitor, clock, caplog):
    def corrupt() -> str:
        raise ValueError("NaN in feature 3")

    def down() -> str:
        raise StageError("index is not loaded")

    stages = RequestStages(monitor)
    with caplog.at_level(logging.WARNING):
        result = stages.ladder(
            Step("rank", corrupt), Step("prerank", down), Step("popularity", clock.work(1.0))
        )
    assert result == "done"
    assert stages.degradations == [
        Degradation("rank", "error", "ValueError"),
        Degradation("prerank", "error", "index is not loaded"),
    ]
    assert caplog.text.count("Traceback") == 1  # the defect has one, the expected failure has none
    assert "NaN in feature 3" in caplog.text
    assert sample(monitor, "degraded_total", stage="prerank", reason="error") == 1.0


def test_a_storm_of_failures_is_counted_in_full_and_logged_once_a_second(monitor, clock, caplog):
    def broken() -> str:
        raise ValueError("NaN")

    for _ in range(50):
        RequestStages(monitor).attempt("rank", broken)
    clock.now += 1.0
    RequestStages(monitor).attempt("rank", broken)
    assert sample(monitor, "degraded_total", stage="rank", reason="error") == 51.0
    assert len(caplog.records) == 2
    assert "(49 more since the last such line)" in caplog.text


def test_the_last_rung_is_not_caught():
    def broken() -> str:
        raise ValueError("no popularity")

    with pytest.raises(ValueError, match="no popularity"):
        RequestStages().ladder(Step("a", broken), Step("b", broken))
    with pytest.raises(ValueError, match="at least one step"):
        RequestStages().ladder()


def test_an_empty_result_is_a_result():
    assert RequestStages().ladder(Step("a", list), Step("b", lambda: [1])) == []


def test_keyboard_interrupt_is_never_caught():
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RequestStages().attempt("a", interrupted)


def test_hard_timeout_abandons_the_stage():
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        monitor = StageMonitor({"slow": 20.0}, executor=executor)
        stages = RequestStages(monitor)
        begin = time.perf_counter()
        try:
            result = stages.ladder(
                Step("slow", lambda: release.wait(5) and "late", timeout=True),
                Step("fast", lambda: "fallback"),
            )
        finally:
            release.set()
        assert result == "fallback"
        assert time.perf_counter() - begin < 1.0
        assert stages.degradations[0].reason == "timeout"


def test_a_stages_own_timeout_error_is_an_error_and_its_result_comes_back():
    def times_out() -> str:
        raise TimeoutError("socket")

    with ThreadPoolExecutor(1) as executor:
        stages = RequestStages(StageMonitor(executor=executor))
        assert stages.attempt("a", times_out, timeout=True) is None
        assert stages.degradations == [Degradation("a", "error", "TimeoutError")]
        assert stages.attempt("b", lambda: "ok", timeout=True) == "ok"


def test_a_timeout_without_an_executor_is_a_mistake_that_shows(caplog):
    stages = RequestStages()
    assert stages.attempt("a", lambda: 1, timeout=True) is None
    assert "needs a StageMonitor with an executor" in caplog.text
