"""The event stream in the store: published from the durable log, consumed by a group.

*Outbox.* The publisher does not get events handed over: it reads the log behind what it published
last and XADDs under the id ``<seq>-0``. So the stream holds each event once and in order, whatever
fails in between; the store refuses an id that is not larger than its last. After an outage, or with
a new and empty store, the publisher goes on from what the store says it has.

*Consumer group.* Entries are acknowledged after they were handled. What a consumer took and did not
acknowledge is read again by its successor of the same name, or claimed by another consumer once it
has been idle long enough. Handling is idempotent: an entry whose number was handled before is
acknowledged and skipped; at-least-once delivery then counts once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis

from ml_platform.serving.event_log import EventLog, StoredEvent
from ml_platform.serving.looping import keep_going
from ml_platform.serving.stages import StageError
from ml_platform.serving.store import Store, StoreUnavailableError

logger = logging.getLogger(__name__)

BATCH = 256
MAX_STREAM = 200_000
"""Entries that the stream keeps, about; older ones are in the log."""
PAUSE_S = 0.2
"""After a failure of the store."""
GATHER_S = 0.01
"""A publisher that was woken waits so long for more events: one round trip carries them all."""
IDLE_S = 1.0
"""A publisher that nobody woke for so long looks whether the store still has what it got."""
ALREADY_THERE = "equal or smaller"
"""In the store's refusal of an id that is not larger than its last."""
BLOCK_MS = 40
"""A read that waits for entries; below the store's time-out."""
CLAIM_EVERY_S = 5.0
REMEMBERED = 50_000
"""Numbers handled of late: what is delivered twice is delivered twice soon."""


