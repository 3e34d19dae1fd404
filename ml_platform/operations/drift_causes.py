"""From "this column moved" to the likely cause, in a sentence a person can act on.

In: one column's `Comparison` and the share of its values that were stale. Out: a `Finding` or None.
The order of the questions is the order of usefulness: a stale, missing or constant column names a
broken pipe and needs no statistics of shape; a unit change names a line of code; only what is left
is a shift of the population.

A unit change is found by trying: for every usual conversion factor the reference is converted, as
it is and under log(1 + x), and the candidate that makes it look like the window is named. That
finds "seconds became minutes" in a column of logarithms as well, where no ratio of medians would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ml_platform.operations.drift import kolmogorov_smirnov
from ml_platform.operations.reference_profile import DEFAULT, MISSING, Comparison

Kind = Literal[
    "stale", "missing", "constant", "unit change", "shift",
    "prediction", "calibration", "popularity",
]  # fmt: skip
Severity = Literal["alert", "warning"]

MISSING_EFFECT = 0.05
"""More of the rows than before without a value: one in twenty is a client, a shard or a partner."""
STALE_EFFECT = 0.05
PREDICTION = "prediction"
"""Group of the column that holds the model's own scores."""
MAX_LOG = 30.0
"""Columns within 0..30 may be logarithms: log(1 + x) of anything that is counted or timed."""
MIN_ORDINARY = 30
"""Values that are not the default, below which no unit is guessed."""

CONVERSIONS = {
    60.0: "minutes became seconds, or hours minutes",
    24.0: "days became hours",
    3600.0: "hours became seconds",
    86_400.0: "days became seconds",
    1000.0: "seconds became milliseconds, or thousands units",
    100.0: "a share became a percentage, or units cents",
    1 / 60: "seconds became minutes, or minutes hours",
    1 / 24: "hours became days",
    1 / 3600: "seconds became hours",
    1 / 86_400: "seconds became days",
    1 / 1000: "milliseconds became seconds, or units thousands",
    1 / 100: "a percentage became a share, or cents units",
}


@dataclass(frozen=True)
class Finding:
    """One column that is not what it was.

    Attributes:
        feature: Column name.
        group: Whose property it is.
        owner: Whom to ask.
        family: Columns that one upstream feeds.
        kind: What happened to it.
        severity: "alert" for what ruins answers now, "warning" for what deserves a look.
        psi: PSI against the reference, and ``noise``, what it would be without drift.
        noise: See ``psi``.
        ks: Share of rows that crossed some value.
        direction: "up", "down", or "" where neither.
        sentence: The likely cause, with the numbers it rests on.
    """

    feature: str
    group: str
    owner: str
    family: str
    kind: Kind
    severity: Severity
    psi: float
    noise: float
    ks: float
    direction: str
    sentence: str


def diagnose(comparison: Comparison, stale_share: float, level: float) -> Finding | None:
    """What is wrong with a column, or None.

    Args:
        comparison: Window against reference.
        stale_share: Of the window's values, older than their time to live.
        level: False alarm rate for the test of missing values.
    """
    if stale_share > STALE_EFFECT:
        text = (
            f"{stale_share:.0%} of the values are older than allowed: whatever refreshes them is "
            "late or has stopped"
        )
        return _finding(comparison, "stale", "alert", text)
    missing = _missing(comparison, level)
    if missing is not None:
        return missing
    if not comparison.moved:
        return None
    if _is_constant(comparison):
        text = (
            f"every row holds {comparison.values[0]:.4g}, the reference had many values: a broken "
            "upstream, or a value that is the same by construction at serving"
        )
        return _finding(comparison, "constant", "alert", text)
    severity: Severity = "alert" if comparison.severe else "warning"
    if comparison.column.info.group == PREDICTION:
        text = f"the scores moved: {_medians(comparison)}; look at the inputs first, then labels"
        return _finding(comparison, "prediction", severity, text)
    unit = unit_change(comparison)
    if unit is not None:
        return _finding(comparison, "unit change", "alert", f"{_medians(comparison)}; {unit}")
    text = f"{_medians(comparison)}; {comparison.ks:.0%} of the rows crossed some value"
    return _finding(comparison, "shift", severity, text)


