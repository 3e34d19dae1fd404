"""From a log of interactions to the rectangles that a sequence model reads.

In: an ``InteractionLog`` (user-major, in time order), or ``Queries`` on one. Out: ``Windows`` to
train on and ``Histories`` to answer. Both are left-padded: the newest event is always in the last
column, so that position L - 1 means "most recent" for a user with three events and for one with
three hundred. The padding item is I, the row after the catalogue, so that real items keep their
numbers.

Kang and McAuley 2018 (section III) train on each user's last L events only. Here a long history is
cut into consecutive windows from its end, so that no training event is thrown away; with
``every_window=False`` it is theirs.

Legend: W windows, B batch, L positions, Q queries, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.data.interactions import InteractionLog, Queries

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Training rectangles: column j is the input whose target stands in column j + 1.

    Attributes:
        items: i64[W, L+1], padding on the left.
        times: i64[W, L+1], Unix seconds; a padded place has the window's first time.
        n_items: I, also the padding item.
    """

    items: Int64Array
    times: Int64Array
    n_items: int

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_targets(self) -> int:
        """Positions with both an input and a target."""
        return int((self.items[:, :-1] < self.n_items).sum())


@dataclass(frozen=True)
class Histories:
    """What is known at Q requests: ragged histories, oldest first, and the time of asking.

    Attributes:
        ptr: i64[Q+1]; request q has the events ``ptr[q]:ptr[q+1]``.
        items: i64[...].
        times: i64[...], Unix seconds.
        asked: i64[Q], Unix seconds of the request.
        n_items: I.
    """

    ptr: Int64Array
    items: Int64Array
    times: Int64Array
    asked: Int64Array
    n_items: int

    def __len__(self) -> int:
        return len(self.asked)

    def batch(self, begin: int, end: int) -> Histories:
        """Requests ``begin:end`` by themselves."""
        span = slice(int(self.ptr[begin]), int(self.ptr[end]))
        ptr = self.ptr[begin : end + 1] - self.ptr[begin]
        return Histories(
            ptr, self.items[span], self.times[span], self.asked[begin:end], self.n_items
        )

    def seen(self) -> tuple[Int64Array, Int64Array]:
        """(request, item) pairs of all events, as ``top_k`` wants them."""
        return np.repeat(np.arange(len(self)), np.diff(self.ptr)), self.items

    def padded(self, length: int) -> tuple[Int64Array, Int64Array]:
        """The newest ``length`` events: items i64[Q, L] and times i64[Q, L+1].

        The last column of ``times`` is the moment of the request; see ``hstu`` for who reads it.
        """
        place = np.arange(length)[None, :] - length + self.ptr[1:, None]  # row of each cell
        inside = place >= self.ptr[:-1, None]
        if not len(self.items):
            return np.full(place.shape, self.n_items), np.repeat(self.asked[:, None], length + 1, 1)
        row = np.clip(place, 0, len(self.items) - 1)
        items = np.where(inside, self.items[row], self.n_items)
        oldest = np.where(inside, self.times[row], np.iinfo(np.int64).max).min(axis=1)
        oldest = np.minimum(oldest, self.asked)
        times = np.where(inside, self.times[row], oldest[:, None])
        return items, np.concatenate([times, self.asked[:, None]], axis=1)


def training_windows(log: InteractionLog, length: int, *, every_window: bool = True) -> Windows:
    """Cuts every user's history into windows of ``length`` targets, from the newest backwards.

    Neighbouring windows share one event: the last target of one is the first input of the next,
    so that every event but a user's first is a target exactly once.

    Args:
        log: The training rows.
        length: L, at least 1.
        every_window: False keeps each user's newest window only.

    Raises:
        ValueError: If ``length`` is below 1 or no user has two events.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    spans = []
    for begin, end in zip(log.user_ptr[:-1], log.user_ptr[1:], strict=True):
        last = int(end)
        while last - begin >= 2:
            spans.append((max(int(begin), last - length - 1), last))
            if not every_window:
                break
            last -= length
    if not spans:
        raise ValueError(f"no user has two events among the {len(log)} rows: nothing to predict")
    items = np.full((len(spans), length + 1), log.n_items, dtype=np.int64)
    times = np.empty((len(spans), length + 1), dtype=np.int64)
    for row, (first, last) in enumerate(spans):
        items[row, length + 1 - (last - first) :] = log.item_idx[first:last]
        times[row] = log.timestamp[first]
        times[row, length + 1 - (last - first) :] = log.timestamp[first:last]
    return Windows(items, times, log.n_items)


def histories_of(log: InteractionLog, queries: Queries) -> Histories:
    """The histories of ``queries``, which were made from ``log``."""
    ptr, rows = queries.history(log)
    return Histories(
        ptr,
        log.item_idx[rows].astype(np.int64),
        log.timestamp[rows],
        queries.timestamp.astype(np.int64),
        log.n_items,
    )


def frequent_items(log: InteractionLog, minimum: int) -> InteractionLog:
    """Drops items with fewer than ``minimum`` events and numbers the rest anew.

    Counted over the whole log, test events included, as the published protocols do: a small leak
    that makes the catalogue, hence the task, a little easier for every model alike.
    """
    counts = np.bincount(log.item_idx, minlength=log.n_items)
    kept = counts >= minimum
    number = np.cumsum(kept) - 1
    rest = log.select(kept[log.item_idx])
    return InteractionLog(
        user_ptr=rest.user_ptr,
        item_idx=number[rest.item_idx].astype(np.int32),
        rating=rest.rating,
        timestamp=rest.timestamp,
        user_ids=rest.user_ids,
        item_ids=rest.item_ids[kept],
    )
