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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shorts_recommendation.items import ItemTable
from shorts_recommendation.log import LONG_VIEW_S, SKIP_S
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.state import Outcomes

MAX_LEAVING = 4_000
"""States of 7 KB that wait for the store; beyond, the one that waited longest must be there."""
MAX_EVICTED = 200_000
"""Users whose state is looked for in the store; beyond, the one longest gone is a stranger."""


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
        evicted: Newcomers whose row made room for others, with the version that their state had.
        leaving: Their states, until the store has them (`stored`).
        reassigned: Such rows, until somebody empties the list: what is cached under them is stale.
        packed: Users and states on their way to the store, until somebody empties the list.

    Args:
        recommender: Gives the states after training.
        newcomer_rows: Rows for users that the bundle does not know.
    """

    def __init__(self, recommender: Recommender, newcomer_rows: int) -> None:
        if newcomer_rows < 1:
            raise ValueError(f"newcomer_rows must be at least 1, got {newcomer_rows}")
        self.n_known = len(recommender.users)
        self.stranger = self.n_known + newcomer_rows
        self.states = recommender.new_states(self.stranger + 1)
        self.version = np.zeros(self.stranger + 1, dtype=np.int64)
        self.lock = threading.Lock()
        self._ids: list[int] = recommender.users.user_ids.tolist()
        self._known = {user_id: row for row, user_id in enumerate(self._ids)}
        self._newcomer_of: dict[int, int] = {}
        self.evicted: OrderedDict[int, int] = OrderedDict()
        self.leaving: OrderedDict[int, bytes] = OrderedDict()
        self.reassigned: list[int] = []
        self.packed: list[tuple[int, bytes]] = []
        self._newcomers: OrderedDict[int, int] = OrderedDict()
        self._newcomer_rows = newcomer_rows
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
        rows: list[int] = []
        with self.lock:
            for begin, end in _rounds([event.user_id for event in events], self._newcomer_rows):
                part = events[begin:end]
                of_part = [self._row_for_writing(event.user_id) for event in part]
                # A state that came back from the store may have seen an event already.
                new = [i for i, r in enumerate(of_part) if part[i].seq > self.version[r]]
                if new:
                    self._apply_round([part[i] for i in new], np.array([of_part[i] for i in new]))
                rows += of_part
        return rows

    def batch(
        self, rows: np.ndarray, now_s: int
    ) -> tuple[RequestBatch, np.ndarray, list[int | None]]:
        """What B users' states say at this moment, their versions, i64[B], and whose they are."""
        with self.lock:
            batch = self.states.batch(rows, np.full(len(rows), now_s, dtype=np.int64))
            version = self.version[rows]
            users = [self.user_of(row) for row in rows.tolist()]
        user_idx = np.where(batch.user_idx < self.n_known, batch.user_idx, -1).astype(np.int32)
        return replace(batch, user_idx=user_idx), version, users

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
            False where the blob is of another layout or older than the state that made room, or
            the user has a state already.
        """
        with self.lock:
            if len(blob) != len(self._empty) or self.row(user_id) != self.stranger:
                return False
            if int(np.frombuffer(blob, np.int64, 1)[0]) < self.evicted.get(user_id, 0):
                return False
            self.leaving.pop(user_id, None)
            self._unpack(self._row_for_writing(user_id), blob)
            return True

    def absent(self, user_ids: Collection[int]) -> set[int]:
        """Those whose state made room and is in this process no more."""
        return {u for u in user_ids if u in self.evicted and u not in self.leaving}

    def come_back(self, user_id: int) -> bool:
        """Give a row to a state that has not left yet; False where there is none."""
        with self.lock:
            if user_id not in self.leaving:
                return False
            self._row_for_writing(user_id)
            return True

    def stored(self, user_id: int, blob: bytes) -> None:
        """The store has this very state: it need not be kept here."""
        with self.lock:
            if self.leaving.get(user_id) is blob:
                del self.leaving[user_id]

    def forget(self, user_id: int) -> None:
        """The user's state is nowhere: a stranger from now on."""
        with self.lock:
            self.evicted.pop(user_id, None)
            self.leaving.pop(user_id, None)

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
            blob = self.leaving.pop(user_id, self._empty)
            row = self._free.pop() if self._free else self._make_room()
            self._unpack(row, blob)
            self.evicted.pop(user_id, None)
        self._newcomers[user_id] = row  # the most recent stands last
        self._newcomer_of[row] = user_id
        return row

    def _make_room(self) -> int:
        """Take the row of the newcomer whose last event is longest ago; its state leaves."""
        user_id, row = self._newcomers.popitem(last=False)
        blob = self._pack(row)
        self.evicted[user_id] = int(self.version[row])
        self.leaving[user_id] = blob
        self.packed.append((user_id, blob))
        self.reassigned.append(row)
        if len(self.leaving) > MAX_LEAVING:
            self.leaving.popitem(last=False)
        if len(self.evicted) > MAX_EVICTED:
            self.evicted.popitem(last=False)
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


def _rounds(user_ids: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Cut into runs in which no user appears twice: a second event depends on the first.

    At most ``most`` in one: with more newcomers than rows a run would take its own rows away.
    """
    cuts: list[tuple[int, int]] = []
    begin = 0
    inside: set[int] = set()
    for i, user_id in enumerate(user_ids):
        if user_id in inside or len(inside) == most:
            cuts.append((begin, i))
            begin, inside = i, set()
        inside.add(user_id)
    return [*cuts, (begin, len(user_ids))] if user_ids else []
