"""Rollouts by hand and by simulated users: every guard, every way to end, the promise under A/A."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_platform.operations.canary import CanaryController, CanaryPlan, judge
from ml_platform.operations.canary_counts import StepCounts

SMALL = CanaryPlan(
    steps=(0.2, 0.5, 1.0),
    min_requests=(150, 300, 100),
    max_requests=(1500, 2000, 1000),
    click_margins=(0.5, 0.3, 0.3),
    window_s=50.0,
)


def roll_out(plan, rng, *, rate=(0.3, 0.3), fails=(0.0, 0.0), p95=(1.0, 1.0), n_users=3000,
             n=12_000, look_every=100, lost=0.0):  # fmt: skip
    """Users with tastes of their own, one request a second; pairs are (production, candidate)."""
    controller = CanaryController(plan, f"rollout-{rng.integers(1e9)}", 0.0)
    taste = rng.beta(4, 4, n_users) * 2
    users, luck = rng.integers(0, n_users, n), rng.random((3, n))
    latency = rng.lognormal(2.0, 0.4, n)
    for now, user in enumerate(users.tolist()):
        arm = controller.arm(user)
        mine = arm == "candidate"
        if mine and luck[2, now] < lost:
            continue
        failed = bool(luck[0, now] < fails[mine])
        controller.request_served(arm, user, latency[now] * p95[mine], failed=failed, now=now)
        if luck[1, now] < rate[mine] * taste[user]:
            controller.clicked(user, now)
        if now % look_every == 0 and controller.decide(now).final:
            break
    return controller


def last(controller):
    return controller.decisions[-1]


def test_a_better_candidate_goes_through_all_steps_and_is_promoted():
    found = roll_out(SMALL, np.random.default_rng(0), rate=(0.2, 0.5))
    assert [d.action for d in found.decisions] == ["advance", "advance", "promote"]
    assert [d.share for d in found.decisions] == [0.2, 0.5, 1.0]
    assert [d.step for d in found.decisions] == [0, 1, 2]
    for decision, least in zip(found.decisions, SMALL.min_requests, strict=True):
        assert decision.requests >= least
    assert found.decisions[0].clicks.difference > 0
    assert found.decisions[0].reason.startswith("no harm; 0.00% of requests fail, p95 ")
    assert "clicks per request against 0.2" in found.decisions[0].reason
    assert found.decisions[0].reason.endswith("not worse by 50%")
    assert last(found).reason.endswith("of production in the step before")
    assert found.decisions[2].clicks is None
    assert found.decide(1e6) is last(found)  # final is final


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"rate": (0.5, 0.1)}, "clicks: 0."),
        ({"fails": (0.0, 0.3)}, "errors: "),
        ({"p95": (1.0, 3.0)}, "latency: p95"),
        ({"lost": 0.6}, "sample ratio mismatch"),
    ],
)
def test_each_guard_rolls_back_and_says_why(what, words):
    found = roll_out(SMALL, np.random.default_rng(1), **what)
    assert (last(found).action, last(found).step, last(found).final) == ("roll back", 0, True)
    assert last(found).reason.startswith(words)
    assert found.share == 0.0
    assert {found.arm(user) for user in range(2000)} == {"production"}


def test_a_last_step_that_fails_is_rolled_back_against_the_step_before():
    controller = CanaryController(SMALL, "r", 0.0)
    rng = np.random.default_rng(2)
    for now in range(20_000):
        user = int(rng.integers(3000))
        arm = controller.arm(user)
        broken = controller.step == 2
        ms = 10.0 + rng.random()
        controller.request_served(arm, user, ms, failed=broken and user % 3 == 0, now=now)
        controller.clicked(user, now) if rng.random() < (0.3, 0.5)[arm == "candidate"] else None
        if now % 50 == 0 and controller.decide(now).final:
            break
    assert (last(controller).action, last(controller).share) == ("roll back", 1.0)
    assert last(controller).reason.startswith("errors: ")


def test_nothing_is_promoted_or_advanced_before_its_minimum():
    patient = replace(SMALL, min_requests=(1000, 1000, 1000), max_requests=(5000, 5000, 5000))
    rng = np.random.default_rng(3)
    found = roll_out(patient, rng, rate=(0.1, 0.6), n=4000)
    assert last(found).action == "hold"
    assert "of 1000 requests" in last(found).reason
    slow = replace(SMALL, min_seconds=1e6)
    found = roll_out(slow, rng, rate=(0.1, 0.6), n=4000)
    assert found.step == 0
    assert "of 1000000 seconds" in last(found).reason


def test_harm_is_answered_before_the_minimum_is_reached():
    patient = replace(SMALL, min_requests=(5000,) * 3, max_requests=(9000,) * 3)
    found = roll_out(patient, np.random.default_rng(4), fails=(0.0, 0.9))
    assert last(found).action == "roll back"
    assert last(found).requests < 150


def test_a_step_that_cannot_decide_holds_for_good():
    strict = replace(SMALL, click_margins=(0.001, 0.001, 0.001), max_requests=(400, 400, 400))
    found = roll_out(strict, np.random.default_rng(5))
    assert (last(found).action, last(found).final, last(found).step) == ("hold", True, 0)
    assert last(found).reason.startswith("not enough traffic after 4")
    assert "is not excluded" in last(found).reason
    assert found.share == 0.2  # people decide; the candidate does no harm where it is


def test_a_step_without_a_margin_wants_no_proof_of_clicks():
    loose = replace(SMALL, click_margins=(float("inf"), 0.3, 0.3))
    found = roll_out(loose, np.random.default_rng(6), rate=(0.0, 0.0), n=3000)
    assert [d.action for d in found.decisions] == ["advance", "hold"]
    assert found.decisions[0].reason.endswith("this step wants no proof of clicks")


def test_no_clicks_at_all_are_no_evidence():
    found = roll_out(SMALL, np.random.default_rng(6), rate=(0.0, 0.0), n=3000)
    assert last(found).action == "hold"
    assert "too few users with a closed window" in last(found).reason


def test_a_slower_candidate_within_the_ratio_passes_and_a_point_above_it_waits():
    found = roll_out(SMALL, np.random.default_rng(7), rate=(0.2, 0.5), p95=(1.0, 1.1))
    assert last(found).action == "promote"
    counts = StepCounts(0.0, 50.0)
    for user in range(400):
        slow = user in range(0, 30, 5)  # six of the candidate's eighty: one more than p95 allows
        arm = "candidate" if user % 5 == 0 else "production"
        counts.request(arm, user, 12.5 if slow else 10.0, False, 0.0)
    narrow = replace(SMALL, min_requests=(50, 300, 100))
    decision = judge(narrow, 0, counts, None, 60.0)
    assert decision.action == "hold"
    assert "p95 is 1.25 times production's, not yet beyond chance" in decision.reason


def test_more_failures_within_chance_wait():
    counts = StepCounts(0.0, 50.0)
    for user in range(1000):
        arm = "candidate" if user % 5 == 0 else "production"
        counts.request(arm, user, 10.0, user in (0, 1, 2, 3, 4, 5), 0.0)
    decision = judge(SMALL, 0, counts, None, 60.0)
    assert decision.action == "hold"
    assert decision.reason.startswith("failure rate higher by 0.50%")


def test_the_split_is_sticky_monotone_and_of_its_size():
    controller = CanaryController(CanaryPlan(), "r", 0.0)
    inside = []
    for share in CanaryPlan().steps:
        controller.share = share
        inside.append({user for user in range(20_000) if controller.arm(user) == "candidate"})
    for smaller, larger in zip(inside, inside[1:], strict=False):
        assert smaller < larger
    assert len(inside[-1]) == 20_000
    assert 900 < len(inside[1]) < 1100
    other = CanaryController(CanaryPlan(), "another", 0.0)
    other.share = 0.05
    again = {user for user in range(20_000) if other.arm(user) == "candidate"}
    assert len(inside[1] & again) < 100  # another rollout begins with other users


def test_an_identical_candidate_is_rolled_back_no_more_often_than_promised():
    """alpha 0.05 over all guards, steps and looks; the bound is exact, so 60 runs see few."""
    rng = np.random.default_rng(8)
    runs = 60
    rolled_back = [
        last(roll_out(SMALL, rng, fails=(0.01, 0.01), n=5000)).action == "roll back"
        for _ in range(runs)
    ]
    assert sum(rolled_back) <= 6  # P(more | 5%) = 1.7%; measured in results: far fewer


def test_one_value_a_user_closed_when_the_window_has_passed():
    counts = StepCounts(0.0, window_s=10.0)
    for now in (0.0, 4.0, 9.0, 12.0):  # the last one is after the window of the first
        counts.request("candidate", 7, 5.0, False, now)
        counts.click(7, now + 0.5) if now in (0.0, 12.0) else None
    counts.request("production", 8, 5.0, False, 11.0)
    counts.close_values(12.5)
    candidate, production = counts.arms["candidate"], counts.arms["production"]
    assert (candidate.clicks.n, candidate.clicks.mean) == (1, pytest.approx(1 / 3))
    assert production.clicks.n == 0  # still open
    assert counts.click(7, 13.0) is False
    assert counts.click(99, 13.0) is False
    counts.close_values(21.0)
    assert (production.clicks.n, production.clicks.mean) == (1, 0.0)
    assert candidate.requests == 4
    assert candidate.users == {7}


def test_failures_count_by_user_and_by_request():
    counts = StepCounts(0.0, 10.0)
    for user, failed in ((1, True), (1, True), (2, False), (3, True)):
        counts.request("candidate", user, 1.0, failed, 0.0)
    arm = counts.arms["candidate"]
    assert (arm.failures, arm.failed_users, arm.failure_rate) == (3, {1, 3}, 0.75)
    assert StepCounts(0.0, 1.0).arms["candidate"].failure_rate == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": (0.5, 0.2, 1.0)}, "must rise"),
        ({"steps": (0.2, 0.5, 0.9)}, "must rise"),
        ({"steps": (0.2, 1.0)}, "differ in length"),
        ({"min_requests": (10, 10, 5000)}, "min_requests <= max_requests"),
    ],
)
def test_plans_are_checked(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)
