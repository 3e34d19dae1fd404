"""One feed: a current slate if there is one, else the models, else the ladder.

    cache      a slate in this process whose version is that of the user's state
    store      the same from the store, where this process let it go or was restarted
    computed   retrieve, rank, re-rank, in one call with whoever else is waiting
    stale      a slate from before the last events, without what was watched since
    trending   what most people watch through of late, without what this user has seen

The first three are full answers. The last two are degraded: the models would not have made it
before the deadline (they are not even asked when the line is too long), or they failed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from ml_platform.serving.batcher import Batcher, Job
from ml_platform.serving.observers import tell
from ml_platform.serving.stages import RequestStages
from ml_platform.serving.store import StoreUnavailableError
from shorts_recommendation.serving.encodings import Encodings
from shorts_recommendation.serving.slates import CachedSlate, render_slate

if TYPE_CHECKING:
    from shorts_recommendation.serving.engine import FeedEngine

logger = logging.getLogger(__name__)

MARGIN_MS = 5.0
"""Of the deadline, for what comes after the models: rendering and writing the answer."""


@dataclass(frozen=True, slots=True)
class FeedAsk:
    """One request for a feed.

    Attributes:
        user_id: External.
        k: Videos wanted.
        holding: External ids that the client still has.
        cached: Whether a cached slate will do.
        started_s: `time.perf_counter` at arrival.
    """

    user_id: int
    k: int
    holding: tuple[int, ...]
    cached: bool
    started_s: float


@dataclass(frozen=True, slots=True)
class FeedAnswer:
    """What came of it; ``items`` are JSON objects, ``by`` is one of `settings.ANSWERS`.

    ``batch_size``: requests that shared the models' call; 0 for an answer without one.
    """

    by: str
    slate_id: str
    version: int
    video_ids: list[int]
    items: list[bytes]
    cold: bool
    stages: RequestStages
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    row: int
    user_id: int | None
    """Who had the row then; None for the stranger."""
    holding: tuple[int, ...]
    keep: bool
    asked_s: float | None
    """When it was asked for; None for a slate made ahead."""


class SlateComputer:
    """Slates of one process: the cache, the line before the models, the ladder below them.

    Args:
        engine: Owns states, counters, store and recommender.
    """

    def __init__(self, engine: FeedEngine) -> None:
        self._engine = engine
        config = engine.config
        self._length = max(config.slate_length, config.prefetch)
        self._numbers = itertools.count()
        self._inflight: dict[int, tuple[int, Job[_Task, CachedSlate | None]]] = {}
        self._stored: set[int] = set()  # rows whose slate the store may have
        self._batch_ms = 0.0  # of a call of the models, decayed
        self._encodings = Encodings(engine.users.stranger + 1, engine.recommender.encode)
        self._sources = tuple(engine.recommender.source_names())
        self.batcher: Batcher[_Task, CachedSlate | None] = Batcher(
            self._compute,
            max_batch=config.max_batch,
            wait_ms=config.batch_wait_ms,
            loop=engine.loop,
            spare=self._spare,
            spare_waits=lambda: len(engine.ahead) > 0,
            on_spare=self._keep,
            thread_start=engine.settings.thread_start,
            thread_failed=engine.metrics.thread_failed,
        )

    def close(self) -> None:
        """Stop computing."""
        self.batcher.close()

    def encoded(self) -> int:
        """Histories encoded so far: once for each event that a feed followed."""
        return self._encodings.encoded

    # --- one request, on the loop ----------------------------------------------------------------

    async def answer(self, ask: FeedAsk) -> FeedAnswer:
        """The next videos of a user."""
        engine = self._engine
        stages = RequestStages(
            engine.monitor, deadline_ms=engine.config.deadline_ms, started=ask.started_s
        )
        row = engine.users.row(ask.user_id)
        if row == engine.users.stranger and ask.user_id in engine.users.evicted:
            if not await engine.newcomers.bring_back(ask.user_id):
                detail = f"no state after {engine.settings.store_read_ms:g} ms"
                stages.degrade("state", "timeout", detail)
            row = engine.users.row(ask.user_id)
        engine.ahead.answered(row)
        if ask.cached:
            version = int(engine.users.version[row])
            slate = engine.slates.current(row, version, ask.started_s)
            if slate is not None and (answer := self._full(ask, "cache", row, slate, stages)):
                return answer
            if row in self._stored and engine.slates.peek(row) is None:
                slate = await self._from_store(ask.user_id, row, version, stages)
                if slate is not None and (answer := self._full(ask, "store", row, slate, stages)):
                    return answer
        computed = await self._computed(ask, row, stages)
        return computed or self._stale(ask, row, stages) or self._trending(ask, row, stages)

    def _full(
        self, ask: FeedAsk, by: str, row: int, slate: CachedSlate, stages: RequestStages
    ) -> FeedAnswer | None:
        """An answer of k videos; None where the slate does not hold so many any more."""
        ids, items = slate.take(ask.k, ask.holding)
        if len(ids) < ask.k and len(slate.items) >= ask.k:
            return None
        cold = row == self._engine.users.stranger
        return FeedAnswer(by, slate.slate_id, slate.version, ids, items, cold, stages)

    async def _computed(self, ask: FeedAsk, row: int, stages: RequestStages) -> FeedAnswer | None:
        job = self._job(ask, row, stages)
        if job is None:
            return None
        left_s = max(0.0, stages.deadline_ms - MARGIN_MS - stages.elapsed_ms()) / 1e3
        # The job goes on when this request gives up: its slate serves the next one.
        await asyncio.wait((job.future,), timeout=left_s)
        error = job.future.exception() if job.future.done() else None
        if isinstance(error, Exception):
            stages.degrade("recommend", "error", type(error).__name__, defect=error)
            return None
        slate = job.future.result() if job.future.done() else None
        if slate is None:
            stages.degrade("recommend", "timeout", f"no slate after {stages.elapsed_ms():.0f} ms")
            return None
        stages.stages_ms["queue"] = (job.started_s - ask.started_s) * 1e3
        stages.stages_ms.update(slate.stage_ms)
        ids, items = slate.take(ask.k, ask.holding)
        cold = row == self._engine.users.stranger
        return FeedAnswer(
            *("computed", slate.slate_id, slate.version, ids, items, cold, stages, slate.batch_size)
        )

    def _job(
        self, ask: FeedAsk, row: int, stages: RequestStages
    ) -> Job[_Task, CachedSlate | None] | None:
        """A place in the line, shared by equal requests; None when the line is too long."""
        engine, version = self._engine, int(self._engine.users.version[row])
        shared = self._inflight.get(row) if ask.cached and not ask.holding else None
        if shared is not None and shared[0] == version and not shared[1].future.done():
            return shared[1]
        waiting = self.batcher.waiting()
        wait_ms = (waiting / engine.config.max_batch + 1) * self._batch_ms
        left_ms = stages.deadline_ms - MARGIN_MS - stages.elapsed_ms()
        if waiting >= engine.config.max_waiting or wait_ms > left_ms:
            detail = f"{waiting} wait, {wait_ms:.0f} ms to go, {left_ms:.0f} ms left"
            stages.degrade("recommend", "budget", detail)
            return None
        task = _Task(row, engine.users.user_of(row), ask.holding, ask.cached, ask.started_s)
        job = self.batcher.submit(task, expires_s=time.perf_counter() + left_ms / 1e3)
        if ask.cached and not ask.holding:
            self._inflight[row] = (version, job)
            job.future.add_done_callback(lambda _: self._landed(row, job))
        return job

    def _landed(self, row: int, job: Job[_Task, CachedSlate | None]) -> None:
        if self._inflight.get(row, (0, None))[1] is job:
            del self._inflight[row]
        if not job.future.cancelled() and job.future.exception() is None:
            slate = job.future.result()
            if slate is not None:
                self._keep([job.task], [slate])

    def _stale(self, ask: FeedAsk, row: int, stages: RequestStages) -> FeedAnswer | None:
        engine = self._engine
        slate = engine.slates.any(row)
        if slate is None:
            return None
        known = engine.recommender.catalogue.video_ids
        watched = {int(known[v]) for v in engine.users.seen(row) if v >= 0}
        ids, items = slate.take(ask.k, watched.union(ask.holding))
        if not ids:
            return None
        cold = row == engine.users.stranger
        return FeedAnswer("stale", slate.slate_id, slate.version, ids, items, cold, stages)

    def _trending(self, ask: FeedAsk, row: int, stages: RequestStages) -> FeedAnswer:
        engine = self._engine
        known = engine.recommender.catalogue.video_ids
        without = engine.users.seen(row).union(
            engine.video_idx[v] for v in ask.holding if v in engine.video_idx
        )
        ids = known[engine.trends.top(ask.k, without)].tolist() if engine.trends.videos else []
        items = [
            orjson.dumps(
                {
                    "video_id": video_id,
                    "value": 0.0,
                    "sources": ["trending"],
                    "reason": "trending",
                    "propensity": 1.0,
                }
            )
            for video_id in ids
        ]
        version = int(engine.users.version[row])
        cold = row == engine.users.stranger
        return FeedAnswer("trending", "trending", version, ids, items, cold, stages)

    # --- the cache and its copy in the store -----------------------------------------------------

    def invalidated(self, row: int) -> None:
        """The row's state has moved on: what is cached is stale, perhaps worth computing ahead."""
        engine = self._engine
        if engine.slates.peek(row) is not None and engine.ahead.watched(row):
            self.batcher.nudge()

    def forget(self, row: int) -> None:
        """The row belongs to somebody else now: nothing of its last user may be found under it."""
        self._engine.slates.drop(row)
        self._stored.discard(row)
        self._inflight.pop(row, None)
        self._engine.ahead.forget(row)

    def find_stored(self) -> None:
        """Note which users' slates the store kept over a restart."""
        prefix = f"{self._engine.prefix}slate:"
        try:
            keys = self._engine.store.call(
                lambda client: list(client.scan_iter(match=f"{prefix}*", count=1000))
            )
        except StoreUnavailableError:
            return
        self._stored.update(self._engine.users.row(int(key[len(prefix) :])) for key in keys)

    def make_first(self) -> None:
        """After the start: slates of the known users that the store does not have, busiest first.

        Nobody waits for them: a feed that is asked for before its slate is made is computed.
        """
        engine = self._engine
        if not engine.config.compute_ahead:
            return
        events = engine.users.states.n_events[: engine.users.n_known]
        busiest = np.argsort(-events, kind="stable")[: engine.config.ahead_at_start]
        engine.ahead.start(row for row in busiest.tolist() if row not in self._stored)
        self.batcher.nudge()

    async def _from_store(
        self, user_id: int, row: int, version: int, stages: RequestStages
    ) -> CachedSlate | None:
        engine = self._engine
        begin = time.perf_counter()
        self._stored.discard(row)
        read = engine.loop.run_in_executor(None, self._read_stored, user_id)
        try:
            blob = await asyncio.wait_for(read, engine.settings.store_read_ms / 1e3)
            slate = CachedSlate.from_blob(blob) if blob else None
        except TimeoutError:
            stages.degrade("store", "timeout", f"no answer in {engine.settings.store_read_ms} ms")
            return None
        except (StoreUnavailableError, ValueError) as error:
            stages.degrade("store", "error", str(error))
            return None
        stages.stages_ms["store"] = (time.perf_counter() - begin) * 1e3
        if slate is None or slate.version != version:
            return None
        engine.slates.put(row, slate)
        return engine.slates.current(row, version, time.perf_counter())

    def _read_stored(self, user_id: int) -> bytes | None:
        key = f"{self._engine.prefix}slate:{user_id}"
        blob = self._engine.store.call(lambda client: client.get(key))
        return blob if isinstance(blob, bytes) else None

    def _keep(self, tasks: Sequence[_Task], slates: Sequence[CachedSlate | None]) -> None:
        """On the loop: a computed slate goes into the cache, and behind it to the store."""
        engine = self._engine
        for task, slate in zip(tasks, slates, strict=True):
            if not task.keep or slate is None or engine.users.user_of(task.row) != task.user_id:
                continue
            engine.slates.put(task.row, slate)
            user_id = task.user_id
            if user_id is not None:
                self._stored.add(task.row)
                ttl_s = int(engine.config.slate_ttl_s)
                engine.behind.put(f"{engine.prefix}slate:{user_id}", slate.to_blob(), ttl_s)

    # --- the models, on the computing thread -----------------------------------------------------

    def _spare(self) -> list[_Task]:
        """Slates that nobody has asked for yet, when making them is worth it."""
        engine = self._engine
        tasks: list[_Task] = []
        while not tasks and (rows := engine.ahead.take()):
            for row in rows:
                slate = engine.slates.peek(row)
                if slate is None or slate.version != engine.users.version[row]:
                    tasks.append(_Task(row, engine.users.user_of(row), (), True, None))
        engine.metrics.compute_ahead.inc(len(tasks))
        return tasks

    def _compute(self, tasks: Sequence[_Task]) -> list[CachedSlate | None]:
        engine = self._engine
        begin = time.perf_counter()
        rows = np.array([task.row for task in tasks], dtype=np.int64)
        batch, versions, users = engine.users.batch(rows, engine.clock.now())
        state_ms = (time.perf_counter() - begin) * 1e3
        encoded = self._encodings.of(rows, versions, batch)
        encode_ms = (time.perf_counter() - begin) * 1e3 - state_ms
        slates = engine.recommender.recommend(
            *(batch, engine.snapshot, self._length),
            recent=self._recent(tasks),
            encoded=encoded,
        )
        tell(
            engine.observers,
            lambda o: o.slates_made(batch, engine.snapshot, slates, [t.asked_s for t in tasks]),
            engine.metrics.observer_failed,
        )
        made_s = time.perf_counter()
        rendered = [
            render_slate(
                slate,
                slate_id=f"{row}-{next(self._numbers)}",
                version=version,
                made_s=made_s,
                video_ids=engine.recommender.catalogue.video_ids,
                source_names=self._sources,
            )
            for slate, row, version in zip(slates, rows.tolist(), versions.tolist(), strict=True)
        ]
        self._timed(rendered, begin, {"state": state_ms, "encode": encode_ms})
        # A row that changed hands while the request waited holds somebody else's state.
        return [
            slate if user_id == task.user_id else None
            for slate, task, user_id in zip(rendered, tasks, users, strict=True)
        ]

    def _timed(self, slates: Sequence[CachedSlate], begin: float, own_ms: dict[str, float]) -> None:
        batch_ms = (time.perf_counter() - begin) * 1e3
        self._batch_ms = batch_ms if not self._batch_ms else 0.9 * self._batch_ms + 0.1 * batch_ms
        own_ms = {**slates[0].stage_ms, **own_ms, "compute": batch_ms}
        metrics = self._engine.metrics
        metrics.batch_size.observe(len(slates))
        for stage, ms in own_ms.items():
            metrics.stage_finished(stage, ms)
        for slate in slates:
            slate.stage_ms, slate.batch_size = own_ms, len(slates)

    def _recent(self, tasks: Sequence[_Task]) -> np.ndarray:
        """What the clients still hold, i32[B, R]."""
        known = self._engine.video_idx
        held = [[known[v] for v in task.holding if v in known] for task in tasks]
        recent = np.full((len(tasks), max((len(h) for h in held), default=0)), -1, dtype=np.int32)
        for i, videos in enumerate(held):
            recent[i, : len(videos)] = videos
        return recent
