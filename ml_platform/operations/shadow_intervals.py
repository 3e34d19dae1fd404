"""Intervals of the shadow report: a mean over dependent requests, a percentile of any distribution.

In: one value a request. Out: `Interval`, 95%.

*Mean.* Requests of one user resemble each other, so the user is the unit. The variance is the
cluster-robust one, with G users and n requests,
    Var = G/(G-1) · Σ_g (Σ_{i in g} (x_i - mean))² / n²,
and the interval is Student's with G-1 degrees of freedom.

*Percentile.* The number of values below the true q-quantile is binomial(n, q) whatever the
distribution, so two order statistics hold it with the confidence that the binomial gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval (None where there is none) and n."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        ends = "" if self.low is None else f"  [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{ends}"


def cluster_mean(values: np.ndarray, clusters: np.ndarray) -> Interval:
    """Mean with an interval whose unit is the cluster; see the formula above.

    Args:
        values: f64[n].
        clusters: i64[n], the user of each value. One user alone gives no interval.
    """
    mean, n = float(values.mean()), len(values)
    _, group = np.unique(clusters, return_inverse=True)
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        return Interval(mean, None, None, n)
    residual = np.bincount(group, weights=values - mean)
    variance = n_groups / (n_groups - 1) * float(residual @ residual) / n**2
    reach = float(stats.t.ppf(1 - ALPHA / 2, n_groups - 1)) * variance**0.5
    return Interval(mean, mean - reach, mean + reach, n)


def percentile(values: np.ndarray, q: float) -> Interval:
    """Percentile with the order statistics that hold it with 95% (binomial, distribution-free).

    Args:
        values: f64[n].
        q: 0 to 100. Where n is too small for both ends, there is no interval.
    """
    ordered, n = np.sort(values), len(values)
    low = int(stats.binom.ppf(ALPHA / 2, n, q / 100)) - 1
    high = int(stats.binom.ppf(1 - ALPHA / 2, n, q / 100))
    value = float(np.percentile(ordered, q))
    if low < 0 or high >= n:
        return Interval(value, None, None, n)
    return Interval(value, float(ordered[low]), float(ordered[high]), n)
