"""Numbers that the logged protocol of the ranking tables needs beside the shared metrics.

In: scores and labels f[N] of impressions and their users. Out: AUC with a user bootstrap,
calibration error and reliability curve of heads that are not probabilities.

Legend: N impressions, U users, M bins.
"""

from __future__ import annotations

import numpy as np

from ml_platform.evaluation.classification_metrics import ReliabilityCurve, auc
from ml_platform.evaluation.intervals import LEVEL, Estimate

BINS = 256  # of the scores in the bootstrap: an AUC of 256 steps differs in the fourth place

RESAMPLES_AT_ONCE = 50  # one matrix product for so many; 2 MB with 10,000 users


def auc_estimate(
    labels: np.ndarray, scores: np.ndarray, users: np.ndarray, *, resamples: int, seed: int
) -> Estimate:
    """AUC over all impressions, with a percentile interval over users resampled whole.

    The value is exact. A resample would have to rank all impressions again; instead each user's
    positives and negatives are counted in 256 bins of the score once, and a resample adds the
    counts of its users up.

    Raises:
        ValueError: If only one class is present.
    """
    labels = np.asarray(labels, dtype=bool)
    value = auc(labels, scores)
    _, user = np.unique(users, return_inverse=True)
    n_users = int(user.max()) + 1
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS + 1)[1:-1]))
    cell = user * (len(edges) + 1) + np.searchsorted(edges, scores)
    shape = (n_users, len(edges) + 1)
    ones = np.bincount(cell[labels], minlength=shape[0] * shape[1]).reshape(shape)
    zeros = np.bincount(cell[~labels], minlength=shape[0] * shape[1]).reshape(shape)
    ones, zeros = ones.astype(np.float32), zeros.astype(np.float32)
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for begin in range(0, resamples, RESAMPLES_AT_ONCE):
        weight = _weights(rng, min(RESAMPLES_AT_ONCE, resamples - begin), n_users)
        pairs = zip(weight @ ones, weight @ zeros, strict=True)
        values.extend(_binned_auc(*counts) for counts in pairs)
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), len(labels))


def mean_reliability(
    labels: np.ndarray, predicted: np.ndarray, *, bins: int = 10
) -> ReliabilityCurve:
    """Mean prediction against mean label in bins of equal mass, for labels of any kind."""
    edges = np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, predicted)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    means = [
        np.bincount(place, weights=x, minlength=bins)[filled] / count[filled]
        for x in (predicted, labels)
    ]
    return ReliabilityCurve(means[0], means[1], count[filled])


def calibration_error(curve: ReliabilityCurve) -> float:
    """Mean absolute gap between prediction and observation, weighted by impressions."""
    gap = np.abs(curve.observed - curve.predicted)
    return float((curve.count * gap).sum() / curve.count.sum())


def _weights(rng: np.random.Generator, n: int, n_users: int) -> np.ndarray:
    """How often each user appears in n resamples, f32[n, U]."""
    draws = rng.integers(n_users, size=(n, n_users)) + n_users * np.arange(n)[:, None]
    counts = np.bincount(draws.ravel(), minlength=n * n_users)
    return counts.reshape(n, n_users).astype(np.float32)


def _binned_auc(ones: np.ndarray, zeros: np.ndarray) -> float:
    """P(score of a one > of a zero) + P(equal) / 2 from counts by ascending bin."""
    below = np.cumsum(zeros) - zeros
    pairs = float(ones.sum()) * float(zeros.sum())
    return float((ones * (below + zeros / 2)).sum() / pairs) if pairs else float("nan")
