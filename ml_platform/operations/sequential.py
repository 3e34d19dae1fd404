"""A difference of two means that may be looked at as often as one likes: always-valid inference.

In: sample size, mean and variance of two arms (`Moments`), which add up as data arrive. Out: the
difference with an interval that holds at every look simultaneously, and an always-valid p-value.

The problem. A 95% interval holds at one sample size fixed beforehand. Look at it after every day
and stop at the first that excludes 0, and the chance of a false alarm is no longer 5%: it grows
with each look, towards 1. A guard of a canary looks after every batch of requests.

The method: an asymptotic confidence sequence with a normal mixture (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals
of Statistics 52(6), 2024). Under the null the estimated difference d with variance V is a Brownian
motion observed at time 1/V. Average its likelihood ratio over effects ~ Normal(0, tau2):

    ratio = sqrt(V / (V + tau2)) * exp(d^2 tau2 / (2 V (V + tau2)))                            (1)

This is a martingale that starts at 1, so by Ville's inequality it ever exceeds 1/alpha with
probability at most alpha. Hence the p-value, and the interval of effects that are not rejected:

    p = min(1, 1 / ratio)                                                                      (2)
    d +- sqrt(V (V + tau2) / tau2 * (log((V + tau2) / V) + 2 log(1 / alpha)))                  (3)

(1) is the statistic of the mixture SPRT (Johari, Koomen, Pekelis and Walsh, "Always Valid
Inference: Continuous Monitoring of A/B Tests", Operations Research 70(3), 2022): for means the two
methods are one formula. We follow the paper of 2024 because its guarantee covers what is done
here, a variance estimated from data that are not normal.

What tau2 does. It decides at which sample size the interval is tightest, never whether it is valid.
The width (3) at variance V0 is smallest for tau2 = x V0 where x - log(1 + x) = 2 log(1 / alpha):

    x = -W(-alpha^2 / e) - 1, the lower branch of Lambert's W; 8.2 at alpha = 0.05             (4)

and there the interval is 1.55 times as wide as the fixed one: the price of looking at any time.

Three decisions of ours. V is the larger of the unpooled and the pooled estimate: an arm of 300
requests that happens to have no error would otherwise claim to know its error rate exactly. The
guarantee is asymptotic, so there is no answer before `MIN_PER_ARM` units in each arm: the interval
is infinite, p is 1. And tau2 is fixed by `design_n` at an even split, so that the steps of a
rollout (1%, 5%, 25%) change V but not the mixture; with data-independent steps d/V keeps
independent increments, and (1) stays a martingale. What no formula repairs: if users of one step
differ from those of the next, pooled means compare different days. Compare the same hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import lambertw

MIN_PER_ARM = 20
ArrayOrFloat = float | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sample size, mean and variance of one arm; all that is kept of its data.

    Attributes:
        n: Number of units.
        mean: Their mean; 0.0 when n is 0.
        variance: Sample variance (divisor n - 1); 0.0 when n < 2.
    """

    n: int
    mean: float
    variance: float

    def __post_init__(self) -> None:
        if self.n < 0 or not self.variance >= 0 or not math.isfinite(self.mean + self.variance):
            raise ValueError(
                f"moments need n >= 0, a finite mean and a finite variance >= 0, got {self}"
            )

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Moments:
        """The moments of values [n], which must be finite."""
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1:
            raise ValueError(f"values must be [n], got shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"value {np.argmin(np.isfinite(array))} is not finite")
        n = len(array)
        mean = float(array.mean()) if n else 0.0
        return cls(n, mean, float(array.var(ddof=1)) if n > 1 else 0.0)

    def plus(self, other: Moments) -> Moments:
        """The moments of both samples together, without their data.

        The pairwise update of Chan, Golub and LeVeque, "Algorithms for computing the sample
        variance", The American Statistician 37(3), 1983; no sum of squares, so no cancellation.
        """
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        squares = (
            max(self.n - 1, 0) * self.variance
            + max(other.n - 1, 0) * other.variance
            + gap * gap * self.n * other.n / n
        )
        return Moments(n, self.mean + gap * other.n / n, squares / (n - 1) if n > 1 else 0.0)


@dataclass(frozen=True)
class AlwaysValid:
    """A difference that may be read at every look.

    Attributes:
        difference: mean of treatment minus mean of control.
        low: Lower end; -inf while there is too little data.
        high: Upper end; +inf together with `low`.
        p_value: Of "no difference"; at most alpha exactly where the interval excludes 0. The
            smallest one seen so far is valid too.
        n: Units in both arms together.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether there is a difference, at level alpha over all looks together."""
        return self.low > 0 or self.high < 0


def always_valid_difference(
    control: Moments,
    treatment: Moments,
    *,
    alpha: float = 0.05,
    design_n: int,
    min_per_arm: int = MIN_PER_ARM,
) -> AlwaysValid:
    """Treatment minus control, valid at every look simultaneously.

    Args:
        control: Moments of the control arm so far.
        treatment: Moments of the treated arm so far.
        alpha: Probability of ever excluding the truth, over all looks.
        design_n: Units in both arms together at which the interval shall be tightest, at an even
            split. Fix it before the first look, for instance the size of the fixed test, and do
            not change it.
        min_per_arm: Units in each arm before there is an answer.

    Returns:
        The difference; with too little data, or data without any variance, the interval is
        infinite and p is 1.

    Raises:
        ValueError: If alpha is not inside 0..1 or design_n is not positive.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if design_n < 1:
        raise ValueError(f"design_n must be at least 1 unit, got {design_n}")
    together = control.plus(treatment)
    difference = treatment.mean - control.mean
    enough = min(control.n, treatment.n) >= max(min_per_arm, 2) and together.variance > 0
    if not enough:
        return AlwaysValid(difference, -math.inf, math.inf, 1.0, together.n)
    variance = max(
        control.variance / control.n + treatment.variance / treatment.n,
        together.variance * (1 / control.n + 1 / treatment.n),
    )
    tau2 = mixture_variance(4 * together.variance / design_n, alpha)
    half = float(half_width(variance, tau2, alpha))
    p_value = float(always_valid_p(difference, variance, tau2))
    return AlwaysValid(difference, difference - half, difference + half, p_value, together.n)


def mixture_variance(design_variance: ArrayOrFloat, alpha: float) -> ArrayOrFloat:
    """tau2 of equation (4): the interval is tightest when the difference has this variance."""
    x = float(-lambertw(-(alpha**2) / math.e, k=-1).real - 1)
    return x * design_variance


def half_width(variance: ArrayOrFloat, tau2: ArrayOrFloat, alpha: float) -> ArrayOrFloat:
    """Equation (3), for numbers or for arrays of looks."""
    total = variance + tau2
    width = variance * total / tau2 * (np.log(total / variance) - 2 * math.log(alpha))
    return np.sqrt(width)


def always_valid_p(
    difference: ArrayOrFloat, variance: ArrayOrFloat, tau2: ArrayOrFloat
) -> ArrayOrFloat:
    """Equation (2), for numbers or for arrays of looks; in logs, so that nothing overflows."""
    total = variance + tau2
    log_ratio = 0.5 * np.log(variance / total) + np.square(difference) * tau2 / (
        2 * variance * total
    )
    return np.exp(-np.maximum(log_ratio, 0.0))
