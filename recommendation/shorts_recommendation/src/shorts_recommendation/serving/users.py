"""States of the users as the service keeps them: in process, with a packed copy in the store.

In: events in the order of the log. Out: batches for the recommender, and for each user a version:
the log's sequence number of the last event that its state has seen. A slate that carries the same
version was computed from this very state; that comparison is the whole cache invalidation.

*What is read on the hot path.* The arrays in this process. The packed copy in the store (one blob
a user) is written behind, for readers elsewhere and for users whose row made room. The benchmark
times both for 16 users (``serving/store/...``): the round trip comes on top of what is done with
the arrays in either case, and it is the only part that can hang.

Rows. 0..U-1 are the bundle's users, then N rows for newcomers, then one row that no event ever
reaches: the state of a stranger, by which unknown users get their cold-start list.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shorts_recommendation.items import ItemTable
from shorts_recommendation.log import LONG_VIEW_S, SKIP_S
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.state import Outcomes


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One video on one screen, as the log says it, in internal terms.

    Attributes:
        seq: Its place in the log.
        user_id: External.
        video_idx: Internal.
        time_s: Server time in the data's era.
        watch_s: Replays included.
        like, share, follow: What else the user did.
    """

    seq: int
    user_id: int
    video_idx: int
    time_s: int
    watch_s: float
    like: bool
    share: bool
    follow: bool


def outcomes_of(events: Sequence[WatchEvent], duration_s: np.ndarray) -> Outcomes:
    """The columns of E events; ``duration_s`` f32[E] of their videos (rules: log.py)."""
    watch_s = np.array([e.watch_s for e in events], dtype=np.float32)
    return Outcomes(
        watch_s=watch_s,
        long_view=watch_s >= np.minimum(duration_s, LONG_VIEW_S),
        skip=(watch_s < SKIP_S) & (watch_s < duration_s),
        like=np.array([e.like for e in events]),
        share=np.array([e.share for e in events]),
        follow=np.array([e.follow for e in events]),
    )


