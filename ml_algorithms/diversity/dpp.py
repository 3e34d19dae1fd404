"""Determinantal point processes: choose the set whose vectors span the largest volume.

In: a positive semi-definite kernel L f[C, C] of C candidates. Out: positions of the picked, in
order.

A DPP gives a set S the probability det(L_S) up to a constant. With ``L_ij = q_i S_ij q_j``
(quality times similarity) the determinant is the product of the qualities squared times the
squared volume spanned by the picked items' unit vectors: two near duplicates span almost nothing.

- ``greedy_dpp``: Chen, Zhang, Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to
  Improve Recommendation Diversity", NeurIPS 2018, Algorithm 1: exact greedy, incremental Cholesky
  rows, O(k^2 C).
- ``trade_off_kernel``: also from there, the kernel whose log-determinant is a relevance-diversity
  trade-off.
- ``distance_kernel``: Wilhelm et al., "Practical Diversified Recommendations on YouTube with
  Determinantal Point Processes", CIKM 2018: quality times a Gaussian of a distance.
- ``condition_on``: the kernel given items that are shown already (Kulesza and Taskar,
  "Determinantal Point Processes for Machine Learning", Foundations and Trends in ML 2012).

Legend: C candidates, k list length, A items shown already.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# An item whose gain is below this share of its own quality duplicates what is picked already.
DUPLICATE_SHARE = 1e-10


def greedy_dpp(kernel: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.int64]:
    """Pick up to k candidates, each the one that multiplies the determinant most.

    For every candidate the algorithm keeps ``gain`` = det(L of picked + c) / det(L of picked),
    which is the squared last pivot of the Cholesky factor of L over picked + c. A new pick appends
    one row to the factor and lowers all gains by the square of that row. Time O(k^2 C), memory O(k
    C).

    Args:
        kernel: Symmetric positive semi-definite kernel [C, C].
        k: Items to pick.

    Returns:
        Picked candidates i64[<= k] in picking order. Fewer than k when nothing that is left adds
        volume (the rank is exhausted: what remains are exact duplicates or combinations of the
        picked); the caller decides how to fill up. Ties go to the lower position.

    Raises:
        ValueError: If the kernel is not square, not finite, or has a negative diagonal, or k is
            negative.
    """
    own = _own_volumes(kernel, k)
    picked = np.empty(min(k, len(own)), dtype=np.int64)
    factor = np.empty((len(picked), len(own)))  # row r: the r-th pick's Cholesky column
    gain, floor = own.copy(), own * DUPLICATE_SHARE
    for position in range(len(picked)):
        best = int(gain.argmax())
        if not gain[best] > 0.0:
            return picked[:position]
        picked[position] = best
        row = factor[position]
        np.subtract(kernel[best], factor[:position, best] @ factor[:position], out=row)
        row /= np.sqrt(gain[best])
        gain -= row * row
        gain[gain <= floor] = -np.inf
        gain[best] = -np.inf
    return picked


def _own_volumes(kernel: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.float64]:
    """The diagonal f64[C], once the kernel is known to be usable."""
    if kernel.shape != (kernel.shape[0], kernel.shape[0]):
        raise ValueError(f"the kernel must be square, got {kernel.shape}")
    if k < 0:
        raise ValueError(f"k must be >= 0, got {k}")
    if not np.isfinite(kernel.sum()):
        raise ValueError("the kernel must be finite")
    own = np.diag(kernel).astype(np.float64)
    if len(own) and own.min() < 0.0:
        raise ValueError(f"a kernel's diagonal cannot be negative, got {own.min()}")
    return own


def quality_similarity_kernel(
    quality: npt.NDArray[np.floating], similarity: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Build ``L_ij = q_i S_ij q_j`` from quality f[C] >= 0 and a similarity f[C, C].

    L is positive semi-definite when the similarity is (cosine and Gaussian similarities are).

    Raises:
        ValueError: If a quality is negative.
    """
    if quality.size and quality.min() < 0.0:
        raise ValueError(f"quality must not be negative, got {quality.min()}")
    scale = quality.astype(np.float64)
    return scale[:, None] * similarity * scale[None, :]


