"""The guards of a canary: what sends a candidate back, and what keeps a step from ending well.

In: a `CanaryPlan` and the counts of one step. Out: a reason with numbers, or None. The module
`canary` says when each is asked and why the evidence may be looked at continuously.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ml_platform.operations.canary_counts import ArmCounts, StepCounts
from ml_platform.operations.canary_evidence import (
    QuantileBounds,
    more_than_share,
    other_than_share,
    quantile_bounds,
)
from ml_platform.operations.sequential import AlwaysValid, always_valid_difference

GUARDS = 4
MIN_FOR_P95 = 60  # with fewer, p95 is one of the three largest values and moves with each of them


@dataclass(frozen=True)
class CanaryPlan:
    """Written down before the rollout starts; one entry of each tuple for each step.

    Attributes:
        steps: Shares of users, ascending, the last 1.0.
        min_requests: The candidate's requests before a step may end well.
        max_requests: After so many without a decision the step holds for good.
        click_margins: Loss of clicks that a step tolerates, relative to production's. Wide at
            first, when few users are at risk and little is known; infinite: the step wants no
            proof, it only looks for harm.
        min_seconds: Of each step; a day covers the hours of the day.
        window_s: A user's window for clicks.
        error_margin: Difference of failure rates that matters.
        latency_ratio: Candidate's p95 over production's that is tolerated.
        alpha: Chance of ever rolling back a candidate that equals production.
        advance_alpha: Chance, in a step, of passing a candidate that is worse by the margin.
    """

    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0)
    min_requests: tuple[int, ...] = (200, 500, 1000, 2000, 500)
    max_requests: tuple[int, ...] = (4_000, 10_000, 20_000, 40_000, 10_000)
    click_margins: tuple[float, ...] = (0.5, 0.3, 0.15, 0.05, 0.05)
    min_seconds: float = 0.0
    window_s: float = 3600.0
    error_margin: float = 0.001
    latency_ratio: float = 1.2
    alpha: float = 0.05
    advance_alpha: float = 0.05

    def __post_init__(self) -> None:
        lengths = {
            len(values)
            for values in (self.steps, self.min_requests, self.max_requests, self.click_margins)
        }
        if lengths != {len(self.steps)} or not self.steps:
            raise ValueError("steps, min_requests, max_requests, click_margins differ in length")
        if list(self.steps) != sorted(set(self.steps)) or self.steps[0] <= 0 or self.steps[-1] != 1:
            raise ValueError(f"steps must rise from above 0 to 1.0, got {self.steps}")
        if any(a < 1 or a > b for a, b in zip(self.min_requests, self.max_requests, strict=True)):
            raise ValueError("each step needs 1 <= min_requests <= max_requests")

    @property
    def guard_alpha(self) -> float:
        """What one guard may spend in one step."""
        return self.alpha / (GUARDS * len(self.steps))


def click_difference(plan: CanaryPlan, step: int, counts: StepCounts, alpha: float) -> AlwaysValid:
    """Candidate minus production, clicks per request, one value a user; valid at every look.

    The interval is tightest around the step's minimum of requests, as if each were a user's. That
    many at share s tell as much as 4 (1 - s) times as many users at an even split.
    """
    design_n = max(1, round(4 * plan.min_requests[step] * (1 - plan.steps[step])))
    return always_valid_difference(
        counts.arms["production"].clicks,
        counts.arms["candidate"].clicks,
        alpha=alpha,
        design_n=design_n,
    )


def p95(arm: ArmCounts, alpha: float) -> QuantileBounds:
    """p95 of an arm's latency with bounds that hold at every look."""
    return quantile_bounds(arm.latencies_ms, 0.95, alpha)


