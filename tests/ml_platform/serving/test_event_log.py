"""Durability, idempotency, order, conflicts and damage of the event log."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ml_platform
from ml_platform.serving.event_log import (
    AppendResult,
    EventConflictError,
    EventLog,
    EventLogBusyError,
    EventLogCorruptError,
    EventLogError,
    LoggedEvent,
    StoredEvent,
)


def event(event_id: str, body: bytes = b"x", received_at: int = 5) -> LoggedEvent:
    return LoggedEvent(event_id, body, received_at)


@pytest.fixture
def log(tmp_path: Path):
    with EventLog(tmp_path / "events.sqlite") as log:
        yield log


def test_append_read_and_reopen(tmp_path):
    path = tmp_path / "events.sqlite"
    with EventLog(path) as log:
        assert log.append([event("a"), event("b", b"y")]) == [
            AppendResult(1, False),
            AppendResult(2, False),
        ]
        first_id = log.log_id
    with EventLog(path) as log:
        assert log.log_id == first_id
        assert log.last_seq() == 2
        assert log.read(after_seq=1) == [StoredEvent(2, "b", 5, b"y")]
        assert log.read(limit=1) == [StoredEvent(1, "a", 5, b"x")]
        assert log.append([event("c")])[0].seq == 3


def test_a_repeated_event_keeps_its_number_and_a_retry_may_come_later(log):
    log.append([event("a"), event("b")])
    assert log.append([event("b", received_at=99), event("c")]) == [
        AppendResult(2, True),
        AppendResult(3, False),
    ]
    assert [e.received_at for e in log.read()] == [5, 5, 5]


def test_an_event_twice_in_one_submission_is_a_duplicate_of_itself(log):
    assert log.append([event("a"), event("a")]) == [AppendResult(1, False), AppendResult(1, True)]


@pytest.mark.parametrize("before", [[event("a")], []])
def test_a_conflict_stores_nothing_of_the_submission(log, before):
    log.append(before)
    batch = [event("new"), event("a"), event("a", b"other")]
    with pytest.raises(EventConflictError, match="'a' was already used") as caught:
        log.append(batch)
    assert caught.value.positions == (2,)
    assert [e.event_id for e in log.read()] == [e.event_id for e in before]


def test_a_conflict_does_not_hurt_its_neighbours_in_the_same_commit(log):
    futures = [log.submit([event(i, b)]) for i, b in [("a", b"1"), ("a", b"2"), ("b", b"3")]]
    assert futures[0].result()[0].seq == 1
    assert isinstance(futures[1].exception(), EventConflictError)
    assert futures[2].result()[0].seq == 2


def test_concurrent_appends_get_distinct_increasing_numbers(log):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: log.append([event(str(i % 200))])[0], range(400)))
    assert sorted(r.seq for r in results if not r.duplicate) == list(range(1, 201))
    assert [e.seq for e in log.read()] == list(range(1, 201))


def test_append_async_shares_commits(log, monkeypatch):
    commits = []
    commit = EventLog._commit
    monkeypatch.setattr(
        EventLog, "_commit", lambda self, group: (commits.append(len(group)), commit(self, group))
    )

    async def many():
        return await asyncio.gather(*(log.append_async([event(str(i))]) for i in range(300)))

    results = asyncio.run(many())
    assert sorted(r[0].seq for r in results) == list(range(1, 301))
    assert sum(commits) == 300
    assert len(commits) < 150  # grouped: far fewer syncs than events


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from([b"1", b"2"])), max_size=12))
def test_log_behaves_like_a_dictionary(tmp_path_factory, operations):
    model: dict[str, bytes] = {}
    with EventLog(tmp_path_factory.mktemp("log") / "e.sqlite") as log:
        for event_id, body in operations:
            if model.setdefault(event_id, body) == body:
                assert log.append([event(event_id, body)])[0].seq == list(model).index(event_id) + 1
            else:
                with pytest.raises(EventConflictError):
                    log.append([event(event_id, body)])
        assert [(e.event_id, e.body) for e in log.read()] == list(model.items())


def test_commits_are_synced_in_full(log):
    for connection in (log._connection, log._reader):
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert log._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


CRASH = """
import sys
from pathlib import Path
from ml_platform.serving.event_log import EventLog, LoggedEvent
log = EventLog(Path(sys.argv[1]))
i = 0
while True:
    log.append([LoggedEvent(f"e{i}", b"x" * 100)])
    print(i, flush=True)
    i += 1
