"""The server follows the registry: promote and rollback are served without a restart."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from tiny_recommender import TinyRecommender

from ml_platform.operations.registry import ModelRegistry, RegistryError
from video_recommendation.serving.app import create_app
from video_recommendation.serving.deployment import Deployment
from video_recommendation.serving.engine import ServingSettings


class RefusedError(RuntimeError):
    pass


def check(folder: Path) -> dict:
    """A bundle of the tests is one file; "damaged" ones pass registration and fail at load."""
    path = folder / "bundle.json"
    if not path.is_file():
        raise RefusedError(f"{path} is missing")
    content = json.loads(path.read_text())
    if content.get("refused"):
        raise RefusedError("its feature schema is another one")
    return {"version": content["version"]}


def load(folder: Path) -> TinyRecommender:
    content = json.loads((folder / "bundle.json").read_text())
    check(folder)
    if content.get("breaks"):
        raise KeyError("an array is missing")
    recommender = TinyRecommender()
    recommender.version = content["version"]
    return recommender


@pytest.fixture
def deployed(tmp_path):
    registry = ModelRegistry(tmp_path / "registry", check)

    def register(version: str, **more) -> None:
        folder = tmp_path / f"bundle-{version}"
        folder.mkdir()
        (folder / "bundle.json").write_text(json.dumps({"version": version, **more}))
        registry.register(folder)

    register("a1")
    registry.promote("a1")
    app = create_app(
        load(registry.path("production")),
        ServingSettings(tmp_path / "data", refresh_s=0.05, deadline_ms=2000.0),
        [lambda engine: Deployment(engine, registry, load, poll_s=0.02)],
    )
    with TestClient(app) as client:
        yield SimpleNamespace(
            client=client, app=app, registry=registry, register=register, folder=tmp_path
        )


def served_version(deployed) -> str:
    return deployed.client.get("/v1/recommendations", params={"user_id": 1}).json()["version"]


def state(deployed) -> dict:
    return deployed.client.get("/v1/operations").json()["deployment"]


def wait_for(condition) -> None:
    ready = threading.Event()
    for _ in range(250):
        if condition():
            return
        ready.wait(0.02)
    pytest.fail("condition did not come true in time")


def test_promotion_and_rollback_are_followed(deployed):
    assert served_version(deployed) == "a1"
    deployed.register("b2")
    deployed.registry.promote("b2")
    wait_for(lambda: served_version(deployed) == "b2")
    deployed.registry.rollback()
    wait_for(lambda: served_version(deployed) == "a1")
    assert state(deployed)["swaps"] == 2
    assert state(deployed)["running"] == "a1"
    assert state(deployed)["aliases"] == {"production": "a1", "previous": "b2"}


def test_going_back_needs_no_loading(deployed):
    deployed.register("b2")
    deployed.registry.promote("b2")
    wait_for(lambda: served_version(deployed) == "b2")
    (deployed.folder / "registry/versions/a1/bundle/bundle.json").touch()
    loads: list[Path] = []
    deployment = deployed.app.state.attachments[0]
    real, deployment._load = deployment._load, lambda f: (loads.append(f), real(f))[1]
    deployed.registry.rollback()
    wait_for(lambda: served_version(deployed) == "a1")
    assert loads == []


def test_a_version_that_cannot_be_loaded_is_refused_and_the_running_one_stays(deployed):
    deployed.register("bad", breaks=True)
    deployed.registry.promote("bad")
    wait_for(lambda: state(deployed)["refused"])
    assert served_version(deployed) == "a1"
    assert "an array is missing" in state(deployed)["refused"]["bad"]
    metrics = deployed.client.get("/metrics").text
    assert 'model_swaps_total{outcome="refused",slot="production"} 1.0' in metrics
    deployed.register("c3")  # and the next good one is taken
    deployed.registry.promote("c3")
    wait_for(lambda: served_version(deployed) == "c3")


def test_a_file_damaged_after_promotion_is_refused_by_the_server_too(deployed):
    deployed.register("b2")
    path = deployed.folder / "registry/versions/b2/bundle/bundle.json"
    path.write_text(json.dumps({"version": "b2", "refused": True}))
    with pytest.raises(RegistryError, match="feature schema"):
        deployed.registry.promote("b2")
    assert deployed.registry.aliases()["production"] == "a1"
    path.write_text(json.dumps({"version": "b2"}))
    deployed.registry.promote("b2")
    wait_for(lambda: served_version(deployed) == "b2")


def test_a_damaged_alias_file_leaves_the_running_version(deployed):
    (deployed.folder / "registry/aliases.json").write_text("{")
    deployed.app.state.attachments[0].look()
    assert served_version(deployed) == "a1"


def test_the_version_gauge_shows_one_series_for_a_slot(deployed):
    deployed.register("b2")
    deployed.registry.promote("b2")
    wait_for(lambda: served_version(deployed) == "b2")
    lines = [
        line
        for line in deployed.client.get("/metrics").text.splitlines()
        if line.startswith("model_info{")
    ]
    assert lines == ['model_info{slot="production",version="b2"} 1.0']
