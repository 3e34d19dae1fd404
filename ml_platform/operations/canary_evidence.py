"""Evidence that may be looked at continuously: counts against a known split, and a percentile.

In: counts, or sorted latencies. Out: an evidence value, or bounds of a quantile. Both are valid at
every look simultaneously, without a normal approximation and without a variance to estimate.

*Counts.* Errors are rare, so their difference is not normal: two arms of 300 requests and three
errors have no usable variance. But given that an error happened, chance alone decides its arm. If
the candidate is no worse, each affected user is one of the candidate's with probability s, the
share of users that the candidate has. For c of n, with a Beta prior over the true probability θ,
    E = ∫ θ^c (1-θ)^(n-c) dBeta(θ; a, b) / (s^c (1-s)^(n-c))
is a non-negative martingale with mean 1 under θ = s. By Ville's inequality P(E ever ≥ 1/α) ≤ α,
so E ≥ 1/α is a test that any number of looks cannot spoil. Restrict the prior to θ > s and it
holds for every θ ≤ s: the one-sided test. The same E, two-sided, on the users of both arms is the
test for a sample ratio mismatch. Both uses are those of Lindon and Malek, "Anytime-Valid Inference
for Multinomial Count Data" (NeurIPS 2022); the one-sided prior is ours.

*Percentile.* Let ξ be the true q-quantile. Each observation lies at or below ξ with probability q,
whatever the distribution, so E with s = q runs on the number of those. The counts c with E < 1/α
are the plausible ones, and the order statistics at their ends hold ξ at all times with probability
1 - α. Howard and Ramdas, "Sequential estimation of quantiles with applications to A/B testing and
best-arm identification" (Bernoulli, 2022) give such bounds in closed form; the mixture here is
computed instead. Observations must be independent given the past. Latencies of one minute are not
quite: a burst of load slows both arms at once, which the comparison of the two tolerates; a burst
that falls on one arm alone would not be.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats
from scipy.special import betaln

SPLIT_STRENGTH = 100.0  # of the prior around the planned share: tightest around a thousand users
QUANTILE_STRENGTH = 40.0  # likewise around a quantile: tightest around five hundred observations


@dataclass(frozen=True)
class QuantileBounds:
    """A quantile with bounds that hold at every look; infinite where data are too few."""

    value: float
    low: float
    high: float
    n: int


def more_than_share(hits: int, n: int, share: float) -> float:
    """Log evidence that hits come with a probability above `share`; one-sided, uniform prior.

    Args:
        hits: Of the candidate.
        n: Of both arms.
        share: 0 < share < 1, the probability under the null hypothesis.
    """
    _check_counts(hits, n, share)
    if n == 0:
        return 0.0
    posterior = betaln(1 + hits, 1 + n - hits) + stats.beta.logsf(share, 1 + hits, 1 + n - hits)
    prior = math.log1p(-share)  # the uniform's mass above the share
    return float(posterior - prior - _log_null(hits, n, share))


def other_than_share(hits: int, n: int, share: float, strength: float = SPLIT_STRENGTH) -> float:
    """Log evidence that hits come with another probability than `share`; two-sided.

    Args:
        hits: Of one arm.
        n: Of both arms.
        share: 0 < share < 1, what was planned.
        strength: a + b of the Beta prior, which is centred on the share.
    """
    _check_counts(hits, n, share)
    a, b = strength * share, strength * (1 - share)
    return float(betaln(a + hits, b + n - hits) - betaln(a, b) - _log_null(hits, n, share))


def quantile_bounds(ordered: Sequence[float], q: float, alpha: float) -> QuantileBounds:
    """The q-quantile with bounds that hold at every look with probability 1 - alpha.

    Args:
        ordered: Observations, ascending.
        q: 0 < q < 1.
        alpha: 0 < alpha < 1.
    """
    n = len(ordered)
    if n == 0:
        return QuantileBounds(math.nan, -math.inf, math.inf, 0)
    limit, middle = -math.log(alpha), min(n, max(0, round(n * q)))

    def evidence(count: int) -> float:
        return other_than_share(count, n, q, QUANTILE_STRENGTH)

    # Evidence falls up to the middle and rises after it. [first, last]: the plausible counts.
    first = bisect_left(range(middle + 1), True, key=lambda count: evidence(count) < limit)
    last = middle + bisect_right(
        range(n - middle), False, key=lambda step: evidence(middle + step + 1) >= limit
    )
    return QuantileBounds(
        value=ordered[min(n - 1, math.ceil(n * q) - 1)],
        low=ordered[first - 1] if first > 0 else -math.inf,
        high=ordered[last] if last < n else math.inf,
        n=n,
    )


def _log_null(hits: int, n: int, share: float) -> float:
    return hits * math.log(share) + (n - hits) * math.log1p(-share)


def _check_counts(hits: int, n: int, share: float) -> None:
    if not 0 <= hits <= n or not 0 < share < 1:
        raise ValueError(f"need 0 <= hits <= n and 0 < share < 1, got {hits}, {n}, {share}")
