"""The request log: every answer as one JSON line, for the training of the next model.

In: one mapping per answer. Out: ``requests.jsonl`` and, when that is full, ``requests.jsonl.1``
(newest) to ``.{keep}`` (oldest), which a shipper collects.

What was shown, in which order, with which propensity, cannot be recomputed later: the model, its
state and its clock will have moved on. But no answer may wait or fail for it. So a bounded queue
and one writer thread stand in between, and a record that cannot be kept (queue full, disk full,
folder not writable) is counted and dropped. The event log makes the opposite choice: an event is
acknowledged only when it is safe, and refused otherwise.

A line is whole or absent. After a failed write the file is cut back to the last whole line; a line
torn by ``kill -9`` is ended with a newline when the file is opened again, so that a reader skips
one bad line and not two. One process writes to a file.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson

logger = logging.getLogger(__name__)

Outcome = Literal["written", "queue_full", "write_failed"]
MAX_GROUP = 1024
GATHER_S = 0.02
"""Pause after each group. A writer that waits at the queue is woken by every record, and each time
the thread that answers requests hands it the interpreter: that cost more than the writing."""
RETRY_AFTER_S = 1.0  # a disk that refused is left alone so long; what comes meanwhile is dropped


class RequestLog:
    """Appends records in the background; `append` neither waits nor raises. Thread-safe.

    Args:
        path: The newest file. Its folder is created when absent and possible.
        count: Told how many records had which outcome.
        max_bytes: The file is rotated before it grows beyond.
        keep: Rotated files that are kept.
        max_waiting: Records that may wait for the writer.
    """

    def __init__(
        self,
        path: Path,
        *,
        count: Callable[[Outcome, int], None] = lambda outcome, n: None,
        max_bytes: int = 64 * 1024**2,
        keep: int = 4,
        max_waiting: int = 10_000,
    ) -> None:
        self.path = path
        self._count = count
        self._max_bytes = max_bytes
        self._keep = keep
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(max_waiting)
        self._file: int | None = None
        self._size = 0
        self._retry_at_s = 0.0
        self._writer = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    def append(self, record: Mapping[str, Any]) -> None:
        """Queue one record, or count it as dropped. The caller must not change it afterwards."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._count("queue_full", 1)

    def close(self) -> None:
        """Write what is queued and close the file. Records appended later are lost."""
        self._queue.put(None)
        self._writer.join()

    def _write(self) -> None:
        open_ = True
        while open_:
            group = [self._queue.get()]
            while len(group) < MAX_GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            open_ = None not in group
            self._write_group([record for record in group if record is not None])
            if open_:
                time.sleep(GATHER_S)
        self._close_file()

    def _write_group(self, records: list[Mapping[str, Any]]) -> None:
        if not records:
            return
        if time.monotonic() < self._retry_at_s:
            self._count("write_failed", len(records))
            return
        try:
            lines = b"".join(
                orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
                for r in records
            )
            self._append_lines(lines)
        except (OSError, orjson.JSONEncodeError) as error:
            self._count("write_failed", len(records))
            self._give_up(error)
        else:
            self._count("written", len(records))

    def _append_lines(self, lines: bytes) -> None:
        if self._file is not None and self._size + len(lines) > self._max_bytes:
            self._close_file()
            self._rotate()
        if self._file is None:
            self._open_file()
        left = memoryview(lines)
        while left:  # a nearly full disk takes a part of it
            left = left[os.write(self._file or 0, left) :]
        self._size += len(lines)

    def _open_file(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._size += os.write(self._file, b"\n")

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                os.replace(older, self._numbered(number))
        self.path.unlink(missing_ok=True)  # with keep = 0 nothing has moved it

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path

    def _give_up(self, error: Exception) -> None:
        """After a failed write: no torn line stays behind, and the disk is left alone a while."""
        logger.warning("request log %s: %s; records are dropped", self.path, error)
        if isinstance(error, OSError):
            self._retry_at_s = time.monotonic() + RETRY_AFTER_S
        if self._file is not None:
            try:
                os.ftruncate(self._file, self._size)
            except OSError as second:
                logger.warning("request log %s cannot be cut back: %s", self.path, second)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
