"""kill -9 of a real server while events are posted; two workers on one real Redis."""

from __future__ import annotations

import signal
import threading
import time

import httpx2
import pytest
from fastapi.testclient import TestClient
from subprocess_server import start
from test_api import event, recommend
from tiny_recommender import TinyRecommender

from ml_platform.serving.server_process import free_port
from ml_platform.serving.store import open_store
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings


def post_until_dead(url: str, name: str, acknowledged: list[dict]) -> None:
    """Post events one by one; remember those that were acknowledged."""
    with httpx2.Client(base_url=url, timeout=5.0) as client:
        for i in range(10_000):
            body = event(f"{name}-{i}", user_id=900 + len(name), item_id=10 * (i % 60) + 1)
            try:
                response = client.post("/v1/events", json=body)
            except httpx2.TransportError:
                return
            assert response.status_code == 200, response.text
            acknowledged.append(body)


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_event(tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    acknowledged: list[dict] = []
    process = start(tmp_path, port)
    names = ("a", "bb", "ccc")
    posters = [
        threading.Thread(target=post_until_dead, args=(url, name, acknowledged)) for name in names
    ]
    for poster in posters:
        poster.start()
    while len(acknowledged) < 100:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    for poster in posters:
        poster.join()
    process.wait()

    process = start(tmp_path, port)  # same folder: an orphaned store would be in the way
    try:
        with httpx2.Client(base_url=url) as client:
            for begin in range(0, len(acknowledged), 500):
                batch = {"events": acknowledged[begin : begin + 500]}
                receipt = client.post("/v1/events", json=batch).json()
                assert receipt["accepted"] == 0, "an acknowledged event was lost"
                assert receipt["duplicates"] == len(batch["events"])
            for name in names:
                user_id = 900 + len(name)
                seen = {e["item_id"] for e in acknowledged if e["user_id"] == user_id}
                body = recommend(client, user_id, k=60)
                assert body["cold_start"] is False
                assert body["degraded"] is False
                assert not seen & {item["item_id"] for item in body["items"]}
    finally:
        process.terminate()
        assert process.wait(10) in (0, -signal.SIGTERM)


def test_two_workers_share_a_real_redis_and_apply_each_event_once(tmp_path):
    """The embedded server plays the remote Redis; the workers know only its URL."""
    with open_store(None, tmp_path / "redis") as redis_server:
        url = f"unix://{redis_server.server.socket_path}"
        settings = ServingSettings(tmp_path / "log", redis_url=url, refresh_s=0.05)
        first = create_app(TinyRecommender(), settings)
        second = create_app(TinyRecommender(), settings)
        with TestClient(first) as one, TestClient(second) as two:

            def post(client: TestClient, name: str) -> None:
                for i in range(30):
                    client.post("/v1/events", json=event(f"{name}{i}", user_id=70 + i % 3))

            threads = [
                threading.Thread(target=post, args=(one, "x")),
                threading.Thread(target=post, args=(two, "y")),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            state = first.state.engine.production.state
            assert state.apply() == 60
            lengths = [
                redis_server.client.strlen(f"{state.prefix}history:{u}") for u in (70, 71, 72)
            ]
            assert lengths == [20 * 16] * 3
            assert recommend(two, 70)["cold_start"] is False
            assert one.get("/v1/version").json()["store"] == "redis"
