"""Newcomers whose row made room for others: their states leave for the store and come back from it.

In: evictions of `LiveUsers`. Out: states back in their rows before anything is written to them. A
state is packed in the moment in which it loses its row and stays in process, bounded, until the
store has it. It counts as lost only when the store has answered that it is not there: a store that
is slow or down is asked again by the next request, which meanwhile says that it is degraded.

Each worker keeps states under keys of its own: rows are taken by what a worker was asked, and one
that lags must not write over a newer state. Readers elsewhere find worker 0's.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from ml_platform.serving.store import StoreUnavailableError

if TYPE_CHECKING:
    from shorts_recommendation.serving.engine import FeedEngine

STATE_TTL_S = 30 * 86_400
"""Of a state in the store. Who comes back later starts anew, until a replay of the log."""
TRIES = 3
"""Of events that are durable already and wait for the state of their user."""


class Newcomers:
    """States that are away. On the loop, but for the replay before the first request.

    Args:
        engine: Owns states and store.
    """

    def __init__(self, engine: FeedEngine) -> None:
        self._engine = engine
        worker = engine.settings.worker
        self._prefix = f"{engine.prefix}user{worker or ''}:"
        self._coming: dict[int, asyncio.Task[None]] = {}
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="state-reader")
        self._order = threading.Lock()
        self._written: deque[tuple[int, bytes]] = deque()

    def close(self) -> None:
        """Stop reading."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def keep(self, user_id: int) -> None:
        """Write a user's state as it is now; from any thread."""
        with self._order:  # a copy that was packed before an eviction is queued before it too
            blob = self._engine.users.pack(user_id)
            if blob is not None:
                self._engine.behind.put(f"{self._prefix}{user_id}", blob, STATE_TTL_S)

    def settle(self) -> None:
        """After states moved: what was cached under rows that changed hands goes, states leave."""
        users, engine = self._engine.users, self._engine
        while self._written:  # here and not in the writer's thread: who asks `absent` acts on it
            users.stored(*self._written.popleft())
        while users.reassigned:
            engine.computer.forget(users.reassigned.pop())
        while users.packed:
            user_id, blob = users.packed.pop(0)
            with self._order:
                written = partial(self._written.append, (user_id, blob))
                engine.behind.put(f"{self._prefix}{user_id}", blob, STATE_TTL_S, written)

    async def bring_back(self, user_id: int) -> bool:
        """Give a newcomer the state back that made room.

        Returns:
            False where the store has not answered in time: ask again. After True the user has its
            state, or the store knows nothing of it.
        """
        users = self._engine.users
        if users.absent({user_id}):
            task = self._coming.get(user_id)
            if task is None:
                task = self._engine.loop.create_task(self._fetch(user_id))
                self._coming[user_id] = task
            # Who gives up leaves the reading to go on: it serves the next request.
            await asyncio.wait((task,), timeout=self._engine.settings.store_read_ms / 1e3)
        elif users.come_back(user_id):
            self.settle()
        return not users.absent({user_id})

    async def bring_back_all(self, user_ids: Collection[int]) -> None:
        """Before durable events of these users are applied; who cannot be read starts anew."""
        for _ in range(TRIES):
            if not user_ids:
                return
            found = await asyncio.gather(*map(self.bring_back, user_ids))
            user_ids = [u for u, back in zip(user_ids, found, strict=True) if not back]
        for user_id in user_ids:
            self._lost(user_id)

    def bring_back_now(self, user_ids: Collection[int]) -> None:
        """The same in a replay, which may wait."""
        for user_id in user_ids:
            try:
                self._take(user_id, self._read(user_id))
            except StoreUnavailableError:
                self._engine.metrics.store_failures.labels("read").inc()
                self._lost(user_id)

    async def _fetch(self, user_id: int) -> None:
        engine = self._engine
        try:
            blob = await engine.loop.run_in_executor(self._readers, self._read, user_id)
            self._take(user_id, blob)
        except StoreUnavailableError:
            engine.metrics.store_failures.labels("read").inc()
        finally:
            del self._coming[user_id]

    def _read(self, user_id: int) -> bytes | None:
        key = f"{self._prefix}{user_id}"
        blob = self._engine.store.call(lambda client: client.get(key))
        return blob if isinstance(blob, bytes) else None

    def _take(self, user_id: int, blob: bytes | None) -> None:
        users = self._engine.users
        back = blob is not None and users.unpack(user_id, blob)
        if not back and users.absent({user_id}):
            self._lost(user_id)
        self.settle()

    def _lost(self, user_id: int) -> None:
        self._engine.users.forget(user_id)
        self._engine.metrics.states_lost.inc()
