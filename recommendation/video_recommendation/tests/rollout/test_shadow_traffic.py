"""Shadow traffic of a running app: the same answers whatever the child does, and a true report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from tiny_recommender import TinyRecommender

from ml_platform.operations.shadow import ShadowSettings, wait_until_drained
from video_recommendation.bundle import load_bundle
from video_recommendation.rollout.shadow import ShadowTraffic, record_of, shadow_traffic
from video_recommendation.rollout.shadow_worker import LiveCounts, answer
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings

READY = "import json, os, sys, time\nprint('{}', flush=True)\nfor line in sys.stdin:\n"
CHILDREN = {
    "hangs": READY + "    time.sleep(60)",
    "raises": READY + "    raise KeyError('lost weights')",
    "exits": READY + "    os._exit(1)",
    "says it raised": READY
    + "    r = json.loads(line)\n"
    + "    print(json.dumps({'request_id': r['request_id'], 'error': 'x'}), flush=True)",
    "answers rubbish": READY + "    print('[1, 2', flush=True)",
    "answers for another": READY + '    print(\'{"request_id": "x"}\', flush=True)',
    "floods": READY + "    while True: sys.stdout.write('x' * 65536)",
    "never starts": "import time; time.sleep(60)",
    "is not there": None,
}


def bad_child(program: str | None, share: float = 1.0):
    command = ("/no/such/program",) if program is None else (sys.executable, "-c", program)
    settings = ShadowSettings(command, share=share, timeout_s=0.2, backoff_s=0.01, max_waiting=4)
    return lambda engine: ShadowTraffic(engine, settings)


def bodies(tmp_path: Path, attach) -> tuple[list[bytes], list[float], dict]:
    """Answers to a fixed series of requests, without ids and times; milliseconds of each."""
    settings = ServingSettings(tmp_path, deadline_ms=5000.0, monotonic=lambda: 0.0)
    found, took_ms = [], []
    with TestClient(create_app(TinyRecommender(), settings, attach)) as client:
        for user in list(range(30)) * 2:
            begin = time.perf_counter()
            body = client.get("/v1/recommendations", params={"user_id": user, "k": 10}).json()
            took_ms.append((time.perf_counter() - begin) * 1e3)
            del body["request_id"], body["stages_ms"]
            found.append(orjson.dumps(body))
        about = client.get("/v1/operations").json()
    return found, took_ms, about


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[list[bytes], list[float]]:
    found, took_ms, about = bodies(tmp_path_factory.mktemp("plain"), ())
    assert about == {}
    return found, took_ms


@pytest.mark.parametrize("child", CHILDREN)
def test_no_child_changes_or_slows_an_answer(child, plain, tmp_path):
    found, took_ms, about = bodies(tmp_path, [bad_child(CHILDREN[child])])
    assert found == plain[0]
    # A wait for the child would be 200 ms or more; a median leaves room for a busy machine.
    assert np.median(took_ms) < np.median(plain[1]) + 50
    counts = about["shadow"]["counts"]
    assert counts.get("answered", 0) == 0
    assert about["shadow"]["n_pairs"] == 0
    assert counts.get("taken", 0) + counts.get("dropped", 0) + counts.get("closed", 0) == 60


def test_counts_reach_prometheus_and_close_unhooks(tmp_path):
    settings = ServingSettings(tmp_path, deadline_ms=5000.0)
    with TestClient(
        create_app(TinyRecommender(), settings, [bad_child(CHILDREN["exits"])])
    ) as client:
        client.get("/v1/recommendations", params={"user_id": 1})
        traffic = client.app.state.attachments[0]
        assert wait_until_drained(traffic.lane, 20.0)
        text = client.get("/metrics").text
        assert 'shadow_requests_total{outcome="exited",shadow="shadow"} 1.0' in text
        traffic.close()
        assert traffic not in client.app.state.engine.observers


def served_by(tiny_system, tmp_path, attach=()):
    settings = ServingSettings(tmp_path, refresh_s=0.05, deadline_ms=20_000.0, budgets_ms={})
    return TestClient(create_app(load_bundle(tiny_system.bundle), settings, attach))


class Heard:
    """An attachment that keeps what observers are told."""

    name = "heard"

    def __init__(self, engine):
        self.engine, self.served = engine, []
        engine.observers.append(self)

    def request_served(self, served):
        self.served.append(served)

    def event_accepted(self, event):
        pass

    def describe(self):
        return {}

    def close(self):
        pass


def test_the_worker_answers_as_the_server_does_with_live_events(tiny_system, tmp_path):
    recommender = load_bundle(tiny_system.bundle)
    user_ids = recommender.users.user_ids[:6].tolist()
    with served_by(tiny_system, tmp_path, [Heard]) as client:
        heard = client.app.state.attachments[0]
        clock = client.app.state.engine.clock
        for user_id in user_ids:  # many events on few items: counts and histories change
            items = recommender.catalogue.item_ids[:25].tolist()
            events = [
                {"event_id": f"{user_id}-{item}", "user_id": user_id, "item_id": item,
                 "event_type": "watch"} for item in items
            ]  # fmt: skip
            assert client.post("/v1/events", json={"events": events}).status_code == 200
        clock.advance_to(clock.now() + 120)  # counts are as of the last full minute
        engine = client.app.state.engine
        engine.production.catch_up()  # the keeper does so once a second
        lists = []
        for user_id in [*user_ids, 10**9]:
            excluded = {"exclude": [int(recommender.catalogue.item_ids[-1])]}
            body = client.get(
                "/v1/recommendations", params={"user_id": user_id, "k": 8, **excluded}
            ).json()
            lists.append([item["item_id"] for item in body["items"]])
        counts = LiveCounts(recommender, engine.log.path)
        catalogue = engine.production.recommender.catalogue
        records = [
            orjson.loads(orjson.dumps(record_of(one, catalogue), option=orjson.OPT_SERIALIZE_NUMPY))
            for one in heard.served
        ]
    assert [record["items"] for record in records] == lists
    assert len(records[0]["history_items"]) >= 25  # the live events are in it
    assert records[0]["exclude"] == [int(recommender.catalogue.item_ids[-1])]
    for record, shown in zip(records, lists, strict=True):
        found = answer(recommender, counts, record)
        assert found["items"] == shown
        assert found["scores"] == pytest.approx(record["scores"])
    assert len(counts.counter) == len(recommender.training_events()[0]) + 6 * 25


def test_an_item_that_the_candidate_does_not_know_is_left_out(tiny_system, tmp_path):
    recommender = load_bundle(tiny_system.bundle)
    with served_by(tiny_system, tmp_path, [Heard]) as client:
        user_id = int(recommender.users.user_ids[3])
        client.get("/v1/recommendations", params={"user_id": user_id, "k": 5})
        heard = client.app.state.attachments[0].served[0]
        record = record_of(heard, recommender.catalogue)
        counts = LiveCounts(recommender, client.app.state.engine.log.path)
    plain_answer = answer(recommender, counts, record)
    stranger = {
        **record,
        "history_items": np.append(record["history_items"], 10**9),
        "history_ratings": np.append(record["history_ratings"], 5.0),
        "history_times": np.append(record["history_times"], record["now"] - 1),
        "exclude": [10**9 + 1],
    }
    assert answer(recommender, counts, stranger) == plain_answer


def test_a_candidate_that_degrades_is_no_fair_comparison(tiny_system, tmp_path, monkeypatch):
    recommender = load_bundle(tiny_system.bundle)
    with served_by(tiny_system, tmp_path, [Heard]) as client:
        client.get("/v1/recommendations", params={"user_id": 1, "k": 5})
        record = record_of(client.app.state.attachments[0].served[0], recommender.catalogue)
        counts = LiveCounts(recommender, client.app.state.engine.log.path)
    monkeypatch.setattr(recommender, "rerank", None)
    with pytest.raises(RuntimeError, match="stage rerank: error"):
        answer(recommender, counts, record)


@pytest.mark.slow
def test_the_same_bundle_as_its_own_shadow_agrees_completely(tiny_system, tmp_path):
    """The whole way: observer, queue, pipes, child process, check, report."""
    options = {"timeout_s": 30.0, "lowest_priority": False, "options": ["--delay-ms", "1"]}
    attach = shadow_traffic(tiny_system.bundle, share=1.0, **options)
    with served_by(tiny_system, tmp_path, [attach]) as client:
        for user_id in tiny_system.data.users.user_ids[:40].tolist():
            client.get("/v1/recommendations", params={"user_id": user_id, "k": 10})
        traffic = client.app.state.attachments[0]
        assert wait_until_drained(traffic.lane, 90.0)
        found = traffic.summary()
        about = client.get("/v1/operations").json()["shadow"]
    assert (found.n_pairs, found.failures.value) == (40, 0.0)
    assert found.agreement["overlap@10"].value == 1.0
    assert found.agreement["tau"].value == pytest.approx(1.0)
    assert found.score_ks == 0.0
    assert about["counts"] == {"taken": 40, "answered": 40}
    assert found.latency_ms["candidate"]["p50"].value >= 1.0
