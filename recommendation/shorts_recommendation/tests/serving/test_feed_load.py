"""The load session against a real server: traffic, shares, effect; the arithmetic by hand."""

from __future__ import annotations

import collections
import json
import sys

import numpy as np
import pytest
from feed_process import PROGRAM

from ml_platform.evaluation.results import Results
from ml_platform.serving.load_test import LoadReport
from shorts_recommendation.config import Config, ServingConfig, StateConfig
from shorts_recommendation.serving.command import table
from shorts_recommendation.serving.event_to_effect import event_to_effect
from shorts_recommendation.serving.limit import Machine, StageCost, request_costs, row_bytes
from shorts_recommendation.serving.load_session import (
    LoadSession,
    Quantiles,
    holds,
    measure,
    serving,
)
from shorts_recommendation.serving.plots import latency_over_rate, stage_profile
from shorts_recommendation.serving.record import record_session
from shorts_recommendation.serving.traffic import Traffic, TrafficPlan

COMMAND = (sys.executable, str(PROGRAM))


def make_session(rate=1000.0, p50=5.0, p99=20.0, errors=None, degraded=0.0):
    load = LoadReport(
        *("poisson", rate, rate, 15.0, 100, 100, errors or {}, 0.01 if errors else 0.0),
        *(6.0, p50, 10.0, p99, 30.0, 1.0, 8),
    )
    stages = {s: Quantiles(1.0, 2.0, 3.0, 40) for s in ("queue", "retrieve", "rank", "total")}
    return LoadSession(
        *(load, Quantiles(p50, 10.0, p99, 85), Quantiles(2.0, 3.0, 4.0, 15)),
        *({"cache": 0.6, "computed": 0.4}, 0.6, degraded, stages),
        *({"server": 0.8, "store": 0.02, "client": 0.1}, 3.0, 0.2),
        {"MainThread": 0.4, "compute": 0.4},
    )


def test_traffic_has_the_planned_shares_and_zipfs_law():
    users, videos = np.arange(1, 1001), np.arange(50) * 10
    lines = Traffic(TrafficPlan(0.15, 1.0, unknown_share=0.0), users, videos).lines(40_000)
    events = [line for line in lines if line.startswith("POST")]
    assert len(events) / len(lines) == pytest.approx(0.15, abs=0.01)
    bodies = [json.loads(line.partition(" {")[2].join(("{", ""))) for line in events]
    assert len({body["event_id"] for body in bodies}) == len(events)
    assert {body["video_id"] for body in bodies} == set(videos.tolist())
    feeds = collections.Counter(line for line in lines if line.startswith("GET"))
    first, second = feeds.most_common(2)
    # The most active of a thousand has 1 / (1 + 1/2 + ... + 1/1000) = 13.4% of all requests.
    assert first[1] / feeds.total() == pytest.approx(0.1336, abs=0.01)
    assert second[1] / feeds.total() == pytest.approx(0.0668, abs=0.01)


def test_sessions_are_a_feed_and_its_events_and_a_feed():
    plan = TrafficPlan(session_events=10, unknown_share=0.0, seed=3)
    traffic = Traffic(plan, np.arange(1, 1001), np.arange(50) * 10)
    lines = traffic.lines(11_000) + traffic.lines(11_000)
    feeds = sum(line.startswith("GET") for line in lines)
    assert len(lines) / feeds == pytest.approx(11, rel=0.03)
    since: dict[int, int] = {}
    between: list[int] = []
    for line in lines:
        if line.startswith("GET"):
            user_id = int(line.partition("user_id=")[2].partition("&")[0])
            if user_id in since:
                between.append(since[user_id])
            since[user_id] = 0
        else:
            user_id = json.loads(line.partition("/v1/events ")[2])["user_id"]
            if user_id in since:  # one that the beginning found in mid-session has no feed yet
                since[user_id] += 1
    assert set(between) == {10}


def test_uploads_are_mixed_in_and_each_is_new():
    plan = TrafficPlan(upload_every=100, content_dim=4)
    one, two = (Traffic(plan, np.arange(9), np.arange(5), name=name) for name in ("a", "b"))
    lines = one.lines(1000) + two.lines(1000)
    uploads = [line.partition(" {")[2] for line in lines if line.startswith("POST /v1/uploads")]
    bodies = [json.loads("{" + text) for text in uploads]
    assert len(bodies) == 20
    assert len({body["video_id"] for body in bodies}) == 20
    assert all(len(body["content"]) == 4 and body["video_id"] > 4 for body in bodies)