def trade_off_kernel(
    relevance: npt.NDArray[np.floating],
    similarity: npt.NDArray[np.floating],
    *,
    trade_off: float,
) -> npt.NDArray[np.float64]:
    """Build the kernel whose log-determinant trades relevance for diversity.

    For a set A, ``log det L_A`` is proportional to ``trade_off * sum of relevance over A +
    (1 - trade_off) * log det S_A``.

    Chen et al. 2018: quality is ``exp(a * relevance)`` with ``a = trade_off / (2 (1 -
    trade_off))``. Relevance is shifted by its maximum before the exponential, which scales L and
    changes no choice among sets of one size.

    Args:
        relevance: Scores [C], best brought to [0, 1].
        similarity: Positive semi-definite, unit diagonal [C, C]: cosine of vectors qualifies.
        trade_off: In [0, 1): 0 is diversity alone; relevance alone is a sort and needs no kernel.

    Returns:
        Kernel f64[C, C].

    Raises:
        ValueError: If trade_off is outside [0, 1).
    """
    if not 0.0 <= trade_off < 1.0:
        raise ValueError(f"trade_off must lie in [0, 1), got {trade_off}")
    strength = trade_off / (2.0 * (1.0 - trade_off))
    shifted = relevance.astype(np.float64) - relevance.max(initial=-np.inf)
    return quality_similarity_kernel(np.exp(strength * shifted), similarity)


def distance_kernel(
    quality: npt.NDArray[np.floating],
    distance: npt.NDArray[np.floating],
    *,
    strength: float = 1.0,
    width: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Build the kernel of Wilhelm et al. 2018, with a distance in place of a similarity.

    ``L_ii = q_i^2`` and ``L_ij = strength * q_i q_j exp(-D_ij / (2 width^2))``.

    ``strength`` < 1 softens the repulsion, > 1 strengthens it; above 1 the kernel may stop being
    positive semi-definite, and is then projected back by zeroing negative eigenvalues (O(C^3), so
    only then).

    Args:
        quality: Point-wise scores [C] >= 0 (in the paper, calibrated predictions of the ranker).
        distance: Distances [C, C], zero diagonal.
        strength: alpha of the paper, >= 0.
        width: sigma of the paper, > 0.

    Raises:
        ValueError: If ``strength`` is negative or ``width`` not positive.
    """
    if strength < 0.0 or not width > 0.0:
        raise ValueError(f"strength must be >= 0 and width > 0, got {strength} and {width}")
    similarity = strength * np.exp(-distance.astype(np.float64) / (2.0 * width**2))
    np.fill_diagonal(similarity, 1.0)
    kernel = quality_similarity_kernel(quality, similarity)
    if strength > 1.0:
        values, vectors = np.linalg.eigh(kernel)
        kernel = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return kernel


def condition_on(
    kernel: npt.NDArray[np.floating], shown: npt.NDArray[np.integer], *, ridge: float = 1e-9
) -> npt.NDArray[np.float64]:
    """The kernel of the other candidates given that ``shown`` are in the set: the Schur complement.

    ``det(L_(A + S)) = det(L_A) det(conditional_S)``, so that picking from the result continues a
    list (page two, or pinned items) without repeating it.

    Args:
        kernel: Kernel over candidates and shown items [C, C].
        shown: Positions of the A shown items.
        ridge: Added to the diagonal of L_A, relative to its largest entry, against duplicates in
            it.

    Returns:
        Kernel f64[C, C] in the same numbering; rows and columns of shown items are zero, so that
        ``greedy_dpp`` never picks them. Time O(A^3 + A C^2).
    """
    full = kernel.astype(np.float64)
    if len(shown) == 0:
        return full
    block = full[np.ix_(shown, shown)]
    block += ridge * max(float(np.diag(block).max()), 1e-300) * np.eye(len(shown))
    conditional = full - full[:, shown] @ np.linalg.solve(block, full[shown])
    conditional[shown] = 0.0
    conditional[:, shown] = 0.0
    diagonal = np.einsum("ii->i", conditional)
    # Rounding leaves tiny gains on duplicates of shown items, of either sign: those are zero.
    diagonal[diagonal < 10 * ridge * np.diag(full)] = 0.0
    return conditional