class Publisher:
    """Copies the log to the stream, in a thread of its own.

    Args:
        log: The durable log.
        store: Holds the stream.
        key: Of the stream.
        floor: Where to begin with an empty stream: what readers of this process have handled.
        on_failure: Told of a store that refused.
        thread_failed: Told the thread's name after any other error.
    """

    def __init__(
        self,
        log: EventLog,
        store: Store,
        key: str,
        *,
        floor: Callable[[], int],
        on_failure: Callable[[str], None] = lambda detail: None,
        thread_failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._thread_failed = thread_failed
        self._log, self._store, self.key = log, store, key
        self._floor, self._on_failure = floor, on_failure
        self._known = False
        self.published_seq = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self.thread.start()

    def wake(self) -> None:
        """There are new events in the log."""
        self._wake.set()

    def close(self) -> None:
        """Stop after the batch in hand."""
        self._stop.set()
        self._wake.set()
        if self.thread.is_alive():
            self.thread.join()

    def publish(self) -> int:
        """Publish what is missing; returns how many entries were added.

        Raises:
            StoreUnavailableError: The store is down; nothing is lost, call again.
        """
        if not self._known:
            self.published_seq = self._store.call(self._last_seq)
            self._known = True
        added = 0
        while events := self._log.read(self.published_seq, BATCH):
            self._store.call(partial(self._add, events=events))
            self.published_seq = events[-1].seq
            added += len(events)
        return added

    def look_again(self) -> None:
        """Compare with what the store has: one that was restarted empty gets everything again.

        Raises:
            StoreUnavailableError: The store is down.
        """
        self.published_seq = min(self.published_seq, self._store.call(self._last_seq))

    def _run(self) -> None:
        keep_going(self._turn, name="publisher", stop=self._stop, failed=self._thread_failed)

    def _turn(self) -> None:
        try:
            self.publish()
            if not self._wake.wait(IDLE_S):
                self.look_again()
        except StoreUnavailableError as error:
            self._known = False  # the store may come back empty
            self._on_failure(str(error))
            self._stop.wait(PAUSE_S)
            return
        self._wake.clear()
        self._stop.wait(GATHER_S)

    def _last_seq(self, client: redis.Redis) -> int:
        """The last number in the stream; with none, where to begin."""
        last: Any = client.xrevrange(self.key, count=1)
        return int(last[0][0].split(b"-")[0]) if last else self._floor()

    def _add(self, client: redis.Redis, events: Sequence[StoredEvent]) -> None:
        pipe = client.pipeline(transaction=False)
        for event in events:
            fields: Any = {"body": event.body, "received_at": event.received_at}
            pipe.xadd(self.key, fields, id=f"{event.seq}-0", maxlen=MAX_STREAM, approximate=True)
        for reply in pipe.execute(raise_on_error=False):
            # An id that is there already was added before a failure; anything else is not there.
            if isinstance(reply, Exception) and ALREADY_THERE not in str(reply):
                raise StoreUnavailableError(f"the stream takes no entries: {reply}")


class Consumer:
    """Reads the stream as a member of a group, in a thread of its own.

    Args:
        store: Holds the stream.
        key: Of the stream.
        group: Its members share the entries.
        name: A successor takes the same name and finds what was not acknowledged.
        handle: Given entries in order; those of a number that was handled before are left out.
        start_seq: Numbers up to here are handled already.
        claim_idle_ms: An entry that another member left so long is taken over.
        fill: Gives the events after one number and before another, where the stream has a gap: it
            was cut, or came back empty. Only for a group of one member, who sees every entry.
        thread_failed: Told the thread's name after an error.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        group: str,
        name: str,
        handle: Callable[[Sequence[StoredEvent]], None],
        start_seq: int = 0,
        claim_idle_ms: int = 30_000,
        fill: Callable[[int, int], list[StoredEvent]] | None = None,
        thread_failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._fill, self._thread_failed = fill, thread_failed
        self._store, self.key, self.group, self.name = store, key, group, name
        self._handle = handle
        self._claim_idle_ms = claim_idle_ms
        self.applied_seq = self._start_seq = start_seq
        self._handled: deque[int] = deque()
        self._handled_set: set[int] = set()
        self.claimed = 0
        self._known = False
        self._next_claim_s = 0.0
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="consumer", daemon=True)

    def start_at(self, seq: int) -> None:
        """Numbers up to here were handled before: a replay of the log has done it."""
        self.applied_seq = self._start_seq = seq

    def start(self) -> None:
        """Begin to read."""
        self.thread.start()

    def close(self) -> None:
        """Stop after the batch in hand; what was not acknowledged stays pending."""
        self._stop.set()
        if self.thread.is_alive():
            self.thread.join()

    def step(self, *, block_ms: int | None = None) -> int:
        """Read and handle one batch; returns how many entries were acknowledged.

        Raises:
            StoreUnavailableError: The store is down, or has lost the group: call again.
        """
        if not self._known:
            self._open()
        if time.monotonic() >= self._next_claim_s:
            self._next_claim_s = time.monotonic() + CLAIM_EVERY_S
            claimed = self._store.call(self._claim)
            self.claimed += len(claimed)
            if claimed:
                return self._finish(claimed)
        try:
            return self._finish(self._store.call(lambda client: self._read(client, ">", block_ms)))
        except StoreUnavailableError:
            self._known = False  # with NOGROUP the store came back empty
            raise

    def _run(self) -> None:
        keep_going(self._turn, name="consumer", stop=self._stop, failed=self._thread_failed)

    def _turn(self) -> None:
        try:
            self.step(block_ms=BLOCK_MS)
        except StoreUnavailableError:
            self._stop.wait(PAUSE_S)
        except StageError as error:  # not now; its entries stay pending
            self._known = False
            logger.info("stream: %s", error)
            self._stop.wait(PAUSE_S)
        except Exception:
            self._known = False  # what was not handled is read again
            raise

    def _open(self) -> None:
        """Make the group, then handle what a predecessor of this name left."""

        def create(client: redis.Redis) -> None:
            try:
                client.xgroup_create(self.key, self.group, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

        self._store.call(create)
        self._known = True
        while self._finish(self._store.call(lambda client: self._read(client, "0", None))):
            pass

    def _read(self, client: redis.Redis, after: str, block_ms: int | None) -> list[StoredEvent]:
        try:
            reply: Any = client.xreadgroup(
                self.group, self.name, {self.key: after}, count=BATCH, block=block_ms
            )
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # The store answers, and came back empty: no reason for others to leave it alone.
            raise StoreUnavailableError(f"the stream has lost its group: {error}") from error
        return _entries(reply[0][1]) if reply else []

    def _claim(self, client: redis.Redis) -> list[StoredEvent]:
        reply: Any = client.xautoclaim(
            self.key, self.group, self.name, min_idle_time=self._claim_idle_ms, count=BATCH
        )
        return _entries(reply[1])

    def _finish(self, entries: list[StoredEvent]) -> int:
        fresh = [e for e in sorted(entries, key=lambda e: e.seq) if self._is_new(e.seq)]
        if fresh and self._fill is not None and fresh[-1].seq > self.applied_seq + len(fresh):
            between = self._fill(self.applied_seq, fresh[-1].seq)
            known = {e.seq for e in fresh}
            fresh += [e for e in between if e.seq not in known and self._is_new(e.seq)]
            fresh.sort(key=lambda e: e.seq)
        if fresh:
            self._handle(fresh)
            self._handled.extend(e.seq for e in fresh)
            self._handled_set.update(e.seq for e in fresh)
            while len(self._handled) > REMEMBERED:
                self._handled_set.discard(self._handled.popleft())
            self.applied_seq = max(self.applied_seq, fresh[-1].seq)
        if entries:
            ids = [f"{e.seq}-0" for e in entries]
            self._store.call(lambda client: client.xack(self.key, self.group, *ids))
        return len(entries)

    def _is_new(self, seq: int) -> bool:
        """By number, not by a high-water mark: a claimed entry may be older than the last."""
        return seq > self._start_seq and seq not in self._handled_set


def _entries(reply: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[StoredEvent]:
    """Entries as events; one that was trimmed away meanwhile has no fields and is left out."""
    return [
        StoredEvent(int(name.split(b"-")[0]), "", int(fields[b"received_at"]), fields[b"body"])
        for name, fields in reply
        if fields
    ]
