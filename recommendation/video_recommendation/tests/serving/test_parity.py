"""Training and serving compute the same features: the test window is replayed through the API.

Every event of the window is posted at its time, and before some of them the user asks for a list.
What the server computed for these requests must equal, to the bit, what the offline path computes
from the log of the same requests. Item activity and profiles went through the feature store.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from feature_engineering.counters import TICK_S, as_of
from ml_platform.data.splits import next_event_queries
from video_recommendation.bundle import load_bundle
from video_recommendation.pipeline import with_live_counter
from video_recommendation.requests import batch_of_queries
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings

N_EVENTS = 600
EVERY = 12


@pytest.fixture(scope="module")
def replay(tiny_system, tmp_path_factory):
    """The served requests: their queries in the log, and what the server handed to the ranker."""
    data, recommender = tiny_system.data, load_bundle(tiny_system.bundle)
    log, begin = data.log, data.windows.validation_end
    rows = np.flatnonzero(log.timestamp >= begin)
    rows = rows[np.argsort(log.timestamp[rows], kind="stable")][:N_EVENTS]
    queries = next_event_queries(log, begin, None)
    served: list = []
    rank = recommender._scored
    recommender._scored = lambda live, batch, pool, stored: (
        served.append((batch, ranked := rank(live, batch, pool, stored))) or ranked
    )
    settings = ServingSettings(
        tmp_path_factory.mktemp("replay"), refresh_s=3600.0, deadline_ms=60_000.0, budgets_ms={}
    )
    asked: list[int] = []
    lists: list[dict] = []
    with TestClient(create_app(recommender, settings)) as client:
        engine = client.app.state.engine
        clock = SimpleNamespace(time=begin)
        engine.clock.now = lambda: clock.time
        for number, row in enumerate(rows):
            user, clock.time = log.user_idx[row], int(log.timestamp[row])
            query = np.flatnonzero((queries.user_idx == user) & (queries.timestamp == clock.time))
            if number % EVERY == 0 and len(query) and query[0] not in asked:
                engine.production.catch_up()  # what the keeper does once a second
                user_id = int(log.user_ids[user])
                lists.append(client.get("/v1/recommendations", params={"user_id": user_id}).json())
                asked.append(int(query[0]))
            body = {
                "event_id": str(row),
                "user_id": int(log.user_ids[user]),
                "item_id": int(log.item_ids[log.item_idx[row]]),
                "event_type": "rating",
                "rating": float(log.rating[row]),
                "timestamp": clock.time,
            }
            assert client.post("/v1/events", json=body).json()["applied"] is True
    return SimpleNamespace(
        data=data,
        recommender=load_bundle(tiny_system.bundle),
        queries=queries.subset(np.array(asked)),
        served=served,
        lists=lists,
    )


def offline(replay):
    """The same requests as the offline path sees them: one batch, counters that know all events."""
    recommender = replay.recommender
    recommender.proposer = with_live_counter(recommender.proposer, replay.data)
    batch = batch_of_queries(replay.data.log, replay.queries)
    candidates = recommender.prerank(batch, recommender.proposer.retrieve(batch))[1]
    return batch, recommender.rank(batch, candidates)


def test_the_replay_covers_live_events(replay):
    """Otherwise parity would hold for the wrong reason: nothing had happened since training."""
    assert len(replay.served) == len(replay.queries) > 30
    assert not any(body["degraded"] for body in replay.lists)
    window_begin = replay.data.windows.validation_end
    live_in_history = [(batch.timestamp >= window_begin).sum() for batch, _ in replay.served]
    assert max(live_in_history) > 3
    known = replay.recommender.proposer.retriever.counter
    moved = with_live_counter(replay.recommender.proposer, replay.data).retriever.counter
    last = as_of(int(replay.queries.timestamp.max()))
    everything = np.arange(known.n_items)
    assert (moved.before(everything, last) > known.before(everything, last)).sum() > 50


def test_histories_are_the_same(replay):
    batch, _ = offline(replay)
    for number, (live, _) in enumerate(replay.served):
        alone = batch.slice(number, number + 1)
        for field in dataclasses.fields(live):
            np.testing.assert_array_equal(
                getattr(live, field.name), getattr(alone, field.name), err_msg=field.name
            )


def test_features_are_the_same_to_the_bit(replay):
    """One request alone and the same request alone offline: every candidate, every feature."""
    batch, _ = offline(replay)
    recommender = replay.recommender
    for number, (_, live) in enumerate(replay.served):
        alone = batch.slice(number, number + 1)
        candidates = recommender.prerank(alone, recommender.proposer.retrieve(alone))[1]
        ranked = recommender.rank(alone, candidates)
        np.testing.assert_array_equal(live.candidates.item_idx, ranked.candidates.item_idx)
        np.testing.assert_array_equal(live.features, ranked.features)
        np.testing.assert_array_equal(live.score, ranked.score)


def test_a_batch_gives_what_single_requests_give(replay):
    """Matrix products of other shapes may round differently in the last bits, and no more."""
    _, ranked = offline(replay)
    for number, (_, live) in enumerate(replay.served):
        rows = slice(*ranked.candidates.ptr[number : number + 2])
        np.testing.assert_array_equal(live.candidates.item_idx, ranked.candidates.item_idx[rows])
        np.testing.assert_allclose(live.features, ranked.features[rows], rtol=1e-5, atol=1e-5)


def test_lists_are_the_same(replay):
    """Up to the exploration slot, which is drawn by the request's time and place in the batch."""
    batch, _ = offline(replay)
    recommender = replay.recommender
    for number, body in enumerate(replay.lists):
        alone = batch.slice(number, number + 1)
        candidates = recommender.prerank(alone, recommender.proposer.retrieve(alone))[1]
        ranked = recommender.rank(alone, candidates)
        now = int(alone.now[0])
        listed = recommender.rerank(
            ranked, 0, len(ranked.score), k=20, user_idx=int(alone.user_idx[0]), now=now
        )
        items = ranked.candidates.item_idx[listed.rows]
        assert [item["item_id"] for item in body["items"]] == (
            recommender.catalogue.item_ids[items].tolist()
        )


def test_an_event_within_the_minute_is_history_but_not_yet_counted(tiny_system, tmp_path):
    recommender = load_bundle(tiny_system.bundle)
    settings = ServingSettings(tmp_path, refresh_s=3600.0)
    with TestClient(create_app(recommender, settings)) as client:
        engine = client.app.state.engine
        now = int(as_of(recommender.data_end)) + 10 * TICK_S + 5
        engine.clock.now = lambda: now
        item_id = int(recommender.catalogue.item_ids[3])
        body = {"event_id": "e", "user_id": 10**9, "item_id": item_id, "event_type": "watch"}
        client.post("/v1/events", json=body)
        engine.production.popularity.refresh(now)
        counter, trained = (
            engine.production.popularity.counter,
            recommender.proposer.retriever.counter,
        )
        item = np.array([3])
        assert len(engine.production.state.history(10**9)) == 1
        assert counter.before(item, as_of(now)) == trained.before(item, as_of(now))
        assert counter.before(item, as_of(now + TICK_S)) == trained.before(item, now) + 1
