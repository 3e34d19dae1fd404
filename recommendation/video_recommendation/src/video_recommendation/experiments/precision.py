"""How small an effect can be seen: what CUPED saves, and the power that was calculated beforehand.

In: the real users. Out: for each metric the correlation with the period before, the variance CUPED
took away over many A/A tests beside the rho^2 that theory promises, and the users needed for a 5%
effect; then a power curve, calculated and simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.progress import Step
from ml_platform.operations.experiments import Arm, compare, unit_values
from ml_platform.operations.power import Spread, power_curve, required_units, spread
from video_recommendation.experiments.false_alarms import ALPHA, share
from video_recommendation.experiments.population import Population
from video_recommendation.experiments.settings import ExperimentSettings

LIFT = 0.05
"""The effect that the table asks for, as a share of the metric."""
GOOD_RHO = 0.7
"""A correlation as products with returning users have it; the curve's third line, calculated."""
ArmOf = Callable[[np.ndarray | slice], Arm]


@dataclass(frozen=True)
class CupedRow:
    """What the period before is worth for one metric.

    Attributes:
        key, metric, before: In the results and in the table.
        rho: Correlation of a unit's values now and before.
        promised: rho^2.
        measured: 1 - variance of the estimate with CUPED / without, over A/A tests.
        required, required_cuped: Users in both arms for a ``LIFT`` at 80% power.
    """

    key: str
    metric: str
    before: str
    rho: float
    promised: float
    measured: Estimate
    required: int
    required_cuped: int


@dataclass(frozen=True, eq=False)
class PowerCurve:
    """Power to find an effect, by users.

    Attributes:
        effect: The share of all disliked events that the treatment turns into likes.
        users: i64[P].
        plain, cuped: P simulated points.
        grid: f64[G], users; the calculated lines of ``plain_line``, ``cuped_line`` and
            ``good_line`` (a covariate with ``GOOD_RHO``), f64[G] each.
        required, required_cuped, required_good: Users for 80%.
    """

    effect: float
    users: np.ndarray
    plain: tuple[Estimate, ...]
    cuped: tuple[Estimate, ...]
    grid: np.ndarray
    plain_line: np.ndarray
    cuped_line: np.ndarray
    good_line: np.ndarray
    required: int
    required_cuped: int
    required_good: int


def cuped_row(
    key: str,
    words: tuple[str, str],
    arm_of: ArmOf,
    n_population: int,
    settings: ExperimentSettings,
    step: Step,
) -> CupedRow:
    """Measures one metric.

    Args:
        key: In the results.
        words: Metric and period before, for the table.
        arm_of: Rows of the population to an arm, for instance ``population.liked_share``.
        n_population: Users of the population.
        settings: How many A/A tests, of how many users.
        step: Told after each.
    """
    whole = arm_of(slice(None))
    plain, adjusted = spread(whole), spread(whole, cuped=True)
    differences = np.empty((settings.n_seeds, 2))
    for seed in range(settings.n_seeds):
        rng = np.random.default_rng((settings.seed, 1, seed))
        rows = rng.integers(n_population, size=settings.n_users)
        half = settings.n_users // 2
        arms = arm_of(rows[:half]), arm_of(rows[half:])
        plain_difference = unit_values(arms[1]).mean() - unit_values(arms[0]).mean()
        differences[seed] = plain_difference, compare(*arms, cuped=True).difference
        step(1)
    return CupedRow(
        key,
        *words,
        rho=correlation(whole),
        promised=correlation(whole) ** 2,
        measured=_variance_saved(differences),
        required=required_units(plain, LIFT * plain.mean),
        required_cuped=required_units(adjusted, LIFT * plain.mean),
    )


def likes_power(population: Population, settings: ExperimentSettings, step: Step) -> PowerCurve:
    """The curve for likes among the next ten events: each dislike becomes a like by chance.

    The effect is chosen so that a test of the middle size has about 80% power.
    """
    past = population.likes_per_user()
    plain, adjusted = spread(past), spread(past, cuped=True)
    dislikes = population.events - population.likes
    middle = settings.power_users[len(settings.power_users) // 2]
    wanted = 2 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(plain.variance / middle)
    effect = round(float(wanted / dislikes.mean()), 3)
    difference = effect * float(dislikes.mean())
    found = np.array([_found(population, effect, n, settings, step) for n in settings.power_users])
    good = Spread(plain.mean, plain.variance * (1 - GOOD_RHO**2))
    grid = np.linspace(settings.power_users[0] / 2, settings.power_users[-1] * 1.05, 60)
    return PowerCurve(
        effect=effect,
        users=np.array(settings.power_users),
        plain=tuple(share(int(hits), settings.power_seeds) for hits in found[:, 0]),
        cuped=tuple(share(int(hits), settings.power_seeds) for hits in found[:, 1]),
        grid=grid,
        plain_line=power_curve(plain, difference, grid),
        cuped_line=power_curve(adjusted, difference, grid),
        good_line=power_curve(good, difference, grid),
        required=required_units(plain, difference),
        required_cuped=required_units(adjusted, difference),
        required_good=required_units(good, difference),
    )


def _found(
    population: Population, effect: float, n: int, settings: ExperimentSettings, step: Step
) -> tuple[int, int]:
    """Experiments that found the effect, without and with CUPED."""
    hits = np.zeros(2, dtype=np.int64)
    for seed in range(settings.power_seeds):
        rng = np.random.default_rng((settings.seed, 2, n, seed))
        control, treated = rng.integers(len(population), size=(2, n // 2))
        plain = population.likes_per_user(treated)
        dislikes = (population.events - population.likes)[treated].astype(np.int64)
        moved = Arm(plain.metric + rng.binomial(dislikes, effect), before=plain.before)
        for place, cuped in enumerate((False, True)):
            p_value = compare(population.likes_per_user(control), moved, cuped=cuped).p_value
            hits[place] += p_value < ALPHA
        step(1)
    return int(hits[0]), int(hits[1])


def _variance_saved(differences: np.ndarray) -> Estimate:
    """1 - var(with) / var(without) over experiments f64[S, 2], with a bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = differences[rng.integers(len(differences), size=(2_000, len(differences)))]
    saved = 1 - draws[:, :, 1].var(axis=1) / draws[:, :, 0].var(axis=1)
    low, high = np.quantile(saved, [0.025, 0.975])
    value = 1 - differences[:, 1].var() / differences[:, 0].var()
    return Estimate(float(value), float(low), float(high), len(differences))


def correlation(arm: Arm) -> float:
    """Correlation of the unit values now and before, with its sign."""
    before = Arm(np.asarray(arm.before), per=arm.before_per)
    return float(np.corrcoef(unit_values(Arm(arm.metric, per=arm.per)), unit_values(before))[0, 1])
