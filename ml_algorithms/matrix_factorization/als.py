"""Alternating least squares in its two classical forms: for ratings, and for clicks.

In: a matrix csr [U, I] of ratings (or counts). Out: user factors W [U, D] and item factors
H [I, D]; predictions, or scores, are W H'.

    explicit:  sum over rated (u,i) of (r_ui - w_u h_i)^2  +  penalty
    implicit:  sum over ALL (u,i) of (1 + alpha r_ui) ([r_ui > 0] - w_u h_i)^2  +  penalty
    penalty:   reg * (sum_u n_u |w_u|^2 + sum_i n_i |h_i|^2),  n the number of entries of the row

Explicit with that penalty ("weighted-lambda") is Zhou, Wilkinson, Schreiber, Pan, "Large-Scale
Parallel Collaborative Filtering for the Netflix Prize", AAIM 2008, section 3. Implicit is Hu,
Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, equations 3
to 5, whose own penalty is constant: ``reg_by_count=False``. Spark's ALS is both of these with
``reg_by_count=True``, which is why the test against Spark can be exact.

The alternation is one and the same; an *objective* is the rule for a half-step and the loss that
the half-step never increases. ials.py holds the implicit loss in the form of Rendle et al. 2022,
with the weight on the empty cells and a penalty scaled by how much of a row is observed.

Legend: U users, I items, N stored entries, D factors, R rows of a half-step, J columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.matrix_factorization.ridge_rows import solve_ridge_rows

Array = npt.NDArray[np.floating]


class Objective(Protocol):
    """A quadratic loss that separates into one ridge regression a row."""

    def half_step(self, rows: sparse.csr_matrix, other: Array) -> Array:
        """Best factors [R, D] of ``rows`` csr [R, J] while ``other`` [J, D] stays fixed."""
        ...

    def loss(self, matrix: sparse.csr_matrix, users: Array, items: Array) -> float:
        """The objective itself."""
        ...


@dataclass(frozen=True)
class ExplicitObjective:
    """Squared error on the rated pairs alone: an empty cell says nothing.

    Raises:
        ValueError: If ``reg`` is not positive: a user with fewer ratings than factors would have
            no unique solution.
    """

    reg: float
    reg_by_count: bool = True

    def __post_init__(self) -> None:
        _check_positive(reg=self.reg)

    def half_step(self, rows: sparse.csr_matrix, other: Array) -> Array:
        """Ridge regression of each row's ratings on the factors of what it rated."""
        return solve_ridge_rows(
            rows,
            other,
            weight=np.ones(rows.nnz, dtype=other.dtype),
            target=rows.data,
            shared=np.zeros((other.shape[1], other.shape[1]), dtype=other.dtype),
            penalty=self.reg * _scale(rows, self.reg_by_count),
        )

    def loss(self, matrix: sparse.csr_matrix, users: Array, items: Array) -> float:
        """O(N D)."""
        error = matrix.data - _predicted(matrix, users, items)
        return float(error @ error) + self.reg * _penalty(matrix, users, items, self.reg_by_count)


@dataclass(frozen=True)
class ImplicitObjective:
    """Every pair counts: an empty cell is a "no" of confidence 1, a click a "yes" of 1 + alpha r.

    Raises:
        ValueError: If ``alpha`` or ``reg`` is not positive.
    """

    alpha: float
    reg: float
    reg_by_count: bool = True

    def __post_init__(self) -> None:
        _check_positive(alpha=self.alpha, reg=self.reg)

    def half_step(self, rows: sparse.csr_matrix, other: Array) -> Array:
        """Equation 4: the Gram matrix of the whole other side, corrected where there are clicks."""
        confidence_above_one = self.alpha * rows.data
        return solve_ridge_rows(
            rows,
            other,
            weight=confidence_above_one,
            target=1.0 + confidence_above_one,
            shared=other.T @ other,
            penalty=self.reg * _scale(rows, self.reg_by_count),
        )

    def loss(self, matrix: sparse.csr_matrix, users: Array, items: Array) -> float:
        """O(N D + (U + I) D^2): the sum over empty cells goes through the two Gram matrices."""
        predicted = _predicted(matrix, users, items)
        confidence = 1.0 + self.alpha * matrix.data
        observed = confidence @ (1.0 - predicted) ** 2 - predicted @ predicted
        users, items = users.astype(np.float64), items.astype(np.float64)
        everything = ((users.T @ users) * (items.T @ items)).sum()
        penalty = self.reg * _penalty(matrix, users, items, self.reg_by_count)
        return float(observed + everything) + penalty


