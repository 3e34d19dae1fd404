"""What goes wrong in production, done on purpose: dead stores, raising models, late requests."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from fastapi.testclient import TestClient
from test_api import event, ids, recommend
from tiny_recommender import TinyRecommender

from ml_platform.serving.event_log import EventLog
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings


def reasons(body):
    return [(d["stage"], d["reason"]) for d in body["degradations"]]


def test_ladder_ranker_fails_prerank_order_answers(served, caplog):
    served.recommender.fail["rank"] = ValueError("corrupt feature row 17")
    body = recommend(served.client, 1, k=3)
    assert body["degraded"] is True
    assert reasons(body) == [("rank", "error")]
    assert "corrupt" not in str(body)  # the inside stays inside ...
    assert "corrupt feature row 17" in caplog.text  # ... and the log has it, with the traceback
    assert "Traceback" in caplog.text
    assert ids(body) == [21, 31, 41]
    counted = 'degraded_total{reason="error",stage="rank"} 1.0'
    assert counted in served.client.get("/metrics").text


def test_ladder_recommender_fails_popularity_answers(served):
    served.recommender.fail["recommend"] = KeyError("towers")
    body = recommend(served.client, 1, k=3, exclude=[21])
    assert reasons(body) == [("recommend", "error")]
    assert ids(body) == [31, 41, 51]  # still without seen and excluded items
    assert body["items"][0]["sources"] == ["popularity"]


def test_similar_falls_back_to_popular_items_of_the_same_genres(served):
    served.recommender.fail["similar"] = RuntimeError("index lost")
    response = served.client.get("/v1/similar/1", params={"k": 3})  # item 0: Action
    assert response.status_code == 200
    assert reasons(response.json()) == [("similar", "error")]
    assert ids(response.json()) == [21, 41, 61]  # 2, 4, 6: Action too


def test_a_request_that_waited_too_long_gets_popularity(tmp_path):
    app = create_app(TinyRecommender(), ServingSettings(tmp_path, deadline_ms=0.0))
    with TestClient(app) as client:
        body = recommend(client, 1, k=2)
    assert reasons(body) == [("state", "budget"), ("recommend", "budget")]
    assert ids(body) == [21, 31]


def test_a_stage_over_its_budget_is_skipped_and_tried_again(served):
    monitor = served.engine.production.monitor
    monitor.budgets_ms["rank"] = 5.0
    monitor.probe_after_s = 0.3
    rank = served.recommender._maybe_fail
    served.recommender._maybe_fail = lambda name: time.sleep(0.01) if name == "rank" else None
    bodies = [recommend(served.client, 1) for _ in range(30)]
    assert reasons(bodies[0]) == []  # a late result is used: it has been paid for
    assert reasons(bodies[-1]) == [("rank", "budget")]
    assert 'stage_overruns_total{stage="rank"}' in served.client.get("/metrics").text
    served.recommender._maybe_fail = rank  # fast again: the probe notices
    served.wait_for(lambda: not recommend(served.client, 1)["degraded"])


def test_store_down_answers_from_the_bundle_and_recovers_every_event(served):
    store = served.engine.store
    served.client.post("/v1/events", json=event("before", item_id=31))
    start = store.server.start
    store.server.start = lambda: None  # hold the keeper back
    store.server.stop()
    body = recommend(served.client, 1, k=3)
    assert reasons(body) == [("state", "error")]
    assert ids(body) == [21, 31, 41]  # the bundle's history: the event is not seen
    response = served.client.post("/v1/events", json=event("during", item_id=41))
    assert (response.status_code, response.json()["applied"]) == (202, False)
    assert served.client.get("/readyz").status_code == 200  # degraded, but worth asking
    counted = 'degraded_total{reason="error",stage="state"}'
    assert counted in served.client.get("/metrics").text

    store.server.start = start  # the keeper brings up a new, empty store and replays the log
    served.wait_for(lambda: not recommend(served.client, 1)["degraded"])
    assert ids(recommend(served.client, 1, k=3)) == [21, 51, 61]
    assert len(served.engine.production.state.history(1)) == 4


def test_store_killed_in_mid_traffic_costs_no_request_and_no_event(served):
    stop = threading.Event()
    statuses: list[int] = []

    def read() -> None:
        while not stop.is_set():
            response = served.client.get("/v1/recommendations", params={"user_id": 3})
            statuses.append(response.status_code)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        if i in (20, 40):
            served.engine.store.server.stop()
        statuses.append(
            served.client.post("/v1/events", json=event(f"t{i}", item_id=10 * i + 1)).status_code
        )
    stop.set()
    reader.join()
    assert set(statuses) <= {200, 202}
    served.wait_for(lambda: served.engine.production.state.applied_seq == 60)
    served.wait_for(lambda: not recommend(served.client, 1)["degraded"])
    assert (
        len(served.engine.production.state.history(1)) == 60
    )  # items 0 and 1 were in the bundle's already


def test_a_client_that_writes_wrong_types_into_the_store_degrades(served):
    served.engine.store.client.lpush(f"{served.engine.production.state.prefix}history:1", "junk")
    body = recommend(served.client, 1)
    assert body["items"]
    assert served.client.post("/v1/events", json=event(user_id=2)).status_code in (200, 202)


def test_a_store_that_went_empty_unnoticed_is_refilled(served):
    served.client.post("/v1/events", json=event(item_id=31))
    served.engine.store.client.flushall()
    served.wait_for(lambda: not recommend(served.client, 1)["degraded"])
    assert len(served.engine.production.state.history(1)) == 3


def test_a_full_disk_refuses_events_with_503_and_loses_none(served, monkeypatch):
    def fail(self, *args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "_append", fail)
        response = served.client.post("/v1/events", json=event())
    assert response.status_code == 503
    assert "disk full" not in response.text
    assert served.engine.log.last_seq() == 0
    assert served.client.post("/v1/events", json=event()).json()["accepted"] == 1


def test_restart_keeps_events_and_moves_the_clock(tmp_path):
    settings = ServingSettings(tmp_path, refresh_s=0.05)
    with TestClient(create_app(TinyRecommender(), settings)) as client:
        late = client.get("/v1/version").json()["server_time"] + 80_000
        client.post("/v1/events", json=event(item_id=31, timestamp=late))
    with TestClient(create_app(TinyRecommender(), settings)) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.02)
        assert 31 not in ids(recommend(client, 1, k=5))
        assert client.get("/v1/version").json()["server_time"] >= late


def test_an_item_that_left_the_catalogue_is_skipped(tmp_path, caplog):
    with TestClient(create_app(TinyRecommender(), ServingSettings(tmp_path))) as client:
        client.post("/v1/events", json=event("old", item_id=591))
        client.post("/v1/events", json=event("kept", item_id=31))
    smaller = TinyRecommender()
    smaller.version = "tiny-2"
    known = smaller.catalogue.item_idx
    smaller.catalogue.item_idx = lambda item_id: None if item_id == 591 else known(item_id)
    app = create_app(smaller, ServingSettings(tmp_path, refresh_s=0.05))
    with TestClient(app) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.02)
        assert app.state.engine.production.state.skipped_events == 1
        assert 31 not in ids(recommend(client, 1, k=5))


def test_an_unexpected_error_is_a_500_without_the_inside(served, caplog, monkeypatch):
    def broken():
        raise RuntimeError("secret path")

    monkeypatch.setattr(served.engine, "describe", broken)
    with caplog.at_level(logging.ERROR):
        response = served.client.get("/v1/version")
    assert response.status_code == 500
    assert response.json() == {"detail": [{"field": "", "reason": "internal error"}]}
    assert "secret path" in caplog.text
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("bad", ["http://x", "nonsense"])
def test_a_redis_url_that_is_none_is_refused_at_the_start(tmp_path, bad):
    with pytest.raises(ValueError, match="scheme"):  # noqa: SIM117
        with TestClient(create_app(TinyRecommender(), ServingSettings(tmp_path, bad))):
            pass
