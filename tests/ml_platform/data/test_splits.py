"""No split leaks: properties over random logs, parity with plain loops, and the edges."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.data.datasets import Dataset
from ml_platform.data.interactions import InteractionLog, Queries, build_interaction_log
from ml_platform.data.splits import (
    TimeWindows,
    leave_last_out,
    next_event_queries,
    stratified_random_split,
    temporal_batch_queries,
    temporal_windows,
)

Row = tuple[int, int, int]  # user_id, item_id, timestamp


def make_log(rows: list[Row], seed: int = 0) -> InteractionLog:
    """A log of any rows, repeats allowed; users 0..3 and items 0..6 exist, used or not."""
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"], dtype=np.int64)
    data = SimpleNamespace(
        interactions=table.assign(rating=np.float32(1)),
        users=pd.DataFrame({"user_id": np.arange(4)}),
        items=pd.DataFrame({"item_id": np.arange(7)}),
    )
    return build_interaction_log(data, seed=seed)  # type: ignore[arg-type]


ANY_ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=40
)
UNIQUE_PAIRS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 8)),
    min_size=1,
    max_size=28,
    unique_by=lambda row: row[:2],
)


def as_sets(log: InteractionLog, queries: Queries) -> dict[tuple[int, int], tuple[set, set]]:
    """(user, time) -> (history items, relevant items)."""
    ptr, items = queries.relevant(log)
    history_ptr, rows = queries.history(log)
    return {
        (int(queries.user_idx[q]), int(queries.timestamp[q])): (
            set(log.item_idx[rows[history_ptr[q] : history_ptr[q + 1]]].tolist()),
            set(items[ptr[q] : ptr[q + 1]].tolist()),
        )
        for q in range(len(queries))
    }


def loops(rows: list[Row], moments: set[tuple[int, int]], until: Callable[[int], float]) -> dict:
    """What queries at (user, time) must hold, by plain loops over the rows."""
    expected = {}
    for user, moment in moments:
        history = {item for u, item, t in rows if u == user and t < moment}
        future = {item for u, item, t in rows if u == user and moment <= t <= until(moment)}
        if future - history:
            expected[user, moment] = (history, future - history)
    return expected


@given(ANY_ROWS, st.integers(0, 8), st.none() | st.integers(0, 9))
def test_next_event_queries_agree_with_loops(rows: list[Row], begin: int, end: int | None) -> None:
    log = make_log(rows)
    queries = next_event_queries(log, begin, end)
    last = 99 if end is None else end
    moments = {(user, t) for user, _, t in rows if begin <= t < last}
    assert as_sets(log, queries) == loops(rows, moments, until=lambda moment: moment)
    assert len(as_sets(log, queries)) == len(queries)  # one query for a user and a second


@given(ANY_ROWS, st.integers(0, 9))
def test_temporal_batch_queries_agree_with_loops(rows: list[Row], cut: int) -> None:
    log = make_log(rows)
    moments = {(user, cut) for user, _, _ in rows}
    found = as_sets(log, temporal_batch_queries(log, cut))
    assert found == loops(rows, moments, until=lambda _: np.inf)


@given(ANY_ROWS, st.integers(0, 8))
def test_no_query_sees_its_own_future(rows: list[Row], begin: int) -> None:
    log = make_log(rows)
    for queries in (next_event_queries(log, begin, None), temporal_batch_queries(log, begin)):
        _, history = queries.history(log)
        lengths = queries.history_end - queries.history_begin
        assert (log.timestamp[history] < np.repeat(queries.timestamp, lengths)).all()
        assert (log.user_idx[history] == np.repeat(queries.user_idx, lengths)).all()
        assert (log.timestamp[queries.history_end] >= begin).all()
        ptr, items = queries.relevant(log)
        assert (np.diff(ptr) >= 1).all()
        for past, relevant in as_sets(log, queries).values():
            assert not past & relevant
        assert len(items) == sum(len(relevant) for _, relevant in as_sets(log, queries).values())


@given(ANY_ROWS, st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.0, 0.2, 0.8)]))
def test_windows_never_cut_a_tie(rows: list[Row], fractions: tuple[float, float, float]) -> None:
    log = make_log(rows)
    windows = temporal_windows(log.timestamp, fractions)
    assert windows.train_end <= windows.validation_end
    train = log.timestamp < windows.train_end
    test = log.timestamp >= windows.validation_end
    later = log.timestamp[~train]
    assert not np.isin(log.timestamp[train], later).any()
    assert not np.isin(log.timestamp[test], log.timestamp[~test]).any()
    # No other cut comes nearer to the fraction that was asked for.
    cuts = [*np.unique(log.timestamp), log.timestamp.max() + 1]
    reachable = [abs((log.timestamp < cut).mean() - fractions[0]) for cut in cuts]
    assert abs(train.mean() - fractions[0]) == pytest.approx(min(reachable))


@given(UNIQUE_PAIRS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_leave_last_out_holds_out_a_last_row_whatever_the_order(
    rows: list[Row], seed: int, random: "np.random.Generator"
) -> None:
    log = make_log(rows, seed)
    queries, train = leave_last_out(log)
    counts = np.diff(log.user_ptr)
    assert queries.user_idx.tolist() == np.flatnonzero(counts >= 2).tolist()
    assert (~train).sum() == len(queries)
    held_out = np.flatnonzero(~train)
    assert (log.timestamp[held_out] == queries.timestamp).all()
    for user in queries.user_idx:
        own = log.timestamp[log.user_ptr[user] : log.user_ptr[user + 1]]
        assert queries.timestamp[queries.user_idx == user] == own.max()
    assert (queries.history_end - queries.history_begin == counts[queries.user_idx] - 1).all()
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = make_log(shuffled, seed)
    np.testing.assert_array_equal(leave_last_out(again)[0].relevant(again)[1], log.item_idx[~train])
    assert set(log.item_idx[~train]) == set(queries.relevant(log)[1])


@given(UNIQUE_PAIRS, st.integers(0, 5), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_stratified_split_keeps_its_counts(
    rows: list[Row], seed: int, test_fraction: float
) -> None:
    log = make_log(rows)
    test = stratified_random_split(log, test_fraction=test_fraction, seed=seed)
    for user in range(log.n_users):
        own = test[log.user_ptr[user] : log.user_ptr[user + 1]]
        if len(own):  # Python's round() also rounds halves to even
            assert (~own).sum() == max(round((1 - test_fraction) * len(own)), 1)
    shuffled = make_log(rows[::-1])
    again = stratified_random_split(shuffled, test_fraction=test_fraction, seed=seed)
    np.testing.assert_array_equal(test, again)


def test_stratified_split_is_uniform_and_follows_the_seed() -> None:
    log = make_log([(0, item, 8 - item) for item in range(7)] + [(1, 0, 0)])
    masks = np.array([stratified_random_split(log, seed=seed) for seed in range(1_000)])
    assert masks[:, :7].sum(axis=1).tolist() == [2] * 1_000  # 7 - round(5.25)
    assert not masks[:, 7].any()  # a user's only row stays in train
    assert np.abs(masks[:, :7].mean(axis=0) - 2 / 7).max() < 0.06  # four standard errors
    with pytest.raises(ValueError, match=r"within \[0, 1\), got 1\.0"):
        stratified_random_split(log, test_fraction=1.0, seed=0)


def test_a_burst_is_one_query_by_hand() -> None:
    rows = [(0, 0, 1), (0, 1, 5), (0, 2, 5), (1, 3, 5), (0, 4, 7), (0, 1, 7), (1, 3, 8)]
    log = make_log(rows)
    assert as_sets(log, next_event_queries(log, 5, 8)) == {
        (0, 5): ({0}, {1, 2}),
        (0, 7): ({0, 1, 2}, {4}),  # item 1 again at 7 is not relevant again
        (1, 5): (set(), {3}),  # a cold start
    }
    assert len(next_event_queries(log, 8, None)) == 0  # nothing but a repeat
    assert as_sets(log, temporal_batch_queries(log, 6)) == {(0, 6): ({0, 1, 2}, {4})}


def test_edges() -> None:
    one = make_log([(2, 5, 3)])
    assert temporal_windows(one.timestamp) == TimeWindows(4, 4)  # all of it is train
    assert len(leave_last_out(one)[0]) == 0
    assert leave_last_out(one)[1].tolist() == [True]
    assert as_sets(one, next_event_queries(one, 0, None)) == {(2, 3): (set(), {5})}
    assert len(next_event_queries(one, 4, None)) == 0
    same = make_log([(0, item, 3) for item in range(6)])
    assert temporal_windows(same.timestamp) == TimeWindows(4, 4)
    assert temporal_windows(same.timestamp, (0.2, 0.4, 0.4)) == TimeWindows(3, 4)
    assert len(leave_last_out(same)[0]) == 1
    none = one.select(np.zeros(1, dtype=np.bool_))
    for queries in (next_event_queries(none, 0, None), temporal_batch_queries(none, 0)):
        assert len(queries) == 0
        assert queries.relevant(none)[0].tolist() == [0]
    assert stratified_random_split(none, seed=0).tolist() == []
    with pytest.raises(ValueError, match="at least one interaction"):
        temporal_windows(none.timestamp)
    with pytest.raises(ValueError, match="sum to 1"):
        temporal_windows(one.timestamp, (0.8, 0.1, 0.2))


def test_subset_keeps_queries_whole() -> None:
    log = make_log([(0, item, item) for item in range(6)])
    queries = next_event_queries(log, 0, None)
    assert queries.subset(np.array([4, 1])).timestamp.tolist() == [4, 1]
    late = queries.subset(queries.timestamp >= 4)
    assert as_sets(log, late) == {(0, 4): ({0, 1, 2, 3}, {4}), (0, 5): ({0, 1, 2, 3, 4}, {5})}


def test_a_million_rows_take_about_a_second() -> None:
    rng = np.random.default_rng(0)
    n, n_users, n_items = 1_000_000, 10_000, 20_000
    user = np.sort(rng.integers(0, n_users, n)).astype(np.int64)
    timestamp = rng.integers(0, 10**7, n)
    log = InteractionLog(
        user_ptr=np.searchsorted(user, np.arange(n_users + 1)),
        item_idx=rng.integers(0, n_items, n).astype(np.int32),
        rating=np.ones(n, dtype=np.float32),
        timestamp=timestamp[np.lexsort((timestamp, user))],
        user_ids=np.arange(n_users),
        item_ids=np.arange(n_items),
    )
    begin = time.process_time()
    windows = temporal_windows(log.timestamp)
    queries = next_event_queries(log, windows.validation_end, None)
    assert len(queries.relevant(log)[1]) <= 100_001
    leave_last_out(log)
    stratified_random_split(log, seed=0)
    # Measured .9 s for all of it on one busy core; a loop over users or rows takes far more.
    assert time.process_time() - begin < 4.0


@pytest.mark.real_data
def test_the_measured_facts_of_movielens_100k(real_dataset: Callable[..., Dataset]) -> None:
    log = build_interaction_log(real_dataset("movielens-100k"))
    windows = temporal_windows(log.timestamp)
    queries = next_event_queries(log, windows.validation_end, None)
    ptr, _ = queries.relevant(log)
    assert (len(queries), int(ptr[-1])) == (4_825, 10_000)
    assert np.diff(ptr).mean() == pytest.approx(2.07, abs=0.005)
    assert int((log.timestamp < windows.train_end).sum()) == pytest.approx(80_000, abs=50)
    assert int(stratified_random_split(log, seed=1).sum()) == 25_008
    assert len(leave_last_out(log)[0]) == 943
