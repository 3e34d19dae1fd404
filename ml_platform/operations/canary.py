"""A canary: more and more users for a candidate, while guards look on; back at once when it harms.

In: requests and clicks of both arms, and the time. Out: decisions, each with its reason. Pure
logic: no clock, no I/O, no threads, so a whole rollout replays in a test.

    1% -> 5% -> 25% -> 50% -> 100% -> promote         any step: roll back

*Split.* `assignment.in_share(user, salt, share)`: sticky, and monotone, so whoever had the
candidate at 1% keeps it at 5%. The salt is the rollout's own, or the same users would be first in
line for every experiment's harm.

*Each step starts afresh.* Pooling steps of different shares compares Monday's control with
Friday's treatment (Simpson's paradox). Earlier steps protect users, later ones measure.

*Guards at every look.* `alpha` is the chance that a candidate which is exactly like production is
ever rolled back, over all guards, steps and looks; each guard in each step gets an equal part.
    users    sample ratio mismatch: the split itself is broken, no comparison holds
    errors   users with a failure fall to the candidate more often than its share, and its failure
             rate is higher by `error_margin` at least
    latency  p95 surely above `latency_ratio` times production's: bounds of both quantiles
    clicks   clicks per request and user surely lower (`sequential.always_valid_difference`)
The first three use the exact evidence of `canary_evidence`; clicks have enough users for an
asymptotic interval. Why one value a user: `canary_counts`.

*To advance* a step wants its minimum of requests and seconds, no harm, latency and errors within
their limits as measured, and clicks not worse by more than the step's margin: the lower end of an
always-valid interval at `advance_alpha`. Absence of harm alone is no proof; a weak guard never
alarms. A step that has not decided after `max_requests` holds for good: not enough traffic.

*The last step* has no control arm left. It compares failures and p95 with production's in the step
before, a comparison over time that finds only large harm; clicks were settled at 50%.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ml_platform.operations.assignment import in_share
from ml_platform.operations.canary_counts import Arm, ArmCounts, StepCounts
from ml_platform.operations.canary_guards import (
    CanaryPlan,
    click_difference,
    doubt,
    harm,
    passed,
)
from ml_platform.operations.sequential import AlwaysValid

__all__ = ["Action", "CanaryController", "CanaryPlan", "Decision", "judge"]

Action = Literal["hold", "advance", "roll back", "promote"]


@dataclass(frozen=True)
class Decision:
    """What to do now and why.

    Attributes:
        action: hold, advance, roll back or promote.
        reason: For people, with numbers.
        step: 0-based; `share` is the candidate's share of users in it.
        requests: The candidate's in this step; `production_requests` beside it.
        users: Different users of the candidate in this step.
        clicks: Candidate minus production, clicks per request and user; None in the last step.
        at: Seconds.
        final: Nothing will change any more.
    """

    action: Action
    reason: str
    step: int
    share: float
    requests: int
    production_requests: int
    users: int
    clicks: AlwaysValid | None
    at: float
    final: bool = False


class CanaryController:
    """One rollout. Not thread-safe, except `arm`.

    Args:
        plan: Steps and guards.
        salt: The rollout's own, for instance the candidate's version.
        now: Seconds at the start.
    """

    def __init__(self, plan: CanaryPlan, salt: str, now: float) -> None:
        self.plan, self.salt = plan, salt
        self.step = 0
        self.share = plan.steps[0]
        self.counts = StepCounts(now, plan.window_s)
        self.decisions: list[Decision] = []  # all but the holds before the last one
        self._before: ArmCounts | None = None  # production in the step before

    @property
    def finished(self) -> bool:
        """Whether the last decision was final."""
        return bool(self.decisions) and self.decisions[-1].final

    def arm(self, user_id: int) -> Arm:
        """Who answers this user now."""
        return "candidate" if in_share(user_id, self.salt, self.share) else "production"

    def request_served(
        self, arm: Arm, user_id: int, latency_ms: float, *, failed: bool, now: float
    ) -> None:
        """Count one request; see `StepCounts.request`."""
        self.counts.request(arm, user_id, latency_ms, failed, now)

    def clicked(self, user_id: int, now: float) -> bool:
        """Count one click; False when it belongs to no open window."""
        return self.counts.click(user_id, now)

    def decide(self, now: float) -> Decision:
        """Look at the counts; move to the next step, or back to no candidate at all.

        Args:
            now: Seconds, not before those of the counts.
        """
        if self.finished:
            return self.decisions[-1]
        self.counts.close_values(now)
        decision = judge(self.plan, self.step, self.counts, self._before, now)
        if self.decisions and self.decisions[-1].action == "hold":
            self.decisions.pop()
        self.decisions.append(decision)
        if decision.action == "advance":
            self._before = self.counts.arms["production"]
            self.step += 1
            self.share = self.plan.steps[self.step]
            self.counts = StepCounts(now, self.plan.window_s)
        elif decision.action == "roll back":
            self.share = 0.0
        return decision


def judge(
    plan: CanaryPlan, step: int, counts: StepCounts, before: ArmCounts | None, now: float
) -> Decision:
    """One look at one step.

    Args:
        plan: Steps and guards.
        step: 0-based.
        counts: Of this step, values closed up to now.
        before: Production in the step before; the last step compares with it.
        now: Seconds.
    """
    share, candidate = plan.steps[step], counts.arms["candidate"]
    last = share == 1.0
    production = counts.arms["production"]
    control = before if last and before is not None else production
    clicks = None if last else click_difference(plan, step, counts, plan.guard_alpha)
    found = harm(plan, share, control, candidate, clicks)
    action: Action = "hold"
    final = False
    if found is not None:
        action, reason, final = "roll back", found, True
    elif (wait := _too_early(plan, step, counts, now)) is not None:
        reason = wait
    elif (open_question := doubt(plan, step, counts, control)) is None:
        action, final = ("promote", True) if last else ("advance", False)
        reason = passed(plan, step, counts, control)
    elif candidate.requests >= plan.max_requests[step]:
        final, reason = (
            True,
            f"not enough traffic after {candidate.requests} requests: {open_question}",
        )
    else:
        reason = open_question
    return Decision(
        action=action,
        reason=reason,
        step=step,
        share=share,
        requests=candidate.requests,
        production_requests=production.requests,
        users=len(candidate.users),
        clicks=clicks,
        at=now,
        final=final,
    )


def _too_early(plan: CanaryPlan, step: int, counts: StepCounts, now: float) -> str | None:
    requests, seconds = counts.arms["candidate"].requests, now - counts.started_at
    if requests < plan.min_requests[step]:
        return f"{requests} of {plan.min_requests[step]} requests"
    if seconds < plan.min_seconds:
        return f"{seconds:.0f} of {plan.min_seconds:.0f} seconds"
    return None
