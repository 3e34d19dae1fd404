"""Sample ratio mismatch: is a split of 49/51 noticed, and what is read from data that lost users?

In: the real users. Out: how often the check stops an experiment, by its size; and what the metric
says in an A/A test whose treatment loses some of its most active users (a client that crashes in
long sittings, a log line that is cut off): nothing was changed, but those who are missing are not
like those who stayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.progress import Step
from ml_platform.operations.experiments import compare, sample_ratio
from video_recommendation.experiments.false_alarms import ALPHA, share
from video_recommendation.experiments.population import Population
from video_recommendation.experiments.settings import ExperimentSettings

SPLIT = 0.49
HEAVY_SHARE = 0.05
LOST = 0.5
"""The treatment loses this share of the most active ``HEAVY_SHARE`` of its users."""


@dataclass(frozen=True)
class RatioRow:
    """Share of experiments of one size that the check stops, at a true 50/50 and at 49/51."""

    users: int
    sound: Estimate
    skewed: Estimate


@dataclass(frozen=True)
class Loss:
    """An A/A test that loses its most active users on one side.

    Attributes:
        users: Users assigned, both arms together.
        treated_share: Mean share of the treated among the users that are left.
        effect: Mean effect that is read, as a share of the control mean; the truth is 0.
        false_alarms: Share of the experiments that find one.
        stopped: Share of the experiments that the sample ratio check stops.
    """

    users: int
    treated_share: float
    effect: float
    false_alarms: Estimate
    stopped: Estimate


def ratio_rows(settings: ExperimentSettings) -> tuple[RatioRow, ...]:
    """The check alone, on binomial counts."""
    rng = np.random.default_rng((settings.seed, 3))

    def stopped(n: int, probability: float) -> Estimate:
        treated = rng.binomial(n, probability, size=settings.n_seeds)
        hits = sum(sample_ratio(n - int(count), int(count)).mismatch for count in treated)
        return share(hits, settings.n_seeds)

    return tuple(RatioRow(n, stopped(n, 0.5), stopped(n, SPLIT)) for n in settings.ratio_users)


def heavy_users_lost(
    population: Population, n_users: int, settings: ExperimentSettings, step: Step
) -> Loss:
    """A/A tests on events per user, with a loss on the treated side."""
    heavy = population.events >= np.quantile(population.events, 1 - HEAVY_SHARE)
    alarms = stopped = 0
    shares, effects = [], []
    for seed in range(settings.loss_seeds):
        rng = np.random.default_rng((settings.seed, 4, n_users, seed))
        rows = rng.integers(len(population), size=n_users)
        treated = rng.random(n_users) < 0.5
        lost = treated & heavy[rows] & (rng.random(n_users) < LOST)
        control, kept = rows[~treated], rows[treated & ~lost]
        found = compare(population.events_per_user(control), population.events_per_user(kept))
        alarms += found.p_value < ALPHA
        stopped += sample_ratio(len(control), len(kept)).mismatch
        shares.append(len(kept) / (len(control) + len(kept)))
        effects.append(found.difference / found.control)
        step(1)
    return Loss(
        users=n_users,
        treated_share=float(np.mean(shares)),
        effect=float(np.mean(effects)),
        false_alarms=share(alarms, settings.loss_seeds),
        stopped=share(stopped, settings.loss_seeds),
    )
