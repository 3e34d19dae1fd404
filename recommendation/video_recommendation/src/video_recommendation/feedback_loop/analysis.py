"""What the days of all arms and seeds say: means with intervals, price, gain, break-even.

In: ``DayRecord`` of every (arm, seed, day). Out: ``Estimate``. A seed is a world of its own, so the
seeds are the units: intervals are Student's t over S seeds, and differences are taken within a
seed, where both arms met the same users with the same luck. Legend: S seeds, D days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.evaluation.intervals import LEVEL, Estimate
from video_recommendation.feedback_loop.loop import DayRecord
from video_recommendation.feedback_loop.measures import break_even_day
from video_recommendation.feedback_loop.settings import GREEDY, Arm, LoopSettings

MEASURES = (
    "regret",
    "watch_rate",
    "coverage",
    "ever_shown",
    "gini",
    "top_share",
    "new_shown",
    "new_impressions",
    "hits_found",
)


@dataclass(frozen=True)
class Experiment:
    """All days of all arms.

    Attributes:
        settings: What was asked for.
        days: By (arm's name, seed), ``n_days`` each.
    """

    settings: LoopSettings
    days: Mapping[tuple[str, int], Sequence[DayRecord]]

    @property
    def exploring(self) -> tuple[Arm, ...]:
        """The arms that are compared with the greedy one."""
        return tuple(arm for arm in self.settings.arms if arm is not GREEDY)

    @property
    def last_days(self) -> int:
        """The days at the end that a summary looks at: a third, at least one."""
        return max(1, self.settings.n_days // 3)

    def values(self, arm: Arm, measure: str) -> np.ndarray:
        """f64[S, D], NaN where a measure is not defined."""
        rows = [
            [getattr(day, measure) for day in self.days[arm.name, seed]]
            for seed in self.settings.seeds
        ]
        return np.array(rows, dtype=np.float64)

    def by_day(self, arm: Arm, measure: str) -> list[Estimate]:
        """Mean over seeds of each day."""
        return [over_seeds(column) for column in self.values(arm, measure).T]

    def at_the_end(self, arm: Arm, measure: str) -> Estimate:
        """Mean over the last days."""
        return over_seeds(self.values(arm, measure)[:, -self.last_days :].mean(axis=1))

    def saved(self, arm: Arm) -> np.ndarray:
        """f64[S, D]: expected watches a request that an arm has more than the greedy one."""
        return self.values(GREEDY, "regret") - self.values(arm, "regret")

    def price(self, arm: Arm) -> Estimate:
        """What exploring costs on day 0, when both arms serve the same models, a request."""
        return over_seeds(-self.saved(arm)[:, 0])

    def gain(self, arm: Arm) -> Estimate:
        """Watches a request that exploring brings in the last days."""
        return over_seeds(self.saved(arm)[:, -self.last_days :].mean(axis=1))

    def balance(self, arm: Arm) -> Estimate:
        """Mean gain a request over all days, the price included."""
        return over_seeds(self.saved(arm).mean(axis=1))

    def running_balance(self, arm: Arm) -> list[Estimate]:
        """Watches gained so far for each daily request, after each day."""
        return [over_seeds(column) for column in np.cumsum(self.saved(arm), axis=1).T]

    def break_even(self, arm: Arm) -> int | None:
        """Day from which the mean running balance stays positive; None: not in this run."""
        return break_even_day(self.saved(arm).mean(axis=0))

    def break_even_by_seed(self, arm: Arm) -> list[int | None]:
        """The same in each world."""
        return [break_even_day(row) for row in self.saved(arm)]


def over_seeds(values: np.ndarray) -> Estimate:
    """Mean of one value a seed with Student's t interval; without ends for one seed.

    Seeds without the measure (NaN) are left out.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(float("nan"), None, None, 0)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None, len(known))
    error = float(known.std(ddof=1) / np.sqrt(len(known)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1)) * error
    return Estimate(mean, mean - half, mean + half, len(known))
