"""Fills the offline home of the feature sets from a log of events.

In: a counter that knows the events, and a span of time. Out: parquet rows from which the value at
any moment of the span can be read by a point-in-time join.

One row a minute for every item would be half a million rows a day for a catalogue of a few hundred,
nearly all equal to the row before. But between two events nothing happens to a count, except that
events leave its windows; and when that will be is known. An event in minute m first counts at the
end of m, and leaves the windows of 1, 7 and 30 days exactly that much later. So four moments an
event are all at which its item's row can change, and a row holds until the next one: the join is
asked not to apply the time to live, which is about a materialiser that may fail, not about history.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from feature_engineering.counters import EventCounter
from feature_engineering.offline_store import OfflineStore
from video_recommendation.data import Users
from video_recommendation.stored_features import (
    COUNT_WINDOWS_DAYS,
    DAY_S,
    ITEM_ACTIVITY,
    USER_PROFILE,
    item_activity,
    user_profile,
)


def change_ticks(
    item_idx: np.ndarray, timestamp: np.ndarray, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every (item, full minute) of ``begin < minute <= end`` at which the item's row may change.

    Args:
        item_idx: i[N], item of each event.
        timestamp: i64[N].
        begin: Unix seconds.
        end: Unix seconds.

    Returns:
        item_idx i64[R] and minute i64[R], each pair once.
    """
    counted = (timestamp // ITEM_ACTIVITY.tick_s + 1) * ITEM_ACTIVITY.tick_s
    leaves = np.array([0, *COUNT_WINDOWS_DAYS]) * DAY_S
    minute = (counted[:, None] + leaves).ravel()
    item = np.repeat(item_idx.astype(np.int64), len(leaves))
    inside = (minute > begin) & (minute <= end)
    pairs = np.unique(np.stack([item[inside], minute[inside]]), axis=1)
    return pairs[0], pairs[1]


def backfill_item_activity(
    root: Path,
    item_ids: np.ndarray,
    item_idx: np.ndarray,
    timestamp: np.ndarray,
    *,
    begin: int,
    end: int,
) -> OfflineStore:
    """Writes the rows of every item as of ``begin``, and each change until ``end``.

    Args:
        root: Of the offline store.
        item_ids: i64[I], external ids.
        item_idx: i32[N], item of each event, from the first one on, not only those of the span.
        timestamp: i64[N].
        begin: Unix seconds; moments before it cannot be joined.
        end: Unix seconds.
    """
    counter = EventCounter(item_idx, timestamp, n_items=len(item_ids))
    changed, minute = change_ticks(item_idx, timestamp, begin, end)
    every_item = np.arange(len(item_ids))
    item = np.concatenate([every_item, changed])
    start = np.full(len(every_item), ITEM_ACTIVITY.tick(begin))
    tick = np.concatenate([start, minute])
    store = OfflineStore(root, ITEM_ACTIVITY)
    store.append(item_ids[item], tick, item_activity(counter, item, tick))
    return store


def backfill_user_profile(root: Path, users: Users) -> OfflineStore:
    """Writes the row of every known user; profiles have no history, so one row holds for ever."""
    store = OfflineStore(root, USER_PROFILE)
    rows = user_profile(users, np.arange(len(users.user_ids)))
    store.append(users.user_ids, 0, rows)
    return store
