"""How the numbers of two arms are read: once at the end, with CUPED, and every day.

In: measures of people and who is treated. Out: effects with 95% intervals. All statistics are those
of ``ml_platform.operations``; here stands only what they are given.

*Every day.* All people are there from the first day, so a further day adds no units: it makes each
unit's number more exact. The increments of the difference are then not independent (who watches
much today watches much tomorrow), which the proof behind ``sequential`` asks for. What holds all
the same: with ``design_n`` at the number of people its boundary is 3.04 standard errors at every
look, a false alarm of 0.24% each, so that up to 20 looks together stay under 5% by the union bound
whatever the dependence. ``MAX_LOOKS`` enforces it.

*The guardrail.* An experiment is stopped on the first day on which any guardrail is shown to be
lower than the control's (``guardrail_stop``). Three metrics are looked at, so each has a third of
the 5%: the boundary is then 3.41 standard errors, and 20 looks at three metrics stay under 5% by
the union bound over both. Only one side is read, which leaves half of that. Proxies, the truth and
rises have no vote: a rule that stops at whatever moves first is wrong far more often, which
``false_alarms`` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml_platform.operations.experiments import Arm, Effect, compare, unit_values
from ml_platform.operations.power import minimum_detectable_effect, spread
from ml_platform.operations.sequential import AlwaysValid, Moments, always_valid_difference
from shorts_recommendation.experiments.measures import BY_NAME, METRICS, Measured

ALPHA = 0.05
MAX_LOOKS = 20
GUARDRAILS = tuple(metric.name for metric in METRICS if metric.kind == "guardrail")
"""Lower is worse in each."""
GUARDRAIL_ALPHA = ALPHA / len(GUARDRAILS)


@dataclass(frozen=True)
class Reading:
    """One metric, one arm against the control.

    Attributes:
        plain: Without the past.
        cuped: With it; None where the metric has no past.
        variance_saved: Share of the variance that the past explains.
        detectable: Smallest relative difference that so many people find with 80% power, CUPED
            where there is a past.
    """

    plain: Effect
    cuped: Effect | None
    variance_saved: float | None
    detectable: float | None

    @property
    def best(self) -> Effect:
        """The effect with the narrower promise."""
        return self.cuped or self.plain


@dataclass(frozen=True)
class Look:
    """One day's look at one metric.

    Attributes:
        day: Days since the start.
        fixed: What a peeker reads.
        always_valid: What may be read.
    """

    day: int
    fixed: Effect
    always_valid: AlwaysValid


@dataclass(frozen=True)
class Stop:
    """A guardrail fell.

    Attributes:
        day: Days since the start.
        metric: Which; the first of GUARDRAILS where several fall on one day.
    """

    day: int
    metric: str


def read(
    name: str,
    now: Mapping[str, Measured],
    before: Mapping[str, Measured] | None,
    control: np.ndarray,
    treated: np.ndarray,
) -> Reading:
    """The metric ``name`` of treated people against the control's.

    Args:
        name: Key of ``now``.
        now: Measures of P people.
        before: Of the same people before the experiment; None leaves CUPED out.
        control: bool[P].
        treated: bool[P].
    """
    past = before[BY_NAME[name].before] if before is not None else None
    if past is not None and not np.ptp(past.top[control | treated]) > 0:
        past = None
    arms = [now[name].arm(side, past) for side in (control, treated)]
    plain = compare(*arms)
    cuped = compare(*arms, cuped=True) if past is not None else None
    saved = None
    everybody = now[name].arm(control | treated, past)
    if cuped is not None:
        saved = 1 - float(unit_values(everybody, cuped=True).var() / unit_values(everybody).var())
    wide = spread(everybody, cuped=cuped is not None)
    smallest = minimum_detectable_effect(wide, len(everybody))
    return Reading(plain, cuped, saved, smallest / wide.mean if wide.mean > 0 else None)


def read_all(
    now: Mapping[str, Measured],
    before: Mapping[str, Measured] | None,
    control: np.ndarray,
    treated: np.ndarray,
) -> dict[str, Reading]:
    """Every metric that varies."""
    found = {}
    for metric in METRICS:
        if np.ptp(now[metric.name].top[control | treated]) > 0:
            found[metric.name] = read(metric.name, now, before, control, treated)
    return found


def adjusted_values(
    now: Measured, before: Measured | None, sides: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Values f64[n] a side whose means differ by the effect, the past taken out.

    Each side is linearised around its own ratio, the past around everybody's, and one theta serves
    both sides: centring each side on its own past would take nothing out.
    """
    plain = [unit_values(now.arm(side)) for side in sides]
    if before is None:
        return plain
    lengths = np.cumsum([len(values) for values in plain])[:-1]
    past = np.concatenate([np.flatnonzero(side) for side in sides])
    known = unit_values(before.arm(past))
    if not np.ptp(known) > 0:
        return plain
    together = unit_values(Arm(np.concatenate(plain), before=known), cuped=True)
    return np.split(together, lengths)


def look(
    day: int,
    now: Measured,
    before: Measured | None,
    control: np.ndarray,
    treated: np.ndarray,
    alpha: float = ALPHA,
) -> Look:
    """Both readings after ``day`` days; ``alpha`` is that of the always-valid one."""
    sides = adjusted_values(now, before, (control, treated))
    n = sum(len(side) for side in sides)
    fixed = compare(Arm(sides[0]), Arm(sides[1]))
    valid = always_valid_difference(
        Moments.of(sides[0]), Moments.of(sides[1]), alpha=alpha, design_n=n
    )
    return Look(day, fixed, valid)


def looks(
    name: str,
    by_day: Sequence[Mapping[str, Measured]],
    before: Mapping[str, Measured] | None,
    control: np.ndarray,
    treated: np.ndarray,
    first_day: int,
    alpha: float = ALPHA,
) -> list[Look]:
    """A look after each day; ``alpha`` is spent on all of them together.

    Raises:
        ValueError: On more looks than the boundary is proven for (module docstring).
    """
    if len(by_day) > MAX_LOOKS:
        raise ValueError(f"{len(by_day)} looks; the boundary holds for up to {MAX_LOOKS}")
    past = before[BY_NAME[name].before] if before is not None else None
    return [
        look(first_day + place, day[name], past, control, treated, alpha)
        for place, day in enumerate(by_day)
    ]


def first_alarm(readings: Sequence[Look], *, down: bool) -> int | None:
    """The first day on which the always-valid interval lies on the bad side of 0."""
    for one in readings:
        if (one.always_valid.high < 0) if down else (one.always_valid.low > 0):
            return one.day
    return None


def guardrail_stop(
    by_day: Sequence[Mapping[str, Measured]],
    before: Mapping[str, Measured] | None,
    control: np.ndarray,
    treated: np.ndarray,
    first_day: int,
) -> Stop | None:
    """When the experiment would have been stopped, and by which guardrail; None: never.

    Args:
        by_day: Measures after each day, P people.
        before: Of the same people before.
        control: bool[P].
        treated: bool[P].
        first_day: Of the first look.

    Raises:
        ValueError: As ``looks``.
    """
    both, found = control | treated, []
    for place, name in enumerate(GUARDRAILS):
        if not np.ptp(by_day[-1][name].top[both]) > 0:
            continue  # nobody differs from anybody: no test, and nothing to stop for
        readings = looks(name, by_day, before, control, treated, first_day, GUARDRAIL_ALPHA)
        day = first_alarm(readings, down=True)
        if day is not None:
            found.append((day, place, name))
    if not found:
        return None
    day, _, name = min(found)
    return Stop(day, name)
