"""Truncated SVD against scipy and numpy; PureSVD as the projection it is."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import svds

from ml_algorithms.matrix_factorization.svd import fit_pure_svd, truncated_svd


def random_matrix(seed: int = 0, *, users: int = 120, items: int = 70) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix((rng.random((users, items)) < 0.15).astype(np.float64))


def test_values_and_vectors_are_scipys() -> None:
    matrix = random_matrix()
    left, values, right = svds(matrix, k=5)
    ours = truncated_svd(matrix, 5, power_iterations=60)
    order = np.argsort(-values)
    np.testing.assert_allclose(ours.values, values[order], rtol=1e-8)
    # Vectors up to sign: compare the products, which have none.
    np.testing.assert_allclose(
        (ours.left * ours.values) @ ours.right,
        (left[:, order] * values[order]) @ right[order],
        atol=1e-5,
    )


def test_few_power_iterations_come_near_and_more_come_nearer() -> None:
    matrix = random_matrix(1)
    best = np.sqrt((np.linalg.svd(matrix.toarray(), compute_uv=False)[10:] ** 2).sum())
    gaps = []
    for power_iterations in (0, 2, 8):
        part = truncated_svd(matrix, 10, power_iterations=power_iterations)
        error = np.linalg.norm(matrix.toarray() - (part.left * part.values) @ part.right)
        gaps.append(error / best - 1.0)
    assert 0.0 <= gaps[2] < gaps[1] < gaps[0]
    assert gaps[1] < 0.02


def test_factors_are_orthonormal_and_signs_are_fixed() -> None:
    part = truncated_svd(random_matrix(2), 6)
    np.testing.assert_allclose(part.left.T @ part.left, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(part.right @ part.right.T, np.eye(6), atol=1e-10)
    strongest = np.abs(part.right).argmax(axis=1)
    assert (part.right[np.arange(6), strongest] > 0).all()
    assert (np.diff(part.values) <= 0).all()


def test_full_rank_gives_the_matrix_back() -> None:
    matrix = random_matrix(3, users=9, items=6)
    part = truncated_svd(matrix, 6)
    np.testing.assert_allclose((part.left * part.values) @ part.right, matrix.toarray(), atol=1e-9)


@pytest.mark.parametrize("rank", [0, 71])
def test_a_rank_that_cannot_be_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.70"):
        truncated_svd(random_matrix(), rank)


def test_pure_svd_scores_are_the_history_projected() -> None:
    matrix = random_matrix(4)
    model = fit_pure_svd(matrix, factors=8)
    _, _, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    v = truncated_svd(matrix, 8).right.T
    np.testing.assert_allclose(
        model.score(model.fold_in(matrix[:5])), matrix[:5].toarray() @ v @ v.T, atol=1e-5
    )
    # Near numpy's projection too: six power iterations suffice for the scores.
    exact = matrix.toarray() @ right[:8].T @ right[:8]
    scores = model.score(model.fold_in(matrix))
    assert np.abs(scores - exact).max() < 0.2 * np.abs(exact).max()
    assert np.corrcoef(scores.ravel(), exact.ravel())[0, 1] > 0.99
