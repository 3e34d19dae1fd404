"""The fallback ladder of the real recommender, each rung forced, answered, flagged and counted."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from test_api import event, ids, recommend
from test_failures import reasons

from video_recommendation.bundle import load_bundle
from video_recommendation.config import ServingConfig
from video_recommendation.requests import single_request
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings
from video_recommendation.serving.popularity import window_counts

K = 10


@pytest.fixture
def real(tiny_system, tmp_path):
    """A running app over the real recommender; `user_id` has a history of some length."""
    recommender = load_bundle(tiny_system.bundle)
    settings = ServingSettings(tmp_path, refresh_s=0.05, deadline_ms=5000.0, budgets_ms={})
    with TestClient(create_app(recommender, settings)) as client:
        user = int(
            np.argsort(np.diff(recommender.log.user_ptr))[len(recommender.users.user_ids) // 2]
        )
        yield SimpleNamespace(
            client=client,
            engine=client.app.state.engine,
            recommender=recommender,
            user_id=int(recommender.log.user_ids[user]),
            data_dir=tmp_path,
        )


def broken(*args, **kwargs):
    raise RuntimeError("lost weights")


def external(real, item_idx):
    return real.recommender.catalogue.item_ids[item_idx].tolist()


def offline(real):
    """The stages of the user's request, computed beside the server."""
    recommender, state = real.recommender, real.recommender.history(real.user_id)
    batch = single_request(
        recommender.users.user_idx(real.user_id),
        real.engine.clock.now() + 1,
        *(state.item_idx, state.rating, state.timestamp),
    )
    pool = recommender.proposer.retrieve(batch)
    scores, survivors = recommender.prerank(batch, pool)
    return SimpleNamespace(batch=batch, pool=pool, scores=scores, survivors=survivors)


def counted(real, stage, reason):
    line = f'degraded_total{{reason="{reason}",stage="{stage}"}} '
    found = [text for text in real.client.get("/metrics").text.splitlines() if line in text]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_nothing_is_degraded_when_all_goes_well(real):
    body = recommend(real.client, real.user_id, k=K)
    assert (body["degraded"], body["degradations"], body["cold_start"]) == (False, [], False)
    assert len(set(ids(body))) == K
    seen = external(real, real.recommender.history(real.user_id).item_idx)
    assert not set(ids(body)) & set(seen)
    stages = {"state", "retrieve", "prerank", "rank", "rerank", "explain", "recommend", "total"}
    assert stages <= set(body["stages_ms"])
    assert all(item["reason"] and item["sources"] for item in body["items"])
    exploring = [item for item in body["items"] if item["exploration"]]
    assert len(exploring) == 1
    assert 0 < exploring[0]["propensity"] < 1


def test_ranker_raises_the_prerank_order_is_shown(real, monkeypatch):
    monkeypatch.setattr(type(real.recommender.rankers["lambdarank"]), "score", broken)
    body = recommend(real.client, real.user_id, k=K)
    assert body["degraded"] is True
    assert reasons(body) == [("rank", "error")]
    assert "lost weights" not in str(body)
    now = offline(real)
    best = np.argsort(-now.scores, kind="stable")[:K]
    assert ids(body) == external(real, now.pool.item_idx[best])
    assert counted(real, "rank", "error") == 1.0


def test_reranker_raises_the_rankers_order_is_shown(real, monkeypatch):
    monkeypatch.setattr(real.recommender, "rerank", broken)
    body = recommend(real.client, real.user_id, k=K)
    assert reasons(body) == [("rerank", "error")]
    assert len({item["reason"] for item in body["items"]}) >= 1
    now = offline(real)
    ranked = real.recommender.rank(now.batch, now.survivors)
    best = np.argsort(-ranked.score, kind="stable")[:K]
    assert ids(body) == external(real, ranked.candidates.item_idx[best])
    assert counted(real, "rerank", "error") == 1.0


def test_retrieval_raises_popularity_is_shown(real, monkeypatch):
    monkeypatch.setattr(type(real.recommender.proposer), "retrieve", broken)
    body = recommend(real.client, real.user_id, k=K)
    assert reasons(body) == [("recommend", "error")]
    counts = window_counts(real.engine.production.popularity.counter, real.engine.clock.now())
    counts[real.recommender.history(real.user_id).item_idx] = -1
    assert ids(body) == external(real, np.argsort(-counts, kind="stable")[:K])
    assert {item["sources"][0] for item in body["items"]} == {"popularity"}
    assert counted(real, "recommend", "error") == 1.0


def test_explaining_fails_popularity_is_shown(real, monkeypatch):
    monkeypatch.setattr(real.recommender, "_describe", broken)
    assert reasons(recommend(real.client, real.user_id)) == [("recommend", "error")]


