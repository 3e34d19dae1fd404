"""What one serving process holds: the searcher, two lanes of work, the decoders, the journal.

In: checked queries and encoded pictures, on the event loop. Out: ``Found``: an answer with the
milliseconds of its stages. Work runs on threads of its own; the loop only reads, waits and writes:

    picture -> decoders -> lane "picture": embed together, search together
    text, item -> lane "light": no network for pictures, so it never waits behind one

A lane is the platform's ``Batcher``: one thread, jobs that gather while it is busy share its next
call. Searches and changes of the catalogue take turns by one lock; embedding needs none.

Overload is answered at once (503, Retry-After): when a line is full, when the bytes held pass their
limit, when a deadline passes. A job whose deadline has passed is dropped before it is computed.

A ranker, a personalisation or a page that fails has a fallback (``fallbacks``), which the answer
names and the metrics count, once for each answer. An index that fails has none: 503.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from image_search.images.decoding import Limits
from image_search.searcher import Ask, Searcher, TextUnavailableError
from image_search.serving.decoder import Decoder
from image_search.serving.journal import Added, Change, Clicked, Deleted, Journal
from image_search.serving.metrics import SearchMetrics
from image_search.serving.queries import Query, position_of
from image_search.serving.settings import (
    Found,
    Observer,
    OverloadedError,
    ServingSettings,
    TakenError,
    UnreadableError,
)
from image_search.serving.uploads import Held
from ml_platform.serving.batcher import Batcher
from ml_platform.serving.event_log import EventConflictError
from ml_platform.serving.looping import dead_threads
from ml_platform.serving.observers import tell
from ml_platform.serving.stages import Degradation, StageMonitor

logger = logging.getLogger(__name__)

FETCHERS = 2


class SearchEngine:
    """See the module. Everything public runs on the event loop.

    Args:
        searcher: Loaded and warm.
        settings: Limits, folder, token.
        metrics: The service's series.
        loop: The event loop.
    """

    def __init__(
        self,
        searcher: Searcher,
        settings: ServingSettings,
        metrics: SearchMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.searcher, self.settings, self.metrics = searcher, settings, metrics
        # Without an observer: the stages of a batch are told apart by answer in ``_note``.
        searcher.monitor = StageMonitor()
        self.config = config = settings.config
        self.started_s = time.time()
        self.observers: list[Observer] = []
        self.held = Held(config.uploads_held_bytes, metrics.held.set)
        limits = Limits(config.upload_bytes, config.upload_pixels)
        self.decoder = Decoder(config.decoders, config.max_waiting, limits, settings.side)
        self._lock = threading.Lock()  # a search, or a change of what is searched
        self._changes = asyncio.Lock()  # one change at a time, from its check to its effect
        self._n_added, self._n_bundle = 0, len(searcher.catalogue)
        self.fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self.journal = Journal(settings.state_dir)
        for change in self.journal.read():
            self._replay(change)
        metrics.items.set(int(searcher.catalogue.alive.sum()))
        common: dict[str, Any] = {"max_batch": config.max_batch, "loop": loop}
        failed = metrics.observer_failed
        self._lanes: dict[str, Batcher[Query, Any]] = {
            "picture": Batcher(
                self._pictures, wait_ms=config.wait_ms, thread_failed=failed, **common
            ),
            "light": Batcher(self._light, wait_ms=0.0, thread_failed=failed, **common),
        }

    # --- searching --------------------------------------------------------------------------------

    async def search(self, query: Query, within_s: float) -> Found:
        """Answers one query whose picture, if it has one, is decoded.

        Raises:
            OverloadedError: If the line is full, or the deadline passes.
            TextUnavailableError: For a text without a text tower.
            UnreadableError: For a text that names nothing the text tower knows.
            RetrievalError: If the index fails.
            KeyError: For an item that is not there.
        """
        if query.kind == "item":
            self.searcher.catalogue.living_row(query.item_id)
        if query.kind == "text" and self.searcher.text is None:  # not in the lane: others share it
            raise TextUnavailableError("this bundle has no text embedding: search by picture")
        lane = self._lanes["picture" if query.picture is not None else "light"]
        if lane.waiting() >= self.config.max_waiting:
            raise OverloadedError(f"{lane.waiting()} queries are in line; retry later")
        job = lane.submit(query, expires_s=time.perf_counter() + within_s)
        try:
            found = await asyncio.wait_for(job.future, max(within_s, 0.001))
        except TimeoutError:
            found = None
        if found is None:
            raise OverloadedError("not answered in time; retry later")
        if isinstance(found, ValueError):
            raise UnreadableError(str(found))
        queue_ms = (job.started_s - job.submitted_s) * 1e3
        found = replace(found, stages_ms={"queue": queue_ms, **found.stages_ms})
        self._note(query, found)
        return found

    def _note(self, query: Query, found: Found) -> None:
        metrics, answer = self.metrics, found.answer
        metrics.queries.labels(query.kind).inc()
        metrics.duplicates.inc(answer.duplicates)
        metrics.ignored.inc(len(found.ignored))
        for one in answer.degradations:
            stage, _, why = one.partition(":")
            metrics.stage_degraded(Degradation(stage, why, ""))
        if len(answer.rows):
            space = "text" if query.kind == "text" else "image"
            metrics.best.labels(space).observe(float(answer.similarity.max()))
        else:
            metrics.empty.labels(query.kind).inc()
        for stage, elapsed_ms in found.stages_ms.items():
            metrics.stage_finished(stage, elapsed_ms)
        tell(self.observers, lambda observer: observer.saw(query, found), metrics.observer_failed)

    def _pictures(self, queries: Sequence[Query]) -> list[Found]:
        begin = time.perf_counter()
        vectors = self.searcher.embed_images([q.picture for q in queries if q.picture is not None])
        embed_ms = (time.perf_counter() - begin) * 1e3
        asks = [self._ask(query, vectors[n]) for n, query in enumerate(queries)]
        return self._searched("picture", asks, embed_ms)

    def _light(self, queries: Sequence[Query]) -> list[Found | ValueError]:
        begin = time.perf_counter()
        texts = [n for n, query in enumerate(queries) if query.kind == "text"]
        embedded = self._embed_texts([queries[n].text for n in texts]) if texts else []
        vectors = dict(zip(texts, embedded, strict=True))
        embed_ms = (time.perf_counter() - begin) * 1e3
        found: list[Found | ValueError | None] = [None] * len(queries)
        asks: dict[int, Ask] = {}
        for n, query in enumerate(queries):
            vector = vectors.get(n)
            if isinstance(vector, ValueError):
                found[n] = vector
            elif vector is not None:
                asks[n] = self._ask(query, vector)
            else:
                row = self.searcher.catalogue.row_of[query.item_id]
                asks[n] = self._ask(query, self.searcher.spaces["image"].vectors[row], row)
        answers = self._searched("light", list(asks.values()), embed_ms) if asks else []
        for n, one in zip(asks, answers, strict=True):
            text = queries[n].text  # "" of an item
            found[n] = replace(one, ignored=self.searcher.ignored_words(text)) if text else one
        return [one for one in found if one is not None]

    def _embed_texts(self, texts: Sequence[str]) -> list[np.ndarray | ValueError]:
        """A vector each, or why a text cannot be read: the others are not to suffer for it."""
        try:
            return list(self.searcher.embed_texts(texts))
        except ValueError as error:
            if len(texts) == 1:
                return [error]
        return [self._embed_texts([text])[0] for text in texts]

    def _ask(self, query: Query, vector: np.ndarray, own_row: int = -1) -> Ask:
        return Ask(
            vector=vector,
            space="text" if query.kind == "text" else "image",
            k=query.k,
            filters=query.filters,
            user_id=query.user_id,
            own_row=own_row,
            diversity=query.diversity,
        )

    def _searched(self, lane: str, asks: Sequence[Ask], embed_ms: float) -> list[Found]:
        self.metrics.batch.labels(lane).observe(len(asks))
        begin = time.perf_counter()
        with self._lock:
            locked = time.perf_counter()
            answers = self.searcher.search(asks)
            stages = {name: s * 1e3 for name, s in self.searcher.stage_seconds.items()}
        end = time.perf_counter()
        stages = {"embed": embed_ms, "lock": (locked - begin) * 1e3, **stages}
        stages["search"] = (end - locked) * 1e3
        return [
            Found(answer, ask.vector, stages, len(asks))
            for ask, answer in zip(asks, answers, strict=True)
        ]

    # --- changes ----------------------------------------------------------------------------------

    async def add(self, added: Added) -> bool:
        """Adds an item; durable, and found by the next search, when this returns.

        Returns:
            Whether this very item was there before (a retry).

        Raises:
            TakenError: If the id belongs to something else, or did.
            OverloadedError: If the catalogue has taken all it may.
            EventLogError: If the journal cannot be written; nothing was added.
        """
        rows = self.searcher.catalogue.row_of
        async with self._changes:
            if rows.get(added.item_id, self._n_bundle) < self._n_bundle:
                raise TakenError("belongs to an item of the bundle, or did: ids are used once")
            if added.item_id not in rows and self._n_added >= self.config.most_added:
                raise OverloadedError(f"{self._n_added} items were added: build the bundle anew")
            try:
                result = await self.journal.append(added)
            except EventConflictError:
                raise TakenError("belongs to another item, or did: ids are used once") from None
            if added.item_id not in rows:
                await self._on_lane(lambda: self._apply_add(added))
                self.metrics.changes.labels("add").inc()
                self.metrics.items.inc()
        if not self.searcher.catalogue.alive[rows[added.item_id]]:
            raise TakenError("was deleted: ids are used once")
        return result.duplicate

    async def delete(self, item_id: int) -> None:
        """Takes an item away; durable, and found by no later search, when this returns.

        Raises:
            KeyError: If there is none, or it is gone.
            EventLogError: If the journal cannot be written; nothing was deleted.
        """
        async with self._changes:
            self.searcher.catalogue.living_row(item_id)
            await self.journal.append(Deleted(item_id))
            await self._on_lane(lambda: self._apply_delete(item_id))
            self.metrics.changes.labels("delete").inc()
            self.metrics.items.dec()

    async def click(self, click: Clicked) -> bool:
        """Notes that a user opened an item; returns whether this event was known already.

        Raises:
            KeyError: If there is no such item.
            EventConflictError: If the event's id stands for another click.
            EventLogError: If the journal cannot be written.
        """
        row = self.searcher.catalogue.living_row(click.item_id)
        result = await self.journal.append(click)
        if not result.duplicate:
            await asyncio.to_thread(self._tell_click, click, row)
        self.metrics.events.labels("duplicate" if result.duplicate else "accepted").inc()
        return result.duplicate

    def id_of(self, content: bytes) -> int:
        """An id for an item that names none, by its content: the same upload again is the same."""
        digest = hashlib.blake2b(content, digest_size=6).digest()
        return (1 << 48) + int.from_bytes(digest, "big")

    async def _on_lane(self, work: Callable[[], int]) -> int:
        row: int = await asyncio.wrap_future(self._lanes["picture"].run_alone(work))
        return row

    def _apply_add(self, added: Added) -> int:
        label = position_of(added.category, self.searcher.catalogue.label_names)
        with self._lock:
            self._n_added += 1
            return self.searcher.add(added.item_id, added.picture, label, added.price)

    def _apply_delete(self, item_id: int) -> int:
        with self._lock:
            row = self.searcher.catalogue.living_row(item_id)
            self.searcher.delete(item_id)
            return row

    def _tell_click(self, click: Clicked, row: int) -> None:
        if self.settings.on_click is not None:
            with self._lock:  # searches read what a click changes
                self.settings.on_click(click.user_id, row, click.at_s)

    def _replay(self, change: Change) -> None:
        """Applies a record of the journal, unless the bundle knows of it already."""
        catalogue = self.searcher.catalogue
        if isinstance(change, Added):
            if change.item_id not in catalogue.row_of:
                self._apply_add(change)
        elif isinstance(change, Deleted):
            row = catalogue.row_of.get(change.item_id)
            if row is not None and catalogue.alive[row]:
                self._apply_delete(change.item_id)
        elif change.item_id in catalogue.row_of:
            self._tell_click(change, catalogue.row_of[change.item_id])

    # --- operations -------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why requests should go elsewhere."""
        return [f"thread {name} has ended" for name in dead_threads(self._threads())]

    def describe(self) -> dict[str, object]:
        """Extra fields of ``/v1/version``."""
        catalogue = self.searcher.catalogue
        return {
            "version": self.searcher.version,
            "items": int(catalogue.alive.sum()),
            "added": self._n_added,
            "embedding": self.searcher.embedder.name,
            "dimensions": self.searcher.embedder.dim,
            "text": self.searcher.text is not None,
            "pid": os.getpid(),
        }

    def lanes(self) -> dict[str, dict[str, float]]:
        """Batches, seconds busy, dropped and waiting jobs of each lane."""
        return {
            name: {
                "batches": lane.batches,
                "busy_s": round(lane.busy_s, 3),
                "dropped": lane.dropped,
                "waiting": lane.waiting(),
            }
            for name, lane in self._lanes.items()
        }

    def close(self) -> None:
        """Ends the threads; what is in their hands is finished."""
        for lane in self._lanes.values():
            lane.close()
        self.decoder.close()
        self.fetchers.shutdown(wait=False, cancel_futures=True)
        self.journal.close()

    def _threads(self) -> list[threading.Thread]:
        return [lane.thread for lane in self._lanes.values()]
