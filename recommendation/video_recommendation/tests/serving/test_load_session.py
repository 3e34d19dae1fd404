"""A real server process over a real bundle, under load, from start to stop."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from ml_platform.serving.server_process import server_environment
from video_recommendation.serving import load_session
from video_recommendation.serving.load_session import holds, measure, request_lines, running_server


@pytest.mark.slow
def test_a_session_reports_latency_and_stages(tiny_system):
    user_ids = tiny_system.trained.recommender.users.user_ids
    with running_server(tiny_system.bundle) as server:
        assert 0 < server.start_s < 60
        session = measure(server.url, request_lines(user_ids), 30.0, 2.0)
    assert (session.load.n, session.load.ok, session.load.errors) == (60, 60, {})
    assert {"queue", "state", "retrieve", "prerank", "rank", "rerank", "explain", "total"} <= set(
        session.stages
    )
    total = session.stages["total"]
    assert total.n == 60
    assert 0 < total.p50_ms <= total.p99_ms
    assert session.stages["rank"].p50_ms < total.p50_ms
    with pytest.raises(OSError):  # it was stopped
        urllib.request.urlopen(f"{server.url}/healthz", timeout=1)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"no bundle in .*train one first"):  # noqa: SIM117
        with running_server(tmp_path):
            pass


def test_request_lines_mix_known_and_unknown_users():
    lines = request_lines([5, 7], k=20, n=1000)
    ids = np.array([int(line.split("user_id=")[1].split("&")[0]) for line in lines])
    assert all(line.endswith("&k=20") for line in lines)
    assert set(ids[ids <= 7]) == {5, 7}
    assert 50 < (ids > 7).sum() < 150
    assert lines == request_lines([5, 7], k=20, n=1000)  # seeded


def test_sweep_stops_at_the_first_rate_that_misses(monkeypatch):
    good = load_session.LoadSession(load=_report(p99_ms=50.0), stages={}, degraded_share=0.0)
    answers = {
        100.0: good,
        200.0: replace(good, load=_report(p99_ms=99.0)),
        300.0: replace(good, load=_report(p99_ms=100.0)),
        400.0: good,
    }
    monkeypatch.setattr(load_session, "measure", lambda url, lines, rate, seconds: answers[rate])
    sessions = load_session.sweep("http://x", ["GET /"], list(answers), 1.0, p99_ms=100.0)
    assert [holds(s, 100.0) for s in sessions] == [True, True, False]


def test_errors_and_degraded_answers_do_not_hold():
    good = load_session.LoadSession(_report(p99_ms=10.0), {}, 0.0)
    assert holds(good, 100.0)
    assert not holds(replace(good, degraded_share=0.01), 100.0)
    assert not holds(replace(good, load=_report(p99_ms=10.0, error_rate=0.001)), 100.0)
    assert not holds(replace(good, load=_report(p99_ms=None)), 100.0)


def _report(p99_ms, error_rate=0.0):
    names = load_session.LoadReport.__dataclass_fields__
    blank = dict.fromkeys(names, 0)
    return load_session.LoadReport(**{**blank, "p99_ms": p99_ms, "error_rate": error_rate})


def test_the_module_is_a_program():
    command = [sys.executable, "-m", "video_recommendation.serving.run", "--help"]
    environment = server_environment()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "--data-dir" in result.stdout
