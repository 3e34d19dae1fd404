"""Five maps from a score to a probability, and the one that needs no fitting.

In: scores or probabilities f[N] of rows that the model was *not* trained on, and their labels of 0
and 1. Out: a fitted map; ``probability`` takes new scores f[M] to f[M] in [0, 1].

| map | parameters | shape | source |
|---|---|---|---|
| ``Temperature`` | 1 | logit / T | Guo et al., ICML 2017 |
| ``Platt`` | 2 | a logit + b | Platt 1999 |
| ``Beta`` | 3 | a log p - b log(1-p) + c | Kull, Silva Filho and Flach, AISTATS 2017 |
| ``HistogramBinning`` | bins | steps | Zadrozny and Elkan, ICML 2001 |
| ``Isotonic`` | as many as data wants | any monotone steps | Zadrozny and Elkan, KDD 2002 |

The fewer the parameters, the less data the map needs and the fewer shapes it can repair. The first
three are logistic regressions on one to three features, fitted here by Newton's method. Departure:
Platt's original smooths the targets to (N+ + 1)/(N+ + 2); that matters at some ten labels only.

``undo_down_sampling`` is He et al., ADKDD 2014, section 6.3: where negatives were kept with
probability w, the odds are too high by 1 / w, and dividing them by that is exact.

Legend: N rows to fit on, M rows to map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

CLIP = 1e-6  # probabilities are moved this far from 0 and 1 before a logarithm
NEWTON_STEPS = 50


class Calibrator(Protocol):
    """A fitted map."""

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """f[M] in [0, 1]."""
        ...


@dataclass(frozen=True)
class Logistic:
    """sigmoid(weights . features(p)): temperature, Platt and beta calibration.

    Attributes:
        kind: Which features.
        weights: f[1..3].
    """

    kind: str
    weights: np.ndarray

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Of probabilities f[M] as the model gives them."""
        return sigmoid(_features(self.kind, scores) @ self.weights)


@dataclass(frozen=True)
class Steps:
    """A step function, or one interpolated between its knots.

    Attributes:
        knots: f[n], ascending scores.
        values: f[n], the probability at each knot.
        interpolate: Straight between the knots; else the value of the last knot reached.
    """

    knots: np.ndarray
    values: np.ndarray
    interpolate: bool

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Of scores f[M]; outside the knots the nearest value."""
        if self.interpolate:
            return np.interp(scores, self.knots, self.values)
        place = np.searchsorted(self.knots, scores, side="right") - 1
        return np.asarray(self.values[np.maximum(place, 0)])


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> Logistic:
    """One slope through the origin of the log-odds: p = 1/2 stays where it is."""
    return _fit_logistic("temperature", probabilities, labels)


def fit_platt(probabilities: np.ndarray, labels: np.ndarray) -> Logistic:
    """Slope and intercept of the log-odds.

    Args:
        probabilities: f[N] in [0, 1], of the model; bring raw scores through ``sigmoid`` first.
        labels: [N] of 0 and 1.

    Raises:
        ValueError: If only one class is present, or a probability lies outside [0, 1].
    """
    return _fit_logistic("platt", probabilities, labels)


def fit_beta(probabilities: np.ndarray, labels: np.ndarray) -> Logistic:
    """Different slopes for log p and log (1 - p): the two ends bend apart. Raises as Platt's.

    A slope below zero would turn the order around; as in the paper, its feature is then dropped.
    """
    dropped: tuple[int, ...] = ()
    fitted = _fit_logistic("beta", probabilities, labels)
    while fitted.weights[:2].min() < 0:
        dropped = (*dropped, int(fitted.weights[:2].argmin()))
        fitted = _fit_logistic("beta", probabilities, labels, without=dropped)
    return fitted


def fit_isotonic(scores: np.ndarray, labels: np.ndarray) -> Steps:
    """The monotone map with the least squared error, by pooling adjacent violators. O(N log N).

    Args:
        scores: f[N], any scale; equal scores get equal probabilities.
        labels: [N] of 0 and 1.
    """
    _check(scores, labels)
    knots, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=labels) / weights
    values = pool_adjacent_violators(means, weights)
    # Only the ends of each flat stretch matter to the interpolation between them.
    flat = np.zeros(len(values), dtype=bool)
    flat[1:-1] = (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:])
    return Steps(knots[~flat], values[~flat], interpolate=True)


def pool_adjacent_violators(means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to ``means`` f[N] in weighted squares. O(N).

    Walk from left to right and keep blocks of equal value. A new mean below the last block's breaks
    the order: merge the two into their weighted mean, which may break the order with the block
    before, and so on. Each value is merged at most once, hence the linear time.
    """
    block_mean: list[float] = []
    block_weight: list[float] = []
    block_size: list[int] = []
    for mean, weight in zip(means, weights, strict=True):
        block_mean.append(float(mean))
        block_weight.append(float(weight))
        block_size.append(1)
        while len(block_mean) > 1 and block_mean[-2] >= block_mean[-1]:
            last, its_weight, its_size = block_mean.pop(), block_weight.pop(), block_size.pop()
            total = block_weight[-1] + its_weight
            block_mean[-1] = (block_mean[-1] * block_weight[-1] + last * its_weight) / total
            block_weight[-1] = total
            block_size[-1] += its_size
    return np.repeat(block_mean, block_size)


