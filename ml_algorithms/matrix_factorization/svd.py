"""Truncated SVD by random projection, and PureSVD: the factorisation that needs no training loop.

In: a sparse matrix csr [U, I]. Out: ``U_d S_d V_d'`` of rank D, nearest to the matrix in squared
error over *all* its cells, the empty ones read as zeros (Eckart and Young's theorem).

Halko, Martinsson, Tropp, "Finding Structure with Randomness: Probabilistic Algorithms for
Constructing Approximate Matrix Decompositions", SIAM Review 2011, algorithms 4.4 and 5.1: find
an orthonormal basis Q of the range by multiplying the matrix with a few random vectors, then
decompose the small matrix Q'X. Each power iteration raises the ratio of wanted to unwanted
singular values by two more powers; a slowly falling spectrum needs more of them.

PureSVD is Cremonesi, Koren, Turrin, "Performance of Recommender Algorithms on Top-N
Recommendation Tasks", RecSys 2010, section 3.3: a user's scores are ``x V V'``, the history
projected onto the item factors. So a new user costs one product and no solve: it is an item-item
model of rank D.

Legend: U users, I items, D factors, K sketch width (D plus oversampling), N stored entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TruncatedSVD:
    """The D largest singular triplets, largest first."""

    left: Array
    """[U, D], orthonormal columns"""
    values: Array
    """[D], descending"""
    right: Array
    """[D, I], orthonormal rows"""


def truncated_svd(
    matrix: sparse.csr_matrix,
    rank: int,
    *,
    oversample: int = 10,
    power_iterations: int = 6,
    seed: int = 0,
) -> TruncatedSVD:
    """Randomised truncated SVD.

    Time O(power_iterations (N K + (U + I) K^2)), memory O((U + I) K); the matrix is only ever
    multiplied, never made dense.

    Args:
        matrix: csr [U, I].
        rank: D, at most min(U, I).
        oversample: Random directions beyond D.
        power_iterations: Extra passes over the matrix.
        seed: Of the random directions.

    Returns:
        The decomposition; signs are fixed (the largest entry of each right vector is positive),
        so that two runs can be compared.

    Raises:
        ValueError: If ``rank`` is not within 1..min(U, I).
    """
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank must be within 1..{min(matrix.shape)}, got {rank}")
    x = sparse.csr_matrix(matrix, dtype=np.float64)
    width = min(rank + oversample, min(x.shape))
    basis = range_basis(x, width, power_iterations, seed)
    left_small, values, right = np.linalg.svd((x.T @ basis).T, full_matrices=False)  # of Q'X
    left = basis @ left_small
    strongest = np.abs(right).argmax(axis=1)
    signs = np.sign(right[np.arange(width), strongest])
    signs[signs == 0.0] = 1.0
    return TruncatedSVD((left * signs)[:, :rank], values[:rank], (right * signs[:, None])[:rank])


def range_basis(x: sparse.csr_matrix, width: int, power_iterations: int, seed: int) -> Array:
    """Orthonormal columns [U, K] whose span nearly holds the leading left singular vectors."""
    random_directions = np.random.default_rng(seed).normal(size=(x.shape[1], width))
    basis = _orthonormal(x @ random_directions)
    for _ in range(power_iterations):
        # Orthonormalise after every product: else all columns turn into the first vector.
        basis = _orthonormal(x.T @ basis)
        basis = _orthonormal(x @ basis)
    return basis


def _orthonormal(columns: Array) -> Array:
    """An orthonormal basis of the columns' span, same shape."""
    return np.linalg.qr(columns)[0]


@dataclass(frozen=True)
class PureSVD:
    """Item factors V [I, D]; a user is the projection of its history onto them."""

    item_factors: npt.NDArray[np.float32]

    def fold_in(self, histories: sparse.csr_matrix) -> npt.NDArray[np.float32]:
        """User factors f32[B, D] of histories csr [B, I]: one product."""
        return np.asarray(histories @ self.item_factors, dtype=np.float32)

    def score(self, user_factors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scores f32[B, I]."""
        return user_factors @ self.item_factors.T


def fit_pure_svd(matrix: sparse.csr_matrix, *, factors: int, seed: int = 0) -> PureSVD:
    """PureSVD of interactions csr [U, I] with D ``factors``; its only knob.

    Raises:
        ValueError: As ``truncated_svd``.
    """
    right = truncated_svd(matrix, factors, seed=seed).right
    return PureSVD(np.ascontiguousarray(right.T, dtype=np.float32))
