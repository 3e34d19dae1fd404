"""Item-based nearest neighbours with cosine similarity and shrinkage.

In: interactions ``X`` csr [U, I]. Out: csr [I, I] with at most ``neighbours`` entries a column.

Sarwar, Karypis, Konstan, Riedl, "Item-Based Collaborative Filtering Recommendation Algorithms",
WWW 2001 (cosine between item columns); Deshpande and Karypis, "Item-Based Top-N Recommendation
Algorithms", TOIS 2004 (implicit feedback: scores are sums over the basket).

    W_ij = <x_i, x_j> / (|x_i| |x_j| + shrink)

``shrink`` is a count: a cosine that rests on few common users is pulled towards zero, which a
plain cosine of 1.0 from a single common user needs. Each target keeps its nearest sources
(``neighbourhood.py`` says why). Scores are plain sums, without Sarwar's division by the sum of
similarities, which is meant for predicting a rating: with implicit feedback it would make every
target with one neighbour score 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.collaborative_filtering.neighbourhood import as_float32_csr, pruned_product


def fit_item_knn(matrix: sparse.csr_matrix, *, neighbours: int, shrink: float) -> sparse.csr_matrix:
    """Fit cosine item kNN.

    Time O(sum over users of history^2) for the sparse product plus O(I^2) for pruning; memory one
    block of 1,024 dense rows plus the result.

    Args:
        matrix: Interactions csr [U, I].
        neighbours: Sources kept for each target (20-200 is usual).
        shrink: Added to the product of norms; 0 is the plain cosine.

    Returns:
        csr f32[I, I], zero diagonal; ``W[i, j]`` is the vote of history item i for item j.

    Raises:
        ValueError: If ``neighbours`` < 1 or ``shrink`` < 0.
    """
    if shrink < 0.0:
        raise ValueError(f"shrink must not be negative, got {shrink}")
    csr = as_float32_csr(matrix)
    norm = np.sqrt(np.asarray(csr.multiply(csr).sum(axis=0)).ravel()).astype(np.float32)

    def cosine(block: npt.NDArray[np.float32], targets: slice) -> npt.NDArray[np.float32]:
        denominator = norm[targets, None] * norm[None, :] + np.float32(shrink)
        # An item without users has norm 0 and only zero products: leave those at 0.
        np.divide(block, denominator, out=block, where=denominator > 0.0)
        return block

    return pruned_product(csr.T.tocsr(), csr, neighbours=neighbours, transform=cosine)
