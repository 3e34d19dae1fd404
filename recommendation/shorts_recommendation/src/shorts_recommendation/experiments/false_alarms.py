"""A/A: everybody got the same, so every finding is a false alarm. How many, read in which way?

In: people who were all served by one funnel, day by day. Out: for each metric the share of random
splits in which a test found a difference: once at the end, with CUPED, at any of the daily looks,
and at any of the daily looks by the always-valid test. And the share in which the guardrails would
have stopped the experiment (``stop_alarms``): many metrics, many looks, one decision.

One run serves all splits. Under "no effect" a person's numbers do not depend on the arm, so another
salt makes another A/A test of the same people; two runs would differ by the chance of the world
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.progress import Step
from ml_platform.operations.assignment import N_BUCKETS, buckets
from ml_platform.operations.experiments import unit_values
from ml_platform.operations.sequential import half_width, mixture_variance
from shorts_recommendation.experiments.measures import BY_NAME, METRICS, Measured
from shorts_recommendation.experiments.reading import (
    ALPHA,
    GUARDRAIL_ALPHA,
    GUARDRAILS,
    MAX_LOOKS,
)

TESTS = ("once", "once_cuped", "peeking", "always_valid")
STOPS = ("guardrail_stop", "any_guardrail_uncorrected", "any_metric", "any_metric_peeking")
"""Rules that end an experiment: the one in use; its three metrics at 5% each, one side; any metric
either way, always valid at 5% each; the same by the fixed-size test."""


@dataclass(frozen=True)
class FalseAlarms:
    """Of one metric.

    Attributes:
        rates: Share of splits with a finding, by the names of TESTS, with Wilson intervals.
        n_looks: Of the two that look every day.
    """

    rates: Mapping[str, Estimate]
    n_looks: int


def false_alarms(
    name: str,
    by_day: Sequence[Mapping[str, Measured]],
    before: Mapping[str, Measured],
    user_ids: np.ndarray,
    n_splits: int,
    step: Step,
) -> FalseAlarms:
    """Splits the same people again and again.

    Args:
        name: Of the metric.
        by_day: Measures after each look's day, the last is the end; at most ``MAX_LOOKS``.
        before: Of the same people before.
        user_ids: i64[P], what is hashed.
        n_splits: A/A tests.
        step: Hears of each.

    Raises:
        ValueError: On more looks than the boundary is proven for.
    """
    everybody = np.ones(len(user_ids), dtype=bool)
    plain = unit_values(by_day[-1][name].arm(everybody))
    treated = _splits(user_ids, f"aa-{name}", n_splits, step)
    once = _Splits.of(treated, plain)
    daily = _daily(name, by_day, before, treated)
    alarms = np.stack([one.fixed() for one in daily])
    found = {
        "once": once.fixed(),
        "once_cuped": alarms[-1],
        "peeking": alarms.any(axis=0),
        "always_valid": np.stack([one.always_valid() for one in daily]).any(axis=0),
    }
    rates = {test: _rate(int(hits.sum()), n_splits) for test, hits in found.items()}
    return FalseAlarms(rates, len(daily))


def stop_alarms(
    by_day: Sequence[Mapping[str, Measured]],
    before: Mapping[str, Measured],
    user_ids: np.ndarray,
    n_splits: int,
    step: Step,
) -> dict[str, Estimate]:
    """Share of A/A tests that each of STOPS would have ended, with Wilson intervals.

    Args:
        by_day: As in ``false_alarms``.
        before: Of the same people before.
        user_ids: i64[P].
        n_splits: A/A tests; every metric is read in the same ones.
        step: Hears of each split.

    Raises:
        ValueError: On more looks than the boundary is proven for.
    """
    treated = _splits(user_ids, "aa-stop", n_splits, step)
    hits = {rule: np.zeros(n_splits, dtype=bool) for rule in STOPS}
    for metric in METRICS:
        if not np.ptp(by_day[-1][metric.name].top) > 0:
            continue
        for one in _daily(metric.name, by_day, before, treated):
            hits["any_metric"] |= one.always_valid()
            hits["any_metric_peeking"] |= one.fixed()
            if metric.name in GUARDRAILS:
                hits["guardrail_stop"] |= one.always_valid(GUARDRAIL_ALPHA) & one.down
                hits["any_guardrail_uncorrected"] |= one.always_valid() & one.down
    return {rule: _rate(int(found.sum()), n_splits) for rule, found in hits.items()}


def _splits(user_ids: np.ndarray, salt: str, n_splits: int, step: Step) -> np.ndarray:
    """f64[S, P]: 1 where the person is treated."""
    treated = np.empty((n_splits, len(user_ids)), dtype=np.float64)
    for split in range(n_splits):
        treated[split] = buckets(user_ids, f"{salt}-{split}") < N_BUCKETS // 2
        step(1)
    return treated


def _daily(
    name: str,
    by_day: Sequence[Mapping[str, Measured]],
    before: Mapping[str, Measured],
    treated: np.ndarray,
) -> list[_Splits]:
    """All splits after each day, by values that CUPED has narrowed where there is a past."""
    if len(by_day) > MAX_LOOKS:
        raise ValueError(f"{len(by_day)} looks; the boundary holds for up to {MAX_LOOKS}")
    everybody = np.ones(treated.shape[1], dtype=bool)
    past = before[BY_NAME[name].before]
    known = past if np.ptp(unit_values(past.arm(everybody))) > 0 else None
    arms = [day[name].arm(everybody, known) for day in by_day]
    values = [unit_values(arm, cuped=known is not None) for arm in arms]
    return [_Splits.of(treated, value) for value in values]


@dataclass(frozen=True, eq=False)
class _Splits:
    """Moments of both sides under S splits of the same people, f64[2, S], control first."""

    n: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    pooled: float

    @classmethod
    def of(cls, treated: np.ndarray, values: np.ndarray) -> _Splits:
        sides = np.stack([1 - treated, treated])  # [2, S, P]
        centred = values - values.mean()
        n = sides.sum(axis=2)
        mean = sides @ centred / n
        variance = (sides @ centred**2 - n * mean**2) / (n - 1)
        return cls(n, mean, variance, float(values.var(ddof=1)))

    def fixed(self) -> np.ndarray:
        """bool[S]: Welch's test finds a difference."""
        deviation = np.sqrt(self.variance)
        (a, b), (s, t), (n, m) = self.mean, deviation, self.n
        p_value = stats.ttest_ind_from_stats(b, t, m, a, s, n, equal_var=False).pvalue
        return np.asarray(p_value < ALPHA)

    @property
    def down(self) -> np.ndarray:
        """bool[S]: the treated have less."""
        return np.asarray(self.mean[1] < self.mean[0])

    def always_valid(self, alpha: float = ALPHA) -> np.ndarray:
        """bool[S]: the always-valid interval excludes 0; as ``always_valid_difference``."""
        own = (self.variance / self.n).sum(axis=0)
        variance = np.maximum(own, self.pooled * (1 / self.n).sum(axis=0))
        tau2 = mixture_variance(4 * self.pooled / self.n.sum(axis=0), alpha)
        return np.asarray(np.abs(self.mean[1] - self.mean[0]) > half_width(variance, tau2, alpha))


def _rate(hits: int, trials: int) -> Estimate:
    interval = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    return Estimate(hits / trials, float(interval.low), float(interval.high), trials)
