"""Is a predicted probability still what happens? Calibration of joined labels, with an interval.

In: predictions f[N], outcomes bool[N], clusters i64[N] (the request or user that rows belong to).
Out: a `Calibration`, and the drift of one against another. Legend: N rows, M bins, C clusters.

Two numbers, because they fail apart:

- the ratio sum(outcomes) / sum(predictions): 1 when the level is right. It is the first thing to
  break when the base rate moves, and it needs few labels;
- the expected calibration error, sum over bins of (n_b / N) |observed_b - predicted_b|: the shape.

ECE of a perfectly calibrated model is not 0 on a finite sample, the less so the smaller it is
(Roelofs et al., "Mitigating Bias in Calibration Error Estimation", AISTATS 2022), so a small live
window against a large reference always looks worse. `excess` subtracts what ECE would be if the
predictions were right: E|Normal(0, s_b)| = s_b sqrt(2 / pi) in each bin, with s_b the standard
error of the gap between clusters. The bins are the reference's, so that both sides ask the same.

Intervals: clusters are drawn with replacement, since the rows of one list share a user's mood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ml_platform.operations.drift_causes import Finding, Severity

N_BINS = 10
RESAMPLES = 500
CERTAINTY = 3.5
"""Standard errors that a change must be away from none: once in 2,000 looks, and looks are many."""
CALIBRATION_EFFECT = 0.2
"""A fifth of the mean prediction: at that size products of probabilities start to mislead."""


@dataclass(frozen=True)
class Calibration:
    """Reliability of a sample.

    Attributes:
        edges: f64[M - 1], inner edges of the bins.
        count: f64[M], rows in each bin.
        predicted: f64[M], mean prediction; 0 where empty.
        observed: f64[M], share of positive outcomes; 0 where empty.
        ratio: Outcomes over predictions with its 95% interval (value, low, high).
        error: Expected calibration error with its 95% interval.
        excess: `error` less what it would be if the predictions were right; 0 or more.
        n: Rows.
        n_clusters: Clusters.
    """

    edges: np.ndarray
    count: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    ratio: tuple[float, float, float]
    error: tuple[float, float, float]
    excess: float
    n: int
    n_clusters: int

    @property
    def base_rate(self) -> float:
        """Share of positive outcomes."""
        return float((self.count * self.observed).sum() / self.n)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays, for an npz file."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @staticmethod
    def of_arrays(arrays: Mapping[str, np.ndarray]) -> Calibration:
        """The calibration that ``arrays`` described."""
        values: dict[str, Any] = {name: arrays[name] for name in Calibration.__dataclass_fields__}
        for name in ("ratio", "error"):
            values[name] = tuple(values[name].tolist())
        for name in ("excess", "n", "n_clusters"):
            values[name] = values[name].item()
        return Calibration(**values)


def calibration_edges(predictions: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Inner edges of equal-mass bins, for `measure_calibration`; equal edges are merged."""
    return np.unique(np.quantile(predictions, np.arange(1, n_bins) / n_bins))


def measure_calibration(
    predictions: np.ndarray,
    outcomes: np.ndarray,
    clusters: np.ndarray,
    edges: np.ndarray,
    *,
    seed: int = 0,
) -> Calibration:
    """Calibration of a sample in given bins.

    Args:
        predictions: f[N] in 0..1.
        outcomes: bool[N].
        clusters: i64[N].
        edges: f64[M - 1], from `calibration_edges` of the reference.
        seed: Of the resampling.

    Raises:
        ValueError: without rows, or if the lengths differ.
    """
    if not len(predictions) or not len(predictions) == len(outcomes) == len(clusters):
        sizes = (len(predictions), len(outcomes), len(clusters))
        raise ValueError(f"calibration needs rows of equal number, got {sizes}")
    table = _cluster_sums(predictions, outcomes, clusters, edges)
    rng = np.random.default_rng(seed)
    n_clusters = len(table)
    # Times each cluster is drawn: C draws from C clusters, as one matrix product.
    weights = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=RESAMPLES)
    samples = np.tensordot(weights, table, axes=1)
    total = table.sum(axis=0)
    count = total[0]
    filled = np.maximum(count, 1)
    ratio, error = _ratio(total[None])[0], _error(total[None])[0]
    gaps = table[:, 2] - table[:, 1]
    gaps = gaps - table[:, 0] * ((total[2] - total[1]) / filled)
    spread = np.sqrt((gaps**2).sum(axis=0)) / count.sum()  # of (n_b / N) * gap_b
    return Calibration(
        edges=edges,
        count=count,
        predicted=total[1] / filled,
        observed=total[2] / filled,
        ratio=(float(ratio), *_interval(_ratio(samples))),
        error=(float(error), *_interval(_error(samples))),
        excess=max(0.0, float(error - spread.sum() * np.sqrt(2 / np.pi))),
        n=len(predictions),
        n_clusters=n_clusters,
    )


