"""EASE against each item's own ridge regression, by hand, and where it must refuse."""

import numpy as np
import pytest
from scipy import sparse

from ml_algorithms.matrix_factorization.ease import fit_ease

TOY = sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.float32))


def random_matrix(seed: int, *, users: int = 60, items: int = 25) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix((rng.random((users, items)) < 0.2).astype(np.float32))


def test_ease_solves_each_items_ridge_regression_on_the_other_items() -> None:
    matrix, reg = random_matrix(0), 3.0
    weights = fit_ease(matrix, reg=reg)
    dense = matrix.toarray().astype(np.float64)
    for item in range(dense.shape[1]):
        others = np.delete(np.arange(dense.shape[1]), item)
        x = dense[:, others]
        expected = np.linalg.solve(x.T @ x + reg * np.eye(others.size), x.T @ dense[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-5)


def test_ease_on_two_items_by_hand() -> None:
    # X'X + I = [[3, 1], [1, 2]]: B_01 = 1 / (2 + 1), the ridge coefficient of item 1 on item 0.
    matrix = sparse.csr_matrix(np.array([[1, 1], [1, 0]], dtype=np.float32))
    np.testing.assert_allclose(fit_ease(matrix, reg=1.0), [[0, 1 / 3], [1 / 2, 0]], atol=1e-6)


def test_ease_in_float32_agrees_with_float64() -> None:
    matrix = random_matrix(1, users=300, items=80)
    double = fit_ease(matrix, reg=10.0)
    single = fit_ease(matrix, reg=10.0, dtype=np.float32)
    assert single.dtype == double.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=1e-5)
    assert not np.diag(single).any()


def test_ease_gives_an_item_without_users_no_votes() -> None:
    matrix = sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32))
    weights = fit_ease(matrix, reg=1.0)
    assert not weights[2].any()
    assert not weights[:, 2].any()


@pytest.mark.parametrize("reg", [0.0, -1.0, float("nan")])
def test_ease_rejects_a_reg_that_is_not_positive(reg: float) -> None:
    with pytest.raises(ValueError, match="reg must be positive"):
        fit_ease(TOY, reg=reg)


def test_ease_says_when_the_gram_matrix_is_numerically_singular() -> None:
    twins = sparse.csr_matrix(np.ones((5, 2), dtype=np.float32) * 1000)
    with pytest.raises(ValueError, match="raise reg"):
        fit_ease(twins, reg=1e-12, dtype=np.float32)
