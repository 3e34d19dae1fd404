"""A canary on a running app: who is counted where, what a decision does, what is written down."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from tiny_recommender import TinyRecommender

from ml_platform.operations.canary import CanaryPlan
from ml_platform.operations.registry import ModelRegistry
from video_recommendation.rollout.canary import Canary, CanarySettings, canary
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings

PLAN = CanaryPlan(
    steps=(0.5, 1.0),
    min_requests=(60, 20),
    max_requests=(1000, 500),
    click_margins=(0.5, 0.5),
    window_s=30.0,
    latency_ratio=50.0,  # times are real here, and the machine is busy
)


class Candidate(TinyRecommender):
    version = "tiny-2"


def registry_of(root: Path) -> ModelRegistry:
    """Folders with a manifest stand for the two versions."""
    registry = ModelRegistry(
        root, lambda folder: json.loads((folder / "manifest.json").read_text())
    )
    for version in ("tiny-1", "tiny-2"):
        folder = root.parent / f"bundle-{version}"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({"version": version}))
        registry.register(folder)
    registry.promote("tiny-1")
    registry.set_candidate("tiny-2")
    return registry


@pytest.fixture
def world(tmp_path):
    """An app whose clock is moved by hand, with a canary that looks when told to."""
    clock = [0.0]
    candidate, registry = Candidate(), registry_of(tmp_path / "registry")
    settings = CanarySettings(PLAN, look_every_s=None, attribution_s=20.0)
    serving = ServingSettings(tmp_path, deadline_ms=5000.0, monotonic=lambda: clock[0])
    app = create_app(TinyRecommender(), serving, [canary(candidate, settings, registry)])
    with TestClient(app) as client:
        yield SimpleNamespace(
            client=client,
            clock=clock,
            engine=app.state.engine,
            canary=app.state.attachments[0],
            candidate=candidate,
            registry=registry,
            journal=tmp_path / "rollout.jsonl",
        )


def ask(world, user):
    world.clock[0] += 1.0
    response = world.client.get("/v1/recommendations", params={"user_id": user, "k": 5})
    assert response.status_code == 200
    return response.json()


def click(world, user, item_id, name):
    body = {"event_id": name, "user_id": user, "item_id": item_id, "event_type": "watch"}
    assert world.client.post("/v1/events", json=body).status_code == 200


def traffic(world, rng, *, rates, n=1500):
    """Users come and watch the first item, more or less often by version."""
    for number in range(n):
        user = int(rng.integers(1, 400))
        body = ask(world, user)
        assert len(body["items"]) == 5
        if rng.random() < rates[body["version"]]:
            click(world, user, body["items"][0]["item_id"], f"e{number}")
        if number % 20 == 0 and world.canary.look().final:
            break
    return world.canary.controller.decisions[-1]


def lines(world):
    return [orjson.loads(line) for line in world.journal.read_bytes().splitlines()]


def test_a_better_candidate_ends_as_production_in_engine_and_registry(world):
    assert world.engine.candidate.version == "tiny-2"
    last = traffic(world, np.random.default_rng(0), rates={"tiny-1": 0.3, "tiny-2": 0.8})
    assert last.action == "promote"
    assert [d.action for d in world.canary.controller.decisions] == ["advance", "promote"]
    assert world.engine.production.version == "tiny-2"
    assert (world.engine.candidate, world.engine.router) == (None, None)
    assert world.registry.aliases() == {"production": "tiny-2", "previous": "tiny-1"}
    assert ask(world, 1)["version"] == "tiny-2"
    written = [(line["action"], line["candidate"], line["reason"] != "") for line in lines(world)]
    assert written[-2:] == [("advance", "tiny-2", True), ("promote", "tiny-2", True)]
    assert world.client.get("/v1/operations").json()["canary"]["finished"] is True
    assert "canary_share 1.0" in world.client.get("/metrics").text


def test_a_worse_candidate_is_taken_out_and_refused_in_the_registry(world):
    last = traffic(world, np.random.default_rng(1), rates={"tiny-1": 0.9, "tiny-2": 0.05})
    assert (last.action, last.reason[:7]) == ("roll back", "clicks:")
    assert (world.engine.candidate, world.engine.router) == (None, None)
    assert world.engine.production.version == "tiny-1"
    assert world.registry.aliases() == {"production": "tiny-1"}
    note = world.registry.history()[-1].note
    assert note.startswith("tiny-2 refused: clicks:")
    assert {ask(world, user)["version"] for user in range(1, 40)} == {"tiny-1"}
    assert lines(world)[-1]["action"] == "roll back"
    assert "canary_share 0.0" in world.client.get("/metrics").text


def test_users_of_a_candidate_that_raises_get_productions_list_and_it_goes(world):
    world.candidate.fail["recommend"] = RuntimeError("lost weights")
    last = traffic(world, np.random.default_rng(2), rates={"tiny-1": 0.5, "tiny-2": 0.5})
    assert (last.action, last.reason[:7]) == ("roll back", "errors:")
    assert last.requests < 60  # harm does not wait for the minimum
    assert world.engine.candidate is None


def test_a_user_stays_with_the_arm_and_the_arm_is_that_of_the_hash(world):
    seen = {user: {ask(world, user)["version"] for _ in range(3)} for user in range(1, 60)}
    assert all(len(versions) == 1 for versions in seen.values())
    arms = {user: world.canary.controller.arm(user) for user in seen}
    assert {u for u, a in arms.items() if a == "candidate"} == {
        u for u, versions in seen.items() if versions == {"tiny-2"}
    }
    assert 15 < sum(arm == "candidate" for arm in arms.values()) < 45


def counts(world, user):
    return world.canary.controller.counts.arms[world.canary.controller.arm(user)]


def test_a_click_counts_once_and_only_on_the_last_list_within_its_time(world):
    body = ask(world, 7)
    shown, elsewhere = [item["item_id"] for item in body["items"]], 581
    assert elsewhere not in shown
    click(world, 7, elsewhere, "a")  # not on the list
    click(world, 8, shown[0], "b")  # another user, who saw no list
    click(world, 7, shown[0], "c")
    click(world, 7, shown[0], "d")  # a second watch of the same item
    world.clock[0] += 21.0
    click(world, 7, shown[1], "e")  # too late
    world.clock[0] += 30.0
    world.canary.look()
    assert counts(world, 7).clicks.n == 1
    assert counts(world, 7).clicks.mean == 1.0


def test_a_request_routed_before_the_share_changed_is_left_out(world):
    user = next(u for u in range(1, 100) if world.canary.controller.arm(u) == "production")
    ask(world, user)
    world.canary.controller.share = 1.0
    world.canary.look()
    arms = world.canary.controller.counts.arms
    assert (arms["production"].requests, arms["candidate"].requests) == (0, 0)


def test_an_unfinished_canary_gives_everything_back_when_closed(world):
    ask(world, 3)
    world.canary.close()
    assert (world.engine.candidate, world.engine.router) == (None, None)
    assert world.canary not in world.engine.observers
    assert world.registry.aliases()["candidate"] == "tiny-2"  # no verdict


def test_a_registry_that_refuses_keeps_production(world, tmp_path):
    (tmp_path / "registry/versions/tiny-2/bundle/manifest.json").unlink()
    last = traffic(world, np.random.default_rng(0), rates={"tiny-1": 0.3, "tiny-2": 0.8})
    assert last.action == "promote"
    assert world.engine.production.version == "tiny-1"
    assert (world.engine.candidate, world.engine.router) == (None, None)
    assert world.registry.aliases()["production"] == "tiny-1"


def test_the_canarys_own_thread_looks_and_a_defect_takes_it_out(tmp_path, monkeypatch):
    settings = CanarySettings(PLAN, look_every_s=0.02)
    serving = ServingSettings(tmp_path, deadline_ms=5000.0)
    app = create_app(TinyRecommender(), serving, [canary(Candidate(), settings)])
    with TestClient(app) as client:
        running: Canary = app.state.attachments[0]
        client.get("/v1/recommendations", params={"user_id": 5})
        wait(lambda: running.controller.decisions)
        assert running.controller.decisions[-1].action == "hold"

        def broken():
            raise RuntimeError("a bug in the guards")

        monkeypatch.setattr(running, "look", broken)
        wait(lambda: app.state.engine.candidate is None)
        assert client.get("/v1/recommendations", params={"user_id": 5}).status_code == 200
        assert app.state.engine.router is None
        told = client.get("/v1/operations").json()["canary"]
        assert told["failed"] == "RuntimeError: a bug in the guards"


def wait(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
