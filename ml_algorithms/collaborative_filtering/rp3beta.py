"""RP3beta: three-step random walks on the user-item graph, with popular targets discounted.

In: interactions ``X`` csr [U, I]. Out: csr [I, I]; a user's scores are ``history @ W``.

Paudel, Christoffel, Newell, Bernstein, "Updatable, Accurate, Diverse, and Scalable Recommendations
for Interactive Applications", ACM TiiS 2016. A walk user -> item -> user -> item reaches target j
with probability p_uj; RP3beta divides it by ``popularity_j ** beta``. ``alpha`` is the exponent on
the transition probabilities (P3alpha: Cooper, Lee, Radzik, Siantos, "Random Walks in Recommender
Systems: Exact Computation and Simulations", WWW 2014 companion).

    W_ij = sum_v (X_vi / d_i)^alpha (X_vj / d_v)^alpha / d_j^beta

Departure: the first step (user to own history item) is left to the caller's history weights; for a
binary history it is the same for every item and cannot change the order. Walks are summed exactly,
not sampled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.collaborative_filtering.neighbourhood import as_float32_csr, pruned_product


def fit_rp3beta(
    matrix: sparse.csr_matrix, *, alpha: float, beta: float, neighbours: int
) -> sparse.csr_matrix:
    """Fit RP3beta.

    Time O(sum over users of history^2) plus O(I^2) for pruning, memory as for item kNN.

    Args:
        matrix: Interactions csr [U, I], non-negative weights.
        alpha: Exponent on both transition probabilities; 1 is the plain walk, lower flattens it.
        beta: Exponent of the popularity discount on the target; 0 none, 1 removes popularity
            altogether.
        neighbours: Sources kept for each target.

    Returns:
        csr f32[I, I], zero diagonal.

    Raises:
        ValueError: If ``alpha`` <= 0, ``beta`` < 0 or ``neighbours`` < 1.
    """
    if not alpha > 0.0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if beta < 0.0:
        raise ValueError(f"beta must not be negative, got {beta}")
    csr = as_float32_csr(matrix)
    degree = np.asarray(csr.sum(axis=0)).ravel()
    item_to_user = _transition(csr.T.tocsr(), alpha)
    user_to_item = _transition(csr, alpha)
    discount = np.power(np.maximum(degree, 1e-12), -beta).astype(np.float32)
    discount[degree == 0.0] = 0.0

    def discounted(block: npt.NDArray[np.float32], targets: slice) -> npt.NDArray[np.float32]:
        block *= discount[targets, None]
        return block

    # Targets lead in pruned_product, so the walk source -> user -> target is written from its end.
    return pruned_product(
        user_to_item.T.tocsr(), item_to_user.T.tocsr(), neighbours=neighbours, transform=discounted
    )


def _transition(matrix: sparse.csr_matrix, alpha: float) -> sparse.csr_matrix:
    """Row-normalise and raise to ``alpha`` element by element; empty rows stay empty."""
    out = matrix.copy()
    row_sum = np.asarray(out.sum(axis=1)).ravel()
    scale = np.repeat(row_sum, np.diff(out.indptr))
    positive = scale > 0.0
    out.data[positive] = (out.data[positive] / scale[positive]) ** alpha
    return out
