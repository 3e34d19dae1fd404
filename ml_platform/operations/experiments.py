"""Reading an A/B test: is the split sound, how large is the effect, and could it be chance?

In: one row a unit (user) for each arm (`Arm`). Out: `SampleRatio`, then `Effect` with its 95%
interval.

The order matters. First the sample ratio: if 50/50 was asked for and 49/51 came, some users were
lost on one side, and those who are lost are never average users; no effect is read from such data
(Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019).
Only then the metric.

Three rules are built in:

- The unit of analysis is the unit of assignment. Users are assigned, so variance is taken over
  users. Events of one user are alike; counted one by one they promise a precision that is not
  there.
- A ratio of sums (liked events / events) gets its variance by the delta method from the users'
  numerators and denominators (Deng, Knoblich and Lu, "Applying the Delta Method in Metric
  Analytics", KDD 2018). For R = mean(y) / mean(x) it is the variance of

      (y_u - R x_u) / mean(x)                                                                   (1)

- CUPED subtracts what the time before the experiment already knew of a user (Deng, Xu, Kohavi and
  Walker, "Improving the Sensitivity of Online Controlled Experiments by Utilizing Pre-Experiment
  Data", WSDM 2013). With correlation rho between before and now, the variance shrinks to

      var * (1 - rho^2),   values y_u - theta (b_u - mean(b)),   theta = cov(y, b) / var(b)     (2)

  The covariate must come from before the assignment. One that the treatment can move takes part of
  the effect away with the noise.

The arithmetic is tea-tasting's (Welch's t, delta method, CUPED for means and for ratios; the
interval of the relative effect on the log scale). What stands here is the refusal of bad input, in
words, and results that cannot change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics.mean import MeanResult, RatioOfMeans

LEVEL = 0.95
# A check that runs on every experiment every day must hardly ever cry wolf.
SAMPLE_RATIO_ALPHA = 0.001
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Arm:
    """The units of one arm, one row each.

    Attributes:
        metric: f64[n], for a ratio metric its numerator.
        per: f64[n], the denominator of a ratio metric; None for a mean per unit.
        before: f64[n], the metric of the same units before the assignment, for CUPED.
        before_per: f64[n], its denominator, where the metric before is a ratio too.
    """

    metric: Float64Array
    per: Float64Array | None = None
    before: Float64Array | None = None
    before_per: Float64Array | None = None

    def __post_init__(self) -> None:
        if len(self.metric) < 2:
            raise ValueError(f"an arm needs at least 2 units, got {len(self.metric)}")
        for name, values in self.columns.items():
            if np.shape(values) != (len(self.metric),):
                raise ValueError(
                    f"units are not aligned: metric has {len(self.metric)} rows, {name} has shape "
                    f"{np.shape(values)}; give one value a unit, in the same order"
                )
            if not np.isfinite(values).all():
                unit = int(np.argmin(np.isfinite(values)))
                raise ValueError(
                    f"{name} of unit {unit} is {values[unit]}; a unit without events counts 0, "
                    "a unit that was not measured must be left out of both arms by the same rule"
                )
        for name in ("per", "before_per"):
            if name in self.columns and not self.columns[name].sum() > 0:
                raise ValueError(f"the denominator {name} sums to {self.columns[name].sum()}")
        if self.before_per is not None and self.before is None:
            raise ValueError("before_per is the denominator of before, which is missing")

    def __len__(self) -> int:
        return len(self.metric)

    @property
    def columns(self) -> dict[str, Float64Array]:
        """The columns that are there, by name."""
        every = {name: getattr(self, name) for name in ("metric", "per", "before", "before_per")}
        return {name: values for name, values in every.items() if values is not None}


@dataclass(frozen=True)
class SampleRatio:
    """Whether the split is the one that was asked for."""

    n_control: int
    n_treatment: int
    expected_treatment: float
    p_value: float

    @property
    def mismatch(self) -> bool:
        """Whether to stop reading: such a split comes by chance less than once in 1,000 tests."""
        return self.p_value < SAMPLE_RATIO_ALPHA


@dataclass(frozen=True)
class Effect:
    """Treatment against control, with 95% intervals.

    Attributes:
        control: Mean (or ratio) of the control arm; with CUPED the adjusted one.
        treatment: The same of the treated arm.
        difference: treatment - control, with `low` and `high`.
        relative: treatment / control - 1, with its own interval; None with its ends where a mean
            is not positive, because a percentage of it says nothing.
        p_value: Of no difference, two-sided.
        n: Units in both arms.
    """

    control: float
    treatment: float
    difference: float
    low: float
    high: float
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p_value: float
    n: int


def sample_ratio(n_control: int, n_treatment: int, *, treatment_share: float = 0.5) -> SampleRatio:
    """Pearson's chi-square test of the two counts against the planned share.

    Raises:
        ValueError: On negative counts, no units, or a share that leaves an arm empty.
    """
    n = n_control + n_treatment
    if min(n_control, n_treatment) < 0 or n == 0:
        raise ValueError(f"counts must be >= 0 and not both 0, got {n_control} and {n_treatment}")
    if not 0 < treatment_share < 1:
        raise ValueError(f"treatment_share must be between 0 and 1, got {treatment_share}")
    expected = n * treatment_share
    p_value = stats.chisquare([n_control, n_treatment], [n - expected, expected]).pvalue
    return SampleRatio(n_control, n_treatment, expected, float(p_value))


def compare(control: Arm, treatment: Arm, *, cuped: bool = False) -> Effect:
    """The effect on a mean, or on a ratio where the arms have `per`; Welch's t on units.

    Args:
        control: Units of the control arm.
        treatment: Units of the treated arm, with the same columns.
        cuped: Whether to adjust by `before`. One theta for both arms, from all units.

    Raises:
        ValueError: If the arms differ in their columns, CUPED has no covariate or a constant one,
            or nothing varies.
    """
    if control.columns.keys() != treatment.columns.keys():
        raise ValueError(
            f"the arms have different columns: {sorted(control.columns)} and "
            f"{sorted(treatment.columns)}"
        )
    if cuped:
        _check_covariate(control, treatment)
    has = control.columns if cuped else control.columns.keys() - {"before", "before_per"}
    metric = RatioOfMeans(
        "metric",
        "per" if "per" in has else None,
        "before" if "before" in has else None,
        "before_per" if "before_per" in has else None,
        alternative="two-sided",
        confidence_level=LEVEL,
        equal_var=False,
        use_t=True,
    )
    if not max(np.ptp(unit_values(arm)) for arm in (control, treatment)) > 0:
        raise ValueError("no unit differs from another in either arm; there is no noise to test")
    result = metric.analyze_aggregates(_aggregates(control), _aggregates(treatment))
    return _effect(result, len(control) + len(treatment))


def unit_values(arm: Arm, *, cuped: bool = False) -> Float64Array:
    """f64[n], one number a unit whose variance is the metric's: equations (1) and (2).

    For a mean without CUPED it is the metric itself. For a ratio it is the linearised metric plus
    the ratio, so that the mean is the ratio. Power and sequential tests work on these values.
    """
    values = _linearised(arm.metric, arm.per)
    if not cuped:
        return values
    if arm.before is None:
        raise ValueError("CUPED needs the column before: the metric before the assignment")
    before = _linearised(arm.before, arm.before_per)
    centred = before - before.mean()
    if not centred.any():
        raise ValueError("the covariate is the same for every unit; CUPED cannot use it")
    theta = (centred @ values) / (centred @ centred)
    return values - theta * centred


def _linearised(top: Float64Array, bottom: Float64Array | None) -> Float64Array:
    top = np.asarray(top, dtype=np.float64)
    if bottom is None:
        return top
    ratio = top.sum() / bottom.sum()
    return np.asarray(ratio + (top - ratio * bottom) / bottom.mean(), dtype=np.float64)


def _check_covariate(control: Arm, treatment: Arm) -> None:
    if control.before is None or treatment.before is None:
        raise ValueError("CUPED needs the column before: the metric before the assignment")
    both = np.concatenate([control.before, treatment.before])
    if np.ptp(both) == 0 and control.before_per is None:
        raise ValueError(f"before is {both[0]} for every unit; CUPED cannot use a constant")


def _aggregates(arm: Arm) -> Aggregates:
    """Means, variances and covariances of the columns: all that the tests read."""
    names = sorted(arm.columns)
    table = np.stack([np.asarray(arm.columns[name], dtype=np.float64) for name in names])
    cov = np.atleast_2d(np.cov(table))
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    return Aggregates(
        count_=len(arm),
        mean_={name: float(mean) for name, mean in zip(names, table.mean(axis=1), strict=True)},
        var_={name: float(cov[i, i]) for i, name in enumerate(names)},
        cov_={(names[i], names[j]): float(cov[i, j]) for i, j in pairs},
    )


def _effect(result: MeanResult, n: int) -> Effect:
    positive = result.control > 0 and result.treatment > 0
    relative = (
        result.rel_effect_size,
        result.rel_effect_size_ci_lower,
        result.rel_effect_size_ci_upper,
    )
    ends = [float(value) if positive and math.isfinite(value) else None for value in relative]
    return Effect(
        control=float(result.control),
        treatment=float(result.treatment),
        difference=float(result.effect_size),
        low=float(result.effect_size_ci_lower),
        high=float(result.effect_size_ci_upper),
        relative=ends[0],
        relative_low=ends[1],
        relative_high=ends[2],
        p_value=float(result.pvalue),
        n=n,
    )
