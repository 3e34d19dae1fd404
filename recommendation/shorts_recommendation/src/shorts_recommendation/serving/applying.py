"""From the durable log to the states, in the log's order, whichever worker wrote it.

In: records that were committed here, and the log's where others wrote it. Out: applied events; who
posted them is answered once they are durable *and* applied.

A video is added by the computing thread, so it takes a moment. Events on other videos go on
meanwhile; an event on a video that is on its way is where application stops until it has arrived:
to leave it out would lose it for good, for its number would count as applied.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ml_platform.serving.event_log import AppendResult, LoggedEvent, StoredEvent
from ml_platform.serving.observers import tell
from shorts_recommendation.serving.records import UNREADABLE, UploadRecord, read_record
from shorts_recommendation.serving.users import WatchEvent, outcomes_of

if TYPE_CHECKING:
    from shorts_recommendation.serving.engine import FeedEngine

logger = logging.getLogger(__name__)

READ_BATCH = 1000
UPLOAD_S = 2.0
"""Longest that an event waits for its video; then there is no such video."""
OTHERS_S = 0.1
"""Longest that a feed waits for what other workers have logged; then it goes on without."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    last: int
    uploads: frozenset[int]
    results: list[AppendResult]
    done: asyncio.Future[list[AppendResult]]