@dataclass(frozen=True)
class ALSModel:
    """Fitted factors, and the objective that a fold-in needs again."""

    user_factors: Array
    """[U, D]"""
    item_factors: Array
    """[I, D]"""
    objective: Objective

    def fold_in(self, histories: sparse.csr_matrix) -> Array:
        """Factors [B, D] of new or changed users in one solve each; histories csr [B, I]."""
        return self.objective.half_step(_checked(histories), self.item_factors)

    def score(self, user_factors: Array) -> Array:
        """Scores [B, I] of user factors [B, D]."""
        return user_factors @ self.item_factors.T

    def predict(self, pairs: sparse.csr_matrix) -> Array:
        """Predictions f64[N] at the stored entries of csr [U, I], in their order."""
        return _predicted(pairs, self.user_factors, self.item_factors)


def fit_als(
    matrix: sparse.csr_matrix,
    objective: Objective,
    *,
    factors: int,
    iterations: int = 15,
    seed: int = 0,
    initial_item_factors: Array | None = None,
) -> ALSModel:
    """Alternate exact half-steps, users first.

    Time per iteration O(N D^2 + (U + I) D^3). The loss never rises, but it is not convex in both
    sides together: another start may end elsewhere, with much the same loss.

    Args:
        matrix: csr [U, I]. Explicit: ratings, or residuals of ratings, of any sign; a stored zero
            is a rating of zero. Implicit: non-negative counts, a stored zero is refused.
        objective: ``ExplicitObjective`` or ``ImplicitObjective``.
        factors: D.
        iterations: Passes over both sides.
        seed: For the initial item factors: normal, of length about 1.
        initial_item_factors: Start from these [I, D] instead; their dtype is the precision.

    Returns:
        The fitted model.

    Raises:
        ValueError: On a knob below 1, values that are not finite, or (implicit) not positive.
    """
    if factors < 1 or iterations < 1:
        raise ValueError(
            f"factors and iterations must be at least 1, got {factors} and {iterations}"
        )
    by_user = _checked(matrix)
    if isinstance(objective, ImplicitObjective) and by_user.nnz and by_user.data.min() <= 0.0:
        raise ValueError("implicit feedback must be positive where it is stored: drop the zeros")
    by_item = by_user.T.tocsr()
    items = initial_item_factors
    if items is None:
        rng = np.random.default_rng(seed)
        items = rng.normal(size=(by_user.shape[1], factors)).astype(np.float32)
        items /= np.float32(np.sqrt(factors))
    users = np.zeros((by_user.shape[0], factors), dtype=items.dtype)
    for _ in range(iterations):
        users = objective.half_step(by_user, items)
        items = objective.half_step(by_item, users)
    return ALSModel(users, items, objective)


def _scale(rows: sparse.csr_matrix, by_count: bool) -> npt.NDArray[np.float64]:
    """What reg is multiplied with, [R]."""
    counts = np.diff(rows.indptr).astype(np.float64)
    return counts if by_count else np.ones_like(counts)


def _penalty(matrix: sparse.csr_matrix, users: Array, items: Array, by_count: bool) -> float:
    total = 0.0
    for rows, factors in ((matrix, users), (matrix.T.tocsr(), items)):
        total += float(_scale(rows, by_count) @ (factors.astype(np.float64) ** 2).sum(axis=1))
    return total


def _predicted(pairs: sparse.csr_matrix, users: Array, items: Array) -> npt.NDArray[np.float64]:
    user = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    return np.einsum(
        "nd,nd->n", users[user].astype(np.float64), items[pairs.indices].astype(np.float64)
    )


def _checked(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The matrix as csr of floats with each pair once; stored zeros stay stored."""
    csr = sparse.csr_matrix(matrix)
    if csr.shape[0] == 0 or csr.shape[1] == 0:
        raise ValueError(f"the matrix must have users and items, got shape {csr.shape}")
    if not np.issubdtype(csr.dtype, np.floating):
        csr = csr.astype(np.float32)
    if not csr.has_canonical_format:
        raise ValueError("a pair is stored twice: sum the duplicates, or keep the last")
    if not np.isfinite(csr.data).all():
        raise ValueError("the matrix holds values that are not finite")
    return csr


def _check_positive(**knobs: float) -> None:
    for name, value in knobs.items():
        if not value > 0.0:
            raise ValueError(f"{name} must be positive, got {value}")
