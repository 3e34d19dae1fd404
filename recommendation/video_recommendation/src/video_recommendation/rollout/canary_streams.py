"""Many rollouts of one plan on simulated streams: how often is it wrong, how soon is it right?

In: a plan and scenarios (what the candidate does to its users). Out: for each scenario the share of
rollouts by their end and the requests that a rollback took. One rollout of the demonstration is an
anecdote; these are the rates behind it. No model runs here: users have tastes, requests have
latencies, and the controller is the real one.

A user u has taste t_u ~ Gamma(4, 1/4), mean 1, and watches Poisson(rate · t_u) items of a list. The
taste makes a user's requests alike, which is why users and not requests are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.operations.canary import CanaryController, CanaryPlan

WATCHES = 2.2  # a request with production, about what the demonstration's users watch
LATENCY_LOG_SD = 0.35


@dataclass(frozen=True)
class Scenario:
    """What a candidate does.

    Attributes:
        name: For keys.
        label: For people.
        clicks: Watches, relative to production's.
        failures: Share of requests in which it fails.
        latency: Factor on every latency.
        lost: Share of its requests that never reach the counts.
    """

    name: str
    label: str
    clicks: float = 1.0
    failures: float = 0.0
    latency: float = 1.0
    lost: float = 0.0


SAME = Scenario("same", "identical to production (A/A)")
SCENARIOS = (
    SAME,
    Scenario("better", "18% more watches", clicks=1.18),
    Scenario("worse_10", "10% fewer watches", clicks=0.9),
    Scenario("worse_30", "30% fewer watches", clicks=0.7),
    Scenario("wrong_sign", "70% fewer watches", clicks=0.3),
    Scenario("failing", "fails 5% of requests", failures=0.05),
    Scenario("slow", "three times as slow", latency=3.0),
    Scenario("broken_split", "30% of its users are not counted", lost=0.3),
)


@dataclass(frozen=True)
class Traffic:
    """How much comes: users, most requests of a rollout, requests between looks."""

    n_users: int = 3_000
    n_requests: int = 12_000
    look_every: int = 25


@dataclass(frozen=True)
class Ended:
    """One rollout: its last action ("open" where requests ran out first), share, requests."""

    action: str
    share: float
    requests: int
    reason: str


@dataclass(frozen=True)
class Rates:
    """All rollouts of a scenario.

    Attributes:
        scenario: Which.
        rolled_back, promoted: Shares of the rollouts.
        requests_to_rollback: Median of all requests until a rollback; None without any.
        guards: How often each guard was the reason.
    """

    scenario: Scenario
    rolled_back: Estimate
    promoted: Estimate
    requests_to_rollback: float | None
    guards: dict[str, int]


def stream_rates(
    plan: CanaryPlan, traffic: Traffic, scenario: Scenario, n_seeds: int, *, workers: int = 1
) -> Rates:
    """Rolls one scenario out ``n_seeds`` times."""
    one = partial(roll_out_stream, plan, traffic, scenario)
    if workers == 1:
        return _rates(scenario, [one(seed) for seed in range(n_seeds)])
    # Spawned: a fork of a process whose libraries hold threads may never come back.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return _rates(scenario, list(pool.map(one, range(n_seeds), chunksize=4)))


def roll_out_stream(plan: CanaryPlan, traffic: Traffic, scenario: Scenario, seed: int) -> Ended:
    """One rollout, one request a second."""
    rng = np.random.default_rng((seed, 0xCA))
    controller = CanaryController(plan, f"{scenario.name}-{seed}", 0.0)
    taste = rng.gamma(4.0, 0.25, traffic.n_users)
    user = rng.integers(0, traffic.n_users, traffic.n_requests)
    lost = rng.random(traffic.n_users) < scenario.lost
    watches = {
        "production": rng.poisson(WATCHES * taste[user]),
        "candidate": rng.poisson(WATCHES * scenario.clicks * taste[user]),
    }
    fails = rng.random(traffic.n_requests) < scenario.failures
    ms = 10.0 * rng.lognormal(0.0, LATENCY_LOG_SD, traffic.n_requests)
    for now in range(traffic.n_requests):
        who = int(user[now])
        arm = controller.arm(who)
        treated = arm == "candidate"
        if not (treated and lost[who]):
            took_ms = float(ms[now]) * (scenario.latency if treated else 1.0)
            failed = bool(treated and fails[now])
            controller.request_served(arm, who, took_ms, failed=failed, now=float(now))
            for _ in range(int(watches[arm][now])):
                controller.clicked(who, float(now))
        if now % traffic.look_every == 0 and (last := controller.decide(float(now))).final:
            return Ended(last.action, last.share, now + 1, last.reason)
    last = controller.decisions[-1]
    return Ended("open", last.share, traffic.n_requests, last.reason)


def _rates(scenario: Scenario, ended: Sequence[Ended]) -> Rates:
    back = [one for one in ended if one.action == "roll back"]
    guards: dict[str, int] = {}
    for one in back:
        guard = one.reason.partition(":")[0]
        guards[guard] = guards.get(guard, 0) + 1
    return Rates(
        scenario=scenario,
        rolled_back=_share(len(back), len(ended)),
        promoted=_share(sum(one.action == "promote" for one in ended), len(ended)),
        requests_to_rollback=float(np.median([one.requests for one in back])) if back else None,
        guards=guards,
    )


def _share(hits: int, n: int) -> Estimate:
    ends = stats.binomtest(hits, n).proportion_ci(0.95)  # Clopper and Pearson's exact interval
    return Estimate(hits / n, float(ends.low), float(ends.high), n)
