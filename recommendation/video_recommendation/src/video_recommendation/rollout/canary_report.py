"""What the rollout demonstration prints, records and draws.

In: rollouts, shadow summaries, rates of the streams. Out: tables on the terminal, metrics in the
results file, one picture. Simulated users throughout, and every title says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, new_figure, png
from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.operations.canary import CanaryPlan
from ml_platform.operations.shadow_intervals import Interval
from ml_platform.operations.shadow_report import ShadowSummary
from video_recommendation.rollout.canary_streams import Rates
from video_recommendation.rollout.demo_stage import Stage
from video_recommendation.rollout.demo_traffic import Rollout

ACTION_COLOURS = {"promote": "green", "advance": "cyan", "roll back": "red", "hold": "yellow"}
ROLLOUT_PROTOCOL = "simulated users through the real app, one rollout, guards at every 25th request"
CLICK_PROTOCOL = "watches per request, one value a user; always-valid interval at the guard's level"
TRUTH_PROTOCOL = "expected watches of the lists shown, as the simulator knows them"
STREAM_PROTOCOL = "controller alone, simulated streams; exact binomial 95% interval over rollouts"
SHADOW_PROTOCOL = "copies of the same requests, each candidate in a process of its own"


# --- terminal ----------------------------------------------------------------------------------


def print_rollout(console: Console, rollout: Rollout, stage: Stage) -> None:
    """The steps of one rollout with their reasons, then what the world says of both versions."""
    console.print(Text(f"{rollout.name} (simulated users)", style="bold"))
    for n_requests, decision in rollout.journal or rollout.looks[-1:]:
        line = Text(f"  {decision.share:>5.0%}  ")
        line.append(f"{decision.action:9}", style=ACTION_COLOURS[decision.action])
        line.append(
            f"  after {decision.requests:,} requests of {decision.users:,} users to it, "
            f"{n_requests:,} in all"
        )
        console.print(line)
        console.print(Padding(Text(decision.reason), (0, 0, 0, 9)))
    truth = truth_of(rollout, stage)
    words = ", ".join(f"{name} {value.value:.2f}" for name, value in truth.items())
    console.print(f"  expected watches of the lists shown, in truth: {words}", highlight=False)


def print_streams(console: Console, streams: Sequence[Rates], plan: CanaryPlan) -> None:
    """Rates of the plan over many streams."""
    n = streams[0].rolled_back.n
    title = f"The plan over and over: {n} A/A rollouts, {streams[-1].rolled_back.n} of each other"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for column in ("candidate", "rolled back", "promoted", "requests to it (median)", "by"):
        table.add_column(column, justify="left" if column in ("candidate", "by") else "right")
    for rates in streams:
        back = rates.rolled_back
        median = rates.requests_to_rollback
        table.add_row(
            rates.scenario.label,
            f"{back.value:.1%} [{back.low:.1%}, {back.high:.1%}]",
            f"{rates.promoted.value:.0%}",
            "" if median is None else f"{median:,.0f}",
            ", ".join(rates.guards),
        )
    console.print(table)
    console.print(
        f"  promised: an identical candidate is rolled back in {plan.alpha:.0%} at most",
        highlight=False,
    )


# --- results -----------------------------------------------------------------------------------


def truth_of(rollout: Rollout, stage: Stage) -> dict[str, Estimate]:
    """Expected watches of the lists shown: "production" and "candidate"; a normal interval."""
    found = {}
    for name, version in (
        ("production", stage.versions["production"]),
        ("candidate", stage.versions[rollout.name]),
    ):
        values = np.array(rollout.truth.get(version, []))
        if len(values) > 1:
            mean = float(values.mean())
            reach = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
            found[name] = Estimate(mean, mean - reach, mean + reach, len(values))
    return found


def record_rollouts(results: Results, rollouts: Sequence[Rollout], stage: Stage) -> None:
    """How each rollout ended, after how many requests, on which evidence."""
    for rollout in rollouts:
        last, name = rollout.last, rollout.name
        facts = {
            "promoted": last.action == "promote",
            "rolled_back": last.action == "roll back",
            "last_share": last.share,
            "requests": rollout.n_requests,
            "candidate_requests": last.requests,
            "candidate_users": last.users,
        }
        for fact, value in facts.items():
            results.add(f"rollout/{name}/{fact}", float(value), protocol=ROLLOUT_PROTOCOL)
        compared = [(n, d) for n, d in rollout.looks if d.clicks and np.isfinite(d.clicks.low)]
        if compared:
            clicks = compared[-1][1].clicks
            if clicks is not None:
                estimate = Estimate(clicks.difference, clicks.low, clicks.high, clicks.n)
                results.add(f"clicks/{name}/difference", estimate, protocol=CLICK_PROTOCOL)
        for arm, watches in truth_of(rollout, stage).items():
            results.add(f"truth/{name}/{arm}", watches, protocol=TRUTH_PROTOCOL)


def record_shadows(results: Results, shadows: Mapping[str, ShadowSummary]) -> None:
    """Agreement, latency and failures of each candidate in the shadow."""
    for name, summary in shadows.items():
        for measure, interval in summary.agreement.items():
            results.add(f"shadow/{name}/{measure}", _estimate(interval), protocol=SHADOW_PROTOCOL)
        for side, row in summary.latency_ms.items():
            for percentile, interval in row.items():
                key = f"shadow/{name}/{side}_{percentile}_ms"
                results.add(key, _estimate(interval), protocol=SHADOW_PROTOCOL)
        if summary.failures.n:
            key = f"shadow/{name}/no_usable_answer"
            results.add(key, _estimate(summary.failures), protocol=SHADOW_PROTOCOL)


def record_streams(results: Results, streams: Sequence[Rates]) -> None:
    """False and true rollbacks of the plan, and the requests they took."""
    for rates in streams:
        name = rates.scenario.name
        results.add(f"streams/{name}/rolled_back", rates.rolled_back, protocol=STREAM_PROTOCOL)
        results.add(f"streams/{name}/promoted", rates.promoted, protocol=STREAM_PROTOCOL)
        if rates.requests_to_rollback is not None:
            results.add(
                f"streams/{name}/median_requests_to_rollback",
                rates.requests_to_rollback,
                protocol="median of the rollouts that were rolled back; requests of both arms",
                n=sum(rates.guards.values()),
            )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.value, interval.low, interval.high, interval.n)


# --- picture -----------------------------------------------------------------------------------


def plot_rollouts(rollouts: Sequence[Rollout], path: Path) -> Path:
    """The difference in watches with its always-valid interval over requests, one panel each."""
    title = "When did the canary know? (simulated users)"
    figure, axes = new_figure(title, panels=len(rollouts), share_y=True, height=3.6)
    for one, rollout in zip(axes, rollouts, strict=True):
        _panel(one, rollout)
    axes[0].set_ylabel("watches per request,\ncandidate minus production")
    write_atomic(path, png(figure))
    return path


def _panel(axes: Any, rollout: Rollout) -> None:
    looks = [(n, d) for n, d in rollout.looks if d.clicks and np.isfinite(d.clicks.low)]
    axes.axhline(0.0, color=GREY, linewidth=1)
    for step in sorted({decision.step for _, decision in looks}):
        rows = [(n, d.clicks) for n, d in looks if d.step == step and d.clicks is not None]
        x = [n for n, _ in rows]
        axes.fill_between(
            x, [c.low for _, c in rows], [c.high for _, c in rows], color=BLUE, alpha=0.2, lw=0
        )
        axes.plot(x, [c.difference for _, c in rows], color=BLUE, linewidth=1.3)
    for n, decision in rollout.journal:
        colour = {"roll back": ORANGE, "promote": GREEN}.get(decision.action, GREY)
        axes.axvline(n, color=colour, linewidth=1.2, linestyle="--")
        label = f"{decision.share:.0%}" if decision.action == "advance" else decision.action
        axes.annotate(
            label,
            (n, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2, -2),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            fontsize=7,
            color=colour,
        )
    axes.set_title(f"{rollout.name}: {rollout.last.action}", fontsize=10, loc="left")
    axes.set_xlabel("requests of both arms", fontsize=9)
    axes.set_xlim(0, rollout.n_requests * 1.03)
    axes.set_ylim(-3, 3)
