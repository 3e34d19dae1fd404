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

from tiny_feed import TinyRecommender, serving_config

from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.settings import ServingSettings


def wait_for(condition, seconds: float = 5.0) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition did not come true in time"
        time.sleep(0.01)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def serve_tiny(tmp_path: Path):
    """Opens apps over one folder, one after the other or side by side; closes them."""
    open_clients: list[TestClient] = []

    def start(recommender=None, *, folder=tmp_path, config=None, **more) -> SimpleNamespace:
        recommender = recommender or TinyRecommender()
        clock = Clock()
        more = {"refresh_s": 0.05, "store_read_ms": 2000.0, "monotonic": clock, **more}
        app = create_app(recommender, ServingSettings(folder, config or serving_config(), **more))
        client = TestClient(app)
        client.__enter__()
        open_clients.append(client)
        wait_for(lambda: client.get("/readyz").status_code == 200)

        def close() -> None:
            if client in open_clients:
                open_clients.remove(client)
                client.__exit__(None, None, None)

        return SimpleNamespace(
            client=client,
            app=app,
            engine=app.state.engine,
            recommender=recommender,
            clock=clock,
            data_dir=folder,
            wait_for=wait_for,
            close=close,
        )

    yield start
    for client in list(open_clients):
        client.__exit__(None, None, None)


@pytest.fixture
def served(serve_tiny) -> SimpleNamespace:
    return serve_tiny()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One app for tests that only send requests and do not mind each other's events."""
    folder = tmp_path_factory.mktemp("shared")
    app = create_app(TinyRecommender(), ServingSettings(folder, serving_config()))
    with TestClient(app) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield SimpleNamespace(client=client, app=app, engine=app.state.engine)
