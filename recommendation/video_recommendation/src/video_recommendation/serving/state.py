"""Live user histories: event log -> store -> `UserState`.

The event log is the only way into the state. Live traffic and recovery run the same code:
`LiveState.apply` reads the log after the last applied sequence number and applies what it finds,
in order, with one atomic script. After a store outage, a store restart or a new bundle it simply
starts further back, so an event acknowledged while the store was down is applied when it is back.

Keys, all under ``vr:{bundle version}:{log id}:`` because positions and item indices mean something
only for that bundle and that log:

    applied          last applied seq; where there is none, the last that the bundle was trained on
    history:{user}   records of 16 bytes, appended: timestamp i64, item_idx i32, rating f32
    events           the same records, of all users: what item counts are made of

A value may hold 512 MB, 33 million events: long before, training moves on and the log is cut.

The store holds live events only. The training history comes from the bundle, which every worker
has in memory, and the two are merged at read time; so a store that is down costs the newest
events, never the whole history.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import orjson
import redis

from ml_platform.serving.event_log import EventLog, StoredEvent
from ml_platform.serving.stages import StageError
from ml_platform.serving.store import Store
from video_recommendation.serving.protocol import Recommender, UserState

logger = logging.getLogger(__name__)

HISTORY_LIMIT = 2000
"""Events of one user: 32 KB. The longest training history has 737, and must be read whole, for the
offline features see it whole."""
APPLY_BATCH = 500
SECONDS_PER_DAY = 86_400
LIKE_RATING = 5.0
WATCH_RATING = 3.5  # the middle of the upper half: watched, no opinion known
RECORD = np.dtype([("timestamp", "<i8"), ("item_idx", "<i4"), ("rating", "<f4")])

# Compare-and-set on `applied`: with several workers on one Redis only the one whose view is current
# applies a batch; the others get the true position back and read again.
# KEYS: prefix. ARGV: expected seq, new seq, history limit in bytes, seq of an empty store, then
# (user, record) pairs.
_APPLY = """
local applied = tonumber(redis.call('GET', KEYS[1] .. 'applied') or ARGV[4])
if applied ~= tonumber(ARGV[1]) then return applied end
local limit = tonumber(ARGV[3])
for i = 5, #ARGV, 2 do
  local history = KEYS[1] .. 'history:' .. ARGV[i]
  if redis.call('APPEND', history, ARGV[i + 1]) > limit then
    redis.call('SET', history, redis.call('GETRANGE', history, -limit, -1))
  end
  redis.call('APPEND', KEYS[1] .. 'events', ARGV[i + 1])
