"""Versions are swapped under requests: none waits, none fails, none sees half of each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tiny_recommender import DATA_END, TinyRecommender

from ml_platform.serving.stages import StageError
from video_recommendation.serving import engine as engine_module
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings


def version(name: str, *, data_end: int = DATA_END, slow_s: float = 0.0) -> TinyRecommender:
    recommender = TinyRecommender()
    recommender.version, recommender.data_end = name, data_end
    if slow_s:
        recommend = recommender.recommend
        recommender.recommend = lambda **kw: (time.sleep(slow_s), recommend(**kw))[1]
    return recommender


def ask(served, user_id: int = 1, **parameters) -> dict:
    answer = served.client.get("/v1/recommendations", params={"user_id": user_id, **parameters})
    assert answer.status_code == 200
    return answer.json()


def watch(served, event_id: str, item_id: int, user_id: int = 1) -> dict:
    body = {"event_id": event_id, "user_id": user_id, "item_id": item_id, "event_type": "watch"}
    answer = served.client.post("/v1/events", json=body)
    assert answer.status_code == 200
    return answer.json()


def test_a_swap_changes_the_version_and_keeps_what_users_did(served):
    shown = ask(served)["items"][0]["item_id"]
    watch(served, "before", shown)
    served.engine.install(version("tiny-2"))
    body = ask(served)
    assert body["version"] == "tiny-2"
    assert not body["degraded"]
    assert shown not in [item["item_id"] for item in body["items"]]
    later = body["items"][0]["item_id"]
    assert watch(served, "after", later)["applied"] is True
    assert later not in [item["item_id"] for item in ask(served)["items"]]


def test_an_event_is_seen_after_the_swap_however_the_two_meet(served):
    """Events are posted while versions are swapped; each is in the next list's history."""
    stop = threading.Event()

    def swap() -> None:
        for number in range(10**6):
            if stop.is_set():
                return
            served.engine.install(version(f"v{number % 3}"))

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        for number in range(60):
            item_id = ask(served, user_id=500)["items"][0]["item_id"]
            watch(served, f"e{number}", item_id, user_id=500)
            after = served.engine.production.state.history(500)
            indices = served.recommender.catalogue.item_idx(item_id)
            assert indices in after.item_idx
            if len(after) >= 50:
                break
        stop.set()
        swapping.result()
    assert served.engine.metrics.model_swaps.labels("production", "installed")._value.get() > 5


def test_no_request_fails_or_mixes_versions_while_versions_are_swapped(served):
    """Version b- names its items otherwise: an answer that mixed the two would show it."""
    renamed = version("renamed")
    renamed.catalogue.titles = [f"Renamed {i}" for i in range(len(renamed.catalogue.titles))]
    first = version("tiny-1")
    stop = threading.Event()
    bodies: list[dict] = []

    def client() -> None:
        while not stop.is_set():
            bodies.append(ask(served, user_id=3, k=5))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client) for _ in range(4)]
        for number in range(30):
            served.engine.install(renamed if number % 2 == 0 else first)
        stop.set()
        for future in clients:
            future.result()
    assert {body["version"] for body in bodies} == {"renamed", "tiny-1"}
    for body in bodies:
        word = "Renamed" if body["version"] == "renamed" else "Film"
        assert all(item["title"].startswith(word) for item in body["items"])
        assert not body["degraded"]


def test_a_version_trained_on_logged_events_does_not_count_them_twice(served):
    item_id = int(served.recommender.catalogue.item_ids[59])
    for number in range(5):
        watch(served, f"e{number}", item_id, user_id=700 + number)
    retrained = version("retrained")
    retrained.trained_through = {served.engine.log.log_id: 3}
    served.engine.install(retrained)
    count = served.engine.production.popularity.counts[59]
    assert count == 1 + 2  # one training event of the stub, and events 4 and 5
    assert len(served.engine.production.state.history(700)) == 0  # it is in the bundle's, so to say
    assert len(served.engine.production.state.history(704)) == 1
    served.engine.store.client.flushall()  # an empty store begins after the same event
    state = served.engine.production.state
    served.wait_for(lambda: served.engine.store.client.get(f"{state.prefix}applied") == b"5")
    assert len(state.history(704)) == 1
    assert len(state.history(700)) == 0
    served.wait_for(lambda: served.engine.production.popularity.counts[59] == 3)


def test_swapping_while_the_store_is_down_serves_from_the_bundle_until_it_is_back(served):
    watch(served, "a", 101)
    served.engine.store.server.stop()
    served.engine.install(version("tiny-2"))
    body = ask(served)
    assert body["version"] == "tiny-2"
    served.wait_for(lambda: not ask(served)["degraded"])
    assert 10 in served.engine.production.state.history(1).item_idx


def test_keys_of_a_version_are_removed_when_nobody_serves_it(served, monkeypatch):
    monkeypatch.setattr(engine_module, "RETIRE_AFTER_S", 0.1)
    watch(served, "a", 101)
    client, old = served.engine.store.client, served.engine.production.state.prefix
    assert list(client.scan_iter(f"{old}*"))
    served.engine.install(version("tiny-2"))
    served.wait_for(lambda: not list(client.scan_iter(f"{old}*")))
    assert list(client.scan_iter(f"{served.engine.production.state.prefix}*"))
    served.engine.install(version("tiny-1"))  # back again: replayed from the log
    assert 10 in served.engine.production.state.history(1).item_idx


