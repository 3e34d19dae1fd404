"""Item-item models against hand-computed numbers, naive loops and the general formulas."""

import numpy as np
import pytest
from scipy import sparse

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.neighbourhood import prune_columns, prune_rows
from ml_algorithms.collaborative_filtering.rp3beta import fit_rp3beta
from ml_algorithms.collaborative_filtering.scoring import score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease

# Three users, three items: item 0 with users 0, 1, 2; item 1 with users 0, 1; item 2 with user 2.
TOY = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=np.float32))


def random_matrix(seed: int, *, users: int = 60, items: int = 25) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix((rng.random((users, items)) < 0.2).astype(np.float32))


def test_item_knn_is_the_shrunk_cosine() -> None:
    # <x0, x1> = 2, |x0| = sqrt 3, |x1| = sqrt 2; <x0, x2> = 1, |x2| = 1; <x1, x2> = 0.
    weights = fit_item_knn(TOY, neighbours=3, shrink=2.0).toarray()
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = 2 / (np.sqrt(6) + 2)
    expected[0, 2] = expected[2, 0] = 1 / (np.sqrt(3) + 2)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_item_knn_keeps_the_strongest_sources_of_each_target() -> None:
    matrix = random_matrix(2)
    full = fit_item_knn(matrix, neighbours=25, shrink=1.0).toarray()
    pruned = fit_item_knn(matrix, neighbours=4, shrink=1.0).toarray()
    for target in range(full.shape[1]):
        kept = np.flatnonzero(pruned[:, target])
        assert kept.size == min(4, np.count_nonzero(full[:, target]))
        np.testing.assert_allclose(
            np.sort(pruned[kept, target]), np.sort(full[:, target])[-kept.size :], atol=1e-7
        )


def test_block_size_does_not_change_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(3)
    whole = fit_rp3beta(matrix, alpha=0.7, beta=0.4, neighbours=25)
    monkeypatch.setattr("ml_algorithms.collaborative_filtering.neighbourhood.BLOCK_ROWS", 7)
    parts = fit_rp3beta(matrix, alpha=0.7, beta=0.4, neighbours=25)
    np.testing.assert_allclose(parts.toarray(), whole.toarray(), atol=1e-7)


def test_rp3beta_by_hand_with_plain_walks() -> None:
    # From item 1: to user 0 or 1 (1/2 each), each user then goes to item 0 or 1 (1/2 each): 1/2 to
    # item 0. From item 0: to user 2 with 1/3, then to item 2 with 1/2: 1/6. Degrees of targets: 3,
    # 2, 1.
    weights = fit_rp3beta(TOY, alpha=1.0, beta=0.0, neighbours=3).toarray()
    np.testing.assert_allclose(
        weights, [[0, 1 / 3, 1 / 6], [1 / 2, 0, 0], [1 / 2, 0, 0]], atol=1e-6
    )
    discounted = fit_rp3beta(TOY, alpha=1.0, beta=0.5, neighbours=3).toarray()
    np.testing.assert_allclose(discounted, weights / np.sqrt([3, 2, 1]), atol=1e-6)


def test_rp3beta_equals_a_naive_sum_over_walks() -> None:
    matrix, alpha, beta = random_matrix(4, users=12, items=8), 0.6, 0.3
    dense = matrix.toarray()
    item_degree, user_degree = dense.sum(axis=0), dense.sum(axis=1)
    expected = np.zeros((8, 8))
    for i in range(8):
        for j in range(8):
            for v in range(12):
                if i != j and dense[v, i] and dense[v, j]:
                    walk = (1 / item_degree[i]) ** alpha * (1 / user_degree[v]) ** alpha
                    expected[i, j] += walk / item_degree[j] ** beta
    weights = fit_rp3beta(matrix, alpha=alpha, beta=beta, neighbours=8).toarray()
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_items_without_users_stay_empty_in_every_neighbourhood_model() -> None:
    matrix = sparse.csr_matrix(np.array([[1, 1, 0], [0, 0, 0]], dtype=np.float32))
    for model in (
        fit_item_knn(matrix, neighbours=2, shrink=0.0),
        fit_rp3beta(matrix, alpha=1.0, beta=1.0, neighbours=2),
    ):
        assert np.isfinite(model.data).all()
        assert set(zip(*model.nonzero(), strict=True)) == {(0, 1), (1, 0)}


