"""Diversity metrics against brute force and hand-computed numbers."""

from itertools import combinations

import numpy as np
import pytest

from ml_platform.evaluation import diversity_metrics as dm


def pair_distances(vectors, row):
    for i, j in combinations([item for item in row if item >= 0], 2):
        norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        yield 1 - (vectors[i] @ vectors[j] / norms if norms > 0 else 0.0)


@pytest.fixture
def lists_and_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 5))
    vectors[7] = 0.0
    lists = np.argsort(rng.random((40, 30)), axis=1)[:, :8].astype(np.int32)
    lists[::3, 5:] = -1
    lists[1, 2:] = -1
    lists[2, 0] = 7
    lists[2, 1:] = np.arange(10, 17)
    return lists, vectors


@pytest.mark.parametrize("cells", [1 << 22, 100])  # in one block, and in many
def test_distances_equal_brute_force(lists_and_vectors, cells, monkeypatch):
    monkeypatch.setattr(dm, "CELLS_PER_BLOCK", cells)
    lists, vectors = lists_and_vectors
    mean = [np.mean(list(pair_distances(vectors, row))) for row in lists]
    smallest = [min(pair_distances(vectors, row)) for row in lists]
    np.testing.assert_allclose(dm.intra_list_distance(vectors, lists), mean)
    np.testing.assert_allclose(dm.min_pairwise_distance(vectors, lists), smallest, atol=1e-12)


def test_unit_rows_have_length_one_along_the_last_axis():
    stacked = np.array([[[3.0, 4.0], [0.0, 0.0]], [[0.0, -2.0], [5.0, 12.0]]])
    expected = [[[0.6, 0.8], [0.0, 0.0]], [[0.0, -1.0], [5 / 13, 12 / 13]]]
    np.testing.assert_allclose(dm.unit_rows(stacked), expected)
    with pytest.raises(ValueError, match="not finite"):
        dm.unit_rows(np.array([[1.0, np.nan]]))


def test_ild_misses_duplicates_that_the_minimum_sees():
    """Two far-apart pairs of twins: the critique of Ohsaka & Togashi in one list."""
    vectors = np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    lists = np.array([[0, 1, 2, 3]])
    assert dm.intra_list_distance(vectors, lists) == pytest.approx(4 * 2 / 6)
    assert dm.min_pairwise_distance(vectors, lists) == 0.0


def test_coverage_and_exposure():
    lists = np.array([[0, 3, -1], [3, 1, -1]])
    assert dm.exposure(lists, 5).tolist() == [1, 1, 0, 2, 0]
    assert dm.catalogue_coverage(lists, 5) == pytest.approx(3 / 5)
    assert dm.catalogue_coverage(np.full((2, 2), -1), 5) == 0.0


def test_gini():
    assert dm.gini(np.full(10, 3)) == pytest.approx(0)
    assert dm.gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert dm.gini(np.array([3, 1])) == pytest.approx(1 / 4)
    x = np.random.default_rng(0).random(50)
    by_definition = np.abs(x[:, None] - x).sum() / (2 * len(x) * x.sum())
    assert dm.gini(x) == pytest.approx(by_definition)


def test_novelty_in_bits():
    item_users = np.array([8, 4, 1, 0])
    lists = np.array([[0, 1, -1], [2, 3, 1]])
    np.testing.assert_allclose(dm.novelty(lists, item_users, 8), [0.5, (3 + 3 + 1) / 3])


def test_category_entropy():
    categories = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=bool)
    lists = np.array([[0, 1], [0, 0], [0, 2], [3, -1], [0, 3]])
    skewed = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    np.testing.assert_allclose(dm.category_entropy(lists, categories), [1, 0, skewed, 0, 0])
    assert not np.signbit(dm.category_entropy(lists, categories)).any()
    uniform = dm.category_entropy(np.arange(8)[None], np.eye(8))
    assert uniform == pytest.approx(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dm.intra_list_distance(np.eye(3), np.array([[0, -1]])), "list 0 has 1 items"),
        (lambda: dm.min_pairwise_distance(np.eye(3), np.array([[0, -1]])), "needs 2"),
        (lambda: dm.intra_list_distance(np.eye(3), np.array([[0, 3]])), "got 0..3"),
        (lambda: dm.intra_list_distance(np.eye(3) * np.nan, np.array([[0, 1]])), "not finite"),
        (lambda: dm.novelty(np.array([[0]]), np.array([9]), 8), "9 users, but there are 8"),
        (lambda: dm.novelty(np.array([[-1]]), np.array([9]), 9), "list 0 has 0 items"),
        (lambda: dm.exposure(np.array([0, 1]), 3), r"must be \[Q, K\]"),
        (lambda: dm.gini(np.array([0, 0])), "at least one above 0"),
        (lambda: dm.gini(np.array([-1, 2])), "non-negative"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
