"""Has a distribution moved? PSI and KS of two samples, beside what they are without any drift.

In: bin shares of a reference and of a window, with their covariances. Out: PSI, its expectation
without drift and the value it exceeds by chance once in a given number of looks; the same for KS.
Legend: N reference rows, n window rows, B bins, C clusters, S values of a sketch.

Population Stability Index of the shares p (now) and q (reference) of B bins:

    PSI = sum_b (p_b - q_b) ln(p_b / q_b)

The limits 0.1 and 0.25 in use know nothing of n (B. Yurdakul, "Statistical Properties of Population
Stability Index", dissertation, Western Michigan University, 2018, starts from that). Without drift
PSI is close to sum_b (p_b - q_b)^2 / p_b, a chi-square statistic: for independent rows PSI is about
(1/n + 1/N) times chi-square with B - 1 degrees of freedom. Ten bins and 100 rows give 0.09 from
nothing. So two conditions stand together:

- PSI less its expectation without drift is held against 0.1 and 0.25;
- and PSI must be improbable without drift.

Rows are not independent: twenty items of one answer share the user's columns, and a user asks more
than once. So the covariance of the shares is computed between clusters (users), and the chi-square
is scaled by its trace and given degrees of freedom by its square, a correction in the line of Rao
and Scott ("On Simple Adjustments to Chi-Square Tests with Sample Survey Data", Annals of Statistics
15(1), 1987). With every row a cluster of its own this is the formula above. Few clusters bring an F
distribution's heavy tail, so a window of three users says nothing, as it should.

Kolmogorov-Smirnov, the largest distance of the two distribution functions, is the second opinion:
it needs no bins, and it is the share of rows that crossed some value. With many rows every KS test
is significant, so what counts is its size, or the noise where that is larger.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

PSI_WARNING, PSI_ALERT = 0.1, 0.25
"""The rule of thumb, applied to PSI in excess of its expectation without drift."""
KS_EFFECT = 0.15
"""15% of the rows crossed some value. A bell curve that moves PSI by 0.1 moves KS by 0.13."""


@dataclass(frozen=True)
class Shares:
    """Bin shares of a sample: share f64[B], covariance f64[B, B] between clusters, sizes."""

    share: np.ndarray
    covariance: np.ndarray
    n_rows: int
    n_clusters: int


def cluster_shares(bins: np.ndarray, clusters: np.ndarray, n_bins: int) -> Shares:
    """Shares of the bins with their covariance between clusters (ratio estimator).

    Args:
        bins: i64[n], 0..n_bins - 1.
        clusters: i64[n], rows with the same value are not independent.
        n_bins: B.

    Raises:
        ValueError: without rows.
    """
    n = len(bins)
    if not n:
        raise ValueError("shares of no rows: wait until the window holds some")
    names, place = np.unique(clusters, return_inverse=True)
    counts = np.bincount(place * n_bins + bins, minlength=len(names) * n_bins)
    table = counts.reshape(len(names), n_bins).astype(np.float64)
    share = table.sum(axis=0) / n
    deviation = table - table.sum(axis=1, keepdims=True) * share
    # One cluster says nothing about how clusters differ: infinite noise, never an alarm.
    scale = len(names) / (len(names) - 1) if len(names) > 1 else np.inf
    with np.errstate(invalid="ignore"):
        covariance = np.nan_to_num(scale * (deviation.T @ deviation) / n**2, nan=np.inf)
    return Shares(share, covariance, n, len(names))


def population_stability_index(reference: Shares, now: Shares) -> float:
    """PSI of two samples; bins that are empty on both sides do not count.

    One cluster is added to each side, spread as both samples together are. So an empty bin costs a
    finite amount, and little while so few clusters were seen that it may be empty by chance.
    """
    total = reference.n_rows + now.n_rows
    both = (reference.share * reference.n_rows + now.share * now.n_rows) / total
    used = both > 0
    q, p = (
        ((side.share * side.n_clusters + both) / (side.n_clusters + 1))[used]
        for side in (reference, now)
    )
    return float(((p - q) * np.log(p / q)).sum())


def psi_without_drift(reference: Shares, now: Shares, level: float) -> tuple[float, float]:
    """What PSI is without drift: its expectation, and what it exceeds with probability `level`.

    PSI is then about sum_i l_i Z_i^2, with l the eigenvalues of M = D (V_now + V_reference) D,
    D = diag(p^-1/2). Its mean is trace(M); chi-square with trace(M)^2 / trace(M^2) degrees of
    freedom, scaled to that mean, has the same variance.
    """
    middle = (reference.share + now.share) / 2
    used = middle > 0
    root = np.sqrt(middle[used])
    matrix = (reference.covariance + now.covariance)[np.ix_(used, used)] / np.outer(root, root)
    noise = float(np.trace(matrix))
    if noise == 0 or not np.isfinite(noise):
        return noise, noise
    freedom = noise**2 / float((matrix**2).sum())
    return noise, noise * float(stats.f.isf(level, freedom, max(1, now.n_clusters - 1)))


def ks_without_drift(reference: Shares, now: Shares, level: float) -> float:
    """What KS exceeds without drift with probability `level`, about.

    For independent rows that is c / sqrt(n), c = sqrt(-ln(level / 2) / 2), and the distribution
    function's own standard error is at most 1 / (2 sqrt(n)), at its median. So the limit is 2 c
    times the largest standard error over the bins' edges, which clusters have told; few clusters
    widen it as they widen a t interval.
    """
    cumulative = np.cumsum(np.cumsum(reference.covariance + now.covariance, axis=0), axis=1)
    error = float(np.sqrt(np.diag(cumulative).max(initial=0.0)))
    freedom = max(1, now.n_clusters - 1)
    widening = stats.t.isf(level / 2, freedom) / stats.norm.isf(level / 2)
    return float(2 * np.sqrt(-np.log(level / 2) / 2) * error * widening)


def kolmogorov_smirnov(sketch: np.ndarray, values: np.ndarray) -> float:
    """Largest distance between two empirical distribution functions, ties included."""
    sketch, values = np.sort(sketch), np.sort(values)
    points = np.concatenate([sketch, values])
    below = [np.searchsorted(s, points, side="right") / max(1, len(s)) for s in (sketch, values)]
    return float(np.abs(below[0] - below[1]).max(initial=0.0))
