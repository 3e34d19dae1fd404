"""Point-in-time event counts: how often was item i interacted with in [begin, end)?

In: all events so far, item_idx i32[N] and timestamp i64[N]. Out: counts for any (item, interval),
exact, in O(log N) each and without a loop. It serves two readers with one definition:

- training asks for a million historical (item, moment) pairs at once;
- serving asks for a few hundred items at one moment.

Two ways to get this wrong, both common. Counting over the whole data set leaks the future into
training rows. Counting exactly to the second in training while the online counter is refreshed
once a minute gives the model fresher numbers than it will ever see: so both sides ask for the
count "as of the last full tick" (``as_of``), which an online counter with a refresh of one tick can
always give.

The trick: sort the events by (item, time), as one int64 key ``item * span + (time - origin)``. The
number of events of item i before time t is then the position of key (i, t) less the position of
key (i, 0), two binary searches.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

KEPT_ANSWERS = 8
TICK_S = 60
"""Counters are closed once a minute, in training as in serving."""


def as_of(now: npt.NDArray[np.int64] | int) -> Int64Array:
    """The last full tick at or before ``now`` (Unix s): counts take events strictly before it."""
    return np.asarray(now, dtype=np.int64) // TICK_S * TICK_S


class EventCounter:
    """Immutable counts of item events; ``extended`` gives a new counter with more events."""

    def __init__(
        self, item_idx: npt.NDArray[np.int32], timestamp: Int64Array, *, n_items: int
    ) -> None:
        """Sorts the events. O(N log N).

        Args:
            item_idx: Item of each event [N], in 0..n_items - 1.
            timestamp: Unix seconds [N], any order.
            n_items: Catalogue size I.

        Raises:
            ValueError: if shapes differ or an item is outside the catalogue.
        """
        if item_idx.shape != timestamp.shape:
            raise ValueError(f"{item_idx.shape} items and {timestamp.shape} timestamps")
        if len(item_idx) and not (item_idx.min() >= 0 and item_idx.max() < n_items):
            raise ValueError(
                f"item indices {item_idx.min()}..{item_idx.max()} outside a catalogue of {n_items}"
            )
        self.n_items = n_items
        self._item_idx, self._timestamp = item_idx, timestamp
        self._origin = int(timestamp.min()) if len(timestamp) else 0
        self._span = int(timestamp.max()) - self._origin + 2 if len(timestamp) else 2
        self._keys = np.sort(item_idx.astype(np.int64) * self._span + (timestamp - self._origin))
        self._answers: dict[tuple[int, int], Int64Array] = {}
        self._first_row = np.searchsorted(self._keys, np.arange(n_items + 1) * self._span)

    def __len__(self) -> int:
        return len(self._keys)

    def before(self, item_idx: npt.NDArray[np.integer], end: Int64Array | int) -> Int64Array:
        """Events of each item with t < end. Shapes of both broadcast; returns i64 of that shape."""
        # Clipping keeps a far moment inside the item's own run of keys.
        offset = np.clip(np.asarray(end, dtype=np.int64) - self._origin, 0, self._span - 1)
        keys = item_idx.astype(np.int64) * self._span + offset
        return np.searchsorted(self._keys, keys) - self._first_row[item_idx]

    def between(
        self, item_idx: npt.NDArray[np.integer], begin: Int64Array | int, end: Int64Array | int
    ) -> Int64Array:
        """Events of each item with begin <= t < end."""
        return self.before(item_idx, end) - self.before(item_idx, begin)

    def of_all(self, begin: int, end: int) -> Int64Array:
        """Events of every item with begin <= t < end, i64[I]; the last few answers are kept.

        All requests between two full hours ask the same, and a counter never changes.
        """
        counts = self._answers.get((begin, end))
        if counts is None:
            counts = self.between(np.arange(self.n_items), begin, end)
            counts.setflags(write=False)
            if len(self._answers) >= KEPT_ANSWERS:  # another thread may have just read them
                self._answers = {}
            self._answers[begin, end] = counts
        return counts

    @cached_property
    def first_event(self) -> Int64Array:
        """i64[I]: time of each item's first event; the largest int64 where it has none."""
        has_events = np.diff(self._first_row) > 0
        first = np.full(self.n_items, np.iinfo(np.int64).max)
        rows = self._first_row[:-1][has_events]
        first[has_events] = self._keys[rows] % self._span + self._origin
        return first

    def extended(self, item_idx: npt.NDArray[np.int32], timestamp: Int64Array) -> EventCounter:
        """A counter that also holds these events. O(N); meant for a refresh once a tick."""
        return EventCounter(
            np.concatenate([self._item_idx, item_idx]),
            np.concatenate([self._timestamp, timestamp]),
            n_items=self.n_items,
        )
