"""One serving process: what it keeps, how events get in, how it starts and stops. No HTTP in here.

The durable log is the truth. Everything else follows from it:

    POST /v1/events -> log (fsync, group commit) -> states in process -> the user's slate is stale
                          |-> stream in the store (outbox) -> counters, packed states in the store

An event is answered when it is durable *and* applied, so the next feed of its user has seen it.

Policy of the slates. Every event invalidates its user's slate: the version of the state moves on
and the slate's does not. It is computed anew when it is asked for, or ahead of that while the
models have nothing else to do (`ahead`); never blindly once for each event.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from ml_platform.serving.clock import ServerClock
from ml_platform.serving.event_log import AppendResult, EventLog, LoggedEvent, StoredEvent
from ml_platform.serving.looping import dead_threads, keep_going
from ml_platform.serving.request_log import RequestLog
from ml_platform.serving.stages import StageError, StageMonitor
from ml_platform.serving.store import open_store
from shorts_recommendation.serving.ahead import Ahead
from shorts_recommendation.serving.applying import Applier
from shorts_recommendation.serving.computing import SlateComputer
from shorts_recommendation.serving.newcomers import Newcomers
from shorts_recommendation.serving.observers import FeedObserver
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.serving.records import UploadRecord
from shorts_recommendation.serving.settings import FeedMetrics, ServingSettings
from shorts_recommendation.serving.shared import SharedSeq
from shorts_recommendation.serving.slates import SlateCache
from shorts_recommendation.serving.stream import Consumer, Publisher
from shorts_recommendation.serving.trending import LiveTrends
from shorts_recommendation.serving.uploads import Uploads
from shorts_recommendation.serving.users import LiveUsers, WatchEvent
from shorts_recommendation.serving.write_behind import WriteBehind

logger = logging.getLogger(__name__)

REPLAY_BATCH = 1000
MAX_LEAD_S = 60
"""By which a client's timestamp may lead the server's clock; it is taken as now."""
APPLIED_WITHIN_S = 1.0
"""For the states to reach what the stream has delivered already."""
REQUEST_LOG = "requests.jsonl"
GROUP = "features"


class FeedEngine:
    """Resources and state of one process. Public coroutines run on its loop.

    Args:
        recommender: The loaded bundle, warmed up.
        settings: How to run.
        metrics: Counts stages, answers and degradations.
        loop: The event loop that serves requests.
    """

    def __init__(
        self,
        recommender: Recommender,
        settings: ServingSettings,
        metrics: FeedMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.recommender, self.settings, self.metrics = recommender, settings, metrics
        self.config, self.loop = settings.config, loop
        self.clock = ServerClock(recommender.data_end, settings.monotonic, MAX_LEAD_S)
        self.monitor = StageMonitor(observer=metrics)
        self.observers: list[FeedObserver] = []
        self.users = LiveUsers(recommender, self.config.newcomer_rows)
        self.video_idx = {int(v): i for i, v in enumerate(recommender.catalogue.video_ids.tolist())}
        self.trends = LiveTrends(
            recommender.new_counters(),
            recommender.catalogue,
            length=self.config.trending_list,
            creator_cap=recommender.config.retrieval.creator_cap,
        )
        self.snapshot = self.trends.snapshot
        self.slates = SlateCache(self.config.slates_in_process, self.config.slate_ttl_s)
        self.ahead = Ahead(self.config, self.users.stranger + 1)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = EventLog(settings.data_dir / "events.sqlite")
        try:
            self.store = open_store(
                settings.redis_url, settings.data_dir, timeout_s=settings.store_timeout_s
            )
        except Exception:
            self.log.close()
            raise
        self.prefix = f"shorts:{recommender.version}:{self.log.log_id}:"
        self.shared = SharedSeq(
            settings.data_dir / "committed.bin", settings.workers, settings.worker
        )
        log_name = f"requests-{settings.worker}.jsonl" if settings.worker else REQUEST_LOG
        self.requests = RequestLog(settings.data_dir / log_name, count=metrics.request_logged)
        self.behind = WriteBehind(self.store, self._store_failed("write"), metrics.thread_failed)
        self.caught_up = False
        self.applier = Applier(self)
        self.uploads = Uploads(self)
        self.newcomers = Newcomers(self)
        self.computer = SlateComputer(self)
        self.consumer = Consumer(
            self.store,
            f"{self.prefix}events",
            group=f"{GROUP}-{settings.worker}",  # counters are a process's own: each reads all
            name="server",
            handle=self._count_and_store,
            fill=self._logged_between,
            thread_failed=metrics.thread_failed,
        )
        self.publisher = Publisher(
            self.log,
            self.store,
            f"{self.prefix}events",
            floor=lambda: self.consumer.applied_seq,
            on_failure=self._store_failed("publish"),
            thread_failed=metrics.thread_failed,
        )
        self._failure = ""
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()
        metrics.model_installed("production", recommender.version)

    # --- events ----------------------------------------------------------------------------------

    @property
    def applied_seq(self) -> int:
        """Everything in the log up to here is in the states."""
        return self.applier.applied_seq

    async def append(self, records: Sequence[LoggedEvent]) -> list[AppendResult]:
        """Make records durable and apply what is new; the next feed sees it.

        Raises:
            EventConflictError, EventLogError: Nothing was stored.
        """
        return await self.applier.append(records)

    async def see_other_workers(self) -> None:
        """Before a feed: with several workers, the states first become those of the whole log."""
        await self.applier.see_other_workers()

    def skip(self, reason: str, seq: int) -> None:
        """Count a record of the log that cannot be applied."""
        self.metrics.skipped.labels(reason).inc()
        if (more := self.monitor.log_turn("skip", reason)) is not None:
            logger.warning("record %d is left out: %s (%d more before)", seq, reason, more)

    def _count_and_store(self, entries: Sequence[StoredEvent]) -> None:
        """On the stream's thread: counters move, and the states go to the store as they are now.

        Raises:
            StageError: The states have not come so far yet; the entries stay pending.
        """
        self._wait_until_applied(entries[-1].seq)
        records = [self.applier.read(entry) for entry in entries]
        events = [r for r in records if isinstance(r, WatchEvent)]
        self.trends.add(events)
        if self.settings.worker == 0:  # all workers have the same states: one copy is enough
            for user_id in {e.user_id for e in events}:
                self.newcomers.keep(user_id)

    def _wait_until_applied(self, seq: int) -> None:
        """Another worker's events reach the stream before this one's states have seen them."""
        give_up_s = time.monotonic() + APPLIED_WITHIN_S
        asked = False
        while not self.applier.reached(seq):
            if not asked:
                self.loop.call_soon_threadsafe(self.applier.catch_up)
                asked = True
            if self._stop.wait(0.005) or time.monotonic() > give_up_s:
                raise StageError(f"event {seq} is not applied yet")

    def _logged_between(self, after: int, before: int) -> list[StoredEvent]:
        """What the stream has lost, from the log."""
        found: list[StoredEvent] = []
        while after < before - 1 and (stored := self.log.read(after, REPLAY_BATCH)):
            found += [event for event in stored if event.seq < before]
            after = stored[-1].seq
        self.metrics.stream_gaps.inc(len(found))
        return found

    def _store_failed(self, work: str) -> Any:
        def count(detail: str) -> None:
            self.metrics.store_failures.labels(work).inc()
            if (more := self.monitor.log_turn("store", work)) is not None:
                logger.warning("store: %s failed: %s (%d more before)", work, detail, more)

        return count

    # --- life ------------------------------------------------------------------------------------

    def replaying(self) -> str:
        """Why no request can be answered yet; empty after the replay of the log."""
        if self.caught_up:
            return ""
        state = f"replaying events: {self.applied_seq} of {self.log.last_seq()}"
        return f"{state}; {self._failure}" if self._failure else state

    def not_ready(self) -> list[str]:
        """Why requests should go elsewhere. A store that is down is no reason: we go on without."""
        if not self.caught_up:
            return [self.replaying()]
        threads = [self._keeper, self.consumer.thread, self.behind.thread]
        threads += [self.publisher.thread, self.computer.batcher.thread]
        reasons = [f"thread {name} has ended" for name in dead_threads(threads)]
        return reasons + [text for text in (self.applier.broken, self._failure) if text]

    def close(self) -> None:
        """Stop threads, close log and store."""
        self._stop.set()
        self._keeper.join()
        self.publisher.close()
        self.consumer.close()
        self.computer.close()
        self.applier.close()
        self.newcomers.close()
        self.behind.close()
        self.requests.close()
        self.log.close()
        self.store.close()
        self.shared.close()

    def _keep(self) -> None:
        """Background: replay the log once, then look after the store and the counters' clock."""
        keep_going(
            self._turn,
            name="keeper",
            stop=self._stop,
            failed=self.metrics.thread_failed,
            pause_s=self.settings.refresh_s,
        )

    def _turn(self) -> None:
        try:
            if not self.caught_up:
                self._start()
            self._stop.wait(self.settings.refresh_s)
            if not self._stop.is_set():
                self._look_after()
        except Exception as error:
            self._failure = f"keeper: {type(error).__name__}: {error}"
            raise
        self._failure = ""

    def _start(self) -> None:
        self._replay()
        if self._stop.is_set():
            return
        self.consumer.start_at(self.applied_seq)
        self.consumer.start()
        if self.settings.worker == 0:
            self.publisher.start()
        self.computer.make_first()
        self.caught_up = True

    def _look_after(self) -> None:
        self.store.revive()
        if self.shared.latest() > self.applied_seq:
            self.loop.call_soon_threadsafe(self.applier.catch_up)
        self._publish_trends()
        self.metrics.stream_lag.set(max(0, self.applied_seq - self.consumer.applied_seq))

    def _replay(self) -> None:
        """Everything that follows from the log, from its start; nobody is served before its end."""
        while not self._stop.is_set():
            stored = self.log.read(self.applied_seq, REPLAY_BATCH)
            if not stored:
                break
            for upload in map(self.applier.read, stored):
                if isinstance(upload, UploadRecord):
                    self.uploads.collect(upload)
            self.uploads.start()
            self.newcomers.bring_back_now(self.applier.absent(stored))
            self.applier.apply(stored)
            records = [self.applier.read(event) for event in stored]
            self.trends.add([r for r in records if isinstance(r, WatchEvent)])
            if self.users.leaving:
                self.behind.flush()
        self.snapshot = self.trends.advance(self.clock.now())
        self.recommender.prepare(self.snapshot)
        self.computer.find_stored()

    def _publish_trends(self) -> None:
        """A new snapshot serves once the models have made their lists of it, outside requests."""
        if self.trends.advance(self.clock.now()).as_of_s != self.snapshot.as_of_s:
            self.computer.batcher.run_alone(self._use_snapshot).result()

    def _use_snapshot(self) -> None:
        """On the computing thread, like uploads: catalogue and counters have one length there."""
        snapshot = self.trends.snapshot
        self.recommender.prepare(snapshot)
        self.snapshot = snapshot
