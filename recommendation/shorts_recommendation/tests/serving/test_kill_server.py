"""kill -9 of a real server while events are posted; its store dies with it, or lives on."""

from __future__ import annotations

import signal
import threading
import time

import httpx2
import pytest
from feed_process import start
from test_feed_api import event, feed

from ml_platform.serving.server_process import free_port
from ml_platform.serving.store import open_store


def post_until_dead(url: str, name: str, acknowledged: list[dict]) -> None:
    """Post events one by one; remember those that were acknowledged."""
    with httpx2.Client(base_url=url, timeout=5.0) as client:
        for i in range(10_000):
            body = event(f"{name}-{i}", user_id=900 + len(name), video_id=10 * (i % 60) + 1)
            try:
                response = client.post("/v1/events", json=body)
            except httpx2.TransportError:
                return
            assert response.status_code == 200, response.text
            acknowledged.append(body)


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True])
def test_kill_9_loses_no_acknowledged_event(tmp_path, outside):
    with open_store(None, tmp_path / "redis") as redis_server:
        redis_url = f"unix://{redis_server.server.socket_path}" if outside else None
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        acknowledged: list[dict] = []
        process = start(tmp_path, port, redis_url=redis_url)
        names = ("a", "bb", "ccc")
        posters = [
            threading.Thread(target=post_until_dead, args=(url, name, acknowledged))
            for name in names
        ]
        for poster in posters:
            poster.start()
        end = time.monotonic() + 20
        while len(acknowledged) < 100 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        for poster in posters:
            poster.join()
        process.wait()
        assert len(acknowledged) >= 100

        process = start(
            tmp_path, port, redis_url=redis_url
        )  # an orphaned store would be in the way
        try:
            with httpx2.Client(base_url=url, timeout=10.0) as client:
                for begin in range(0, len(acknowledged), 100):
                    batch = {"events": acknowledged[begin : begin + 100]}
                    receipt = client.post("/v1/events", json=batch).json()
                    assert receipt["accepted"] == 0, "an acknowledged event was lost"
                    assert receipt["duplicates"] == len(batch["events"])
                for name in names:
                    user_id = 900 + len(name)
                    seen = {e["video_id"] for e in acknowledged if e["user_id"] == user_id}
                    body = feed(client, user_id, k=20)
                    assert (body["cold_start"], body["degraded"]) == (False, False)
                    assert not seen & {item["video_id"] for item in body["items"]}
                stored = client.get("/v1/version").json()
                assert stored["store"] == ("redis" if outside else "embedded")
                last = stored["applied_seq"]
                while client.get("/v1/version").json()["consumed_seq"] < last:
                    assert time.monotonic() < end + 20, "the consumer did not catch up"
                    time.sleep(0.02)
            if outside:  # each event once, over the restart
                keys = redis_server.client.keys("*:events")
                assert redis_server.client.xlen(keys[0]) == last
                assert redis_server.client.xpending(keys[0], "features-0")["pending"] == 0
        finally:
            process.terminate()
            assert process.wait(10) in (0, -signal.SIGTERM)
