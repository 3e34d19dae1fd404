"""Live item counts: the training events and every live event of all workers, in one counter.

In: the bundle's training events and the store's list of live events. Out: an immutable
``EventCounter``, from which the request path reads every count as of the last full minute, and the
counts of the last 30 days for the popularity fallback. Both are replaced as a whole by a background
refresh, so that a request reads them without waiting and without a lock. When the store is down the
last view stays in use; it ages, it does not fail.

Counts are exact, not sketched: the offline features count events strictly before the last full
minute, and a ranker must meet the same numbers here. The refresh once a second leaves one
difference: an event of a minute's last second may be counted a second late.

A refresh reads only what was appended since the last one. A store that was restarted empty holds
less than that; then the count starts again from the training events, so nothing counts twice.
"""

from __future__ import annotations

import threading
from typing import cast

import numpy as np

from feature_engineering.counters import EventCounter
from ml_platform.serving.store import Store
from video_recommendation.serving.protocol import Recommender
from video_recommendation.serving.state import RECORD, SECONDS_PER_DAY

WINDOW_DAYS = 30
CHUNK_EVENTS = 65_536
"""Events of one read: 1 MB, well inside the store's time limit."""


class LivePopularity:
    """Counter and 30-day counts. `refresh` is for background threads; reading is for all.

    Args:
        recommender: Supplies training events.
        store: Holds the key ``events``: `RECORD` after `RECORD`.
        prefix: Key prefix, `LiveState.prefix`.
        now: Server time at the start; the first view needs no store.
    """

    def __init__(self, recommender: Recommender, store: Store, prefix: str, now: int) -> None:
        item_idx, timestamp = recommender.training_events()
        n_items = len(recommender.catalogue.item_ids)
        self._trained = EventCounter(item_idx, timestamp, n_items=n_items)
        self._store = store
        self._key = f"{prefix}events"
        self._n_live = 0
        # The keeper and a deployment that has just installed this version may both refresh; one
        # that saw the new counter with the old `_n_live` would count the same events again.
        self._refreshing = threading.Lock()
        self.counter = self._trained
        self.counts = window_counts(self.counter, now)

    def refresh(self, now: int) -> None:
        """Replace the view; cheap when nothing is new.

        Raises:
            StoreUnavailableError: The store is down; the old view stays.
        """
        with self._refreshing:
            self._refresh(now)

    def _refresh(self, now: int) -> None:
        counter, n_live = self.counter, self._n_live
        length, new = self._read(n_live)
        if length < n_live:
            counter, n_live = self._trained, 0
            length, new = self._read(0)
        chunks = [new]
        while len(new) == CHUNK_EVENTS:
            n_live += len(new)
            _, new = self._read(n_live)
            chunks.append(new)
        events = np.concatenate(chunks)
        if len(events):
            counter = counter.extended(events["item_idx"], events["timestamp"])
        self.counter, self._n_live = counter, n_live + len(new)
        self.counts = window_counts(counter, now)

    def _read(self, offset: int) -> tuple[int, np.ndarray]:
        """Live events in the store, and up to CHUNK_EVENTS of them from ``offset`` on."""
        begin = offset * RECORD.itemsize
        end = begin + CHUNK_EVENTS * RECORD.itemsize - 1  # GETRANGE includes it

        def read(client):  # type: ignore[no-untyped-def]  # redis types a pipeline's result as Any
            with client.pipeline(transaction=True) as pipeline:
                return pipeline.strlen(self._key).getrange(self._key, begin, end).execute()

        length, raw = cast(tuple[int, bytes], self._store.call(read))
        return length // RECORD.itemsize, np.frombuffer(raw, RECORD)


def window_counts(counter: EventCounter, now: int) -> np.ndarray:
    """Events of each item in the WINDOW_DAYS before and including ``now``, f32[I]."""
    begin = now + 1 - WINDOW_DAYS * SECONDS_PER_DAY
    return counter.between(np.arange(counter.n_items), begin, now + 1).astype(np.float32)