def test_uncached_traffic_says_so_and_two_pieces_share_no_event():
    traffic = Traffic(TrafficPlan(cached=False), np.arange(1, 9), np.arange(5))
    lines = traffic.lines(100) + traffic.lines(100)
    assert all(("cache=off" in line) == line.startswith("GET") for line in lines)
    events = [line for line in lines if line.startswith("POST")]
    assert len(set(events)) == len(events)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"p50": 50.0}, False),
        ({"p99": 100.0}, False),
        ({"errors": {"503": 1}}, False),
        ({"degraded": 0.001}, False),
    ],
)
def test_a_rate_is_held_only_by_full_answers_in_time(change, kept):
    assert holds(make_session(**change), 50.0, 100.0) is kept


@pytest.mark.slow
def test_a_session_over_both_paths_and_an_effect_under_load(tmp_path):
    config = ServingConfig(deadline_ms=2000.0, ahead_after=1000)
    with serving(tmp_path, config, command=COMMAND) as served:
        assert (len(served.user_ids), len(served.video_ids)) == (40, 120)
        cached = measure(served, TrafficPlan(), 100.0, 1.0)
        uncached = measure(served, TrafficPlan(cached=False), 100.0, 1.0)
        effect = event_to_effect(served, TrafficPlan(seed=1), 50.0, 20)
    for session in (cached, uncached):
        assert session.load.error_rate == 0
        assert session.feed.n + session.event.n == session.load.n == 100
        assert session.degraded_share == 0
        assert 0 < session.cpu_share["server"] < 2
    assert 0.4 < cached.hit_rate < 1
    assert uncached.answered_by == {"computed": 1.0}
    assert uncached.batch_mean >= 1
    assert {"queue", "rank", "encode"} <= set(uncached.stages)
    assert (effect.total_ms > effect.post_ms).all()
    assert effect.at_first_read == 1.0
    assert effect.at(50) <= effect.at(99) < 2000


def test_what_a_session_becomes_in_the_results(tmp_path):
    results = Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="tiny",
        dataset_sha256="0",
        synthetic=True,
        seed=0,
        root=tmp_path,
    )
    record_session(results, "uncached", make_session(), Config())
    assert results["serving/uncached/p99_ms"].value == 20.0
    assert results["serving/uncached/hit_rate"].n == 85
    assert results["serving_stage/uncached_rank/p99_ms"].value == 3.0
    assert "whole funnel" in results["serving/uncached/p50_ms"].protocol
    assert "1000 a second" in results["serving/uncached/p50_ms"].protocol


def test_pictures_and_table_of_sessions():
    sessions = {
        "cached": [make_session(500.0), make_session(1000.0, p99=200.0)],
        "uncached": [make_session(100.0, degraded=0.1)],
    }
    assert len(latency_over_rate(sessions, p50_ms=50.0, p99_ms=100.0).axes) == 2
    assert len(stage_profile(make_session(), {"compute": 0.5, "client": 0.1}).axes) == 2
    assert table(sessions["cached"]).row_count == 2


def test_the_arithmetic_by_hand():
    config = Config(state=StateConfig(history_length=64, seen_length=1024))
    # 64 events of 34 bytes, 1024 ids seen, 20 positives, session + taste + tags + 9 numbers.
    assert row_bytes(config) == 64 * 34 + 4096 + 80 + 4 * 133
    costs = request_costs(config, 50_000)
    assert costs["retrieve"].flops == 2 * 50_000 * 64
    assert costs["prerank"].bytes_read == 4 * 1000 * 33
    few = request_costs(config, 50_000, vectors_read=500)
    assert few["retrieve"].flops == costs["retrieve"].flops / 100
    machine = Machine(bytes_per_s=1e9, flops_per_s=1e10)
    assert machine.seconds(StageCost(2e6, 1e6)) == pytest.approx(2e-3)  # reading is longer
    assert machine.seconds(StageCost(1e3, 1e8)) == pytest.approx(1e-2)
