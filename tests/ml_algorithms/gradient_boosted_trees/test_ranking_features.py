"""Features as of a time: nothing later may show in them."""

import numpy as np
import pytest

from ml_algorithms.gradient_boosted_trees.ranking_features import MIN_ROWS, ranking_table
from ml_platform.data.datasets import (
    DatasetUnavailableError,
    SyntheticConfig,
    load_dataset,
)


@pytest.fixture(scope="module")
def data():
    config = SyntheticConfig(n_users=100, n_items=120, n_interactions=4_000)
    return load_dataset("synthetic", synthetic=config)


@pytest.fixture(scope="module")
def table(data):
    return ranking_table(data, n_windows=8)


def test_queries_have_something_to_order(table):
    assert table.group.min() >= MIN_ROWS
    assert table.group.sum() == len(table.grade) == len(table.features)
    start = np.concatenate([[0], np.cumsum(table.group)])
    for a, b in zip(start[:-1], start[1:], strict=True):
        assert np.unique(table.grade[a:b]).size > 1
    assert set(np.unique(table.grade)) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    pairs = list(zip(table.window.tolist(), table.user_id.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert table.window.min() >= 1


def test_counts_are_those_of_the_past(data, table):
    """A naive count for every row of one window's queries."""
    log = data.interactions
    cuts = np.quantile(log["timestamp"], np.arange(1, 8) / 8, method="lower")
    window = np.searchsorted(cuts, log["timestamp"], side="right")
    number = int(table.window.max())
    query = int(np.flatnonzero(table.window == number)[0])
    begin = int(table.group[:query].sum())
    rows = slice(begin, begin + int(table.group[query]))
    user = int(table.user_id[query])
    mine = log[(window == number) & (log["user_id"] == user)]
    later = mine[mine["timestamp"] > mine["timestamp"].median()].sort_values("item_id")
    past = log[window < number]
    expected = [int((past["item_id"] == item).sum()) for item in later["item_id"]]
    count = table.features[rows, table.names.index("item_count")]
    assert count.tolist() == expected
    early = int((mine["timestamp"] <= mine["timestamp"].median()).sum())
    before = int((past["user_id"] == user).sum())
    assert (table.features[rows, table.names.index("user_count")] == before + early).all()
    means = [past.loc[past["item_id"] == item, "rating"].mean() for item in later["item_id"]]
    np.testing.assert_allclose(
        table.features[rows, table.names.index("item_mean")], means, rtol=1e-6
    )


def test_the_future_does_not_change_the_past(data, table):
    """Other ratings in the last window leave all earlier windows' features as they are."""
    from dataclasses import replace

    log = data.interactions.copy()
    cuts = np.quantile(log["timestamp"], np.arange(1, 8) / 8, method="lower")
    last = np.searchsorted(cuts, log["timestamp"], side="right") == 7
    log.loc[last, "rating"] = (6.0 - log.loc[last, "rating"]).astype("float32")
    changed = ranking_table(replace(data, interactions=log), n_windows=8)
    before, after = table.of_windows(1, 7), changed.of_windows(1, 7)
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(before.grade, after.grade)


def test_selecting_windows_and_queries(table):
    part = table.of_windows(3, 5)
    assert set(part.window.tolist()) <= {3, 4}
    assert part.group.sum() == len(part.features)
    with pytest.raises(ValueError, match=r"90\.\.98"):
        table.of_windows(90, 99)
    with pytest.raises(ValueError, match="got 2"):
        ranking_table(None, n_windows=2)  # type: ignore[arg-type]


@pytest.mark.real_data
def test_movielens_gives_hundreds_of_queries():
    try:
        data = load_dataset("movielens-100k")
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    table = ranking_table(data)
    assert len(table.group) > 800
    assert "genre_drama" in table.names
    assert "genre_unknown" not in table.names
    best = table.features[:, table.names.index("item_mean")]
    assert np.corrcoef(np.nan_to_num(best, nan=3.5), table.grade)[0, 1] > 0.2
