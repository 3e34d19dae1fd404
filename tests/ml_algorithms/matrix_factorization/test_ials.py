"""iALS against the objective itself, per-row ridge regressions, and the implicit library."""

import numpy as np
import pytest
from scipy import sparse

from ml_algorithms.matrix_factorization.ials import (
    ImplicitALS,
    fit_ials,
    from_hu_parameters,
    ials_loss,
    solve_rows,
)


def random_matrix(seed: int, *, users: int = 60, items: int = 40, density: float = 0.12):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix((rng.random((users, items)) < density).astype(np.float32))


def naive_loss(matrix, model: ImplicitALS) -> float:  # type: ignore[no-untyped-def]
    dense = matrix.toarray()
    predicted = model.user_factors.astype(float) @ model.item_factors.astype(float).T
    total = (dense * (predicted - 1) ** 2).sum() + model.unobserved_weight * (predicted**2).sum()
    for factors, counts, others in (
        (model.user_factors, (dense > 0).sum(axis=1), dense.shape[1]),
        (model.item_factors, (dense > 0).sum(axis=0), dense.shape[0]),
    ):
        scale = (counts + model.unobserved_weight * others) ** model.reg_exponent
        total += model.reg * (scale * (factors.astype(float) ** 2).sum(axis=1)).sum()
    return float(total)


def test_the_loss_without_the_dense_sum_equals_the_dense_loss() -> None:
    matrix = random_matrix(0)
    model = fit_ials(matrix, factors=6, unobserved_weight=0.2, reg=0.05, iterations=1)
    assert ials_loss(matrix, model) == pytest.approx(naive_loss(matrix, model), rel=1e-6)


def test_every_half_step_is_the_exact_ridge_solution() -> None:
    matrix, rng = random_matrix(1), np.random.default_rng(1)
    matrix.data *= rng.uniform(0.5, 3.0, matrix.nnz).astype(np.float32)
    other = rng.normal(size=(40, 5)).astype(np.float32)
    solved = solve_rows(matrix, other, 0.3, 0.1, 1.0)
    for row in range(matrix.shape[0]):
        values = matrix[row].toarray().ravel()
        penalty = 0.1 * ((values > 0).sum() + 0.3 * 40)
        system = other.T @ (values[:, None] * other) + 0.3 * other.T @ other + penalty * np.eye(5)
        np.testing.assert_allclose(
            solved[row], np.linalg.solve(system, other.T @ values), atol=1e-4
        )


def test_small_blocks_give_the_same_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix(2)
    other = np.random.default_rng(2).normal(size=(40, 5)).astype(np.float32)
    whole = solve_rows(matrix, other, 0.3, 0.1, 0.5)
    monkeypatch.setattr("ml_algorithms.matrix_factorization.ridge_rows.BLOCK_VALUES", 60)
    np.testing.assert_allclose(solve_rows(matrix, other, 0.3, 0.1, 0.5), whole, atol=1e-5)


def test_the_loss_never_rises() -> None:
    matrix = random_matrix(3)
    losses = [
        ials_loss(
            matrix, fit_ials(matrix, factors=8, unobserved_weight=0.1, reg=0.02, iterations=n)
        )
        for n in (1, 2, 4, 8)
    ]
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False)), losses


# implicit advises against a threaded BLAS, for speed; a test of this size does not care.
@pytest.mark.filterwarnings("ignore:(OpenBLAS|Intel MKL BLAS) is configured:RuntimeWarning")
@pytest.mark.parametrize(("alpha", "reg"), [(4.0, 3.0), (20.0, 0.5)])
def test_parity_with_the_implicit_library(alpha: float, reg: float) -> None:
    als = pytest.importorskip("implicit.cpu.als")
    matrix, factors = random_matrix(4, users=120, items=80), 6
    start = np.random.default_rng(4).normal(0, 0.1, size=(80, factors)).astype(np.float32)
    theirs = als.AlternatingLeastSquares(
        factors=factors,
        alpha=alpha + 1,
        regularization=reg,
        iterations=4,
        use_cg=False,
        num_threads=1,
    )
    theirs.user_factors = np.zeros((120, factors), dtype=np.float32)
    theirs.item_factors = start.copy()
    theirs.fit(matrix, show_progress=False)

    unobserved_weight, our_reg = from_hu_parameters(alpha, reg)
    shrink = np.sqrt(1 / (1 + unobserved_weight))  # our factors are theirs times this
    ours = fit_ials(
        matrix, factors=factors, unobserved_weight=unobserved_weight, reg=our_reg,
        reg_exponent=0.0, iterations=4, initial_item_factors=start * shrink,
    )  # fmt: skip
    np.testing.assert_allclose(ours.user_factors / shrink, theirs.user_factors, atol=2e-4)
    np.testing.assert_allclose(ours.item_factors / shrink, theirs.item_factors, atol=2e-4)
    their_loss = naive_loss(
        matrix,
        ImplicitALS(
            theirs.user_factors * shrink,
            theirs.item_factors * shrink,
            unobserved_weight,
            our_reg,
            0.0,
        ),
    )
    assert ials_loss(matrix, ours) == pytest.approx(their_loss, rel=1e-4)


def test_folding_in_a_training_user_gives_the_next_half_step() -> None:
    matrix = random_matrix(5)
    model = fit_ials(matrix, factors=6, unobserved_weight=0.1, reg=0.05, iterations=30)
    np.testing.assert_allclose(model.fold_in(matrix[:7]), model.user_factors[:7], atol=5e-2)
    scores = model.score(model.fold_in(matrix[:7]))
    assert scores.shape == (7, 40)
    seen = matrix[:7].toarray() > 0
    assert scores[seen].mean() > 2 * scores[~seen].mean()


def test_rows_without_interactions_get_zero_factors_and_finite_neighbours() -> None:
    dense = random_matrix(6).toarray()
    dense[3], dense[:, 5] = 0, 0
    model = fit_ials(
        sparse.csr_matrix(dense), factors=4, unobserved_weight=0.1, reg=0.05, iterations=3
    )
    assert not model.user_factors[3].any()
    assert not model.item_factors[5].any()
    assert np.isfinite(model.user_factors).all()


def test_same_seed_same_factors() -> None:
    matrix = random_matrix(7)
    knobs = {"factors": 4, "unobserved_weight": 0.1, "reg": 0.05, "iterations": 2}
    first, second = fit_ials(matrix, **knobs, seed=3), fit_ials(matrix, **knobs, seed=3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.item_factors, second.item_factors)
    other = fit_ials(matrix, **knobs, seed=4)  # type: ignore[arg-type]
    assert not np.array_equal(first.item_factors, other.item_factors)


@pytest.mark.parametrize(
    "wrong", [{"factors": 0}, {"iterations": 0}, {"reg": 0.0}, {"unobserved_weight": 0.0}]
)
def test_knobs_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    knobs = {"factors": 2, "unobserved_weight": 0.1, "reg": 0.1, "iterations": 1, **wrong}
    with pytest.raises(ValueError, match="must be"):
        fit_ials(random_matrix(8), **knobs)  # type: ignore[arg-type]
