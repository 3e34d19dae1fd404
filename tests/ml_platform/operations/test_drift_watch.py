"""Rounds of reports: the launch sample, what is told once, a thread that outlives a failure."""

from __future__ import annotations

import logging
import threading

import numpy as np
from prometheus_client import CollectorRegistry

from ml_platform.operations.drift_causes import Finding
from ml_platform.operations.drift_series import DriftSeries
from ml_platform.operations.drift_watch import DriftWatch, ReportThread, line
from ml_platform.operations.reference_profile import Monitored, build_profile

COLUMNS = (Monitored("gap", "user", "team history"), Monitored("count", "item", "team counters"))


def rows(n: int, seed: int, middle: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, 1, size=(n, 2)).astype(np.float32)


def watch(registry: CollectorRegistry | None = None, trained: bool = False, **sizes) -> DriftWatch:
    references = {"training": build_profile(rows(500, 0), np.arange(500), COLUMNS)}
    return DriftWatch(
        DriftSeries(registry or CollectorRegistry()),
        COLUMNS,
        references if trained else {},
        **{"window_rows": 300, "launch_rows": 100, **sizes},
    )


def show(watched: DriftWatch, n: int, seed: int, middle: float = 0.0) -> np.ndarray:
    seen = rows(n, seed, middle)
    for number, row in enumerate(seen):
        watched.observe(row[None], number)
    return seen


def test_the_launch_reference_is_the_rows_that_came_first():
    watched = watch()
    first = show(watched, 99, seed=1)
    watched.report()
    assert watched.reports == {}  # one row is missing
    last = rows(1, 2)
    watched.observe(last, 99)
    show(watched, 300, seed=3, middle=5.0)  # too late for the sample
    expected = build_profile(np.concatenate([first, last]), np.arange(100), COLUMNS)
    for made, wanted in zip(
        watched.drift.references["launch"].columns, expected.columns, strict=True
    ):
        np.testing.assert_array_equal(made.cuts, wanted.cuts)
        np.testing.assert_array_equal(made.shares.share, wanted.shares.share)


def test_rows_of_one_cluster_stay_together_in_the_sample():
    watched = watch(launch_rows=4)
    watched.observe(rows(3, 1), 7)
    watched.observe(rows(3, 2), 8)  # whole, although four are enough
    both = np.concatenate([rows(3, 1), rows(3, 2)])
    expected = build_profile(both, np.array([7, 7, 7, 8, 8, 8]), COLUMNS)
    for made, wanted in zip(
        watched.drift.references["launch"].columns, expected.columns, strict=True
    ):
        assert (made.shares.n_rows, made.shares.n_clusters) == (6, 2)
        np.testing.assert_array_equal(made.shares.covariance, wanted.shares.covariance)


def test_each_round_reports_under_every_reference():
    registry = CollectorRegistry()
    watched = watch(registry, trained=True)
    show(watched, 300, seed=1)
    watched.report()
    assert sorted(watched.reports) == ["launch", "training"]
    assert not watched.reports["training"].findings
    show(watched, 300, seed=2, middle=4.0)
    watched.report()
    for reference in ("launch", "training"):
        labels = {"feature": "gap", "kind": "shift", "reference": reference}
        assert registry.get_sample_value("drift_severity", labels) == 2
        assert {f.feature for f in watched.reports[reference].findings} == {"gap", "count"}


def test_a_common_cause_is_named_by_the_system():
    columns = [Monitored(name, family="counters") for name in ("one", "other")]
    profile = build_profile(rows(500, 0), np.arange(500), columns)
    watched = DriftWatch(
        DriftSeries(CollectorRegistry()),
        columns,
        {"training": profile},
        window_rows=300,
        launch_rows=10_000,
        explain=lambda family, findings: f"{family} stand still",
    )
    show(watched, 300, seed=2, middle=4.0)
    watched.report()
    assert watched.reports["training"].conclusions == ("counters stand still",)


def test_a_finding_is_logged_once_while_it_stays(caplog):
    watched = watch(trained=True, launch_rows=10_000)

    def told(seed: int, middle: float) -> list[str]:
        caplog.clear()
        show(watched, 300, seed, middle)
        with caplog.at_level(logging.WARNING):
            watched.report()
        return sorted(record.getMessage() for record in caplog.records)

    first = told(1, 4.0)
    assert [one[:34] for one in first] == [
        "drift since training: alert: count",
        "drift since training: alert: gap (",
    ]
    assert told(2, 4.0) == []
    assert told(3, 0.0) == []
    assert len(told(4, 4.0)) == 2  # it is news again


def test_a_line_says_what_whose_and_why():
    found = Finding("gap", "user", "team", "", "shift", "alert", 1.0, 0.1, 0.5, "up", "it moved")
    assert line(found) == "alert: gap (user, ask team): shift: it moved"


# --- the thread ---


def test_a_turn_that_fails_is_logged_and_not_the_last(caplog):
    turns, third = [], threading.Event()

    def turn() -> None:
        turns.append(1)
        if len(turns) == 3:
            third.set()
        raise RuntimeError("no report")

    thread = ReportThread(turn, 0.001)
    thread.start()
    assert third.wait(20)
    thread.close()
    assert "the drift report failed" in caplog.text


def test_close_waits_for_the_turn_that_runs_and_then_there_is_none():
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def turn() -> None:
        begun.set()
        may_end.wait(20)
        ended.append(1)

    thread = ReportThread(turn, 0.001)
    before = set(threading.enumerate())
    thread.start()
    assert begun.wait(20)
    helper = threading.Timer(0.05, may_end.set)
    helper.start()
    thread.close()
    assert ended == [1]
    helper.join()
    assert set(threading.enumerate()) <= before


def test_a_thread_that_never_started_can_be_closed_and_takes_no_turn():
    turns: list[int] = []
    thread = ReportThread(lambda: turns.append(1), 0.0)
    thread.close()
    assert turns == []
