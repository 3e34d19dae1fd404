"""One serving process: what it keeps, how events get in, how it starts and stops. No HTTP in here.

The durable log is the truth. Everything else follows from it:

    POST /v1/events -> log (fsync, group commit) -> states in process -> the user's slate is stale
                          |-> stream in the store (outbox) -> counters, packed states in the store

An event is answered when it is durable *and* applied, so the next feed of its user has seen it.

Policy of the slates. Every event invalidates its user's slate: the version of the state moves on
and the slate's does not. It is computed anew when it is asked for, or ahead of that while the
models have nothing else to do; never blindly once for each event.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from ml_platform.serving.clock import ServerClock
from ml_platform.serving.event_log import AppendResult, EventLog, LoggedEvent, StoredEvent
from ml_platform.serving.observers import tell
from ml_platform.serving.request_log import RequestLog
from ml_platform.serving.stages import StageMonitor
from ml_platform.serving.store import StoreUnavailableError, open_store
from shorts_recommendation.serving.computing import SlateComputer
from shorts_recommendation.serving.observers import FeedObserver
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.serving.records import UploadRecord, read_record
from shorts_recommendation.serving.settings import FeedMetrics, ServingSettings
from shorts_recommendation.serving.shared import SharedSeq
from shorts_recommendation.serving.slates import SlateCache
from shorts_recommendation.serving.stream import Consumer, Publisher
from shorts_recommendation.serving.trending import LiveTrends
from shorts_recommendation.serving.users import LiveUsers, WatchEvent, outcomes_of
from shorts_recommendation.serving.write_behind import WriteBehind

logger = logging.getLogger(__name__)

REPLAY_BATCH = 1000
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
        self.clock = ServerClock(recommender.data_end, settings.monotonic)
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
        self.ahead: OrderedDict[int, float] = OrderedDict()
        self.applied_seq = 0
        self.skipped_events = 0
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
        self.behind = WriteBehind(self.store, self._store_failed("write"))
        self.computer = SlateComputer(self)
        self.consumer = Consumer(
            self.store,
            f"{self.prefix}events",
            group=f"{GROUP}-{settings.worker}",  # counters are a process's own: each reads all
            name="server",
            handle=self._consume,
        )
        self.publisher = Publisher(
            self.log,
            self.store,
            f"{self.prefix}events",
            floor=lambda: self.consumer.applied_seq,
            on_failure=self._store_failed("publish"),
        )
        self._caught_up = False
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()
        metrics.model_installed("production", recommender.version)

    # --- events ----------------------------------------------------------------------------------

    async def append(self, records: Sequence[LoggedEvent]) -> list[AppendResult]:
        """Make records durable and apply what is new; the next feed sees it.

        Raises:
            EventConflictError, EventLogError: Nothing was stored.
        """
        done: asyncio.Future[list[AppendResult]] = self.loop.create_future()
        committed = self.log.submit(records)
        # Callbacks of the log's one writer thread keep the log's order all the way to the states.
        committed.add_done_callback(
            lambda future: self.loop.call_soon_threadsafe(self._committed, future, records, done)
        )
        return await done

    async def bring_back(self, user_id: int) -> int:
        """Read a newcomer's state that made room for others; returns the row.

        A store that is down, slow or has lost it leaves the user a stranger.
        """
        self.users.evicted.discard(user_id)
        key = f"{self.prefix}user:{user_id}"
        read = self.loop.run_in_executor(
            None, lambda: self.store.call(lambda client: client.get(key))
        )
        try:
            blob = await asyncio.wait_for(read, self.settings.store_read_ms / 1e3)
        except (TimeoutError, StoreUnavailableError):
            self.metrics.store_failures.labels("read").inc()
            blob = None
        if isinstance(blob, bytes):
            self.users.unpack(user_id, blob)
        while self.users.reassigned:
            self.slates.drop(self.users.reassigned.pop())
        return self.users.row(user_id)

    def _committed(
        self,
        committed: Future[list[AppendResult]],
        records: Sequence[LoggedEvent],
        done: asyncio.Future[list[AppendResult]],
    ) -> None:
        """On the loop: apply what was new, then let the client know."""
        error = committed.exception()
        if error is not None:
            done.set_exception(error)
            return
        results = committed.result()
        new: dict[int, StoredEvent] = {}
        for record, result in zip(records, results, strict=True):
            if not result.duplicate:
                new.setdefault(
                    result.seq,
                    StoredEvent(result.seq, record.event_id, record.received_at, record.body),
                )
        last = max(result.seq for result in results)
        self.shared.publish(last)
        if min(new, default=last) == self.applied_seq + 1:
            uploads = self._apply(list(new.values()))
        else:  # another worker's events stand between: take all from the log, in its order
            uploads = self.catch_up()
        self.publisher.wake()
        if not uploads:
            done.set_result(results)
            return
        added = self.computer.batcher.run_alone(partial(self._add_videos, uploads))
        added.add_done_callback(
            lambda future: self.loop.call_soon_threadsafe(_finish_upload, future, done, results)
        )

    def catch_up(self) -> list[UploadRecord]:
        """Apply what other workers have logged, on the loop; returns uploads, not yet added."""
        uploads: list[UploadRecord] = []
        while stored := self.log.read(self.applied_seq, REPLAY_BATCH):
            uploads += self._apply(stored)
        return uploads

    def see_other_workers(self) -> None:
        """Before a feed: with several workers, the states first become those of the whole log."""
        if self.shared.latest() > self.applied_seq:
            if uploads := self.catch_up():
                self.computer.batcher.run_alone(partial(self._add_videos, uploads))
            self.publisher.wake()

    def _apply(self, stored: Sequence[StoredEvent]) -> list[UploadRecord]:
        """Apply watch events; returns the uploads among the records, which need the models."""
        watched: list[WatchEvent] = []
        uploads: list[UploadRecord] = []
        for event in stored:
            record = read_record(event, self.video_idx)
            if isinstance(record, WatchEvent):
                self.clock.advance_to(record.time_s)
                watched.append(record)
            elif isinstance(record, UploadRecord):
                uploads.append(record)
            else:
                self.skipped_events += 1
        rows = self.users.apply(watched)
        if watched:
            self.recommender.count_exposures(np.array([e.video_idx for e in watched]))
        if watched and self._caught_up:  # what a replay applies is no news
            self._tell_events(watched, rows)
        while self.users.reassigned:
            self.slates.drop(self.users.reassigned.pop())
        for row in rows:
            self.computer.invalidated(row)
        if stored:
            self.applied_seq = max(self.applied_seq, stored[-1].seq)
        return uploads

    def _tell_events(self, watched: Sequence[WatchEvent], rows: Sequence[int]) -> None:
        if not self.observers:
            return
        duration_s = self.users.states.items.duration_s[[e.video_idx for e in watched]]
        outcomes = outcomes_of(watched, duration_s)
        known = [row if row < self.users.n_known else -1 for row in rows]
        tell(
            self.observers,
            lambda o: o.events_applied(known, outcomes),
            self.metrics.observer_failed,
        )

    def _add_videos(self, uploads: Sequence[UploadRecord]) -> list[int]:
        """On the computing thread: the uploads' vectors, then lists and pool with them in."""
        added = [self.add_video(upload) for upload in uploads]
        self.recommender.prepare(self.snapshot)
        return added

    def add_video(self, upload: UploadRecord) -> int:
        """Give an upload its vector and its place in the index; on the computing thread.

        Returns:
            Its internal index.
        """
        known = self.video_idx.get(upload.video_id)
        if known is not None:
            return known  # the bundle was trained after this upload
        index = self.recommender.add_video(
            video_id=upload.video_id,
            creator_idx=upload.creator_idx,
            tags=upload.tags,
            language=upload.language,
            duration_s=upload.duration_s,
            content=upload.content,
            # On the counters' grid, on which lists and the fresh pool are made: the one that stands
            # now has it at once, and a replay of the log comes to the same moment.
            upload_s=upload.upload_s
            - upload.upload_s % self.recommender.config.state.counter_period_s,
        )
        self.snapshot = self.trends.grow(self.recommender.catalogue)
        self.users.use_items(self.recommender.items)
        self.video_idx[upload.video_id] = index
        return index

    def _consume(self, entries: Sequence[StoredEvent]) -> None:
        """On the stream's thread: counters move, and the states go to the store as they are now."""
        records = [read_record(entry, self.video_idx) for entry in entries]
        events = [r for r in records if isinstance(r, WatchEvent)]
        self.trends.add(events)
        for user_id in {e.user_id for e in events}:
            blob = self.users.pack(user_id)
            if blob is not None:
                self.behind.put(f"{self.prefix}user:{user_id}", blob)

    def _store_failed(self, work: str) -> Any:
        def count(detail: str) -> None:
            self.metrics.store_failures.labels(work).inc()
            if (more := self.monitor.log_turn("store", work)) is not None:
                logger.warning("store: %s failed: %s (%d more before)", work, detail, more)

        return count

    # --- life ------------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why requests should go elsewhere. A store that is down is no reason: we go on without."""
        if self._caught_up:
            return []
        return [f"replaying events: {self.applied_seq} of {self.log.last_seq()}"]

    def close(self) -> None:
        """Stop threads, close log and store."""
        self._stop.set()
        self._keeper.join()
        self.publisher.close()
        self.consumer.close()
        self.computer.close()
        self.behind.close()
        self.requests.close()
        self.log.close()
        self.store.close()
        self.shared.close()

    def _keep(self) -> None:
        """Background: replay the log once, then look after the store and the counters' clock."""
        self._replay()
        self.consumer.start_at(self.applied_seq)
        self.consumer.start()
        if self.settings.worker == 0:
            self.publisher.start()
        self._caught_up = True
        while not self._stop.wait(self.settings.refresh_s):
            self.store.revive()
            if self.shared.latest() > self.applied_seq:
                self.loop.call_soon_threadsafe(self.see_other_workers)
            self._publish_trends()
            self.metrics.stream_lag.set(max(0, self.applied_seq - self.consumer.applied_seq))

    def _replay(self) -> None:
        """Everything that follows from the log, from its start; nobody is served before its end."""
        while not self._stop.is_set():
            stored = self.log.read(self.applied_seq, REPLAY_BATCH)
            if not stored:
                break
            for upload in self._uploads(stored):
                self.add_video(upload)
            self._apply(stored)
            records = [read_record(event, self.video_idx) for event in stored]
            self.trends.add([r for r in records if isinstance(r, WatchEvent)])
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

    def _uploads(self, stored: Sequence[StoredEvent]) -> list[UploadRecord]:
        records = [read_record(event, self.video_idx) for event in stored]
        return [r for r in records if isinstance(r, UploadRecord)]


def _finish_upload(
    added: Future[list[int]],
    done: asyncio.Future[list[AppendResult]],
    results: list[AppendResult],
) -> None:
    error = added.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(results)
