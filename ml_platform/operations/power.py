"""How many users, for how small an effect: the calculation that comes before an experiment.

In: the mean and the variance a unit has on past data (`Spread`), and what is promised (`Design`).
Out: units needed, minimum detectable effect, power.

With arms of n1 and n2 units and variance s2 a unit, the difference has variance s2 (1/n1 + 1/n2).
For a two-sided test at alpha and power 1 - beta at an even split of n units this gives

    n = 4 s2 (z_{1-alpha/2} + z_{1-beta})^2 / effect^2                                           (1)

about 16 s2 / effect^2 an arm at 5% and 80%. Two readings. Half the effect costs four times the
users. And everything that shrinks the variance is paid back in users one to one: CUPED with
correlation rho needs (1 - rho^2) of them. A ratio metric enters by its linearised values
(`experiments.unit_values`), so nothing here knows the difference.

The numbers are statsmodels': the closed form (1) for units (its root finder leaves the positive
numbers where the effect is as large as the spread), NormalIndPower for the rest. Both arms are
taken to have the variance of the past, so for effects that stretch the metric (10% more of
everything) the true power is a little below; the simulation beside the curve in the experiments
command shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from statsmodels.stats.power import NormalIndPower, normal_sample_size_one_tail

from ml_platform.operations.experiments import Arm, unit_values


@dataclass(frozen=True)
class Spread:
    """What a unit of the metric looks like on past data: its mean and its variance."""

    mean: float
    variance: float

    def __post_init__(self) -> None:
        if not (self.variance > 0 and math.isfinite(self.variance) and math.isfinite(self.mean)):
            raise ValueError(f"power needs a finite mean and a variance above 0, got {self}")


@dataclass(frozen=True)
class Design:
    """What the test promises.

    Attributes:
        alpha: Probability of a false alarm, two-sided.
        power: Probability of finding the effect that is there.
        treatment_share: Share of the units that is treated.
    """

    alpha: float = 0.05
    power: float = 0.8
    treatment_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha", "power", "treatment_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.power <= self.alpha:
            raise ValueError(f"power {self.power} must be above alpha {self.alpha}")

    @property
    def treated_per_control(self) -> float:
        """Treated units for each control unit."""
        return self.treatment_share / (1 - self.treatment_share)


def spread(past: Arm, *, cuped: bool = False) -> Spread:
    """Mean and variance of a unit from past data, for means and ratios, with CUPED or without."""
    values = unit_values(past, cuped=cuped)
    return Spread(float(values.mean()), float(values.var(ddof=1)))


def required_units(past: Spread, effect: float, design: Design | None = None) -> int:
    """Units in both arms together to find a difference of `effect` with the design's power.

    Raises:
        ValueError: If the effect is 0 or not finite: nothing finds nothing.
    """
    design = design or Design()
    if effect == 0 or not math.isfinite(effect):
        raise ValueError(f"the effect to find must be finite and not 0, got {effect}")
    effective = normal_sample_size_one_tail(  # n1 n2 / (n1 + n2); the other tail adds nothing
        abs(effect), design.power, design.alpha / 2, math.sqrt(past.variance)
    )
    share = design.treatment_share
    fewest = math.ceil(2 / min(share, 1 - share))  # two in the smaller arm, or there is no variance
    return max(fewest, math.ceil(float(effective) / (share * (1 - share))))


def minimum_detectable_effect(past: Spread, n_units: int, design: Design | None = None) -> float:
    """The smallest difference that `n_units` in both arms together find with the design's power."""
    design = design or Design()
    standardised = NormalIndPower().solve_power(
        nobs1=_control_units(n_units, design),
        alpha=design.alpha,
        power=design.power,
        ratio=design.treated_per_control,
    )
    return float(np.squeeze(standardised)) * math.sqrt(past.variance)


def power_curve(
    past: Spread, effect: float, n_units: npt.ArrayLike, design: Design | None = None
) -> npt.NDArray[np.float64]:
    """Power f64[n] to find a difference of `effect` with so many units in both arms together."""
    design = design or Design()
    units = np.asarray(n_units, dtype=np.float64)
    if units.size and not units.min() >= 2:
        raise ValueError(f"a test needs at least 2 units, got {units.min():g}")
    return np.asarray(
        NormalIndPower().power(
            effect_size=abs(effect) / math.sqrt(past.variance),
            nobs1=units * (1 - design.treatment_share),
            alpha=design.alpha,
            ratio=design.treated_per_control,
        ),
        dtype=np.float64,
    )


def _control_units(n_units: int, design: Design) -> float:
    if n_units < 2:
        raise ValueError(f"a test needs at least 2 units, got {n_units}")
    return n_units * (1 - design.treatment_share)