def test_pruning_rows_and_columns_of_a_small_matrix() -> None:
    matrix = sparse.csr_matrix(np.array([[3.0, 2.0, 2.0], [0.0, -1.0, 5.0]]))
    np.testing.assert_array_equal(prune_rows(matrix, 2).toarray(), [[3, 2, 0], [0, 0, 5]])
    np.testing.assert_array_equal(prune_columns(matrix, 1).toarray(), [[3, 2, 0], [0, 0, 5]])


def test_duplicate_entries_are_summed_and_the_callers_matrix_is_untouched() -> None:
    rows, columns = [0, 0, 1, 1], [0, 0, 0, 1]
    matrix = sparse.csr_matrix(
        (np.ones(4, dtype=np.float32), np.array(columns), np.array([0, 2, 4])), shape=(2, 2)
    )
    summed = sparse.csr_matrix(np.array([[2, 0], [1, 1]], dtype=np.float32))
    np.testing.assert_allclose(fit_ease(matrix, reg=1.0), fit_ease(summed, reg=1.0))
    assert matrix.nnz == len(rows)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (sparse.csr_matrix((0, 3), dtype=np.float32), "must have users and items"),
        (sparse.csr_matrix(np.array([[1.0, -1.0]])), "non-negative"),
        (sparse.csr_matrix(np.array([[1.0, np.inf]])), "finite"),
    ],
)
def test_matrices_that_cannot_be_used_are_named(matrix: sparse.csr_matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_item_knn(matrix, neighbours=1, shrink=0.0)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: fit_item_knn(TOY, neighbours=0, shrink=0.0),
        lambda: fit_item_knn(TOY, neighbours=1, shrink=-1.0),
        lambda: fit_rp3beta(TOY, alpha=0.0, beta=0.0, neighbours=1),
        lambda: fit_rp3beta(TOY, alpha=1.0, beta=-0.1, neighbours=1),
        lambda: prune_rows(TOY, 0),
    ],
)
def test_knobs_out_of_range_are_refused(fit: object) -> None:
    with pytest.raises(ValueError, match="must"):
        fit()  # type: ignore[operator]


@pytest.mark.parametrize("dense", [True, False])
def test_scores_are_weighted_sums_of_model_rows(dense: bool) -> None:
    model = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], dtype=np.float32)
    item_idx, ptr = np.array([0, 2, 1, 1], dtype=np.int32), np.array([0, 2, 2, 4])
    weights = np.array([1.0, 0.5, 2.0, 1.0])
    scores = score_histories(model if dense else sparse.csr_matrix(model), item_idx, ptr, weights)
    np.testing.assert_allclose(scores, np.array([[2.5, 4, 2], [0, 0, 0], [9, 0, 12]]))
    assert scores.dtype == np.float32
    unweighted = score_histories(model if dense else sparse.csr_matrix(model), item_idx, ptr)
    np.testing.assert_allclose(unweighted, [[5, 7, 2], [0, 0, 0], [6, 0, 8]])


@pytest.mark.parametrize(
    ("item_idx", "ptr", "weights", "message"),
    [
        ([0, 3], [0, 2], None, "outside a catalogue of 3"),
        ([0, -1], [0, 2], None, "outside a catalogue of 3"),
        ([0, 1], [0, 1], None, "ptr must run"),
        ([0, 1], [0, 2], [1.0], "1 weights for 2 events"),
    ],
)
def test_broken_histories_are_named(
    item_idx: list[int], ptr: list[int], weights: list[float] | None, message: str
) -> None:
    given = None if weights is None else np.array(weights)
    with pytest.raises(ValueError, match=message):
        score_histories(np.zeros((3, 3), np.float32), np.array(item_idx), np.array(ptr), given)