def harm(
    plan: CanaryPlan,
    share: float,
    control: ArmCounts,
    candidate: ArmCounts,
    clicks: AlwaysValid | None,
) -> str | None:
    """The reason to roll back, or None. The order is that of urgency."""
    limit = -math.log(plan.guard_alpha)
    n_users = len(control.users) + len(candidate.users)
    if share < 1 and other_than_share(len(candidate.users), n_users, share) > limit:
        seen = len(candidate.users) / n_users
        return (
            f"sample ratio mismatch: {seen:.1%} of {n_users} users in the candidate's arm, "
            f"{share:.0%} planned; the split is broken and no comparison holds"
        )
    excess = candidate.failure_rate - control.failure_rate
    if excess > plan.error_margin and _failure_evidence(share, control, candidate, plan) > limit:
        return (
            f"errors: {candidate.failure_rate:.2%} of requests fail, "
            f"{control.failure_rate:.2%} with production"
        )
    theirs, ours = (p95(arm, plan.guard_alpha / 2) for arm in (candidate, control))
    if theirs.low > plan.latency_ratio * ours.high:
        return (
            f"latency: p95 {theirs.value:.1f} ms, at least {theirs.low:.1f}, against "
            f"{ours.value:.1f} ms, at most {ours.high:.1f}: more than {plan.latency_ratio:g} times"
        )
    if clicks is not None and clicks.high < 0:
        return f"clicks: {_in_words(clicks, control)}"
    return None


def _failure_evidence(
    share: float, control: ArmCounts, candidate: ArmCounts, plan: CanaryPlan
) -> float:
    """Log evidence that the candidate's users meet failures more often."""
    hits = len(candidate.failed_users)
    if share < 1:
        return more_than_share(hits, hits + len(control.failed_users), share)
    usual = len(control.failed_users) / max(1, len(control.users)) + plan.error_margin
    return more_than_share(hits, len(candidate.users), min(usual, 0.999))


def doubt(plan: CanaryPlan, step: int, counts: StepCounts, control: ArmCounts) -> str | None:
    """Why a step without harm may not end well yet; None when it may."""
    candidate = counts.arms["candidate"]
    excess = candidate.failure_rate - control.failure_rate
    if excess > plan.error_margin:
        return f"failure rate higher by {excess:.2%}, not yet beyond chance"
    ratio = p95(candidate, 0.5).value / p95(control, 0.5).value
    if candidate.requests >= MIN_FOR_P95 and ratio > plan.latency_ratio:
        return f"p95 is {ratio:.2f} times production's, not yet beyond chance"
    if plan.steps[step] == 1.0 or math.isinf(plan.click_margins[step]):
        return None
    clicks = click_difference(plan, step, counts, plan.advance_alpha)
    margin = plan.click_margins[step] * control.clicks.mean
    if clicks.low > -margin:
        return None
    return f"a loss of more than {margin:.3f} is not excluded: {_in_words(clicks, control)}"


def passed(plan: CanaryPlan, step: int, counts: StepCounts, control: ArmCounts) -> str:
    """Why a step ended well, with its numbers."""
    candidate = counts.arms["candidate"]
    times = f"p95 {p95(candidate, 0.5).value:.1f} ms against {p95(control, 0.5).value:.1f}"
    words = f"no harm; {candidate.failure_rate:.2%} of requests fail, {times}"
    if plan.steps[step] == 1.0:
        return f"{words} of production in the step before"
    if math.isinf(plan.click_margins[step]):
        return f"{words}; this step wants no proof of clicks"
    clicks = click_difference(plan, step, counts, plan.advance_alpha)
    return f"{words}; {_in_words(clicks, control)}, not worse by {plan.click_margins[step]:.0%}"


def _in_words(clicks: AlwaysValid, control: ArmCounts) -> str:
    ours = control.clicks.mean
    if math.isinf(clicks.low):
        return "too few users with a closed window to compare clicks"
    return (
        f"{ours + clicks.difference:.3f} clicks per request against {ours:.3f}, difference "
        f"{clicks.difference:+.3f} [{clicks.low:+.3f}, {clicks.high:+.3f}]"
    )