end
redis.call('SET', KEYS[1] .. 'applied', ARGV[2])
return tonumber(ARGV[2])
"""


class StateBehindError(StageError):
    """The store answers but has not caught up with the log (it was restarted empty)."""


@dataclass(frozen=True)
class EventRow:
    """One event; ids are external, a watch has the rating NaN."""

    user_id: int
    item_id: int
    timestamp: int
    rating: float


@dataclass(frozen=True)
class _Change:
    """What one event does to the store."""

    user_id: int
    record: bytes


class LiveState:
    """Histories of all users. Thread-safe.

    Args:
        recommender: Supplies item indices and training histories.
        log: Source of truth.
        store: Where the derived state lives.
        on_event_time: Told the timestamp of each applied event (moves the server's clock).
    """

    def __init__(
        self,
        recommender: Recommender,
        log: EventLog,
        store: Store,
        *,
        on_event_time: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._recommender = recommender
        self._log = log
        self._store = store
        self._on_event_time = on_event_time
        self.prefix = f"vr:{recommender.version}:{log.log_id}:"
        self._apply_lock = threading.Lock()
        self._script: redis.commands.core.Script | None = None
        # Events of this log that training has seen are in the bundle's histories and counts.
        self._floor = recommender.trained_through.get(log.log_id, 0)
        self.applied_seq = self._floor
        # The highest seq that a reader may expect to find. A store that shows less was restarted
        # empty and is being refilled.
        self._reached_seq = log.last_seq()
        self.skipped_events = 0  # their item is unknown to this bundle

    def history(self, user_id: int) -> UserState:
        """Training history of a user with the live events merged in.

        Raises:
            StoreUnavailableError: The store is down; use the bundle's own history.
            StateBehindError: The store lost what was applied; likewise, until it is replayed.
        """
        keys = (f"{self.prefix}applied", f"{self.prefix}history:{user_id}")
        expected_seq = self._reached_seq  # before the read: a batch may land in between
        values = self._store.call(lambda client: client.mget(keys))
        applied, raw = cast(list[bytes | None], values)  # redis types replies as bytes | str
        reached = self._floor if applied is None else int(applied)
        if reached < expected_seq:
            raise StateBehindError(
                f"store holds events up to {reached} of {expected_seq}; replaying"
            )
        live = np.frombuffer(raw or b"", RECORD)
        return merge_history(self._recommender.history(user_id), live)

    def apply(self, through_seq: int | None = None) -> int:
        """Apply the log to the store up to a sequence number, or to its end.

        Returns:
            The last applied sequence number.

        Raises:
            StoreUnavailableError: The store is down; call again later, nothing is lost.
        """
        if through_seq is not None and self.applied_seq >= through_seq:
            return self.applied_seq  # somebody else's batch carried it
        with self._apply_lock:
            position = self.applied_seq
            while through_seq is None or position < through_seq:
                events = self._log.read(position, APPLY_BATCH)
                reached = self._apply_batch(position, events)
                if not events and reached == position:
                    break
                position = self.applied_seq = reached
                self._reached_seq = max(self._reached_seq, reached)
            return position

    def recheck(self) -> int:
        """Ask the store where it stands, then apply what is missing. For start and recovery."""
        applied = self._store.call(lambda client: client.get(f"{self.prefix}applied"))
        with self._apply_lock:
            self.applied_seq = self._floor if applied is None else int(applied)
        return self.apply()

    def forget(self) -> None:
        """Deletes this version's keys; for one that nobody serves any more.

        Raises:
            StoreUnavailableError: The store is down; its keys went with it or stay until it ends.
        """

        def delete(client: redis.Redis) -> None:
            keys = list(client.scan_iter(match=f"{self.prefix}*", count=1000))
            for begin in range(0, len(keys), 1000):
                client.unlink(*keys[begin : begin + 1000])

        self._store.call(delete)

    def _apply_batch(self, position: int, events: list[StoredEvent]) -> int:
        """Apply one batch after `position`; returns where the store stands then."""
        changes = [self._change(event) for event in events]
        arguments: list[int | bytes] = [
            position,
            events[-1].seq if events else position,
            HISTORY_LIMIT * RECORD.itemsize,
            self._floor,
        ]
        for change in changes:
            if change is not None:
                arguments += [change.user_id, change.record]

        def run(client: redis.Redis) -> int:
            if self._script is None:
                self._script = client.register_script(_APPLY)
            return int(self._script(keys=[self.prefix], args=arguments))

        return self._store.call(run)

    def _change(self, event: StoredEvent) -> _Change | None:
        said = read_event(event)
        self._on_event_time(said.timestamp)
        item_idx = self._recommender.catalogue.item_idx(said.item_id)
        if item_idx is None:
            self.skipped_events += 1
            return None
        record = np.array([(said.timestamp, item_idx, said.rating)], RECORD).tobytes()
        return _Change(said.user_id, record)


def read_event(event: StoredEvent) -> EventRow:
    """What an event of the log says; every reader of the log, live or offline, takes it so."""
    body = orjson.loads(event.body)
    rating = {"watch": np.nan, "like": LIKE_RATING}.get(body["event_type"], body["rating"])
    timestamp = int(body.get("timestamp") or event.received_at)
    return EventRow(body["user_id"], body["item_id"], timestamp, rating)


def merge_history(trained: UserState, live: np.ndarray) -> UserState:
    """Training history plus live records, oldest first, each item once.

    An item stands where its last event put it. Its rating is the last opinion known (a rating or a
    like); a watch alone counts as `WATCH_RATING` and never replaces an opinion.

    Args:
        trained: The bundle's history, each item once.
        live: `RECORD` array in log order; rating NaN for a watch.
    """
    if not len(live):
        return _last(trained)
    item_idx = np.concatenate([trained.item_idx, live["item_idx"]])
    rating = np.concatenate([trained.rating, live["rating"]])
    timestamp = np.concatenate([trained.timestamp, live["timestamp"]])
    order = np.argsort(timestamp, kind="stable")
    item_idx, rating, timestamp = item_idx[order], rating[order], timestamp[order]
    keep = _last_positions(item_idx)
    opinion = np.flatnonzero(~np.isnan(rating))
    last_opinion = opinion[_last_positions(item_idx[opinion])]
    merged = np.full(len(keep), WATCH_RATING, np.float32)
    by_item = np.argsort(item_idx[keep])
    found = np.searchsorted(item_idx[keep], item_idx[last_opinion], sorter=by_item)
    merged[by_item[found]] = rating[last_opinion]
    return _last(UserState(item_idx[keep], merged, timestamp[keep]))


def _last_positions(item_idx: np.ndarray) -> np.ndarray:
    """Position of the last occurrence of each distinct value, ascending."""
    _, first_of_reversed = np.unique(item_idx[::-1], return_index=True)
    return np.sort(len(item_idx) - 1 - first_of_reversed)


def _last(state: UserState) -> UserState:
    if len(state) <= HISTORY_LIMIT:
        return state
    cut = slice(-HISTORY_LIMIT, None)
    return UserState(state.item_idx[cut], state.rating[cut], state.timestamp[cut])
