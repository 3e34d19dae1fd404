"""Implicit alternating least squares (iALS), from scratch, with batched solves.

In: interactions ``X`` csr [U, I]. Out: user factors W [U, D] and item factors H [I, D]; scores are
W H'.

Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, in the
form of Rendle, Krichene, Zhang, Koren, "Revisiting the Performance of iALS on Item Recommendation
Benchmarks", RecSys 2022:

    sum over observed (u,i) of x_ui (w_u h_i - 1)^2  +  unobserved_weight * sum over all (u,i) of
    (w_u h_i)^2 +  reg * ( sum_u s_u^nu |w_u|^2 + sum_i s_i^nu |h_i|^2 ),    s_u = |I_u| +
    unobserved_weight * I  (s_i alike)

With the items fixed each user is a ridge regression of size D whose matrix is a shared Gram matrix
plus a sum over the user's own items: the sum over the whole catalogue costs nothing per user. That
is why every unobserved pair can be a negative without sampling.

``nu = 1`` scales the penalty with how much each row is observed, ``nu = 0`` is Hu et al.'s
constant one. ``from_hu_parameters`` maps the parameters of the 2008 form (and of the ``implicit``
library).

Legend: U users, I items, D factors, R rows in a block, L longest history in a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.collaborative_filtering.neighbourhood import as_float32_csr
from ml_algorithms.matrix_factorization.ridge_rows import solve_ridge_rows

Factors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImplicitALS:
    """Fitted factors and the parameters that a later fold-in needs."""

    user_factors: Factors
    """[U, D]"""
    item_factors: Factors
    """[I, D]"""
    unobserved_weight: float
    reg: float
    reg_exponent: float

    def fold_in(self, histories: sparse.csr_matrix) -> Factors:
        """One half-step: factors f32[B, D] of new or changed users, histories csr [B, I]."""
        rows = as_float32_csr(histories)
        return solve_rows(
            rows, self.item_factors, self.unobserved_weight, self.reg, self.reg_exponent
        )

    def score(self, user_factors: Factors) -> npt.NDArray[np.float32]:
        """Scores f32[B, I] for user factors f32[B, D]."""
        return user_factors @ self.item_factors.T


def fit_ials(
    matrix: sparse.csr_matrix,
    *,
    factors: int,
    unobserved_weight: float,
    reg: float,
    reg_exponent: float = 1.0,
    iterations: int = 16,
    seed: int = 0,
    initial_item_factors: Factors | None = None,
) -> ImplicitALS:
    """Alternate exact least-squares solves, users first.

    Time per iteration O(nnz D^2 + (U + I) D^3).

    Args:
        matrix: Interactions csr [U, I]; values weigh the observed term (all 1 for binary).
        factors: Embedding width D.
        unobserved_weight: alpha_0 of Rendle et al., > 0: how much a missing pair says "no".
        reg: lambda, > 0.
        reg_exponent: nu in [0, 1].
        iterations: Passes over users and items.
        seed: For the initial item factors, N(0, 0.1 / sqrt(D)) as Rendle et al. recommend.
        initial_item_factors: Start from these [I, D] instead.

    Returns:
        The fitted model.

    Raises:
        ValueError: If a parameter is out of range.
    """
    if factors < 1 or iterations < 1:
        raise ValueError(
            f"factors and iterations must be at least 1, got {factors} and {iterations}"
        )
    if not (unobserved_weight > 0.0 and reg > 0.0):
        raise ValueError(
            f"unobserved_weight and reg must be positive, got {unobserved_weight}, {reg}"
        )
    by_user = as_float32_csr(matrix)
    by_item = by_user.T.tocsr()
    if initial_item_factors is None:
        rng = np.random.default_rng(seed)
        scale = 0.1 / np.sqrt(factors)
        items = rng.normal(0.0, scale, size=(by_item.shape[0], factors)).astype(np.float32)
    else:
        items = np.asarray(initial_item_factors, dtype=np.float32)
    users = np.zeros((by_user.shape[0], factors), dtype=np.float32)
    for _ in range(iterations):
        users = solve_rows(by_user, items, unobserved_weight, reg, reg_exponent)
        items = solve_rows(by_item, users, unobserved_weight, reg, reg_exponent)
    return ImplicitALS(users, items, unobserved_weight, reg, reg_exponent)


def solve_rows(
    rows: sparse.csr_matrix,
    other: Factors,
    unobserved_weight: float,
    reg: float,
    reg_exponent: float,
) -> Factors:
    """Solve every row's ridge regression against fixed factors of the other side.

    The regressions themselves, in batches, are ridge_rows.py; here stands what iALS fills in: the
    Gram matrix of all columns, weighted, is shared by every row.

    Args:
        rows: csr [R, J] of float32.
        other: Fixed factors [J, D].
        unobserved_weight: Weight of the all-pairs term.
        reg: lambda.
        reg_exponent: nu.

    Returns:
        f32[R, D]; a row without interactions is zero.
    """
    lengths = np.diff(rows.indptr)
    return solve_ridge_rows(
        rows,
        other,
        weight=rows.data,
        target=rows.data,  # every observed pair has target 1
        shared=unobserved_weight * (other.T @ other),
        penalty=reg * (lengths + unobserved_weight * other.shape[0]) ** reg_exponent,
    ).astype(np.float32)


def ials_loss(matrix: sparse.csr_matrix, model: ImplicitALS) -> float:
    """The objective of the module docstring, exactly: O(nnz D + (U + I) D^2)."""
    csr = as_float32_csr(matrix)
    users, items = model.user_factors.astype(np.float64), model.item_factors.astype(np.float64)
    coo = csr.tocoo()
    predicted = np.einsum("nd,nd->n", users[coo.row], items[coo.col])
    observed = float((coo.data * (predicted - 1.0) ** 2).sum())
    everything = float(((users.T @ users) * (items.T @ items)).sum())
    user_scale = np.diff(csr.indptr) + model.unobserved_weight * csr.shape[1]
    item_scale = (
        np.bincount(csr.indices, minlength=csr.shape[1]) + model.unobserved_weight * csr.shape[0]
    )
    penalty = (user_scale**model.reg_exponent) @ (users**2).sum(axis=1)
    penalty += (item_scale**model.reg_exponent) @ (items**2).sum(axis=1)
    return observed + model.unobserved_weight * everything + model.reg * float(penalty)


def from_hu_parameters(alpha: float, reg: float) -> tuple[float, float]:
    """Map Hu et al.'s ``confidence = 1 + alpha`` and constant ``reg`` to ours, for a binary matrix.

    Their loss per observed pair, ``(1 + alpha)(y - 1)^2``, beside ours, ``(y - 1)^2 + a y^2``:
    with ``a = 1 / alpha`` ours is ``(1 + a)(y - 1 / (1 + a))^2`` up to a constant: the same
    parabola with its target shrunk by ``s = 1 / (1 + a)``. Factors scaled by sqrt(s) make the two
    objectives proportional, so the ranking is the same at ``reg_exponent = 0``.

    Args:
        alpha: Hu's alpha, > 0. The ``implicit`` library's ``alpha`` is the confidence itself: give
            its value less 1.
        reg: Hu's lambda (``regularization`` of ``implicit``).

    Returns:
        (unobserved_weight, reg) for ``fit_ials(..., reg_exponent=0)``.
    """
    unobserved_weight = 1.0 / alpha
    return unobserved_weight, reg / alpha / (1.0 + unobserved_weight)