"""


def test_kill_9_keeps_every_acknowledged_event(tmp_path):
    path = tmp_path / "events.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(Path(ml_platform.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, str(path)], stdout=subprocess.PIPE, env=environment
    ) as process:
        for _ in range(50):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = 50 + len(process.stdout.read().splitlines())
    with EventLog(path) as log:
        stored = [e.event_id for e in log.read(limit=100_000)]
    assert stored[:acknowledged] == [f"e{i}" for i in range(acknowledged)]


def test_a_torn_tail_of_the_wal_is_healed(tmp_path):
    path = tmp_path / "events.sqlite"
    with EventLog(path) as log:
        log.append([event("a")])
        wal = path.with_name(path.name + "-wal").read_bytes()
        main = path.read_bytes()
    torn = tmp_path / "torn.sqlite"
    torn.write_bytes(main)
    torn.with_name("torn.sqlite-wal").write_bytes(wal + wal[:1000])  # a half-written next commit
    with EventLog(torn) as log:
        assert [e.event_id for e in log.read()] == ["a"]


@pytest.mark.parametrize("damage", ["text", "truncated", "scribbled", "version"])
def test_damage_is_named_and_never_overwritten(tmp_path, damage):
    path = tmp_path / "events.sqlite"
    with EventLog(path) as log:
        log.append([event(str(i), b"x" * 500) for i in range(200)])
    content = path.read_bytes()
    if damage == "text":
        content = b"not a database at all" * 100
    elif damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "scribbled":
        content = content[:8192] + b"\xa5" * 30_000 + content[38_192:]
    path.write_bytes(content)
    if damage == "version":
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 7")
        connection.close()
        content = path.read_bytes()
    with pytest.raises(EventLogCorruptError, match=r"events\.sqlite is damaged or not an event"):
        EventLog(path)
    assert path.read_bytes() == content


TURN = """
import sys, time
from pathlib import Path
from ml_platform.serving.event_log import EventLog
print("ready", flush=True)
for line in sys.stdin:
    start_s, folder = line.strip().split(" ", 1)
    while time.time() < float(start_s):
        pass
    EventLog(Path(folder) / "events.sqlite").close()
    print("opened", flush=True)
"""


def test_two_processes_may_create_the_log_at_the_same_moment(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(ml_platform.__file__).parents[1])}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TURN],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
    for i in range(60):
        (tmp_path / str(i)).mkdir()
        start_s = time.time() + 0.01
        for worker in workers:
            print(start_s, tmp_path / str(i), file=worker.stdin, flush=True)
        assert [worker.stdout.readline() for worker in workers] == ["opened\n"] * 2
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0


def test_a_missing_folder_is_an_error_with_the_path(tmp_path):
    with pytest.raises(EventLogError, match=r"cannot open event log .*nowhere"):
        EventLog(tmp_path / "nowhere" / "e.sqlite")


def test_a_failed_commit_reaches_every_caller_and_the_writer_lives(log, monkeypatch):
    with monkeypatch.context() as patch:

        def full(self, events):
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(EventLog, "_append", full)
        with pytest.raises(EventLogError, match="disk is full"):
            log.append([event("a")])
    assert log.append([event("a")])[0] == AppendResult(1, False)


def test_a_full_queue_refuses(tmp_path, monkeypatch):
    commit = EventLog._commit
    monkeypatch.setattr(EventLog, "_commit", lambda s, g: (time.sleep(0.3), commit(s, g)))
    with EventLog(tmp_path / "e.sqlite", max_group=1, max_waiting=1) as log:
        first = log.submit([event("a")])
        time.sleep(0.1)  # the writer has taken it
        second = log.submit([event("b")])
        with pytest.raises(EventLogBusyError, match="retry later"):
            log.submit([event("c")])
        assert (first.result()[0].seq, second.result()[0].seq) == (1, 2)


def test_a_closed_log_refuses(tmp_path):
    log = EventLog(tmp_path / "e.sqlite")
    waiting = log.submit([event("a")])
    log.close()
    log.close()
    assert waiting.result()[0].seq == 1  # what was queued is committed
    with pytest.raises(EventLogError, match="closed"):
        log.append([event("b")])


@pytest.mark.parametrize(
    ("event_id", "received_at"), [("", 0), ("x" * 129, 0), ("a", -1), ("a", 2**63)]
)
def test_events_are_checked(event_id, received_at):
    with pytest.raises(ValueError, match=r"must (have|be)"):
        LoggedEvent(event_id, b"", received_at)
