"""Values on their way to the store: gathered, written in one round trip, never waited for.

In: keys and bytes. Out: SET with a time to live, in batches, from one thread. A value that is
replaced before it was written is written once. While the store is down values wait, a bounded
number of them; beyond it they are dropped and counted, for they are derived.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import redis

from ml_platform.serving.store import Store, StoreUnavailableError

EVERY_S = 0.02
MAX_WAITING = 20_000
BATCH = 500


class WriteBehind:
    """Background writer. ``put`` neither waits nor raises; thread-safe.

    Args:
        store: Where to.
        on_failure: Told of a store that refused.
    """

    def __init__(
        self, store: Store, on_failure: Callable[[str], None] = lambda detail: None
    ) -> None:
        self._store, self._on_failure = store, on_failure
        self._waiting: dict[str, tuple[bytes, int | None]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def put(self, key: str, value: bytes, ttl_s: int | None = None) -> None:
        """Queue one value; dropped and counted when too many wait."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING and key not in self._waiting:
                self.dropped += 1
            else:
                self._waiting[key] = (value, ttl_s)

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
        return len(items)

    def close(self) -> None:
        """Write what waits, then stop."""
        self._stop.set()
        self._thread.join()

    def _put_back(self, items: list[tuple[str, tuple[bytes, int | None]]]) -> None:
        """Keep what was not written for later, where nothing newer waits."""
        with self._lock:
            for key, value in items:
                if len(self._waiting) < MAX_WAITING:
                    self._waiting.setdefault(key, value)
                elif key not in self._waiting:
                    self.dropped += 1

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.flush()
        self.flush()


def _write(client: redis.Redis, items: list[tuple[str, tuple[bytes, int | None]]]) -> None:
    pipe = client.pipeline(transaction=False)
    for key, (value, ttl_s) in items:
        pipe.set(key, value, ex=ttl_s)
    pipe.execute()
