"""Metrics of predicted probabilities: discrimination (AUC), fit (log loss), calibration (ECE).

In: `labels` [N] of 0 and 1, and `scores` or `probabilities` f[N]. Out: one number, or a curve.
Legend: N examples, M bins.

Why calibration stands beside AUC: AUC sees only the order. As soon as a probability is multiplied
by a value (a bid, a watch time) or added to another head's, its size matters as much as its order.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

Binning = Literal["width", "mass"]

# Probabilities are moved this far from 0 and 1 in the log loss: one certain error then costs 34.5
# nats instead of an infinite mean.
CLIP = 1e-15


@dataclass(frozen=True)
class ReliabilityCurve:
    """What was predicted and what happened, bin by bin; empty bins are absent.

    Attributes:
        predicted: f64[M], mean predicted probability of the bin.
        observed: f64[M], share of positive labels in the bin.
        count: i64[M], examples in the bin.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative) + P(equal) / 2.

    By the rank sum: (sum of the positives' midranks - P (P + 1) / 2) / (P * (N - P)) with P
    positives; midranks give every tie its half. Cost: O(N log N).

    Args:
        labels: [N] of 0 and 1.
        scores: f[N], any scale, higher means more likely positive.

    Raises:
        ValueError: If only one class is present (AUC is undefined), or on NaN scores.
    """
    positive, scores = _checked(labels, scores)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        raise ValueError(f"AUC needs both classes; got {n_positive} positives of {len(positive)}")
    rank_sum = rankdata(scores)[positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -log p(label), in nats. Compare with the loss of the constant base rate.

    Args:
        labels: [N] of 0 and 1.
        probabilities: f[N] in [0, 1], moved to [1e-15, 1 - 1e-15].

    Raises:
        ValueError: On probabilities outside [0, 1].
    """
    positive, p = _checked_probabilities(labels, probabilities)
    return float(-np.mean(np.log(np.clip(np.where(positive, p, 1 - p), CLIP, 1 - CLIP))))


def reliability_curve(
    labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10, binning: Binning = "mass"
) -> ReliabilityCurve:
    """Mean prediction against observed frequency per bin; a calibrated model lies on the diagonal.

    Args:
        labels: [N] of 0 and 1.
        probabilities: f[N] in [0, 1].
        bins: Number of bins; bins without examples are left out.
        binning: "width" for intervals (0, 1/bins], (1/bins, 2/bins], ... (0 belongs to the
            first); "mass" for equally many examples in each. Equal probabilities always share
            a bin, so that equal-mass bins may be fewer and uneven where predictions repeat.

    Raises:
        ValueError: On probabilities outside [0, 1] or bins < 1.
    """
    positive, p = _checked_probabilities(labels, probabilities)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = inner if binning == "width" else np.quantile(p, inner)
    bin_of = np.searchsorted(edges, p)  # side "left": an edge belongs to the bin below it
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    count = count[filled]
    predicted = np.bincount(bin_of, weights=p, minlength=bins)[filled] / count
    observed = np.bincount(bin_of, weights=positive, minlength=bins)[filled] / count
    return ReliabilityCurve(predicted, observed, count)


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10, binning: Binning = "mass"
) -> float:
    """ECE = sum over bins of (count / N) * |observed - predicted|.

    Source: Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015, with equal-width bins, here of the positive class's probability. Equal-mass
    bins are the default because click-like predictions crowd near 0, where equal-width bins put
    nearly all examples into one (the case against fixed bins: Nixon et al., "Measuring
    calibration in deep learning", arXiv:1904.01685).

    ECE of a perfectly calibrated model is above 0 on a finite sample (about sqrt(bins / N) times
    a constant), and it depends on the bins: report both and compare only like with like.

    Args:
        labels: [N] of 0 and 1.
        probabilities: f[N] in [0, 1].
        bins: As in `reliability_curve`.
        binning: As in `reliability_curve`.
    """
    curve = reliability_curve(labels, probabilities, bins=bins, binning=binning)
    gap = np.abs(curve.observed - curve.predicted)
    return float((curve.count * gap).sum() / curve.count.sum())


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool[N] and scores as f64[N], once they fit each other."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"need [N] labels and scores, got {labels.shape} and {scores.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(labels)[:5]}")
    if np.isnan(scores).any():
        raise ValueError(f"score of example {np.isnan(scores).argmax()} is NaN")
    return labels.astype(bool), scores


def _checked_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    positive, p = _checked(labels, probabilities)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must lie in 0..1, got {p.min()}..{p.max()}")
    return positive, p
