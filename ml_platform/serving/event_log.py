"""A durable, idempotent, append-only event log in one SQLite file.

In: events (id, receive time, opaque body). Out: a sequence number for each, handed out only after
the bytes have been fsynced. Everything else that serving keeps (user histories, counters) is
derived from this log and can be rebuilt by reading it from the start.

Three decisions carry the file:

- *Durability.* WAL journal with ``synchronous=FULL``: SQLite syncs the WAL at every commit, so a
  commit that returned survives ``kill -9`` and a power cut. ``NORMAL`` would survive only the
  first.
- *Group commit.* An fsync costs far more than an insert, so one writer thread commits whatever
  has queued up since the last sync as one transaction; callers wait on a future. Throughput then
  grows with concurrency instead of being capped at one event for each fsync.
- *Idempotency.* The event id is unique. A repeated id with the same body is a *duplicate*: it is
  acknowledged again with the first sequence number, which makes a client's retry safe. A repeated
  id with another body is a *conflict*: two different facts claim one name, and the whole
  submission is refused. The receive time is not part of the comparison, for it differs on retry.

Several processes may write to one file (SQLite serialises them); each sees one order of `seq`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_platform.serving.event_log_file import (
    EventLogCorruptError,
    EventLogError,
    connect,
    log_id,
    open_file,
)

__all__ = [
    "AppendResult",
    "EventConflictError",
    "EventLog",
    "EventLogBusyError",
    "EventLogCorruptError",
    "EventLogError",
    "LoggedEvent",
    "StoredEvent",
]

MAX_EVENT_ID_CHARACTERS = 128
_INT64_MAX = 2**63 - 1


class EventLogBusyError(EventLogError):
    """More submissions are waiting than the queue holds; the caller should retry later."""


class EventConflictError(ValueError):
    """An event id was used before with another body. `positions` index the refused submission."""

    def __init__(self, positions: Sequence[int], event_ids: Sequence[str]) -> None:
        self.positions = tuple(positions)
        self.event_ids = tuple(event_ids)
        super().__init__(
            f"event_id {', '.join(map(repr, event_ids))} was already used for a different event; "
            "send a new id for a new event"
        )


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event to append.

    Attributes:
        event_id: The client's id, 1 to 128 characters.
        body: Canonical bytes of what the client said; compared to tell duplicate from conflict.
        received_at: Seconds; what the server assigned on arrival. Not compared.
    """

    event_id: str
    body: bytes
    received_at: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.event_id) <= MAX_EVENT_ID_CHARACTERS:
            raise ValueError(
                f"event_id must have 1 to {MAX_EVENT_ID_CHARACTERS} characters, "
                f"got {len(self.event_id)}: {self.event_id[:40]!r}"
            )
        if not 0 <= self.received_at <= _INT64_MAX:
            raise ValueError(f"received_at must be 0 to 2**63 - 1, got {self.received_at}")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as read back."""

    seq: int
    event_id: str
    received_at: int
    body: bytes


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Where an event stands in the log, and whether it stood there before this call."""

    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class _Submission:
    events: tuple[LoggedEvent, ...]
    future: Future[list[AppendResult]]


