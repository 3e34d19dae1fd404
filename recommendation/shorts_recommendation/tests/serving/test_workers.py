"""Two forked workers behind one socket: an event at one is seen by the next feed of the other."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import httpx2
import pytest
from feed_process import start
from test_feed_api import event, feed, ids, upload

from ml_platform.serving.server_process import free_port
from shorts_recommendation.serving.shared import SharedSeq


def clients_of_both_workers(url):
    """Eight connections; the kernel chooses who takes one, and a worker may start late."""
    end = time.monotonic() + 20
    while True:
        clients = [httpx2.Client(base_url=url, timeout=10.0) for _ in range(8)]
        if len({client.get("/v1/version").json()["pid"] for client in clients}) == 2:
            return clients
        for client in clients:
            client.close()
        assert time.monotonic() < end, "the kernel gave all connections to one worker"


@pytest.mark.slow
def test_two_workers_apply_every_event_and_upload_before_the_next_feed(tmp_path):
    port = free_port(run=3)
    url = f"http://127.0.0.1:{port}"
    process = start(tmp_path, port, workers=2)
    try:
        clients = clients_of_both_workers(url)
        for i in range(60):
            poster, reader = clients[i % 8], clients[(i + 1 + i // 8) % 8]
            sent = event(f"w{i}", user_id=5, video_id=10 * i + 1)
            seq = poster.post("/v1/events", json=sent).json()["events"][0]["seq"]
            body = feed(reader, 5, k=5)
            assert body["state_version"] == seq == i + 1
            assert 10 * i + 1 not in ids(body)
        assert clients[0].post("/v1/uploads", json=upload()).status_code == 200
        for client in clients:
            assert 5001 in ids(feed(client, 6, k=3, cache="off"))
        served = [
            float(re.search(r'feed_answers_total{by="computed"} (\S+)', text)[1])
            for text in (httpx2.get(f"http://127.0.0.1:{port + w}/metrics").text for w in (1, 2))
        ]
        assert min(served) > 0  # each counts its own
        for client in clients:
            client.close()
    finally:
        process.terminate()
        assert process.wait(15) in (0, -signal.SIGTERM)


def running(pid):
    """Whether a process lives; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["worker", "parent"])
def test_no_half_of_a_service_goes_on(tmp_path, killed):
    port = free_port(run=3)
    process = start(tmp_path, port, workers=2)
    workers: set[int] = set()
    end = time.monotonic() + 20
    while len(workers) < 2 and time.monotonic() < end:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:
            workers.add(client.get("/v1/version").json()["pid"])
    assert len(workers) == 2
    os.kill(min(workers) if killed == "worker" else process.pid, signal.SIGKILL)
    assert process.wait(20) == (1 if killed == "worker" else -signal.SIGKILL)
    end = time.monotonic() + 15
    while any(running(pid) for pid in workers):
        assert time.monotonic() < end, "a worker outlived the service"
        time.sleep(0.02)


@pytest.mark.slow
def test_an_upload_and_an_event_on_it_and_retries_at_two_workers(tmp_path):
    port = free_port(run=3)
    process = start(tmp_path, port, workers=2)
    url = f"http://127.0.0.1:{port}"
    clients = clients_of_both_workers(url)
    try:
        for i in range(6):
            poster, other = clients[i], clients[(i + 3) % 8]
            assert poster.post("/v1/uploads", json=upload(6000 + i)).status_code == 200
            sent = event(f"u{i}", user_id=7, video_id=6000 + i)
            receipt = other.post("/v1/events", json=sent).json()
            assert receipt.get("accepted") == 1, receipt
            assert poster.post("/v1/events", json=sent).json()["duplicates"] == 1
            assert clients[7].post("/v1/uploads", json=upload(6000 + i)).json()["seq"] == 2 * i + 1
        for client in clients:
            body = feed(client, 7, k=20)
            assert body["state_version"] == 12
            assert not {6000 + i for i in range(6)} & set(ids(body))
            text = client.get("/metrics").text
            assert 'log_records_skipped_total{reason="unknown_video"} 0.0' in text
    finally:
        served = [
            float(re.search(r'feed_answers_total{by="computed"} (\S+)', text)[1])
            for text in (httpx2.get(f"http://127.0.0.1:{port + w}/metrics").text for w in (1, 2))
        ]
        assert min(served) > 0  # each counts its own
        for client in clients:
            client.close()
        process.terminate()
        assert process.wait(15) in (0, -signal.SIGTERM)


def test_the_highest_number_of_all_workers_is_seen_by_each(tmp_path):
    one, two = (SharedSeq(tmp_path / "seq", 2, w) for w in (0, 1))
    assert one.latest() == 0
    one.publish(7)
    two.publish(5)
    assert (one.latest(), two.latest()) == (7, 7)
    one.publish(3)  # a retry of an old event
    assert (one.latest(), two.latest()) == (7, 7)
    with pytest.raises(ValueError, match="count from 0"):
        SharedSeq(tmp_path / "seq", 2, 2)
    one.close()
    two.close()
