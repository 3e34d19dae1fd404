"""Values on their way to the store: gathered, written in one round trip, never waited for.

In: keys and bytes. Out: SET with a time to live, in batches, from one thread. A value that is
replaced before it was written is written once. While the store is down values wait, a bounded
number of them; beyond it they are dropped and counted, for they are derived.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import redis

from ml_platform.serving.looping import keep_going
from ml_platform.serving.store import Store, StoreUnavailableError

EVERY_S = 0.02
MAX_WAITING = 20_000
BATCH = 500


class _Value(NamedTuple):
    blob: bytes
    ttl_s: int | None
    written: Callable[[], object] | None


class WriteBehind:
    """Background writer. ``put`` neither waits nor raises; thread-safe.

    Args:
        store: Where to.
        on_failure: Told of a store that refused.
        thread_failed: Told the thread's name after any other error.
    """

    def __init__(
        self,
        store: Store,
        on_failure: Callable[[str], None] = lambda detail: None,
        thread_failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store, self._on_failure = store, on_failure
        self._thread_failed = thread_failed
        self._waiting: dict[str, _Value] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.written = 0
        self.dropped = 0
        self.thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self.thread.start()

    def put(
        self,
        key: str,
        value: bytes,
        ttl_s: int | None = None,
        written: Callable[[], object] | None = None,
    ) -> None:
        """Queue one value; dropped and counted when too many wait.

        Args:
            key: In the store.
            value: Replaces one of the same key that still waits.
            ttl_s: Seconds to live; for ever when absent.
            written: Called by the writer's thread once the store has this very value.
        """
        with self._lock:
            if len(self._waiting) >= MAX_WAITING and key not in self._waiting:
                self.dropped += 1
            else:
                self._waiting[key] = _Value(value, ttl_s, written)

    def flush(self) -> int:
        """Write what waits now; returns how many values were written."""
        with self._lock:
            batch, self._waiting = self._waiting, {}
        items = list(batch.items())
        for begin in range(0, len(items), BATCH):
            part = items[begin : begin + BATCH]
            try:
                self._store.call(partial(_write, items=part))
            except StoreUnavailableError as error:
                self._put_back(items[begin:])
                self._on_failure(str(error))
                return begin
            self.written += len(part)
            for _, value in part:
                if value.written is not None:
                    value.written()
        return len(items)

    def close(self) -> None:
        """Write what waits, then stop."""
        self._stop.set()
        self.thread.join()

    def _put_back(self, items: list[tuple[str, _Value]]) -> None:
        """Keep what was not written for later, where nothing newer waits."""
        with self._lock:
            for key, value in items:
                if len(self._waiting) < MAX_WAITING:
                    self._waiting.setdefault(key, value)
                elif key not in self._waiting:
                    self.dropped += 1

    def _run(self) -> None:
        keep_going(self._turn, name="write-behind", stop=self._stop, failed=self._thread_failed)
        self.flush()

    def _turn(self) -> None:
        self._stop.wait(EVERY_S)
        self.flush()


def _write(client: redis.Redis, items: list[tuple[str, _Value]]) -> None:
    pipe = client.pipeline(transaction=False)
    for key, value in items:
        pipe.set(key, value.blob, ex=value.ttl_s)
    pipe.execute()