class LiveUsers:
    """All states of one process. Thread-safe: one lock, held for tens of microseconds.

    Attributes:
        evicted: Newcomers whose row made room for others; the store has their state.
        reassigned: Such rows, until somebody empties the list: what is cached under them is stale.

    Args:
        recommender: Gives the states after training.
        newcomer_rows: Rows for users that the bundle does not know.
    """

    def __init__(self, recommender: Recommender, newcomer_rows: int) -> None:
        self.n_known = len(recommender.users)
        self.stranger = self.n_known + newcomer_rows
        self.states = recommender.new_states(self.stranger + 1)
        self.version = np.zeros(self.stranger + 1, dtype=np.int64)
        self.lock = threading.Lock()
        self._ids: list[int] = recommender.users.user_ids.tolist()
        self._known = {user_id: row for row, user_id in enumerate(self._ids)}
        self._newcomer_of: dict[int, int] = {}
        self.evicted: set[int] = set()
        self.reassigned: list[int] = []
        self._newcomers: OrderedDict[int, int] = OrderedDict()
        self._free = list(range(self.stranger - 1, self.n_known - 1, -1))
        self._fields = tuple(
            name
            for name, value in vars(self.states).items()
            if isinstance(value, np.ndarray) and len(value) == self.stranger + 1
        )
        self._empty = self._pack(self.stranger)

    def row(self, user_id: int) -> int:
        """The user's row; the stranger's where nothing is known."""
        row = self._known.get(user_id)
        return row if row is not None else self._newcomers.get(user_id, self.stranger)

    def user_of(self, row: int) -> int | None:
        """The user of a row; None for the stranger and for a row that nobody has."""
        if row < self.n_known:
            return self._ids[row]
        return self._newcomer_of.get(row)

    def apply(self, events: Sequence[WatchEvent]) -> list[int]:
        """Move states, one event at a time for each user.

        Returns:
            Row of each event.
        """
        with self.lock:
            rows = [self._row_for_writing(event.user_id) for event in events]
            for begin, end in _rounds(rows):
                self._apply_round(events[begin:end], np.array(rows[begin:end]))
        return rows

    def batch(self, rows: np.ndarray, now_s: int) -> tuple[RequestBatch, np.ndarray]:
        """What B users' states say at this moment, and their versions, i64[B]."""
        with self.lock:
            batch = self.states.batch(rows, np.full(len(rows), now_s, dtype=np.int64))
            version = self.version[rows]
        user_idx = np.where(batch.user_idx < self.n_known, batch.user_idx, -1).astype(np.int32)
        return replace(batch, user_idx=user_idx), version

    def use_items(self, items: ItemTable) -> None:
        """Read the features of videos from a larger table, after an upload."""
        with self.lock:
            self.states.items = items

    def seen(self, row: int) -> set[int]:
        """Videos that are not to be shown to this user again."""
        return set(self.states.seen[row].tolist())

    def pack(self, user_id: int) -> bytes | None:
        """The user's state as one blob; None for a stranger."""
        with self.lock:
            row = self.row(user_id)
            return None if row == self.stranger else self._pack(row)

    def unpack(self, user_id: int, blob: bytes) -> bool:
        """Give a newcomer back the state that `pack` wrote.

        Returns:
            False where the blob is of another layout, or the user has a state already.
        """
        with self.lock:
            if len(blob) != len(self._empty) or self.row(user_id) != self.stranger:
                return False
            self._unpack(self._row_for_writing(user_id), blob)
            return True

    def unpacked(self, blob: bytes) -> tuple[int, dict[str, np.ndarray]]:
        """The version and the arrays of one user in a blob of `pack`."""
        place, arrays = 8, {}
        for name in self._fields:
            array = getattr(self.states, name)
            n = int(np.prod(array.shape[1:], dtype=np.int64))
            values = np.frombuffer(blob, array.dtype, n, place)
            arrays[name] = values.reshape(array.shape[1:])
            place += n * array.itemsize
        return int(np.frombuffer(blob, np.int64, 1)[0]), arrays

    # --- inside the lock -----------------------------------------------------------------------

    def _row_for_writing(self, user_id: int) -> int:
        row = self._known.get(user_id)
        if row is not None:
            return row
        row = self._newcomers.pop(user_id, None)
        if row is None:
            row = self._free.pop() if self._free else self._make_room()
            self._unpack(row, self._empty)
            self.evicted.discard(user_id)
        self._newcomers[user_id] = row  # the most recent stands last
        self._newcomer_of[row] = user_id
        return row

    def _make_room(self) -> int:
        """Take the row of the newcomer whose last event is longest ago."""
        user_id, row = self._newcomers.popitem(last=False)
        self.evicted.add(user_id)
        self.reassigned.append(row)
        return row

    def _apply_round(self, events: Sequence[WatchEvent], rows: np.ndarray) -> None:
        videos = np.array([e.video_idx for e in events], dtype=np.int64)
        times = np.array([e.time_s for e in events], dtype=np.int64)
        outcomes = outcomes_of(events, self.states.items.duration_s[videos])
        # An event that comes late is remembered in the order of arrival: time never runs back.
        self.states.apply(rows, videos, outcomes, np.maximum(times, self.states.last_s[rows]))
        self.version[rows] = [e.seq for e in events]

    def _pack(self, row: int) -> bytes:
        parts = [np.ascontiguousarray(getattr(self.states, f)[row]).tobytes() for f in self._fields]
        return b"".join([self.version[row : row + 1].tobytes(), *parts])

    def _unpack(self, row: int, blob: bytes) -> None:
        version, arrays = self.unpacked(blob)
        self.version[row] = version
        for name, values in arrays.items():
            getattr(self.states, name)[row] = values


def _rounds(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Cut into runs in which no row appears twice: a user's second event depends on the first."""
    cuts: list[tuple[int, int]] = []
    begin = 0
    inside: set[int] = set()
    for i, row in enumerate(rows):
        if row in inside:
            cuts.append((begin, i))
            begin, inside = i, set()
        inside.add(row)
    return [*cuts, (begin, len(rows))] if rows else []
