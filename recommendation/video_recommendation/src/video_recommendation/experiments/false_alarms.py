"""A/A tests: both arms get the same, so every finding is a false alarm. How many are there?

In: the real users. Out: for each analysis the number of false alarms in ``n_seeds`` experiments,
beside the 5% it promised. Every experiment draws its users from the population with replacement
and assigns them by salted hash, as production would.

Two promises are put to the test. At a fixed end: Welch's t, the delta method, both with CUPED, and
a t-test over events that ignores who they belong to. And while the test runs: the fixed-size test
read every day, against the always-valid one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.progress import Step
from ml_platform.operations.assignment import N_BUCKETS, buckets
from ml_platform.operations.experiments import compare
from ml_platform.operations.power import minimum_detectable_effect, spread
from ml_platform.operations.sequential import AlwaysValid, Moments, always_valid_difference
from video_recommendation.experiments.population import Population
from video_recommendation.experiments.settings import ExperimentSettings

ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Draw:
    """Users of one experiment: rows of the population i32[n], and who is treated bool[n]."""

    rows: np.ndarray
    treated: np.ndarray


@dataclass(frozen=True)
class Analysis:
    """One way to read the same experiments.

    Attributes:
        key: In the results.
        metric, test: For the table.
        rate: Share of A/A tests that found something, with its binomial interval.
    """

    key: str
    metric: str
    test: str
    rate: Estimate


@dataclass(frozen=True, eq=False)
class Peeking:
    """What daily looks do.

    Attributes:
        users: i64[L], users so far at each look.
        fixed, always_valid: L estimates, the share of tests that raised an alarm by that look.
        found_effect: Mean size of the effect, as a share of the control mean, that a peeker
            reports who stops at the first alarm; the truth is 0.
    """

    users: np.ndarray
    fixed: tuple[Estimate, ...]
    always_valid: tuple[Estimate, ...]
    found_effect: float


@dataclass(frozen=True)
class Price:
    """What it costs to be allowed to look: both tests on an effect that is really there.

    Attributes:
        lift: The effect, chosen so that the fixed test should find it in 80% of the experiments.
        fixed: Share of the experiments that the fixed test finds at its end.
        always_valid: Share that the always-valid test has found by then.
        stopped_after: Mean share of the users that had arrived when it stopped.
    """

    lift: float
    fixed: Estimate
    always_valid: Estimate
    stopped_after: float


def share(hits: int, trials: int) -> Estimate:
    """A rate with its 95% Wilson interval."""
    interval = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    return Estimate(hits / trials, float(interval.low), float(interval.high), trials)


def draw_experiments(population: Population, settings: ExperimentSettings) -> tuple[Draw, ...]:
    """The users of every experiment and who of them is treated, by salted hash."""
    draws = []
    for seed in range(settings.n_seeds):
        rng = np.random.default_rng((settings.seed, seed))
        rows = rng.integers(len(population), size=settings.n_users, dtype=np.int32)
        salt = f"aa-{settings.seed}-{seed}"
        treated = buckets(np.arange(settings.n_users), salt) < N_BUCKETS // 2
        draws.append(Draw(rows, treated))
    return tuple(draws)


def fixed_end(population: Population, draws: Sequence[Draw], step: Step) -> tuple[Analysis, ...]:
    """False alarms of five analyses of the same experiments, each read once at its end."""
    alarms = dict.fromkeys(("naive_events", "delta", "delta_cuped", "welch", "welch_cuped"), 0)
    for draw in draws:
        sides = (draw.rows[~draw.treated], draw.rows[draw.treated])
        means = [population.events_per_user(side) for side in sides]
        ratios = [population.liked_share(side) for side in sides]
        found = {
            "naive_events": naive_event_test(population, *sides),
            "delta": compare(*ratios).p_value,
            "delta_cuped": compare(*ratios, cuped=True).p_value,
            "welch": compare(*means).p_value,
            "welch_cuped": compare(*means, cuped=True).p_value,
        }
        for key, p_value in found.items():
            alarms[key] += p_value < ALPHA
        step(1)
    words = {
        "naive_events": ("liked share", "t-test over events (wrong unit)"),
        "delta": ("liked share", "delta method over users"),
        "delta_cuped": ("liked share", "delta method, CUPED"),
        "welch": ("events per user", "Welch's t over users"),
        "welch_cuped": ("events per user", "Welch's t, CUPED"),
    }
    return tuple(
        Analysis(key, *words[key], share(count, len(draws))) for key, count in alarms.items()
    )


def naive_event_test(population: Population, control: np.ndarray, treated: np.ndarray) -> float:
    """The p-value that is wrong: likes as a share of events, as if events were independent."""
    counts = [
        (float(population.likes[rows].sum()), float(population.events[rows].sum()))
        for rows in (control, treated)
    ]
    (a, n_a), (b, n_b) = counts
    variance = sum(like / n * (1 - like / n) / n for like, n in counts)
    return float(2 * stats.norm.sf(abs(b / n_b - a / n_a) / variance**0.5))


def peeking(population: Population, draws: Sequence[Draw], looks: int, step: Step) -> Peeking:
    """Users arrive, a batch every day; the test is read every day, in two ways."""
    fixed = np.zeros((len(draws), looks), dtype=np.bool_)
    always = np.zeros_like(fixed)
    reported = []
    for number, draw in enumerate(draws):
        p_fixed, sequence, relative = _daily(population.events[draw.rows], draw.treated, looks)
        fixed[number] = p_fixed < ALPHA
        always[number] = [look.excludes_zero for look in sequence]
        if fixed[number].any():
            reported.append(abs(relative[np.argmax(fixed[number])]))
        step(1)
    return Peeking(
        users=np.arange(1, looks + 1) * len(draws[0].rows) // looks,
        fixed=_by_look(fixed),
        always_valid=_by_look(always),
        found_effect=float(np.mean(reported)) if reported else 0.0,
    )


def price_of_looking(
    population: Population, draws: Sequence[Draw], looks: int, step: Step
) -> Price:
    """The same experiments with an effect: some events happen twice on the treated side."""
    past = spread(population.events_per_user())
    lift = minimum_detectable_effect(past, len(draws[0].rows)) / past.mean
    fixed = 0
    stops: list[int] = []
    for number, draw in enumerate(draws):
        rng = np.random.default_rng((7, number))
        events = population.events[draw.rows]
        extra = rng.binomial(events.astype(np.int64), min(lift, 1.0))
        moved = events + np.where(draw.treated, extra, 0)
        p_fixed, sequence, _ = _daily(moved, draw.treated, looks)
        fixed += p_fixed[-1] < ALPHA
        stops += [day for day, look in enumerate(sequence, start=1) if look.low > 0][:1]
        step(1)
    return Price(
        lift=lift,
        fixed=share(fixed, len(draws)),
        always_valid=share(len(stops), len(draws)),
        stopped_after=float(np.mean(stops)) / looks if stops else 1.0,
    )


def _daily(
    values: np.ndarray, treated: np.ndarray, n_looks: int
) -> tuple[np.ndarray, list[AlwaysValid], np.ndarray]:
    """At each look: the fixed test's p f64[L], the always-valid reading, the effect f64[L]."""
    arms = [Moments(0, 0.0, 0.0), Moments(0, 0.0, 0.0)]
    looks = []
    sequence = []
    for day in np.array_split(np.arange(len(values)), n_looks):
        for arm, side in enumerate((~treated, treated)):
            arms[arm] = arms[arm].plus(Moments.of(values[day][side[day]]))
        looks.append(tuple(arms))
        sequence.append(always_valid_difference(*arms, alpha=ALPHA, design_n=len(values)))
    table = np.array([[(m.mean, m.variance, m.n) for m in look] for look in looks])
    (mean_a, var_a, n_a), (mean_b, var_b, n_b) = table.transpose(1, 2, 0)
    p_fixed = stats.ttest_ind_from_stats(
        mean_b, np.sqrt(var_b), n_b, mean_a, np.sqrt(var_a), n_a, equal_var=False
    ).pvalue
    return np.asarray(p_fixed), sequence, mean_b / mean_a - 1


def _by_look(alarms: np.ndarray) -> tuple[Estimate, ...]:
    """Share of the tests bool[S, L] with an alarm at this look or an earlier one."""
    ever = np.maximum.accumulate(alarms, axis=1)
    return tuple(share(int(hits), len(alarms)) for hits in ever.sum(axis=0))