def test_a_slow_ranker_is_skipped_by_its_budget_and_tried_again(real, monkeypatch):
    monitor = real.engine.production.monitor
    monitor.budgets_ms["rank"] = 40.0
    monitor.probe_after_s = 0.2
    ranker = type(real.recommender.rankers["lambdarank"])
    score = ranker.score
    with monkeypatch.context() as patch:
        patch.setattr(ranker, "score", lambda self, x: (time.sleep(0.045), score(self, x))[1])
        bodies = [recommend(real.client, real.user_id) for _ in range(30)]
    assert bodies[0]["degraded"] is False  # late, but paid for
    assert reasons(bodies[-1]) == [("rank", "budget")]
    assert bodies[-1]["items"]
    assert counted(real, "rank", "budget") >= 1.0
    assert 'stage_overruns_total{stage="rank"}' in real.client.get("/metrics").text
    end = time.monotonic() + 5
    while recommend(real.client, real.user_id)["degraded"]:  # fast again: a probe notices
        assert time.monotonic() < end


def test_store_down_the_bundles_history_is_used(real):
    healthy = recommend(real.client, real.user_id, k=K)
    seen = set(external(real, real.recommender.history(real.user_id).item_idx))
    real.engine.store.server.start = lambda: None  # hold the keeper back
    real.engine.store.server.stop()
    body = recommend(real.client, real.user_id, k=K)
    assert reasons(body) == [("state", "error"), ("features", "error")]
    assert body["cold_start"] is False
    assert not set(ids(body)) & seen
    assert len(set(ids(body)) & set(ids(healthy))) >= K // 2  # still theirs, not a general list
    assert counted(real, "state", "error") >= 1.0


def test_unknown_user_gets_a_cold_start_list(real):
    body = recommend(real.client, 10**12, k=K)
    assert (body["cold_start"], body["degraded"]) == (True, False)
    assert len(set(ids(body))) == K
    shown = [item for item in body["items"] if not item["exploration"]]
    assert {item["reason"] for item in shown} == {"Popular with everyone right now"}


def test_an_event_of_this_very_second_changes_the_next_response(real):
    first = recommend(real.client, real.user_id, k=K)
    watched = ids(first)[0]
    now = real.client.get("/v1/version").json()["server_time"]
    real.engine.clock.now = lambda: now  # not a second may pass
    body = event(user_id=real.user_id, item_id=watched, timestamp=now)
    assert real.client.post("/v1/events", json=body).json()["applied"] is True
    second = recommend(real.client, real.user_id, k=K)
    assert watched not in ids(second)
    assert ids(second) != [i for i in ids(first) if i != watched]  # and others move: it is history
    assert second["degraded"] is False


def test_exclude_and_similar_use_the_real_parts(real):
    first = ids(recommend(real.client, real.user_id, k=K))
    assert not set(ids(recommend(real.client, real.user_id, k=K, exclude=first))) & set(first)
    body = real.client.get(f"/v1/similar/{first[0]}", params={"k": 5}).json()
    assert len(set(ids(body)) - {first[0]}) == 5
    scores = [item["score"] for item in body["items"]]
    assert scores == sorted(scores, reverse=True)


def test_every_answer_is_in_the_request_log(real, monkeypatch):
    good = recommend(real.client, real.user_id, k=K)
    with monkeypatch.context() as patch:
        patch.setattr(real.recommender, "rerank", broken)
        bad = recommend(real.client, real.user_id, k=3)
    similar = real.client.get(f"/v1/similar/{ids(good)[0]}", params={"k": 2}).json()
    real.engine.requests.close()
    text = (real.data_dir / "requests.jsonl").read_bytes()
    records = [orjson.loads(line) for line in text.splitlines()]
    assert [r["request_id"] for r in records] == [b["request_id"] for b in (good, bad, similar)]
    place = next(p for p, item in enumerate(good["items"]) if item["exploration"])
    first = records[0]
    assert first["user_id"] == real.user_id
    assert first["surface"] == "home"
    assert first["version"] == real.recommender.version
    assert first["now"] >= real.recommender.data_end
    assert first["items"] == ids(good)
    assert first["scores"] == [item["score"] for item in good["items"]]
    assert first["sources"] == [item["sources"] for item in good["items"]]
    assert first["exploration_place"] == place
    assert first["propensity"] == good["items"][place]["propensity"]
    assert (first["degraded"], records[1]["degraded"]) == (False, True)
    assert records[1]["degraded_stages"] == ["rerank"]
    assert records[2]["surface"] == "similar"
    metrics = real.client.get("/metrics").text
    assert 'request_log_records_total{outcome="written"} 3.0' in metrics


def test_a_request_log_that_cannot_be_written_costs_no_answer(tiny_system, tmp_path):
    (tmp_path / "requests.jsonl").mkdir()  # a folder where the file should be
    recommender = load_bundle(tiny_system.bundle)
    with TestClient(create_app(recommender, ServingSettings(tmp_path))) as client:
        assert recommend(client, 1)["items"]
        line = 'request_log_records_total{outcome="write_failed"} 1.0'
        end = time.monotonic() + 5
        while line not in client.get("/metrics").text:
            assert time.monotonic() < end


def test_budgets_come_from_the_configuration(tmp_path):
    config = ServingConfig(deadline_ms=80.0, rank_budget_ms=30.0, rerank_budget_ms=10.0)
    settings = ServingSettings.of(config, tmp_path, workers=3)
    assert (settings.deadline_ms, settings.workers) == (80.0, 3)
    expected = {"state": 50.0, "features": 20.0, "rank": 30.0, "rerank": 10.0}
    assert settings.budgets_ms == expected
