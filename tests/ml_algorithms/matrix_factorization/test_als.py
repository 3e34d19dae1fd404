"""Both ALS objectives against dense loops, per-row ridge regressions and their own monotony."""

import numpy as np
import pytest
from scipy import sparse

from ml_algorithms.matrix_factorization.als import (
    ExplicitObjective,
    ImplicitObjective,
    fit_als,
)
from ml_algorithms.matrix_factorization.ials import fit_ials, from_hu_parameters


def ratings(seed: int, *, users: int = 50, items: int = 30, density: float = 0.2):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, (users, items)) * (rng.random((users, items)) < density)
    return sparse.csr_matrix(dense.astype(np.float32))


def naive_loss(matrix, users, items, *, alpha, reg, by_count) -> float:  # type: ignore[no-untyped-def]
    """Cell by cell; alpha None is the explicit loss."""
    dense, total = matrix.toarray().astype(float), 0.0
    for u in range(dense.shape[0]):
        for i in range(dense.shape[1]):
            predicted = float(users[u].astype(float) @ items[i].astype(float))
            if alpha is None:
                total += (dense[u, i] - predicted) ** 2 if dense[u, i] else 0.0
            else:
                wanted = 1.0 if dense[u, i] else 0.0
                total += (1 + alpha * dense[u, i]) * (wanted - predicted) ** 2
    for factors, counts in ((users, (dense > 0).sum(1)), (items, (dense > 0).sum(0))):
        scale = counts if by_count else np.ones(len(counts))
        total += reg * float(scale @ (factors.astype(float) ** 2).sum(axis=1))
    return total


@pytest.mark.parametrize("by_count", [True, False])
def test_losses_equal_the_sum_over_cells(by_count: bool) -> None:
    matrix, rng = ratings(0), np.random.default_rng(0)
    users, items = rng.normal(size=(50, 4)), rng.normal(size=(30, 4))
    explicit = ExplicitObjective(0.3, by_count).loss(matrix, users, items)
    implicit = ImplicitObjective(2.0, 0.3, by_count).loss(matrix, users, items)
    knobs = {"reg": 0.3, "by_count": by_count}
    assert explicit == pytest.approx(naive_loss(matrix, users, items, alpha=None, **knobs))
    assert implicit == pytest.approx(naive_loss(matrix, users, items, alpha=2.0, **knobs))


@pytest.mark.parametrize(
    "objective", [ExplicitObjective(0.2), ImplicitObjective(1.5, 0.2, reg_by_count=False)]
)
def test_no_nearby_factors_are_better_than_a_half_step(objective) -> None:  # type: ignore[no-untyped-def]
    """Each row's solution is the minimum: moving it in any direction raises the loss."""
    matrix, rng = ratings(1), np.random.default_rng(1)
    items = rng.normal(size=(30, 4))
    users = objective.half_step(matrix, items)
    best = objective.loss(matrix, users, items)
    for _ in range(20):
        moved = users + 1e-3 * rng.normal(size=users.shape)
        assert objective.loss(matrix, moved, items) > best


def test_an_explicit_half_step_by_hand() -> None:
    # One user, ratings 4 and 2, one factor with items 1 and 2, penalty 0.5 times two ratings:
    # (1 + 4 + 1) w = 4 * 1 + 2 * 2, so w = 4 / 3.
    matrix = sparse.csr_matrix(np.array([[4.0, 2.0]]))
    solved = ExplicitObjective(0.5).half_step(matrix, np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(solved, [[4 / 3]])


def test_an_implicit_half_step_by_hand() -> None:
    # Items 1 and 2, one click on the first with r = 3, alpha 2: confidence 7, penalty 1:
    # (1 + 4) from everything, + 6 above one for the click, + 1 = 12 w = 7.
    matrix = sparse.csr_matrix(np.array([[3.0, 0.0]]))
    solved = ImplicitObjective(2.0, 1.0).half_step(matrix, np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(solved, [[7 / 12]])


@pytest.mark.parametrize("objective", [ExplicitObjective(0.1), ImplicitObjective(3.0, 0.1)])
def test_the_loss_never_rises(objective) -> None:  # type: ignore[no-untyped-def]
    matrix = ratings(2)
    losses = []
    for iterations in (1, 2, 4, 8):
        model = fit_als(matrix, objective, factors=5, iterations=iterations)
        losses.append(objective.loss(matrix, model.user_factors, model.item_factors))
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False)), losses


