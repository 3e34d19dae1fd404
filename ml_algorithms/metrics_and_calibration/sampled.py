"""What a metric over sampled negatives expects to see, exactly.

In: the rank of the one relevant item among all its negatives, i[N] (1 is best). Out: the expected
NDCG@k or recall@k over a sample of m negatives f[N].

Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020. An item at rank r has
r - 1 better ones among n negatives. In a sample of m without replacement the number of better ones
J is hypergeometric, so

    E[NDCG@k] = sum_{j < k} P(J = j) / log2(j + 2),      E[recall@k] = P(J < k):

a smooth function of r that is far flatter at the top than the metric whose name it bears. No sample
is drawn here: the reversal that the study shows is not noise.

Legend: N relevant items, n negatives of each, m sampled, k cut-off.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import hypergeom


def expected_ndcg(rank: np.ndarray, negatives: int, sampled: int, k: int) -> np.ndarray:
    """E[NDCG@k] with one relevant item and ``sampled`` of ``negatives``. f[N].

    Args:
        rank: 1..negatives + 1, of the relevant item among all.
        negatives: n.
        sampled: m in 1..n; n gives the exact metric.
        k: Cut-off, at least 1.

    Raises:
        ValueError: If a number is out of range.
    """
    discount = 1.0 / np.log2(np.arange(k) + 2.0)
    return np.asarray(_chances(rank, negatives, sampled, k) @ discount)


def expected_recall(rank: np.ndarray, negatives: int, sampled: int, k: int) -> np.ndarray:
    """E[recall@k], the chance that fewer than k sampled negatives are better. f[N]."""
    return np.asarray(_chances(rank, negatives, sampled, k).sum(axis=1))


def _chances(rank: np.ndarray, negatives: int, sampled: int, k: int) -> np.ndarray:
    """P(J = j) for j < k, by the distinct ranks. f[N, k]."""
    rank = np.asarray(rank)
    if not 1 <= sampled <= negatives or k < 1:
        raise ValueError(f"need 1 <= sampled <= negatives and k >= 1: {sampled}, {negatives}, {k}")
    if len(rank) and not 1 <= rank.min() <= rank.max() <= negatives + 1:
        raise ValueError(f"ranks must lie in 1..{negatives + 1}, got {rank.min()}..{rank.max()}")
    distinct, place = np.unique(rank, return_inverse=True)
    better = distinct[:, None] - 1
    chance = hypergeom.pmf(np.arange(k)[None, :], negatives, better, sampled)
    return np.asarray(chance[place])
