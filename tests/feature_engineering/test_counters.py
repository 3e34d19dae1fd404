"""Point-in-time counts against counting one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_engineering.counters import TICK_S, EventCounter, as_of

N_ITEMS = 4
EVENTS = st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(-50, 50)), max_size=30)
MOMENT = st.integers(-60, 60)
EVERYTHING = np.arange(N_ITEMS)


def counter_of(events: list[tuple[int, int]]) -> EventCounter:
    item = np.array([i for i, _ in events], dtype=np.int32)
    time = np.array([t for _, t in events], dtype=np.int64)
    return EventCounter(item, time, n_items=N_ITEMS)


def naive(events: list[tuple[int, int]], begin: float, end: float) -> list[int]:
    return [sum(i == item and begin <= t < end for i, t in events) for item in range(N_ITEMS)]


@given(EVENTS, MOMENT, MOMENT)
def test_counts_are_those_of_counting(events, begin, end):
    counter = counter_of(events)
    assert counter.before(EVERYTHING, end).tolist() == naive(events, -np.inf, end)
    begin, end = sorted((begin, end))
    assert counter.between(EVERYTHING, begin, end).tolist() == naive(events, begin, end)
    assert len(counter) == len(events)


@given(EVENTS, EVENTS)
def test_extended_is_rebuilt(old, new):
    extended = counter_of(old).extended(
        np.array([i for i, _ in new], dtype=np.int32), np.array([t for _, t in new], dtype=np.int64)
    )
    rebuilt = counter_of(old + new)
    for moment in range(-51, 53, 7):
        np.testing.assert_array_equal(
            extended.before(EVERYTHING, moment), rebuilt.before(EVERYTHING, moment)
        )
    np.testing.assert_array_equal(extended.first_event, rebuilt.first_event)


def test_extending_leaves_the_old_counter_alone():
    old = counter_of([(1, 5)])
    old.extended(np.array([1], dtype=np.int32), np.array([3]))
    assert old.before(np.array([1]), 10) == 1
    assert old.first_event[1] == 5


@given(EVENTS)
def test_first_event(events):
    none = np.iinfo(np.int64).max
    expected = [min((t for i, t in events if i == item), default=none) for item in range(N_ITEMS)]
    assert counter_of(events).first_event.tolist() == expected


def test_the_edges_of_an_interval_by_hand():
    """begin is inside, end is not; moments far outside the events stay within the item's own."""
    counter = counter_of([(0, 10), (0, 20), (1, 10), (2, 0)])
    item = np.array([0])
    assert counter.between(item, 10, 20) == 1
    assert counter.between(item, 10, 21) == 2
    assert counter.between(item, 11, 20) == 0
    assert counter.between(item, 10, 10) == 0
    far = np.iinfo(np.int64).max // 2
    assert counter.before(EVERYTHING, far).tolist() == [2, 1, 1, 0]
    assert counter.before(EVERYTHING, -far).tolist() == [0, 0, 0, 0]


def test_items_and_moments_broadcast():
    counter = counter_of([(0, 10), (0, 20), (1, 15)])
    counts = counter.before(EVERYTHING[None, :2], np.array([[12], [16], [30]]))
    assert counts.tolist() == [[1, 0], [1, 1], [2, 1]]


def test_no_events():
    counter = counter_of([])
    assert len(counter) == 0
    assert counter.before(EVERYTHING, 10**12).tolist() == [0] * N_ITEMS
    assert (counter.first_event == np.iinfo(np.int64).max).all()
    one = counter.extended(np.array([2], dtype=np.int32), np.array([7]))
    assert one.before(EVERYTHING, 8).tolist() == [0, 0, 1, 0]


def test_as_of_is_the_last_full_minute():
    assert TICK_S == 60
    assert as_of(np.array([0, 59, 60, 61, 119, 120])).tolist() == [0, 0, 60, 60, 60, 120]
    assert as_of(1_000_000_030) == 1_000_000_020
    counter = counter_of([(0, 60)])  # an event in the first second of a minute ...
    assert counter.before(np.array([0]), as_of(119)) == 0  # ... counts from the next one on
    assert counter.before(np.array([0]), as_of(120)) == 1


def test_bad_events_are_refused():
    with pytest.raises(ValueError, match="items and"):
        EventCounter(np.zeros(2, dtype=np.int32), np.zeros(3, dtype=np.int64), n_items=1)
    with pytest.raises(ValueError, match=r"0\.\.4 outside a catalogue of 4"):
        counter_of([(0, 1), (4, 1)])
    with pytest.raises(ValueError, match=r"-1\.\.0 outside"):
        counter_of([(0, 1), (-1, 1)])


def test_counts_of_all_items_are_kept_and_right():
    rng = np.random.default_rng(5)
    counter = EventCounter(
        rng.integers(0, 20, 300).astype(np.int32), rng.integers(0, 1000, 300), n_items=20
    )
    for begin in range(0, 900, 60):  # more than are kept
        counts = counter.of_all(begin, begin + 90)
        np.testing.assert_array_equal(counts, counter.between(np.arange(20), begin, begin + 90))
    assert counter.of_all(840, 930) is counter.of_all(840, 930)
    with pytest.raises(ValueError, match="read-only"):
        counter.of_all(840, 930)[0] = 1
