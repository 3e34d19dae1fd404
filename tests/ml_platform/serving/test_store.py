"""The embedded store starts, dies with its owner, comes back; a dead one is not asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

import ml_platform
from ml_platform.serving.store import StoreInUseError, StoreUnavailableError, open_store

OWNER = """
import sys, time
from pathlib import Path
from ml_platform.serving.store import open_store
store = open_store(None, Path(sys.argv[1]))
print(store.client.info("server")["process_id"], store.server.socket_path, flush=True)
time.sleep(60)
"""


def test_round_trip_and_clean_end(tmp_path):
    with open_store(None, tmp_path) as store:
        assert store.kind == "embedded"
        store.call(lambda client: client.set("key", b"value"))
        assert store.call(lambda client: client.get("key")) == b"value"
        socket_path = store.server.socket_path
    assert not socket_path.exists()
    assert not (tmp_path / "store.json").exists()
    with open_store(None, tmp_path) as store:  # the folder is free again
        assert store.call(lambda client: client.get("key")) is None


def test_a_second_owner_is_refused_with_the_first_ones_pid(tmp_path):
    with open_store(None, tmp_path), pytest.raises(StoreInUseError, match=f"process {os.getpid()}"):
        open_store(None, tmp_path)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_dies_with_a_killed_owner_and_the_next_start_works(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(ml_platform.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as owner:
        pid = int(owner.stdout.readline().split()[0])
        assert running(pid)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    with open_store(None, tmp_path) as store:
        assert store.client.ping()
        end = time.monotonic() + 5
        while running(pid):
            assert time.monotonic() < end, "the server outlived its owner"
            time.sleep(0.02)


def test_a_leftover_server_is_shut_down(tmp_path):
    """The guard was killed too: the server lives on at the recorded socket."""
    leftover = open_store(None, tmp_path / "other")
    record = json.dumps({"socket": str(leftover.server.socket_path)})
    target = tmp_path / "mine"
    target.mkdir()
    (target / "store.json").write_text(record)
    with open_store(None, target) as store:
        assert store.server.socket_path != leftover.server.socket_path
        assert not leftover.server.alive()
    leftover.close()


@pytest.mark.parametrize("record", ["", "{", "[]", '{"socket": 3}', '{"socket": "/nowhere/x"}'])
def test_a_damaged_record_does_not_stop_the_start(tmp_path, record):
    (tmp_path / "store.json").write_text(record)
    with open_store(None, tmp_path) as store:
        assert store.client.ping()


def test_a_dead_store_fails_fast_and_is_left_alone_then_revived(tmp_path):
    with open_store(None, tmp_path, retry_after_s=30.0) as store:
        store.server.stop()
        with pytest.raises(StoreUnavailableError, match="store failed: ConnectionError"):
            store.call(lambda client: client.get("a"))
        asked = []
        with pytest.raises(StoreUnavailableError, match="store is down"):
            store.call(asked.append)
        assert asked == []
        assert store.revive() is True
        assert store.call(lambda client: client.get("a")) is None


def test_the_breaker_closes_again_after_a_while(tmp_path):
    with open_store(None, tmp_path, retry_after_s=0.05) as store:
        with pytest.raises(StoreUnavailableError):
            store.call(lambda client: client.execute_command("NONSENSE"))
        time.sleep(0.06)
        assert store.call(lambda client: client.ping()) is True


def test_a_store_that_hangs_costs_one_short_timeout(tmp_path):
    """Something listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        with open_store(url, tmp_path) as store:
            assert store.kind == "redis"
            begin = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="Timeout"):
                store.call(lambda client: client.get("a"))
            for _ in range(50):
                with pytest.raises(StoreUnavailableError, match="is down"):
                    store.call(lambda client: client.get("a"))
            assert time.monotonic() - begin < 1.0
            assert store.revive() is False


def test_a_keeper_that_finds_the_store_down_spares_the_requests(tmp_path):
    """Once a request has failed, only `revive` asks: each try would hold a worker for a timeout."""
    with open_store(None, tmp_path, retry_after_s=0.2) as store:
        process = store.client.info("server")["process_id"]
        store.server, server = None, store.server  # nobody restarts it: like a Redis elsewhere
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(StoreUnavailableError, match="store failed"):
            store.call(lambda client: client.ping())
        asked = []
        for _ in range(3):
            assert store.revive() is False
            time.sleep(0.1)  # without the keeper's look the pause would be over at the third
            with pytest.raises(StoreUnavailableError, match="is down: TimeoutError"):
                store.call(asked.append)
        assert asked == []
        os.kill(process, signal.SIGCONT)
        assert store.revive() is True
        assert store.call(lambda client: client.ping()) is True
        store.server = server


def test_a_defect_in_the_callers_function_is_not_a_dead_store(tmp_path):
    with open_store(None, tmp_path) as store:
        with pytest.raises(KeyError):
            store.call(lambda client: {}["missing"])
        assert store.call(lambda client: client.ping()) is True


def test_real_redis_by_url(tmp_path):
    with open_store(None, tmp_path) as embedded:
        url = f"unix://{embedded.server.socket_path}"
        with open_store(url, tmp_path) as store:
            assert store.server is None
            store.call(lambda client: client.set("a", 1))
        assert isinstance(embedded.client, redis.Redis)
        assert embedded.client.get("a") == b"1"