def calibration_drift(reference: Calibration, now: Calibration, owner: str) -> Finding | None:
    """Whether predictions became wrong: the level, or the shape beyond the reference's own error.

    The level counts when the ratio differs from the reference's by `CALIBRATION_EFFECT`, the shape
    when its excess over the reference's is that share of the mean prediction; both only beyond
    `CERTAINTY` standard errors, which the intervals tell; ratios are compared as logarithms, for a
    small ratio has a small standard error.
    """
    before, after = (tuple(np.log(np.maximum(c.ratio, 1e-9))) for c in (reference, now))
    level = after[0] - before[0]
    level_moved = _certain(before, after) and abs(level) > np.log1p(CALIBRATION_EFFECT)
    mean = float((now.count * now.predicted).sum() / now.n)
    shape = (now.excess - reference.excess) / max(mean, 1e-9)
    shape_moved = shape > CALIBRATION_EFFECT and _certain(reference.error, now.error)
    if not level_moved and not shape_moved:
        return None
    word = "too high" if now.ratio[0] < reference.ratio[0] else "too low"
    text = (
        f"outcomes are {now.ratio[0]:.2f} of what is predicted ({now.ratio[1]:.2f} to "
        f"{now.ratio[2]:.2f}), {reference.ratio[0]:.2f} in the reference: predictions are {word}; "
        "the base rate moved, labels are lost or late, or an input broke"
    )
    severity: Severity = "alert" if abs(level) > np.log(2) else "warning"
    return Finding(
        feature="prediction",
        group="prediction",
        owner=owner,
        family="",
        kind="calibration",
        severity=severity,
        psi=0.0,
        noise=0.0,
        ks=0.0,
        direction="up" if now.ratio[0] > reference.ratio[0] else "down",
        sentence=text,
    )


def _certain(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    """Whether two values (value, low, high) differ by `CERTAINTY` standard errors."""
    errors = [(high - low) / (2 * stats.norm.isf(0.025)) for _, low, high in (one, two)]
    return bool(abs(one[0] - two[0]) > CERTAINTY * np.hypot(*errors))


def _cluster_sums(
    predictions: np.ndarray, outcomes: np.ndarray, clusters: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """f64[C, 3, M]: rows, sum of predictions, sum of outcomes of each cluster in each bin."""
    n_bins = len(edges) + 1
    names, place = np.unique(clusters, return_inverse=True)
    cell = place * n_bins + np.searchsorted(edges, predictions, side="right")
    size = len(names) * n_bins
    columns = (np.ones(len(cell)), predictions, outcomes)
    sums = [np.bincount(cell, weights=column, minlength=size) for column in columns]
    return np.stack([column.reshape(len(names), n_bins) for column in sums], axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """Outcomes over predictions of sums f64[R, 3, M]."""
    return sums[:, 2].sum(axis=1) / np.maximum(sums[:, 1].sum(axis=1), 1e-12)


def _error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error of sums f64[R, 3, M]: the bins' weights cancel their counts."""
    return np.abs(sums[:, 2] - sums[:, 1]).sum(axis=1) / sums[:, 0].sum(axis=1)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
