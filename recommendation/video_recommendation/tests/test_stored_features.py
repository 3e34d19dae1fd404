"""Rows of item activity by hand, the same rows out of parquet, and what float32 can hold."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_engineering.counters import EventCounter, as_of
from video_recommendation.backfill import (
    backfill_item_activity,
    backfill_user_profile,
    change_ticks,
)
from video_recommendation.stored_features import (
    DAY_S,
    ITEM_ACTIVITY,
    USER_PROFILE,
    computed,
    item_activity,
    item_columns,
    user_profile,
)

NAMES = ITEM_ACTIVITY.schema.names
TICK = 10_000 * DAY_S
EVENTS = [  # item, second
    (0, TICK - 40 * DAY_S + 7),
    (0, TICK - 3 * DAY_S),
    (0, TICK - DAY_S),
    (0, TICK),  # in the next minute
    (1, TICK + 5),
]


def counter_of(events, n_items=3):
    item = np.array([i for i, _ in events], dtype=np.int32)
    when = np.array([t for _, t in events], dtype=np.int64)
    return EventCounter(item, when, n_items=n_items)


def test_a_row_by_hand():
    rows = item_activity(counter_of(EVENTS), np.arange(3), TICK)
    busy = dict(zip(NAMES, rows[0].tolist(), strict=True))
    assert busy["log_count_all"] == pytest.approx(np.log(4))
    assert busy["log_count_30d"] == pytest.approx(np.log(3))
    assert busy["log_count_7d"] == pytest.approx(np.log(3))
    assert busy["log_count_1d"] == pytest.approx(np.log(2))  # exactly a day ago is within
    assert busy["trend"] == pytest.approx(np.log(3 / (2 * 7 / 30 + 1)))
    assert (busy["first_event_day"], busy["first_event_second"]) == (9960, 7)


def test_an_item_without_events_has_the_defaults():
    """So a row that is missing says "nobody has watched it", whatever the reason."""
    rows = item_activity(counter_of(EVENTS), np.array([1, 2]), TICK)
    np.testing.assert_array_equal(rows, np.tile(ITEM_ACTIVITY.schema.defaults, (2, 1)))


def test_age_is_taken_at_the_request():
    rows = item_activity(counter_of(EVENTS), np.array([0, 2]), TICK)
    columns = item_columns(rows, np.array([TICK + 30, TICK + 30]))
    assert columns["age_days"].tolist() == [(40 * DAY_S - 7 + 30) / DAY_S, -1.0]
    assert "first_event_day" not in columns


@given(st.integers(0, 2**32))
def test_the_first_event_survives_float32_although_a_unix_time_does_not(second):
    rows = item_activity(counter_of([(0, second)]), np.array([0]), second + 60)
    now = second + 1000
    age = item_columns(rows, np.array([now]))["age_days"][0]
    assert age == 1000 / DAY_S
    assert int(np.float32(893_286_639)) != 893_286_639  # the era of the data


def test_many_moments_are_as_many_single_ones():
    counter = counter_of(EVENTS)
    ticks = TICK + np.array([0, 60, -4 * DAY_S])
    many = item_activity(counter, np.array([0, 1, 0]), ticks)
    one = [
        item_activity(counter, np.array([i]), int(t))[0]
        for i, t in zip([0, 1, 0], ticks, strict=True)
    ]
    np.testing.assert_array_equal(many, np.array(one))


def test_a_row_can_change_at_four_moments_an_event():
    item, minute = change_ticks(np.array([5]), np.array([TICK + 61]), TICK, TICK + 31 * DAY_S)
    counted = TICK + 120
    assert item.tolist() == [5] * 4
    assert minute.tolist() == [counted + days * DAY_S for days in (0, 1, 7, 30)]
    assert change_ticks(np.array([5]), np.array([TICK + 61]), counted, counted + 60)[0].size == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40 * DAY_S)), min_size=1, max_size=25),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10 * DAY_S)), min_size=1, max_size=25),
)
def test_parquet_gives_what_the_counter_gives_at_any_moment(tmp_path_factory, events, asked):
    begin = TICK + 30 * DAY_S
    item = np.array([i for i, _ in events], dtype=np.int32)
    when = TICK + np.array([t for _, t in events], dtype=np.int64)
    item_ids = np.array([100, 200, 300])
    store = backfill_item_activity(
        tmp_path_factory.mktemp("offline"),
        item_ids,
        item,
        when,
        begin=begin,
        end=begin + 10 * DAY_S,
    )
    wanted = np.array([i for i, _ in asked])
    moments = begin + np.array([t for _, t in asked])
    joined = store.point_in_time_join(item_ids[wanted], moments, apply_ttl=False)
    counter = EventCounter(item, when, n_items=3)
    np.testing.assert_array_equal(joined.values, item_activity(counter, wanted, as_of(moments)))
    assert not joined.missing.any()


def test_profiles(tiny_system, tmp_path):
    users = tiny_system.data.users
    rows = user_profile(users, np.array([3, -1], dtype=np.int32))
    assert rows.tolist() == [[users.age_group[3], users.gender[3]], [0, 0]]
    store = backfill_user_profile(tmp_path, users)
    joined = store.point_in_time_join([users.user_ids[3], 10**9], 10**12)
    np.testing.assert_array_equal(joined.values, rows)
    assert joined.missing.tolist() == [False, True]
    assert USER_PROFILE.ttl_s is None


def test_computed_stands_for_the_last_full_minute(tiny_system):
    counter, users = counter_of(EVENTS), tiny_system.data.users
    now = np.array([TICK + 59, TICK + 59])
    stored = computed(counter, users, np.array([0, 1]), np.array([-1], dtype=np.int32), now)
    assert stored.as_of.tolist() == [TICK, TICK]
    np.testing.assert_array_equal(
        stored.item_activity, item_activity(counter, np.array([0, 1]), TICK)
    )


def test_the_request_log_keeps_every_bit_of_a_float32():
    """Shortest text, read as float64, rounded to float32: for every pattern the same number."""
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers = np.concatenate([numbers[np.isfinite(numbers)], np.float32([-0.0, 2**24, 1e-45])])
    text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
    back = np.array(orjson.loads(text), dtype=np.float32)
    np.testing.assert_array_equal(back.view(np.uint32), numbers.view(np.uint32))
