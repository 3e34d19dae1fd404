"""Calibrated lists: a user who watches 70% drama and 30% comedy gets about that mix.

In: relevance f[C] and genre shares f[C, G] of C candidates, and the user's own shares f[G]. Out:
positions of the k picked, in order.

Steck, "Calibrated Recommendations", RecSys 2018. With p(g) the genre shares of the user's history
and q(g) those of the list I:

    maximise   (1 - weight) * sum of relevance over I  -  weight * KL(p || q~)                   (1)
    KL(p || q~) = sum_g p(g) log(p(g) / q~(g)),     q~ = (1 - alpha) q + alpha p

``alpha`` (0.01 in the paper) keeps the logarithm finite where the list lacks a genre of the user.

For lists of one length k, (1) equals up to a constant

    f(I) = (1 - weight) * sum_I relevance  +  weight * sum_g p(g) log sum_{i in I} q~(g|i)       (2)

with ``q~(g|i) = (1 - alpha) p(g|i) + alpha p(g)``: a logarithm of a sum, concave of modular, so f
is submodular, and it is monotone for relevance >= 0. At each step of the greedy all candidates
would make lists of the same length, so greedy on (1) with the partial list's own KL and greedy on
(2) pick the same items. It reaches at least ``1 - (1 - 1/k)^(k-1)`` (which falls to 1 - 1/e) of
the way from its first pick to the optimum; f of the empty set is minus infinity and (1) changes
its sign, so the textbook ratio "greedy is at least 63% of the best" has no meaning here.

This is not the calibration of probabilities (see metrics_and_calibration): the word is the same,
the subject is the mix of a list.

Legend: C candidates, G genres, k list length, H items of a history.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def genre_shares(genres: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """p(g|i): every item spreads a weight of 1 evenly over its genres; zeros without one. [N, G].

    Args:
        genres: Membership, bool or 0/1 [N, G].
    """
    count = np.sum(genres, axis=1, keepdims=True, dtype=np.float64)
    return np.divide(genres, count, out=np.zeros(genres.shape), where=count > 0)


def mix(shares: Floats, weights: Floats | None = None) -> npt.NDArray[np.float64]:
    """The genre shares of a history or a list, summing to 1: the weighted mean of shares [H, G].

    Args:
        shares: p(g|i) [H, G].
        weights: Of the items [H] (recency, rating); all equal when left out.

    Raises:
        ValueError: If no item carries weight in any genre.
    """
    total = np.ones(len(shares)) @ shares if weights is None else weights @ shares
    if not total.sum() > 0.0:
        raise ValueError(f"none of the {len(shares)} items has a genre: there is no mix to match")
    return np.asarray(total / total.sum(), dtype=np.float64)


def miscalibration(target: Floats, actual: Floats, *, alpha: float = 0.01) -> float:
    """KL(target || (1 - alpha) actual + alpha target), in nats; 0 when the mixes are equal.

    It is at most ``-log(alpha)``: a list that misses everything the user watches.

    Args:
        target: p, the user's mix f[G].
        actual: q, the list's mix f[G].
        alpha: Smoothing, in (0, 1).

    Raises:
        ValueError: If alpha lies outside (0, 1).
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    wanted = target > 0
    p = target[wanted]
    return float((p * np.log(p / ((1.0 - alpha) * actual[wanted] + alpha * p))).sum())


def calibrated_list(
    relevance: Floats,
    shares: Floats,
    target: Floats,
    *,
    k: int,
    weight: float,
    alpha: float = 0.01,
) -> npt.NDArray[np.int64]:
    """Pick k of C candidates greedily. Time O(k C G).

    Args:
        relevance: Scores [C], >= 0, best brought to [0, 1]: they are added to a KL in nats.
        shares: p(g|i) of the candidates [C, G] (``genre_shares``).
        target: The user's mix f[G], summing to 1 (``mix``).
        k: Items to pick; all C when k exceeds C.
        weight: lambda of the paper, in [0, 1]: 0 sorts by relevance, 1 ignores it.
        alpha: Smoothing, in (0, 1).

    Returns:
        Picked candidates i64[min(k, C)]. Ties go to the lower position.

    Raises:
        ValueError: If shapes disagree, a knob is out of range, or a relevance is negative.
    """
    _check(relevance, shares, target, k, weight, alpha)
    wanted = target > 0
    p = target[wanted].astype(np.float64)
    smoothed = (1.0 - alpha) * shares[:, wanted] + alpha * p
    gain = (1.0 - weight) * relevance.astype(np.float64)
    total = np.zeros(len(p))
    picked = np.empty(min(k, len(gain)), dtype=np.int64)
    for position in range(len(picked)):
        value = gain + weight * (np.log(total + smoothed) @ p)
        best = int(value.argmax())
        picked[position] = best
        total += smoothed[best]
        gain[best] = -np.inf
    return picked


def objective(
    chosen: npt.NDArray[np.integer],
    relevance: Floats,
    shares: Floats,
    target: Floats,
    *,
    weight: float,
    alpha: float = 0.01,
) -> float:
    """Formula (1) for the list ``chosen``: relevance less miscalibration, weighted."""
    return float(
        (1.0 - weight) * relevance[chosen].sum()
        - weight * miscalibration(target, shares[chosen].mean(axis=0), alpha=alpha)
    )


def _check(
    relevance: Floats, shares: Floats, target: Floats, k: int, weight: float, alpha: float
) -> None:
    if shares.shape != (len(relevance), len(target)):
        raise ValueError(
            f"shares {shares.shape} do not fit {len(relevance)} candidates, {len(target)} genres"
        )
    if k < 0 or not 0.0 <= weight <= 1.0 or not 0.0 < alpha < 1.0:
        raise ValueError(
            f"need k >= 0, weight in [0, 1], alpha in (0, 1); got {k}, {weight}, {alpha}"
        )
    if len(relevance) and not relevance.min() >= 0.0:
        raise ValueError(f"relevance must be >= 0, got {relevance.min()}: rescale it first")
    if abs(float(target.sum()) - 1.0) > 1e-6 or target.min() < 0.0:
        raise ValueError(f"target must be shares that sum to 1, got a sum of {target.sum()}")