def fit_histogram(scores: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> Steps:
    """The share of ones in bins of equal mass. It may turn neighbours around: not monotone.

    Args:
        scores: f[N].
        labels: [N] of 0 and 1.
        bins: At most this many; equal scores share one.

    Raises:
        ValueError: If bins < 1; as ``fit_platt``.
    """
    _check(scores, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[:-1]))
    place = np.searchsorted(edges, scores, side="right") - 1
    count = np.bincount(place, minlength=len(edges))
    ones = np.bincount(place, weights=labels, minlength=len(edges))
    return Steps(edges[count > 0], ones[count > 0] / count[count > 0], interpolate=False)


def undo_down_sampling(probabilities: np.ndarray, kept: float) -> np.ndarray:
    """The probability before negatives were kept with probability ``kept``: q = p / (p + (1-p)/w).

    Args:
        probabilities: f[N] of a model trained on the down-sampled rows.
        kept: w in (0, 1].

    Raises:
        ValueError: If ``kept`` lies outside (0, 1].
    """
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"the kept share of negatives must lie in (0, 1], got {kept}")
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(p / (p + (1.0 - p) / kept))


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-score)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(scores, dtype=np.float64))))


def _features(kind: str, probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1.0 - CLIP)
    one, zero = np.log(p), -np.log1p(-p)
    if kind == "temperature":
        return (one + zero)[:, None]
    if kind == "platt":
        return np.stack([one + zero, np.ones(len(p))], axis=1)
    return np.stack([one, zero, np.ones(len(p))], axis=1)


def _fit_logistic(
    kind: str, probabilities: np.ndarray, labels: np.ndarray, without: tuple[int, ...] = ()
) -> Logistic:
    """Maximum likelihood by Newton's method, with a ridge of 1e-6 against separation."""
    _check(probabilities, labels)
    if np.min(probabilities) < 0.0 or np.max(probabilities) > 1.0:
        raise ValueError("need probabilities in [0, 1]; send raw scores through sigmoid first")
    x = _features(kind, probabilities)
    kept = [column for column in range(x.shape[1]) if column not in without]
    x = x[:, kept]
    weights = np.zeros(x.shape[1])
    for _ in range(NEWTON_STEPS):
        p = sigmoid(x @ weights)
        gradient = x.T @ (labels - p) - 1e-6 * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-10:
            break
    whole = np.zeros(len(kept) + len(without))
    whole[kept] = weights
    return Logistic(kind, whole)


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
    if np.shape(scores) != np.shape(labels) or np.ndim(scores) != 1:
        raise ValueError(f"need [N] scores and labels, got {np.shape(scores)}, {np.shape(labels)}")
    if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
        raise ValueError(f"calibration needs labels of both 0 and 1, got {np.unique(labels)[:5]}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