class Applier:
    """The one place where the log moves the states. On the loop, but for the replay before it.

    Attributes:
        applied_seq: Everything up to here is in the states.
        broken: Why events cannot be applied; empty while they can.

    Args:
        engine: Owns log, states and uploads.
    """

    def __init__(self, engine: FeedEngine) -> None:
        self._engine = engine
        self.applied_seq = 0
        self.broken = ""
        self._waiters: list[_Waiter] = []
        self._reading: asyncio.Task[None] | None = None
        self._again = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="log-reader")

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    # --- what this worker commits ----------------------------------------------------------------

    async def append(self, records: Sequence[LoggedEvent]) -> list[AppendResult]:
        """Make records durable and apply what is new.

        Raises:
            EventConflictError, EventLogError: Nothing was stored.
        """
        engine = self._engine
        done: asyncio.Future[list[AppendResult]] = engine.loop.create_future()
        committed = engine.log.submit(records)
        # Callbacks of the log's one writer thread keep the log's order all the way to the states.
        committed.add_done_callback(
            lambda future: engine.loop.call_soon_threadsafe(self._committed, future, records, done)
        )
        return await done

    def _committed(
        self,
        committed: Future[list[AppendResult]],
        records: Sequence[LoggedEvent],
        done: asyncio.Future[list[AppendResult]],
    ) -> None:
        """Apply what was new; who posted it is told, whatever happens here."""
        try:
            results = committed.result()
            last = max(result.seq for result in results)
            self._engine.shared.publish(last)
            self._waiters.append(_Waiter(last, _uploads_in(records), results, done))
            new = _new(records, results)
            if new and new[0].seq == self.applied_seq + 1 and not self.absent(new):
                self.apply(new)
            self._engine.publisher.wake()
        except Exception as error:  # noqa: BLE001 - handed to who waits for it
            if not done.done():
                done.set_exception(error)
        self.settle()
        if self._waiters:  # another worker's events stand between, or a newcomer's state is away
            self.catch_up()

    # --- what the log has ------------------------------------------------------------------------

    def catch_up(self) -> asyncio.Task[None]:
        """Read on in the log until its end, without keeping the loop; one reader at a time."""
        self._again = True
        if self._reading is None or self._reading.done():
            self._reading = self._engine.loop.create_task(self._read_on())
        return self._reading

    async def see_other_workers(self) -> None:
        """With several workers, the states first become those of the whole log."""
        latest = self._engine.shared.latest()
        if latest <= self.applied_seq:
            return
        self.catch_up()
        await self._wait(latest, frozenset(), OTHERS_S)

    async def see_uploads(self, video_ids: Iterable[int]) -> None:
        """Before events: those of these videos that are on their way first arrive in the index."""
        coming = self._engine.uploads.pending.keys() & set(video_ids)
        if coming:
            await self._wait(0, frozenset(coming), UPLOAD_S)

    async def _wait(self, last: int, uploads: frozenset[int], seconds: float) -> None:
        done: asyncio.Future[list[AppendResult]] = self._engine.loop.create_future()
        self._waiters.append(_Waiter(last, uploads, [], done))
        await asyncio.wait((done,), timeout=seconds)
        if done.done():
            done.exception()  # whoever posted the event is told; a feed goes on with what it has
        else:
            done.cancel()

    async def _read_on(self) -> None:
        engine = self._engine
        try:
            while self._again:
                self._again = False
                before = -1
                while before < self.applied_seq:
                    before = self.applied_seq
                    stored = await engine.loop.run_in_executor(
                        self._reader, engine.log.read, before, READ_BATCH
                    )
                    await engine.newcomers.bring_back_all(self.absent(stored))
                    self.apply(stored)
                    self.settle()
                engine.publisher.wake()
        except Exception as error:
            logger.exception("the log could not be applied after %d", self.applied_seq)
            self._fail(error)

    def apply(self, stored: Sequence[StoredEvent]) -> None:
        """Apply records in their order, up to an event on a video that is still being added."""
        try:
            self._apply(stored)
        except Exception as error:
            self.broken = f"events after {self.applied_seq} cannot be applied: {error!r}"
            raise
        self.broken = ""

    def _apply(self, stored: Sequence[StoredEvent]) -> None:
        engine = self._engine
        watched: list[WatchEvent] = []
        last = self.applied_seq
        for event in stored:
            if event.seq <= last:
                continue
            record = self.read(event)
            if record is None and engine.uploads.pending:
                break
            if isinstance(record, WatchEvent):
                watched.append(record)
            elif isinstance(record, UploadRecord):
                engine.uploads.collect(record)
            elif record is None:
                engine.skip("unknown_video", event.seq)
            engine.clock.advance_to(event.received_at)
            last = event.seq
        rows = engine.users.apply(watched)
        self.applied_seq = last
        if watched:
            self._tell(watched, rows)
        engine.newcomers.settle()
        for row in rows:
            engine.computer.invalidated(row)
        engine.uploads.start()

    def read(self, event: StoredEvent) -> WatchEvent | UploadRecord | str | None:
        """A record; None for an event on a video that is not there; a reason for rubbish."""
        try:
            return read_record(event, self._engine.video_idx)
        except UNREADABLE as error:
            self._engine.skip("unreadable", event.seq)
            return f"{type(error).__name__}: {error}"

    def _tell(self, watched: Sequence[WatchEvent], rows: Sequence[int]) -> None:
        engine, videos = self._engine, [e.video_idx for e in watched]
        engine.recommender.count_exposures(np.array(videos))
        if not engine.observers or not engine.caught_up:  # what a replay applies is no news
            return
        outcomes = outcomes_of(watched, engine.users.states.items.duration_s[videos])
        known = [row if row < engine.users.n_known else -1 for row in rows]
        tell(
            engine.observers,
            lambda o: o.events_applied(known, outcomes),
            engine.metrics.observer_failed,
        )

    # --- who waits -------------------------------------------------------------------------------

    def reached(self, seq: int) -> bool:
        """Whether everything up to here is applied and every upload up to here has arrived."""
        pending = self._engine.uploads.pending
        return self.applied_seq >= seq and all(u.seq > seq for u in list(pending.values()))

    def settle(self) -> None:
        """Tell whoever has waited for what is applied now."""
        pending = self._engine.uploads.pending
        left: list[_Waiter] = []
        for waiter in self._waiters:
            if waiter.done.done():  # its request was given up
                continue
            if self.applied_seq >= waiter.last and waiter.uploads.isdisjoint(pending):
                waiter.done.set_result(waiter.results)
            else:
                left.append(waiter)
        self._waiters = left

    def _fail(self, error: Exception) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done.done():
                waiter.done.set_exception(error)

    def absent(self, stored: Sequence[StoredEvent]) -> set[int]:
        """Users of these events whose state must come from the store first."""
        if not self._engine.users.evicted:
            return set()
        records = [self.read(event) for event in stored]
        return self._engine.users.absent({r.user_id for r in records if isinstance(r, WatchEvent)})


def _new(records: Sequence[LoggedEvent], results: Sequence[AppendResult]) -> list[StoredEvent]:
    """What was stored just now, once each, in the log's order."""
    new: dict[int, StoredEvent] = {}
    for record, result in zip(records, results, strict=True):
        if not result.duplicate:
            stored = StoredEvent(result.seq, record.event_id, record.received_at, record.body)
            new.setdefault(result.seq, stored)
    return list(new.values())


def _uploads_in(records: Sequence[LoggedEvent]) -> frozenset[int]:
    return frozenset(int(r.event_id[2:]) for r in records if r.event_id.startswith("u:"))
