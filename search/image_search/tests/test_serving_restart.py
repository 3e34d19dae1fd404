"""What was acknowledged is there after a restart, also after kill -9 of a real process."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from handmade import encoded
from test_serving_api import ADMIN, added, by_picture, client_of
from tiny_search import start

from image_search.serving.journal import Added, Clicked, Deleted, Journal, JournalError, change_of
from ml_platform.serving.event_log import StoredEvent
from ml_platform.serving.server_process import free_port


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (20, 24, 3)).astype(np.uint8)


def test_changes_come_back_as_they_were(tmp_path):
    import asyncio

    journal = Journal(tmp_path / "new" / "folder")
    changes = [Added(7, "ring", 2.5, picture(0)), Clicked("e", 3, 7, 1000.25), Deleted(7)]
    for change in changes:
        assert not asyncio.run(journal.append(change)).duplicate
    assert asyncio.run(journal.append(changes[1])).duplicate
    journal.close()
    again = Journal(tmp_path / "new" / "folder")
    found = list(again.read())
    again.close()
    assert np.array_equal(found[0].picture, picture(0))
    assert (found[0].item_id, found[0].category, found[0].price) == (7, "ring", 2.5)
    assert found[1:] == changes[1:]


def test_a_damaged_record_is_named():
    for body in (b"{}\n", b"no json\n", b'{"add": 1, "category": "a", "price": 1}\nno png'):
        with pytest.raises(JournalError, match=r"record 3 \(add-1\)"):
            change_of(StoredEvent(3, "add-1", 0, body))


def test_adds_and_deletes_survive_a_restart(tmp_path):
    data = encoded(picture(1))
    with client_of(tmp_path) as client:
        item_id = added(client, data).json()["item_id"]
        gone = added(client, encoded(picture(2))).json()["item_id"]
        for one in (gone, 4):  # one that was added, one of the bundle
            assert client.delete(f"/v1/items/{one}", headers=ADMIN).status_code == 200
        before = by_picture(client, data, k="50").json()["results"]
    with client_of(tmp_path) as client:
        assert by_picture(client, data, k="50").json()["results"] == before
        assert before[0]["item_id"] == item_id
        for one in (gone, 4):
            assert client.get(f"/v1/items/{one}").status_code == 404
        assert client.get(f"/v1/items/{item_id}/image").status_code == 200
        assert client.get("/v1/version").json()["items"] == 100
        assert added(client, data).json()["duplicate"]


def add_until_dead(url: str, number: int, acknowledged: dict[int, bytes]) -> None:
    with httpx2.Client(base_url=url, timeout=5.0, headers=ADMIN) as client:
        for n in range(10_000):
            data = encoded(picture(1000 * number + n))
            files, fields = {"image": ("x", data)}, {"category": "ring", "price": "3"}
            try:
                answer = client.post("/v1/items", files=files, data=fields)
                if answer.status_code == 201:
                    acknowledged[answer.json()["item_id"]] = data
            except httpx2.TransportError:
                return


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(tmp_path, port)
    acknowledged: dict[int, bytes] = {}
    adders = [
        threading.Thread(target=add_until_dead, args=(url, n, acknowledged)) for n in range(3)
    ]
    for adder in adders:
        adder.start()
    end = time.monotonic() + 20
    while len(acknowledged) < 30 and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    for adder in adders:
        adder.join()
    process.wait()
    assert len(acknowledged) >= 30

    process = start(tmp_path, port)
    try:
        with httpx2.Client(base_url=url, timeout=10.0) as client:
            for item_id, data in acknowledged.items():
                found = client.post(
                    "/v1/search", files={"image": ("x", data)}, data={"k": "1"}
                ).json()["results"]
                assert found[0]["item_id"] == item_id, "an acknowledged item was lost"
            items = client.get("/v1/version").json()["items"]
            # What was written and not answered may be there; never more than one for each adder.
            assert 100 + len(acknowledged) <= items <= 100 + len(acknowledged) + len(adders)
    finally:
        process.terminate()
        process.wait(15)
