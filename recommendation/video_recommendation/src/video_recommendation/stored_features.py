"""The features that live in a store: what they are, and the one function that computes each.

In: a counter of item events, or the user table. Out: rows of two feature sets, the same bits
wherever they are computed:

    item_activity v1   computed from the counters at a full minute; read by the ranker
        training   FeatureBuilder, for a million (item, past minute) pairs at once
        offline    backfill.py, for every minute at which a row changes, into parquet
        serving    the materialiser, once a minute for every item, into the online store
    user_profile v1    the user table's codes; written once

*Age is not stored.* It changes every second, so it would be stale when it is written. Stored is
when the item was first seen; the age is taken at the request (``item_columns``), from what both
sides have. And that moment is stored as two numbers, because one does not fit: near 9e8 the float32
numbers are 64 seconds apart, so a Unix time would come back changed. A day and a second of the day
are small integers, which a float32 holds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from feature_engineering.counters import TICK_S, EventCounter, as_of
from feature_engineering.feature_sets import FeatureSet
from feature_engineering.schema import FeatureSpec
from video_recommendation.data import Users

DAY_S = 86_400
COUNT_WINDOWS_DAYS = (1, 7, 30)
OWNER = "video_recommendation.features"


def _item(name: str, default: float, description: str) -> FeatureSpec:
    return FeatureSpec(name, "item", OWNER, "60 s", default, description)


def _user(name: str, description: str) -> FeatureSpec:
    return FeatureSpec(name, "user", OWNER, "bundle", 0, description)


ITEM_ACTIVITY = FeatureSet(
    name="item_activity",
    version=1,
    entity="item",
    specs=(
        _item("log_count_all", 0, "log(1 + events so far)"),
        _item("log_count_30d", 0, "log(1 + events in 30 days)"),
        _item("log_count_7d", 0, "log(1 + events in 7 days)"),
        _item("log_count_1d", 0, "log(1 + events in 1 day)"),
        _item("trend", 0, "log of this week's rate over the month's"),
        _item("first_event_day", -1, "day of its first event since 1970, -1 if none"),
        _item("first_event_second", 0, "second of that day"),
    ),
    owner=OWNER,
    tick_s=TICK_S,
    ttl_s=3 * TICK_S,
    description="how much an item was watched, as of the last full minute",
)
USER_PROFILE = FeatureSet(
    name="user_profile",
    version=1,
    entity="user",
    specs=(_user("age_group", "code, 0 unknown"), _user("gender", "code, 0 unknown")),
    owner=OWNER,
    tick_s=DAY_S,
    ttl_s=None,
    description="what a user said on registration",
)


@dataclass(frozen=True)
class StoredFeatures:
    """What the store, or a computation in its place, gave for the candidates of Q requests.

    Attributes:
        item_activity: f32[C, 7], a row for each candidate, in the order of ``ITEM_ACTIVITY``.
        user_profile: f32[Q, 2], a row for each request, in the order of ``USER_PROFILE``.
        as_of: i64[C], the minute that a candidate's row stands for; -1 where defaults stand.
    """

    item_activity: np.ndarray
    user_profile: np.ndarray
    as_of: np.ndarray


class FeatureReader(Protocol):
    """Where a live request gets its stored features."""

    def read(self, item_idx: np.ndarray, user_id: int, now: int) -> StoredFeatures:
        """Features of C candidates of one request.

        Args:
            item_idx: i32[C], internal.
            user_id: External.
            now: Unix seconds.

        Raises:
            StageError: the store cannot give them; compute them instead.
        """


def item_activity(
    counter: EventCounter, item_idx: np.ndarray, tick: np.ndarray | int
) -> np.ndarray:
    """Rows of ``ITEM_ACTIVITY``: events strictly before a full minute.

    Args:
        counter: May know later events; they are not counted.
        item_idx: i[N].
        tick: Full minutes, Unix seconds; one, or i64[N].

    Returns:
        f32[N, 7].
    """
    begins = [tick - days * DAY_S for days in COUNT_WINDOWS_DAYS]
    one_day, seven_days, thirty_days = (counter.between(item_idx, b, tick) for b in begins)
    first = counter.first_event[item_idx]
    seen = first < tick
    rows = np.empty((len(item_idx), len(ITEM_ACTIVITY.specs)), dtype=np.float32)
    rows[:, 0] = np.log1p(counter.before(item_idx, tick))
    rows[:, 1] = np.log1p(thirty_days)
    rows[:, 2] = np.log1p(seven_days)
    rows[:, 3] = np.log1p(one_day)
    # One pseudo-event a week keeps the ratio calm for items hardly anybody sees.
    rows[:, 4] = np.log((seven_days + 1.0) / (thirty_days * 7 / 30 + 1.0))
    rows[:, 5] = np.where(seen, first // DAY_S, -1)
    rows[:, 6] = np.where(seen, first % DAY_S, 0)
    return rows


def item_columns(rows: np.ndarray, now: np.ndarray) -> dict[str, np.ndarray]:
    """The ranker's columns from rows of ``ITEM_ACTIVITY``: all but age pass through.

    Args:
        rows: f32[C, 7].
        now: i64[C], the request of each row.
    """
    columns = dict(zip(ITEM_ACTIVITY.schema.names, rows.T, strict=True))
    day = columns.pop("first_event_day").astype(np.int64)
    first = day * DAY_S + columns.pop("first_event_second").astype(np.int64)
    return columns | {"age_days": np.where(day >= 0, now - first, -DAY_S) / DAY_S}


def user_profile(users: Users, user_idx: np.ndarray) -> np.ndarray:
    """f32[Q, 2], rows of ``USER_PROFILE``; the defaults for user -1, an unknown one."""
    return users.demographics(user_idx)[:, :2].astype(np.float32)


def computed(
    counter: EventCounter, users: Users, item_idx: np.ndarray, user_idx: np.ndarray, now: np.ndarray
) -> StoredFeatures:
    """The same without a store: as training computes them, and serving when the store is down.

    Args:
        counter: Item events.
        users: The user table.
        item_idx: i[C], candidates.
        user_idx: i32[Q], the requests' users.
        now: i64[C], the request of each candidate, Unix seconds.
    """
    tick = as_of(now)
    return StoredFeatures(
        item_activity(counter, item_idx, tick), user_profile(users, user_idx), tick
    )