def test_implicit_with_a_constant_penalty_is_ials_in_other_units() -> None:
    """Two files, two parameterisations, one model; and through ials.py, the implicit library."""
    matrix = ratings(3)
    matrix.data[:] = 1.0
    start = np.random.default_rng(3).normal(0, 0.1, (30, 4))
    alpha, reg = 5.0, 2.0
    hu = fit_als(
        matrix, ImplicitObjective(alpha, reg, reg_by_count=False), factors=4, iterations=5,
        initial_item_factors=start,
    )  # fmt: skip
    weight, our_reg = from_hu_parameters(alpha, reg)
    shrink = np.sqrt(1 / (1 + weight))
    other = fit_ials(
        matrix, factors=4, unobserved_weight=weight, reg=our_reg, reg_exponent=0.0, iterations=5,
        initial_item_factors=(start * shrink).astype(np.float32),
    )  # fmt: skip
    np.testing.assert_allclose(other.item_factors / shrink, hu.item_factors, atol=2e-4)


def test_explicit_recovers_a_low_rank_matrix() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40))
    seen = rng.random(truth.shape) < 0.5
    matrix = sparse.csr_matrix(np.where(seen, truth, 0.0))
    model = fit_als(matrix, ExplicitObjective(1e-4), factors=3, iterations=60)
    predicted = model.score(model.user_factors)
    assert np.sqrt(((predicted - truth)[~seen] ** 2).mean()) < 0.05 * truth.std()
    np.testing.assert_allclose(model.predict(matrix), predicted[matrix.nonzero()], atol=1e-5)


def test_fold_in_is_the_next_user_half_step_and_needs_no_training_row() -> None:
    matrix, objective = ratings(5), ImplicitObjective(3.0, 0.1)
    model = fit_als(matrix, objective, factors=4, iterations=200)
    np.testing.assert_allclose(model.fold_in(matrix), model.user_factors, atol=2e-2)
    stranger = sparse.csr_matrix(([1.0, 1.0], ([0, 0], [3, 7])), shape=(1, 30))
    scores = model.score(model.fold_in(stranger))[0]
    assert scores[[3, 7]].mean() > 2 * np.delete(scores, [3, 7]).mean()
    nobody = sparse.csr_matrix((1, 30), dtype=np.float32)
    assert not model.fold_in(nobody).any()


def test_a_stored_zero_is_a_rating() -> None:
    zero = sparse.csr_matrix(([0.0, 2.0], ([0, 0], [0, 1])), shape=(1, 2))
    items = np.array([[1.0], [1.0]])
    solved = ExplicitObjective(0.5).half_step(zero, items)  # (2 + 1) w = 2
    np.testing.assert_allclose(solved, [[2 / 3]])
    with pytest.raises(ValueError, match="drop the zeros"):
        fit_als(zero, ImplicitObjective(1.0, 1.0), factors=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExplicitObjective(0.0), "reg must be positive"),
        (lambda: ImplicitObjective(0.0, 1.0), "alpha must be positive"),
        (lambda: fit_als(ratings(6), ExplicitObjective(1.0), factors=0), "at least 1"),
        (
            lambda: fit_als(sparse.csr_matrix((0, 3)), ExplicitObjective(1.0), factors=1),
            "users and items",
        ),
        (
            lambda: fit_als(
                sparse.csr_matrix(np.array([[np.nan, 1.0]])), ExplicitObjective(1.0), factors=1
            ),
            "not finite",
        ),
        (
            lambda: fit_als(
                sparse.csr_matrix((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 2)),
                ExplicitObjective(1.0),
                factors=1,
            ),
            "twice",
        ),
    ],
)
def test_what_cannot_be_fitted_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
