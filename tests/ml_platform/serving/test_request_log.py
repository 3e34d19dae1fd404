"""The request log: complete lines in the background, bounded, rotated, and never in the way."""

from __future__ import annotations

import collections
import json
import os
import threading
import time

import pytest

from ml_platform.serving import request_log
from ml_platform.serving.request_log import RequestLog


class Counts(collections.Counter):
    def add(self, outcome, n):
        self[outcome] += n


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition did not come true in time"
        time.sleep(0.005)


def test_close_flushes_all_records_in_order(tmp_path):
    counts = Counts()
    log = RequestLog(tmp_path / "deep" / "requests.jsonl", count=counts.add)
    for i in range(1000):
        log.append({"request_id": str(i), "scores": [0.5, i]})
    log.close()
    assert [record["scores"][1] for record in lines(log.path)] == list(range(1000))
    assert counts == {"written": 1000}


def test_a_second_run_appends_and_ends_a_torn_line(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2,"torn')
    log = RequestLog(path)
    log.append({"n": 3})
    log.close()
    assert path.read_bytes() == b'{"n":1}\n{"n":2,"torn\n{"n":3}\n'


def test_rotation_keeps_the_newest_files(tmp_path):
    log = RequestLog(tmp_path / "r.jsonl", max_bytes=100, keep=2)
    for i in range(50):  # a record is 9 bytes; one group at a time, so that sizes are known
        log.append({"n": i + 10})
        wait_for(lambda i=i: log.path.exists() and lines(log.path)[-1:] == [{"n": i + 10}])
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.1", "r.jsonl.2"]
    assert all(p.stat().st_size <= 100 for p in tmp_path.iterdir())
    kept = [
        r["n"] for name in ("r.jsonl.2", "r.jsonl.1", "r.jsonl") for r in lines(tmp_path / name)
    ]
    assert kept == list(range(kept[0], 60))


def test_keep_zero_starts_afresh(tmp_path):
    log = RequestLog(tmp_path / "r.jsonl", max_bytes=10, keep=0)
    for n in (1, 2):
        log.append({"n": n})
        wait_for(lambda n=n: log.path.exists() and lines(log.path) == [{"n": n}])
    log.close()
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_full_queue_drops_and_counts_without_waiting(tmp_path, monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(RequestLog, "_append_lines", lambda self, data: free.wait())
    counts = Counts()
    log = RequestLog(tmp_path / "r.jsonl", count=counts.add, max_waiting=5)
    log.append({"n": 0})
    wait_for(lambda: log._queue.empty())  # the writer holds it and is stuck
    for n in range(8):
        log.append({"n": n})
    assert counts["queue_full"] == 3
    free.set()
    log.close()
    assert counts == {"queue_full": 3, "written": 6}


def test_a_full_disk_counts_leaves_no_torn_line_and_recovers(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "RETRY_AFTER_S", 0.0)
    counts = Counts()
    log = RequestLog(tmp_path / "r.jsonl", count=counts.add)
    log.append({"n": 1})
    wait_for(lambda: counts["written"] == 1)
    write = os.write
    state = {"written": False}

    def nearly_full(file, data):
        if state["written"]:
            raise OSError(28, "No space left on device")
        state["written"] = True
        return write(file, bytes(data)[:3])  # a part fits

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        log.append({"n": 2})
        wait_for(lambda: counts["write_failed"] == 1)
    log.append({"n": 3})
    log.close()
    assert lines(log.path) == [{"n": 1}, {"n": 3}]
    assert counts == {"written": 2, "write_failed": 1}


def test_a_failed_disk_is_left_alone_for_a_while(tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    counts = Counts()
    log = RequestLog(tmp_path / "blocked" / "r.jsonl", count=counts.add)
    log.append({"n": 1})
    wait_for(lambda: counts["write_failed"] == 1)
    (tmp_path / "blocked").unlink()
    log.append({"n": 2})  # within RETRY_AFTER_S: not even tried
    wait_for(lambda: counts["write_failed"] == 2)
    log.close()
    assert not (tmp_path / "blocked").exists()


def test_what_json_cannot_hold_is_counted_and_the_rest_goes_on(tmp_path):
    counts = Counts()
    log = RequestLog(tmp_path / "r.jsonl", count=counts.add)
    log.append({"n": object()})
    wait_for(lambda: counts["write_failed"] == 1)
    log.append({"n": 2})
    log.close()
    assert lines(log.path) == [{"n": 2}]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_counted(tmp_path):
    tmp_path.chmod(0o500)
    counts = Counts()
    log = RequestLog(tmp_path / "r.jsonl", count=counts.add)
    log.append({"n": 1})
    log.close()
    tmp_path.chmod(0o700)
    assert counts == {"write_failed": 1}
