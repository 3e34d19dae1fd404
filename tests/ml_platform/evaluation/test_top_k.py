"""top_k against a full sort, with ties, masks, padding and refused input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.evaluation.top_k import tie_order, top_k


def by_full_sort(scores, k, seen=None, tie_seed=0):
    """The specification, slowly: sort by score descending, then by place in the tie order."""
    _, place_of = tie_order(scores.shape[1], tie_seed)
    hidden = set(zip(*(part.tolist() for part in seen), strict=True)) if seen else set()
    lists = []
    for row, values in enumerate(scores.astype(np.float32)):
        open_items = [
            i for i in range(len(values)) if (row, i) not in hidden and values[i] > -np.inf
        ]
        best = sorted(open_items, key=lambda i: (-values[i], place_of[i]))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 15), st.integers(1, 4))
def test_equals_a_full_sort(seed, n_items, k, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (4, n_items)).astype(np.float32)  # few levels: many ties
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    rows, items = np.nonzero(rng.random(scores.shape) < 0.2)
    found, values = top_k(scores, k, seen=(rows, items))
    assert found.tolist() == by_full_sort(scores, k, (rows, items))
    for row in range(4):
        for item, value in zip(found[row], values[row], strict=True):
            assert value == (scores[row, item] if item >= 0 else -np.inf)


def test_types_order_and_untouched_input():
    scores = np.array([[0.1, 0.9, 0.5]], dtype=np.float32)
    before = scores.copy()
    items, values = top_k(scores, 2, seen=(np.array([0]), np.array([1])))
    assert items.tolist() == [[2, 0]]
    assert values.tolist() == [[np.float32(0.5), np.float32(0.1)]]
    assert items.dtype == np.int32
    assert values.dtype == np.float32
    assert (scores == before).all()


def test_k_beyond_the_open_catalogue_is_padded():
    items, values = top_k(np.ones((1, 3)), 5, seen=(np.array([0, 0]), np.array([0, 2])))
    assert items.tolist() == [[1, -1, -1, -1, -1]]
    assert values.tolist() == [[1.0] + [-np.inf] * 4]


def test_everything_seen_gives_an_empty_list():
    items, _ = top_k(np.ones((1, 2)), 2, seen=(np.array([0, 0]), np.array([0, 1])))
    assert items.tolist() == [[-1, -1]]


def test_no_rows():
    items, values = top_k(np.empty((0, 5)), 3)
    assert items.shape == values.shape == (0, 3)


def test_ties_follow_one_shuffled_order_not_the_index():
    constant = np.zeros((3, 1000))
    items, _ = top_k(constant, 100)
    assert (items == items[0]).all()
    assert (items == top_k(constant, 100)[0]).all()
    assert not (items == top_k(constant, 100, tie_seed=1)[0]).all()
    # A uniform draw of 100 from 0..999 has mean 499.5 with standard error 27; by id it is 49.5.
    assert 390 < items[0].mean() < 610


def test_a_longer_list_extends_the_shorter_one_in_spite_of_ties():
    scores = np.random.default_rng(0).integers(0, 3, (5, 50))
    assert (top_k(scores, 30)[0][:, :7] == top_k(scores, 7)[0]).all()


def test_rows_do_not_depend_on_each_other():
    scores = np.random.default_rng(0).integers(0, 3, (6, 40)).astype(np.float32)
    whole, _ = top_k(scores, 10)
    single = np.concatenate([top_k(row[None], 10)[0] for row in scores])
    assert (whole == single).all()


def test_nan_is_refused_with_its_place():
    scores = np.zeros((2, 4))
    scores[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN score in row 1 for item 2"):
        top_k(scores, 2)


@pytest.mark.parametrize(
    ("scores", "k", "seen", "message"),
    [
        (np.zeros(3), 1, None, r"must be \[B, I\]"),
        (np.zeros((1, 3)), 0, None, "k must be at least 1"),
        (np.zeros((1, 3)), 1, ([0], [3]), r"seen items must lie in 0\.\.2, got 3"),
        (np.zeros((1, 3)), 1, ([0], [-1]), "got -1"),
        (np.zeros((1, 3)), 1, ([1], [0]), "seen rows"),
        (np.zeros((1, 3)), 1, ([0, 0], [0]), "equally long"),
    ],
)
def test_bad_input_is_refused(scores, k, seen, message):
    pairs = None if seen is None else (np.array(seen[0]), np.array(seen[1]))
    with pytest.raises(ValueError, match=message):
        top_k(scores, k, seen=pairs)
