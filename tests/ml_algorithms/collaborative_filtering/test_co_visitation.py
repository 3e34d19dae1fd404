"""Co-visitation: hand-computed counts, a naive double loop, indifference to the order of ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_algorithms.collaborative_filtering.co_visitation import event_pairs, fit_co_visitation

RAW = {"source_exponent": 0.0, "target_exponent": 0.0}


def fit(ptr, items, times, **knobs):  # type: ignore[no-untyped-def]
    defaults = {"n_items": 5, "window_s": 100.0, "max_lag": 10, **RAW}
    return fit_co_visitation(
        np.array(ptr, dtype=np.int64),
        np.array(items, dtype=np.int32),
        np.array(times, dtype=np.int64),
        **{**defaults, **knobs},
    ).toarray()


def naive(  # type: ignore[no-untyped-def]
    ptr, items, times, *, window_s, max_lag, decay_s, tie_weight, backward_weight
):
    """Every pair of events of a user, whatever their rows: only timestamps decide."""
    counts = np.zeros((5, 5))
    for begin, end in zip(ptr[:-1], ptr[1:], strict=True):
        moments = sorted(set(times[begin:end]))
        for a in range(begin, end):
            for b in range(begin, end):
                gap = times[b] - times[a]
                lag = moments.index(times[b]) - moments.index(times[a])
                if a == b or items[a] == items[b] or not (0 <= gap <= window_s and lag <= max_lag):
                    continue
                weight = np.exp(-gap / decay_s)
                if gap == 0:  # the loop meets this pair twice, once in each direction
                    counts[items[a], items[b]] += tie_weight * weight
                else:
                    counts[items[a], items[b]] += weight
                    counts[items[b], items[a]] += backward_weight * weight
    return counts


def test_what_follows_counts_and_what_came_before_does_not() -> None:
    counts = fit([0, 3], [0, 1, 2], [0, 10, 200], decay_s=10.0)
    expected = np.zeros((5, 5))
    expected[0, 1] = np.exp(-1)  # 1 -> 2 is 190 s apart, outside the window
    np.testing.assert_allclose(counts, expected, rtol=1e-6)


def test_a_tied_pair_counts_half_in_each_direction() -> None:
    counts = fit([0, 2], [3, 1], [7, 7])
    assert counts[3, 1] == counts[1, 3] == 0.5
    assert counts.sum() == 1.0


def test_lag_is_counted_in_distinct_timestamps() -> None:
    # Items 1 and 2 are tied: both are one moment after item 0, and item 3 is two moments after it.
    counts = fit([0, 4], [0, 1, 2, 3], [0, 5, 5, 9], max_lag=1)
    assert counts[0, 1] == counts[0, 2] == 1.0
    assert counts[0, 3] == 0.0
    assert counts[1, 3] == counts[2, 3] == 1.0


def test_users_do_not_mix_even_where_their_times_meet() -> None:
    counts = fit([0, 2, 2, 4], [0, 1, 2, 3], [0, 5, 5, 6])
    assert set(zip(*counts.nonzero(), strict=True)) == {(0, 1), (2, 3)}


def test_repeats_of_an_item_are_no_pair_with_itself() -> None:
    assert not fit([0, 3], [2, 2, 2], [0, 1, 1]).any()


def test_popularity_exponents_divide_by_event_counts() -> None:
    ptr, items, times = [0, 2, 4, 5], [0, 1, 0, 1, 1], [0, 1, 0, 1, 0]
    raw = fit(ptr, items, times)
    assert raw[0, 1] == 2.0
    assert fit(ptr, items, times, target_exponent=1.0)[0, 1] == pytest.approx(2 / 3)
    assert fit(ptr, items, times, source_exponent=0.5)[0, 1] == pytest.approx(2 / np.sqrt(2))


def test_youtube_2010_relatedness_is_a_setting() -> None:
    # r = c_ij / (c_i c_j), symmetric: items 0 and 1 co-visited by both users, 2 and 3 events.
    ptr, items, times = [0, 2, 4, 5], [0, 1, 1, 0, 1], [0, 1, 0, 1, 0]
    related = fit(ptr, items, times, source_exponent=1.0, target_exponent=1.0, backward_weight=1.0)
    assert related[0, 1] == related[1, 0] == pytest.approx(2 / (2 * 3))


def test_event_weights_belong_to_the_later_event() -> None:
    counts = fit([0, 2], [0, 1], [0, 1], event_weight=np.array([7.0, 3.0]))
    assert counts[0, 1] == 3.0


def test_pruning_keeps_the_strongest_sources() -> None:
    counts = fit([0, 3], [0, 1, 2], [0, 50, 60], decay_s=10.0, neighbours=1)
    assert set(zip(*counts.nonzero(), strict=True)) == {(0, 1), (1, 2)}


events = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), max_size=9), min_size=1, max_size=4
)


def to_arrays(users, order):  # type: ignore[no-untyped-def]
    ptr, items, times = [0], [], []
    for user in users:
        rows = sorted((user[i] for i in order(len(user))), key=lambda event: event[1])
        items += [item for item, _ in rows]
        times += [time for _, time in rows]
        ptr.append(len(items))
    return ptr, items, times


@settings(max_examples=60, deadline=None)
@given(users=events, window_s=st.integers(0, 12), max_lag=st.integers(0, 4), data=st.data())
def test_counts_equal_the_naive_loop_in_any_order_of_ties(users, window_s, max_lag, data) -> None:  # type: ignore[no-untyped-def]
    knobs = {
        "window_s": window_s, "max_lag": max_lag, "decay_s": 5.0,
        "tie_weight": 0.5, "backward_weight": 0.25,
    }  # fmt: skip
    arrays = to_arrays(users, range)
    counts = fit(*arrays, **knobs)
    np.testing.assert_allclose(counts, naive(*arrays, **knobs), atol=1e-5)
    shuffled = to_arrays(users, lambda n: data.draw(st.permutations(range(n))))
    np.testing.assert_allclose(fit(*shuffled, **knobs), counts, atol=1e-5)


def test_pairs_are_listed_once_with_their_gaps() -> None:
    first, second, gap = event_pairs(
        np.array([0, 3]), np.array([0, 4, 6]), window_s=np.inf, max_lag=10
    )
    assert sorted(zip(first, second, gap, strict=True)) == [(0, 1, 4), (0, 2, 6), (1, 2, 2)]


def test_an_empty_log_gives_an_empty_model() -> None:
    assert not fit([0], [], []).any()
    assert not fit([0, 0, 0], [], []).any()


@pytest.mark.parametrize(
    ("arrays", "knobs", "message"),
    [
        (([0, 2], [0, 1], [5, 4]), {}, "must ascend within a user; row 1"),
        (([0, 1], [0, 1], [4, 5]), {}, "user_ptr must run"),
        (([0, 2], [0, 5], [4, 5]), {}, "outside a catalogue of 5"),
        (([0, 2], [0, 1], [4, 5]), {"window_s": -1.0}, "must not be negative"),
        (([0, 2], [0, 1], [4, 5]), {"decay_s": 0.0}, "decay_s must be positive"),
    ],
)
def test_broken_input_is_named(arrays, knobs, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        fit(*arrays, **knobs)


def test_the_next_user_may_begin_earlier() -> None:
    assert fit([0, 1, 2], [0, 1], [9, 3]).sum() == 0
