"""The tables of the experiments command: what was promised, what happened, why.

In: what the studies measured. Out: grids for the terminal, and the same numbers as results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results
from video_recommendation.experiments.false_alarms import Analysis, Peeking, Price
from video_recommendation.experiments.lost_users import Loss, RatioRow
from video_recommendation.experiments.precision import LIFT, CupedRow, PowerCurve
from video_recommendation.experiments.rankers import Duel
from video_recommendation.experiments.settings import ExperimentSettings
from video_recommendation.reporting.grid import Cell, Grid, sentences, text

PROMISED = 0.05
ENOUGH = 500
"""Experiments below which a table does not judge whether a promise was kept."""


def percent(found: Estimate, digits: int = 1) -> Cell:
    """5.1% ±1.3, half the width of its interval."""
    if found.low is None or found.high is None:
        return Cell(f"{found.value:.{digits}%}")
    half = 50 * (found.high - found.low)
    return Cell(f"{found.value:.{digits}%}", f" ±{half:.{digits}f}")


def false_alarm_grid(analyses: Sequence[Analysis], flag: str, settings: ExperimentSettings) -> Grid:
    """A/A tests, read once."""
    rows = []
    for found in analyses:
        cells = (text(found.test), text(found.metric), text("5%"), percent(found.rate))
        rows.append((*cells, _verdict(found.rate)))
    return Grid(
        f"A/A tests: {settings.n_seeds:,} experiments of {settings.n_users:,} users without any "
        "effect",
        ("test", "metric", "promised", "false alarms", "promise"),
        tuple(rows),
        sentences(
            flag,
            "Users are assigned, so users are the unit. One user's events are alike: counted one "
            "by one they look like far more evidence than they are. A bootstrap over events "
            "would be wrong in the same way. Counts with a heavy tail make Welch's t a little "
            "cautious, not wrong. ± is half the width of a 95% interval.",
        ),
    )


def _verdict(rate: Estimate) -> Cell:
    if rate.n < ENOUGH or rate.low is None:
        return text("too few", "dim")
    return text("kept", "good") if rate.low <= PROMISED else text("broken", "bad")


def peeking_grid(found: Peeking, price: Price, flag: str, settings: ExperimentSettings) -> Grid:
    """A/A tests, read every day; and the same with an effect."""
    middle = len(found.fixed) // 2
    rows = (
        (
            text("fixed-size test"),
            percent(found.fixed[0]),
            percent(found.fixed[middle]),
            percent(found.fixed[-1]),
            percent(price.fixed),
        ),
        (
            text("always-valid test"),
            percent(found.always_valid[0]),
            percent(found.always_valid[middle]),
            percent(found.always_valid[-1]),
            percent(price.always_valid),
        ),
    )
    return Grid(
        f"Peeking: read every day for {settings.looks} days, stopped at the first alarm",
        ("test", "day 1", f"day {middle + 1}", f"day {settings.looks}", "real effect found"),
        rows,
        sentences(
            flag,
            "Days: share of experiments WITHOUT an effect that have raised an alarm by then; "
            "5% was promised for one look (fixed) or for all looks together (always valid). "
            f"A peeker who stops reports a mean effect of {found.found_effect:.0%}, where there "
            "is none. "
            f"Last column: experiments with a real effect of {price.lift:+.0%}, the fixed test "
            "read once at its end; the always-valid one stops by itself, if it finds, after "
            f"{price.stopped_after:.0%} of the users on average.",
        ),
    )


def cuped_grid(rows: Sequence[CupedRow], flag: str) -> Grid:
    """What the period before is worth."""
    return Grid(
        f"CUPED: variance that the period before explains, and users for a {LIFT:.0%} effect",
        ("metric", "before", "rho", "promised", "measured", "users", "with CUPED"),
        tuple(
            (
                text(row.metric),
                text(row.before),
                text(f"{row.rho:+.2f}"),
                text(f"{row.promised:.1%}"),
                percent(row.measured),
                text(f"{row.required:,}"),
                text(f"{row.required_cuped:,}"),
            )
            for row in rows
        ),
        sentences(
            flag,
            "Promised: rho squared. Measured: over A/A tests. Users: both arms, 80% power at 5%. "
            "CUPED gives back what the past knows of a user, whatever its sign, and no more.",
        ),
    )


def power_grid(curve: PowerCurve, flag: str) -> Grid:
    """Simulated power beside the calculated one."""
    rows = []
    for place, users in enumerate(curve.users):
        rows.append(
            (
                text(f"{users:,}"),
                text(f"{np.interp(users, curve.grid, curve.plain_line):.1%}"),
                percent(curve.plain[place]),
                text(f"{np.interp(users, curve.grid, curve.cuped_line):.1%}"),
                percent(curve.cuped[place]),
            )
        )
    return Grid(
        f"Power: {curve.effect:.1%} of the dislikes become likes",
        ("users", "calculated", "simulated", "with CUPED", "simulated"),
        tuple(rows),
        sentences(
            flag,
            f"80% needs {curve.required:,} users by calculation, {curve.required_cuped:,} with "
            f"CUPED, {curve.required_good:,} if the past had a correlation of 0.7. The "
            "calculation takes the past's variance for both arms; this effect pulls users "
            "together, so the treated vary less and the simulated power is a little higher.",
        ),
    )


def ratio_grid(rows: Sequence[RatioRow], losses: Sequence[Loss], flag: str) -> Grid:
    """The sample ratio check, and what it stands guard against."""
    lost = " ".join(
        f"With {loss.users:,} users the arms are {1 - loss.treated_share:.1%} to "
        f"{loss.treated_share:.1%}, the metric shows {loss.effect:+.0%} where nothing changed "
        f"({loss.false_alarms.value:.0%} of the tests call it significant), and the check stops "
        f"{loss.stopped.value:.0%} of them."
        for loss in losses
    )
    return Grid(
        "Sample ratio check (p < 0.001): experiments stopped",
        ("users", "true 50/50", "true 51/49"),
        tuple((text(f"{row.users:,}"), percent(row.sound), percent(row.skewed)) for row in rows),
        sentences(
            flag,
            "Why it comes first: let the treatment lose half of its 5% most active users.",
            lost,
            "A passed check on few users proves little: look for the cause of any loss.",
        ),
    )


def duel_grid(found: Sequence[Duel], flag: str) -> Grid:
    """Interleaving against A/B."""
    return Grid(
        "Users needed to see which ranker is better (80% power at 5%)",
        ("rankers", "clicks a query", "credit", "A/B test", "interleaving", "ratio"),
        tuple(
            (
                text(f"{duel.name_a} / {duel.name_b}"),
                text(f"{duel.clicks_a:.3f} / {duel.clicks_b:.3f}"),
                text(f"{duel.credit:+.2f}"),
                text(f"{duel.ab_users:,}"),
                text(f"{duel.interleaving_users:,}"),
                text(f"{duel.ab_users / duel.interleaving_users:.1f}"),
            )
            for duel in found
        ),
        sentences(
            flag,
            "Clicks are held-out events. Credit a user: above 0 where users prefer the second. "
            "Interleaving asks every user to compare, so differences "
            "between users drop out. It says which ranker, not how much a metric gains.",
        ),
    )


def record_false_alarms(
    results: Results, analyses: Sequence[Analysis], peeks: Peeking, price: Price, protocol: str
) -> None:
    """A/A tests and peeking."""
    for found in analyses:
        results.add(f"aa_fixed/{found.key}/false_alarm_rate", found.rate, protocol=protocol)
    last = len(peeks.fixed)
    for day in sorted({1, last // 2 + 1, last}):
        for name, rates in (("fixed", peeks.fixed), ("always_valid", peeks.always_valid)):
            key = f"aa_peeking/{name}/false_alarm_rate_by_day_{day}"
            results.add(key, rates[day - 1], protocol=f"{protocol}; {last} daily looks")
    results.add("aa_peeking/fixed/reported_effect", peeks.found_effect, protocol=protocol)
    words = f"{protocol}; a real effect that the fixed test should find in 80%"
    results.add("looking/fixed/power", price.fixed, protocol=words)
    results.add("looking/always_valid/power", price.always_valid, protocol=words)
    results.add("looking/always_valid/users_share_at_stop", price.stopped_after, protocol=words)
    results.add("looking/both/lift", price.lift, protocol=words)


def record_precision(
    results: Results, rows: Sequence[CupedRow], curve: PowerCurve, protocol: str
) -> None:
    """CUPED and power."""
    for row in rows:
        words = f"{protocol}; before: {row.before}"
        results.add(f"cuped/{row.key}/rho", row.rho, protocol=words)
        results.add(f"cuped/{row.key}/variance_saved_promised", row.promised, protocol=words)
        results.add(f"cuped/{row.key}/variance_saved", row.measured, protocol=words)
        results.add(f"cuped/{row.key}/users_plain", float(row.required), protocol=words)
        results.add(f"cuped/{row.key}/users_cuped", float(row.required_cuped), protocol=words)
    for name, points in (("plain", curve.plain), ("cuped", curve.cuped)):
        for users, power in zip(curve.users, points, strict=True):
            results.add(f"power/{name}/simulated_at_{users}", power, protocol=protocol)
    results.add("power/plain/users", float(curve.required), protocol=protocol)
    results.add("power/cuped/users", float(curve.required_cuped), protocol=protocol)
    results.add("power/rho_0.7/users", float(curve.required_good), protocol=protocol)
    results.add("power/both/effect", curve.effect, protocol=protocol)


def record_rest(
    results: Results,
    ratios: Sequence[RatioRow],
    losses: Sequence[Loss],
    found: Sequence[Duel],
    protocol: str,
) -> None:
    """Sample ratio and interleaving."""
    for row in ratios:
        results.add(f"sample_ratio/even/stopped_at_{row.users}", row.sound, protocol="binomial")
        results.add(f"sample_ratio/skewed/stopped_at_{row.users}", row.skewed, protocol="binomial")
    for loss in losses:
        variant = f"users_{loss.users}"
        results.add(f"lost_users/{variant}/treated_share", loss.treated_share, protocol=protocol)
        results.add(f"lost_users/{variant}/relative_effect", loss.effect, protocol=protocol)
        results.add(f"lost_users/{variant}/false_alarm_rate", loss.false_alarms, protocol=protocol)
        results.add(f"lost_users/{variant}/stopped", loss.stopped, protocol=protocol)
    words = "next-event queries after the training window; clicks are held-out events"
    for duel in found:
        results.add(
            f"interleaving/{duel.key}/users", float(duel.interleaving_users), protocol=words
        )
        results.add(f"ab_test/{duel.key}/users", float(duel.ab_users), protocol=words)
        ratio = duel.ab_users / duel.interleaving_users
        results.add(f"interleaving/{duel.key}/times_fewer_users", ratio, protocol=words)
        results.add(f"interleaving/{duel.key}/credit_a_user", duel.credit, protocol=words)
        results.add(f"ab_test/{duel.key}/clicks_a_query_first", duel.clicks_a, protocol=words)
        results.add(f"ab_test/{duel.key}/clicks_a_query_second", duel.clicks_b, protocol=words)