def test_an_event_on_an_item_that_the_new_version_dropped_is_still_accepted(served):
    smaller = version("smaller")
    whole = smaller.catalogue.item_idx
    smaller.catalogue.item_idx = lambda item_id: None if item_id == 101 else whole(item_id)
    served.engine.install(smaller)
    assert watch(served, "late", 101)["accepted"] == 1  # it was shown a moment ago
    assert served.engine.production.state.skipped_events == 1


def test_the_router_decides_who_sees_the_candidate(served):
    served.engine.install(version("tiny-2"), "candidate")
    assert ask(served, 7)["version"] == "tiny-1"  # no router, no canary
    served.engine.router = lambda user_id: "candidate" if user_id % 2 else "production"
    assert ask(served, 7)["version"] == "tiny-2"
    assert ask(served, 8)["version"] == "tiny-1"
    item_id = ask(served, 7)["items"][0]["item_id"]
    watch(served, "a", item_id, user_id=7)
    assert item_id not in [item["item_id"] for item in ask(served, 7)["items"]]
    served.engine.remove_candidate()
    assert ask(served, 7)["version"] == "tiny-1"


@pytest.mark.parametrize("error", [ValueError("boom"), StageError("no")])
def test_a_candidate_that_fails_is_answered_by_production(served, error):
    broken = version("broken")
    broken.fail["recommend"] = error
    expected = ask(served, 7)["items"]
    served.engine.install(broken, "candidate")
    served.engine.router = lambda _: "candidate"
    body = ask(served, 7)
    assert body["version"] == "tiny-1"
    assert body["items"] == expected
    assert [d["stage"] for d in body["degradations"]] == ["candidate"]


def test_a_slow_candidate_does_not_make_production_skip_stages(served):
    served.engine.install(version("slow", slow_s=0.15), "candidate")
    served.engine.router = lambda user_id: "candidate" if user_id < 100 else "production"
    for user_id in range(25):
        ask(served, user_id)
    assert served.engine.candidate.monitor.p95_ms("candidate") > 100
    assert served.engine.production.monitor.p95_ms("recommend") < 100
    assert not ask(served, 200)["degraded"]


class Recorder:
    def __init__(self) -> None:
        self.requests: list = []
        self.events: list = []

    def request_served(self, served) -> None:
        self.requests.append(served)

    def event_accepted(self, event) -> None:
        self.events.append(event)


class Broken:
    def request_served(self, served) -> None:
        raise RuntimeError("cannot watch")

    def event_accepted(self, event) -> None:
        raise RuntimeError("cannot watch")


def test_observers_hear_of_requests_and_of_each_event_once(served):
    recorder = Recorder()
    served.engine.observers += [Broken(), recorder]
    body = ask(served, 2, k=4, exclude=[1])
    told = recorder.requests[0]
    assert (told.request_id, told.user_id, told.k) == (body["request_id"], 2, 4)
    ids = served.recommender.catalogue.item_ids
    assert [ids[item.item_idx] for item in told.items] == [i["item_id"] for i in body["items"]]
    assert (told.version, told.slot, told.degraded) == ("tiny-1", "production", False)
    assert told.exclude.tolist() == [0]
    assert told.total_ms == pytest.approx(body["stages_ms"]["total"], abs=1e-3)
    assert told.features is None  # the stub has no ranker
    watch(served, "a", 101)
    watch(served, "a", 101)
    assert [event.event_id for event in recorder.events] == ["a"]
    assert recorder.events[0].timestamp >= DATA_END
    failures = served.engine.metrics.observer_failures.labels("Broken")._value.get()
    assert failures == 2  # one request, one event: both were answered


def test_the_log_says_which_slot_answered(served):
    served.engine.install(version("tiny-2"), "candidate")
    served.engine.router = lambda _: "candidate"
    ask(served, 7)
    path = served.data_dir / "requests.jsonl"
    served.wait_for(lambda: path.exists() and b'"candidate"' in path.read_bytes())


def test_features_of_what_was_shown_reach_the_observers(tiny_system, tmp_path):
    from video_recommendation.bundle import load_bundle
    from video_recommendation.features import SCHEMA

    recorder = Recorder()
    recommender = load_bundle(tiny_system.bundle)
    settings = ServingSettings(tmp_path, deadline_ms=5000.0, budgets_ms={})
    with TestClient(create_app(recommender, settings)) as client:
        client.app.state.engine.observers.append(recorder)
        user_id = int(recommender.users.user_ids[0])
        client.get("/v1/recommendations", params={"user_id": user_id, "k": 7})
    features = recorder.requests[0].features
    assert features.shape == (7, len(SCHEMA))
    item_idx = np.array([item.item_idx for item in recorder.requests[0].items])
    np.testing.assert_array_equal(
        features[:, SCHEMA.names.index("year")], recommender.catalogue.years[item_idx]
    )
