"""Uploads on their way from the log into the index: in order, several at once, bad ones left out.

In: upload records, in the order of the log. Out: videos in catalogue, index, counters and states.
The computing thread adds them between two batches; what is logged meanwhile waits and is added
together, for the lists are made anew once for all of them.

A record that the index cannot take is left out and counted, when it arrives and in every replay:
one bad upload must not keep a service from starting.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from shorts_recommendation.new_video import NewVideo
from shorts_recommendation.serving.records import UploadRecord

if TYPE_CHECKING:
    from shorts_recommendation.serving.engine import FeedEngine

logger = logging.getLogger(__name__)


class Uploads:
    """The uploads of one process. On the loop, but for `add`.

    Attributes:
        pending: By external id: logged and not yet in the index.
        logged: Ids that the log has seen; other videos are the bundle's own.
        refused: Ids that the index could not take, and why.

    Args:
        engine: Owns recommender, counters and states.
    """

    def __init__(self, engine: FeedEngine) -> None:
        self._engine = engine
        self.pending: dict[int, UploadRecord] = {}
        self.logged: set[int] = set()
        self.refused: dict[int, str] = {}
        self._running = False

    def collect(self, upload: UploadRecord) -> None:
        """Note an upload of the log."""
        self.logged.add(upload.video_id)
        known = self._engine.video_idx  # of the bundle, where it was trained after this upload
        if upload.video_id not in known and upload.video_id not in self.refused:
            self.pending[upload.video_id] = upload

    def start(self) -> None:
        """Add what waits, unless that is going on; before the first request, at once."""
        if self._running or not self.pending:
            return
        batch = list(self.pending.values())
        if not self._engine.caught_up:
            self.add(batch, prepare=False)
            self.pending.clear()
            return
        self._running = True
        added = self._engine.computer.batcher.run_alone(partial(self.add, batch))
        loop = self._engine.loop
        added.add_done_callback(lambda done: loop.call_soon_threadsafe(self._added, done, batch))

    def add(self, uploads: Sequence[UploadRecord], prepare: bool = True) -> None:
        """On the computing thread: vectors, then lists and pool with them in."""
        engine = self._engine
        known = engine.video_idx
        new = [u for u in uploads if u.video_id not in known]
        try:
            added = self._add(new)
        except Exception as error:  # noqa: BLE001 - one of them, or all; found one by one below
            added = {}
            for upload in new:
                added |= self._try(upload, error)
        engine.snapshot = engine.trends.grow(engine.recommender.catalogue)
        engine.users.use_items(engine.recommender.items)
        engine.video_idx.update(added)
        if prepare:
            engine.recommender.prepare(engine.snapshot)

    def _add(self, uploads: Sequence[UploadRecord]) -> dict[int, int]:
        # On the counters' grid, on which lists and the fresh pool are made: the one that stands
        # now has them at once, and a replay of the log comes to the same moment.
        period_s = self._engine.recommender.config.state.counter_period_s
        videos = [
            NewVideo(
                u.video_id,
                u.creator_idx,
                u.tags,
                u.language,
                u.duration_s,
                u.content,
                u.upload_s - u.upload_s % period_s,
            )
            for u in uploads
        ]
        ids = [u.video_id for u in uploads]
        return dict(zip(ids, self._engine.recommender.add_videos(videos), strict=True))

    def _try(self, upload: UploadRecord, first: Exception) -> dict[int, int]:
        try:
            return self._add([upload])
        except Exception as error:
            logger.exception("video %d cannot be added (%r)", upload.video_id, first)
            self.refused[upload.video_id] = f"{type(error).__name__}: {error}"
            self._engine.skip("bad_upload", upload.seq)
            return {}

    def _added(self, done: Future[None], batch: Sequence[UploadRecord]) -> None:
        self._running = False
        for upload in batch:
            self.pending.pop(upload.video_id, None)
        error = done.exception()
        if error is not None:
            logger.error("lists with the new videos could not be made", exc_info=error)
            self._engine.metrics.thread_failed("compute")
        self.start()
        self._engine.applier.settle()
        self._engine.applier.catch_up()  # what has waited for these videos