def unit_change(comparison: Comparison) -> str | None:
    """The conversion that turns the reference into the window, in words; None if none does."""
    column = comparison.column
    then = column.ordinary()
    values = comparison.values
    now = values[np.isfinite(values) & (values != column.info.default)]
    if min(len(then), len(now)) < MIN_ORDINARY:
        return None
    before = kolmogorov_smirnov(then, now)
    fits = []
    for factor in CONVERSIONS:
        fits.append((kolmogorov_smirnov(then * factor, now), factor, False))
        if then.min() >= 0 and then.max() <= MAX_LOG:
            converted = np.log1p(np.expm1(then) * factor)
            fits.append((kolmogorov_smirnov(converted, now), factor, True))
    after, factor, logarithm = min(fits)
    if after > comparison.ks_limit or after > before / 2:
        return None
    where = " under the logarithm" if logarithm else ""
    return (
        f"the reference times {factor:.3g}{where} fits (KS {before:.2f} becomes {after:.2f}): "
        f"unit change, {CONVERSIONS[factor]}"
    )


def direction(comparison: Comparison) -> str:
    """Where the window lies in the reference's order: P(now > then) less P(now < then)."""
    sketch, values = comparison.column.sketch, comparison.values
    finite = values[~np.isnan(values)]
    if not len(finite) or not len(sketch):
        return ""
    ranks = [np.searchsorted(sketch, finite, side=side) for side in ("left", "right")]
    lead = float(np.mean(ranks) * 2 / len(sketch) - 1)
    return "" if abs(lead) < 0.05 else "up" if lead > 0 else "down"


def _missing(comparison: Comparison, level: float) -> Finding | None:
    """More NaN or defaults than before, by size and beyond what clusters do by chance."""
    now, then = comparison.shares, comparison.column.shares
    absent = [MISSING, DEFAULT]
    share, before = float(now.share[absent].sum()), float(then.share[absent].sum())
    pair = np.ix_(absent, absent)
    error = float(np.sqrt(now.covariance[pair].sum() + then.covariance[pair].sum()))
    limit = error * float(stats.t.isf(level, max(1, now.n_clusters - 1)))
    if not np.isfinite(error) or share - before <= max(MISSING_EFFECT, limit):
        return None
    default = comparison.column.info.default
    held = f"NaN or {default:g}, the default" if np.isfinite(default) else "NaN"
    cause = "the upstream does not deliver, or its key changed"
    if before:  # the default is an ordinary value as well
        cause = f"not delivered any more, or more often really {default:g}"
    text = f"{share:.0%} of the values are {held}, {before:.0%} in the reference: {cause}"
    severe = share - before > 0.5 or comparison.severe
    return _finding(comparison, "missing", "alert" if severe else "warning", text)


def _is_constant(comparison: Comparison) -> bool:
    values, sketch = comparison.values, comparison.column.sketch
    return bool((values == values[0]).all() and len(sketch) and sketch[0] != sketch[-1])


def _medians(comparison: Comparison) -> str:
    now = comparison.values[~np.isnan(comparison.values)]
    then, new = float(np.median(comparison.column.sketch)), float(np.median(now))
    ratio = f", x{new / then:.3g}" if then > 0 and new > 0 else ""
    return f"median {then:.4g} -> {new:.4g}{ratio}"


def _finding(comparison: Comparison, kind: Kind, severity: Severity, sentence: str) -> Finding:
    info = comparison.column.info
    return Finding(
        feature=info.name,
        group=info.group,
        owner=info.owner,
        family=info.family,
        kind=kind,
        severity=severity,
        psi=comparison.psi,
        noise=comparison.noise,
        ks=comparison.ks,
        direction=direction(comparison),
        sentence=sentence,
    )