class EventLog:
    """Append-only log; thread-safe. Use as a context manager or call `close`.

    Args:
        path: The SQLite file; its folder must exist. Created when absent.
        max_group: Most submissions that one commit carries.
        max_waiting: Most submissions that may wait for the writer.

    Raises:
        EventLogCorruptError: The file is damaged or holds something else.
    """

    def __init__(self, path: Path, *, max_group: int = 256, max_waiting: int = 10_000) -> None:
        self.path = path
        self._max_group = max_group
        self._connection = open_file(path)
        self._reader = connect(path)
        self._reader_lock = threading.Lock()
        self.log_id = log_id(self._connection)
        self._queue: queue.Queue[_Submission | None] = queue.Queue(max_waiting)
        self._closed = False
        self._close_lock = threading.Lock()  # makes "closed?" and "enqueue" one step
        self._writer = threading.Thread(target=self._write, name="event-log-writer", daemon=True)
        self._writer.start()

    def submit(self, events: Sequence[LoggedEvent]) -> Future[list[AppendResult]]:
        """Queue events for the next commit; the future resolves once they are durable.

        Raises:
            EventLogBusyError: The queue is full.
            EventLogError: The log is closed.
        """
        submission = _Submission(tuple(events), Future())
        with self._close_lock:
            if self._closed:
                raise EventLogError(f"event log {self.path} is closed")
            try:
                self._queue.put_nowait(submission)
            except queue.Full:
                raise EventLogBusyError(
                    f"{self._queue.maxsize} submissions already wait for {self.path}; retry later"
                ) from None
        return submission.future

    def append(self, events: Sequence[LoggedEvent]) -> list[AppendResult]:
        """Append all events or none; durable when this returns.

        Returns:
            One result for each event, in order.

        Raises:
            EventConflictError: An id was used before with another body.
            EventLogError: The log is closed, busy, or the disk refused the write.
        """
        return self.submit(events).result()

    async def append_async(self, events: Sequence[LoggedEvent]) -> list[AppendResult]:
        """`append` for coroutines: the event loop stays free while the disk syncs."""
        return await asyncio.wrap_future(self.submit(events))

    def read(self, after_seq: int = 0, limit: int = 1000) -> list[StoredEvent]:
        """Committed events with ``seq > after_seq``, in order, at most `limit`."""
        rows = self._select(
            "SELECT seq, event_id, received_at, body FROM events"
            " WHERE seq > ? ORDER BY seq LIMIT ?",
            (after_seq, limit),
        )
        return [StoredEvent(*row) for row in rows]

    def last_seq(self) -> int:
        """The highest committed sequence number; 0 for an empty log."""
        return int(self._select("SELECT COALESCE(MAX(seq), 0) FROM events", ())[0][0])

    def _select(self, sql: str, parameters: tuple[int, ...]) -> list[tuple[Any, ...]]:
        with self._reader_lock:
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise EventLogError(f"cannot read {self.path}: {error}") from error

    def close(self) -> None:
        """Commit what is queued, then stop. Later appends raise."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._connection.close()
        with self._reader_lock:
            self._reader.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        """The writer thread: take what waits, commit it as one transaction, resolve the futures."""
        open_ = True
        while open_:
            group = [self._queue.get()]
            while len(group) < self._max_group and not self._queue.empty():
                group.append(self._queue.get_nowait())
            open_ = None not in group
            live = [s for s in group if s and s.future.set_running_or_notify_cancel()]
            if live:
                self._commit(live)

    def _commit(self, group: list[_Submission]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._append(submission.events) for submission in group]
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it; the writer must not die
            if self._connection.in_transaction:
                self._connection.rollback()
            for submission in group:
                failure = EventLogError(f"cannot append to {self.path}: {error}")
                failure.__cause__ = error
                submission.future.set_exception(failure)
            return
        for submission, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, EventConflictError):
                submission.future.set_exception(outcome)
            else:
                submission.future.set_result(outcome)

    def _append(self, events: tuple[LoggedEvent, ...]) -> list[AppendResult] | EventConflictError:
        """Insert one submission, or nothing of it when an id conflicts."""
        known: dict[str, tuple[int | None, bytes]] = {}
        conflicts: list[int] = []
        for position, event in enumerate(events):
            if event.event_id not in known:
                row = self._connection.execute(
                    "SELECT seq, body FROM events WHERE event_id = ?", (event.event_id,)
                ).fetchone()
                known[event.event_id] = row or (None, event.body)
            if known[event.event_id][1] != event.body:
                conflicts.append(position)
        if conflicts:
            return EventConflictError(conflicts, [events[p].event_id for p in conflicts])
        return [self._insert(event, known) for event in events]

    def _insert(
        self, event: LoggedEvent, known: dict[str, tuple[int | None, bytes]]
    ) -> AppendResult:
        seq = known[event.event_id][0]
        if seq is not None:
            return AppendResult(seq, duplicate=True)
        cursor = self._connection.execute(
            "INSERT INTO events (event_id, received_at, body) VALUES (?, ?, ?)",
            (event.event_id, event.received_at, event.body),
        )
        new_seq = int(cursor.lastrowid or 0)
        known[event.event_id] = (new_seq, event.body)
        return AppendResult(new_seq, duplicate=False)
