"""The array form: order, ties, selection, the matrix, and the arithmetic of queries."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.data.datasets import Dataset
from ml_platform.data.interactions import (
    InteractionLog,
    Queries,
    build_interaction_log,
    expand_ranges,
    run_starts,
    seeded_hash,
)

ROWS = [(7, 30, 4.0, 100), (7, 10, 2.0, 50), (5, 20, 5.0, 60), (7, 20, 3.0, 70)]


@pytest.fixture
def log(make_dataset: Callable[..., Dataset]) -> InteractionLog:
    return build_interaction_log(make_dataset(ROWS, item_ids=[10, 20, 25, 30]))


def test_the_log_is_user_major_and_in_time_order(log: InteractionLog) -> None:
    assert log.user_ids.tolist() == [5, 7]
    assert log.item_ids.tolist() == [10, 20, 25, 30]  # 25 is in the catalogue, without a row
    assert log.user_ptr.tolist() == [0, 1, 4]
    assert log.user_idx.tolist() == [0, 1, 1, 1]
    assert log.item_idx.tolist() == [1, 0, 1, 3]
    assert log.timestamp.tolist() == [60, 50, 70, 100]
    assert log.rating.tolist() == [5.0, 2.0, 3.0, 4.0]
    assert (log.n_users, log.n_items, len(log)) == (2, 4, 4)
    assert log.item_idx.dtype == log.user_idx.dtype == np.int32
    assert log.timestamp.dtype == log.user_ptr.dtype == np.int64


def test_select_keeps_the_numbering(log: InteractionLog) -> None:
    late = log.select(log.timestamp >= 70)
    assert late.user_ptr.tolist() == [0, 0, 2]
    assert late.user_idx.tolist() == [1, 1]
    assert late.item_idx.tolist() == [1, 3]
    assert late.n_users == 2
    with pytest.raises(ValueError, match=r"shape \(4,\), got int64 \(4,\)"):
        log.select(np.arange(4))  # type: ignore[arg-type]


def test_matrix_is_binary_and_the_latest_of_repeats_counts(log: InteractionLog) -> None:
    expected = [[0, 1, 0, 0], [1, 1, 0, 1]]
    assert log.matrix().toarray().tolist() == expected
    assert log.matrix(values=log.rating).toarray().tolist() == [[0, 5, 0, 0], [2, 3, 0, 4]]
    with pytest.raises(ValueError, match="values has shape"):
        log.matrix(values=np.ones(3, dtype=np.float32))


def repeated_log() -> InteractionLog:
    """One user: item 2 at t=1 rated 1, item 0 at t=2, item 2 again at t=3 rated 5."""
    return InteractionLog(
        user_ptr=np.array([0, 3]),
        item_idx=np.array([2, 0, 2], dtype=np.int32),
        rating=np.array([1, 3, 5], dtype=np.float32),
        timestamp=np.array([1, 2, 3]),
        user_ids=np.array([9]),
        item_ids=np.arange(3),
    )


def test_repeats_collapse_and_are_not_relevant_again() -> None:
    log = repeated_log()
    assert log.is_first.tolist() == [True, True, False]
    matrix = log.matrix(values=log.rating)
    assert matrix.toarray().tolist() == [[3, 0, 5]]
    assert matrix.has_canonical_format
    one = np.zeros(1, dtype=np.int64)
    queries = Queries(one.astype(np.int32), one + 2, one, one + 1, one + 3)
    ptr, items = queries.relevant(log)
    assert (ptr.tolist(), items.tolist()) == ([0, 1], [0])
    history_ptr, rows = queries.history(log)
    assert (history_ptr.tolist(), rows.tolist()) == ([0, 1], [0])


def test_a_log_without_rows() -> None:
    log = repeated_log().select(np.zeros(3, dtype=np.bool_))
    assert len(log) == 0
    assert log.matrix().shape == (1, 3)
    assert log.matrix().nnz == 0
    assert log.is_first.tolist() == []


def test_an_interaction_without_its_item_is_an_error(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset(ROWS, item_ids=[10, 20])
    with pytest.raises(ValueError, match="item_id 30 has interactions but no row"):
        build_interaction_log(data)


def test_ties_follow_the_seed_and_not_the_ids(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset([(1, item, 3.0, 100) for item in range(40)])
    orders = {seed: build_interaction_log(data, seed=seed).item_idx for seed in (0, 1)}
    assert sorted(orders[0]) == list(range(40))
    assert orders[0].tolist() != orders[1].tolist()
    for order in orders.values():  # 40 random items: |correlation| over .5 has p < .001
        assert abs(np.corrcoef(order, np.arange(40))[0, 1]) < 0.5


def test_tie_order_is_uniform_over_seeds(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset([(1, item, 3.0, 100) for item in (10, 11, 12)])
    first = [build_interaction_log(data, seed=seed).item_idx[0] for seed in range(600)]
    share = np.bincount(first, minlength=3) / 600
    assert np.abs(share - 1 / 3).max() < 0.08  # four standard errors


@given(st.permutations(range(12)), st.integers(0, 3))
def test_the_order_of_the_file_does_not_matter(order: list[int], seed: int) -> None:
    table = pd.DataFrame(
        {
            "user_id": [1, 2, 3] * 4,
            "item_id": np.arange(12) % 7,
            "rating": np.arange(12, dtype=np.float32),
            "timestamp": [5, 5, 6, 5, 5, 5, 5, 6, 5, 6, 5, 5],
        }
    )
    users = pd.DataFrame({"user_id": [1, 2, 3]})
    items = pd.DataFrame({"item_id": np.arange(7)})
    logs = [
        build_interaction_log(
            SimpleNamespace(interactions=rows, users=users, items=items),  # type: ignore[arg-type]
            seed=seed,
        )
        for rows in (table, table.iloc[order])
    ]
    for name in ("user_ptr", "item_idx", "rating", "timestamp"):
        np.testing.assert_array_equal(getattr(logs[0], name), getattr(logs[1], name))


def test_seeded_hash_agrees_with_plain_integers() -> None:
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    # The first output of SplitMix64 seeded with 0, as published with the reference code.
    assert mix(0) == 0xE220A8397B1DCDAF
    users, items = np.array([1, 1, 2**40]), np.array([5, 6, 0])
    expected = [mix(mix(mix(3) ^ int(u)) ^ int(i)) for u, i in zip(users, items, strict=True)]
    assert seeded_hash(3, users, items).tolist() == expected


def test_ranges_and_runs() -> None:
    rows, owner = expand_ranges(np.array([5, 2, 9]), np.array([7, 2, 10]))
    assert (rows.tolist(), owner.tolist()) == ([5, 6, 9], [0, 0, 2])
    assert run_starts(np.array([4, 4, 1, 4])).tolist() == [0, 2, 3]
    assert run_starts(np.array([])).tolist() == []
