"""A running app over the tiny recommender, with the real embedded store and a real log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves test folders off the path

from tiny_recommender import TinyRecommender

from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings


def wait_for(condition, seconds: float = 5.0) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SimpleNamespace]:
    recommender = TinyRecommender()
    app = create_app(recommender, ServingSettings(tmp_path, refresh_s=0.05, deadline_ms=2000.0))
    with TestClient(app) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield SimpleNamespace(
            client=client,
            app=app,
            engine=app.state.engine,
            recommender=recommender,
            data_dir=tmp_path,
            wait_for=wait_for,
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One app for tests that only send requests and do not mind each other's events."""
    folder = tmp_path_factory.mktemp("shared")
    app = create_app(TinyRecommender(), ServingSettings(folder, deadline_ms=2000.0))
    with TestClient(app) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield SimpleNamespace(client=client, app=app, engine=app.state.engine)
