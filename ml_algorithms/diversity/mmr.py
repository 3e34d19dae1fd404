"""Maximal marginal relevance: relevance less likeness to what is already picked.

In: relevance f[C] and similarity f[C, C] of C candidates. Out: positions of the k picked, in order.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and
Producing Summaries", SIGIR 1998:

    next = argmax over unpicked c of   trade_off * relevance[c] - (1 - trade_off) * max over picked
    p of similarity[c, p]

The two terms are subtracted, so they must share a scale: bring relevance to [0, 1] first
(``rescale``), else ``trade_off`` means something else for every user.

Legend: C candidates, k list length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mmr(
    relevance: npt.NDArray[np.floating],
    similarity: npt.NDArray[np.floating],
    *,
    k: int,
    trade_off: float,
) -> npt.NDArray[np.int64]:
    """Pick k of C candidates greedily.

    Time O(k C): each round compares the candidates with the newest pick only, because the maximum
    over all picks is the running maximum.

    Args:
        relevance: Score of each candidate [C], higher is better.
        similarity: Symmetric similarity [C, C]; the diagonal is not used.
        k: Items to pick; all C when k exceeds C.
        trade_off: lambda of the paper: 1 is the order of relevance, 0 ignores relevance after the
            first pick.

    Returns:
        Picked candidates i64[min(k, C)] in picking order. Ties go to the lower position, so
        candidates given in ranker order keep it.

    Raises:
        ValueError: If shapes disagree, k is negative, trade_off is outside [0, 1], or a value is
            not finite.
    """
    n_candidates = relevance.shape[0]
    if similarity.shape != (n_candidates, n_candidates):
        raise ValueError(f"similarity {similarity.shape} does not fit {n_candidates} candidates")
    if k < 0 or not 0.0 <= trade_off <= 1.0:
        raise ValueError(f"k must be >= 0 and trade_off in [0, 1], got {k} and {trade_off}")
    # A sum is finite exactly when no value is NaN or infinite (two infinities make NaN): one pass,
    # no copy.
    if not (np.isfinite(relevance.sum()) and np.isfinite(similarity.sum())):
        raise ValueError("relevance and similarity must be finite")
    n_picked = min(k, n_candidates)
    picked = np.empty(n_picked, dtype=np.int64)
    gain = trade_off * relevance.astype(np.float64)
    nearest = np.full(n_candidates, -np.inf)  # largest similarity to a pick so far
    marginal = gain.copy()
    for position in range(n_picked):
        best = int(marginal.argmax())
        picked[position] = best
        gain[best] = -np.inf
        np.maximum(nearest, similarity[best], out=nearest)
        np.subtract(gain, (1.0 - trade_off) * nearest, out=marginal)
    return picked


def rescale(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Bring scores [C] linearly to [0, 1]; all 1 when they are equal."""
    low, high = float(scores.min(initial=np.inf)), float(scores.max(initial=-np.inf))
    if not high > low:
        return np.ones(scores.shape, dtype=np.float64)
    return (scores.astype(np.float64) - low) / (high - low)
