"""Simulated users against the real app: they ask, watch what they like, and say so.

In: a stage, the name of a candidate. Out: the rollout's looks and decisions, the shadow reports,
and the truth, the expected watches of every list that was shown.

The app is the one that serves: FastAPI in this process, the engine, an event log that syncs, the
embedded store. Two things are simulated: the users, and the clock, which moves one second with each
request, so that windows of minutes pass in seconds. Latencies are real. A watch is reported at
once; delays are the feedback loop's subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient

from ml_platform.operations.canary import CanaryPlan, Decision
from ml_platform.operations.shadow import wait_until_drained
from ml_platform.operations.shadow_report import ShadowSummary
from video_recommendation.rollout.canary import Canary, CanarySettings
from video_recommendation.rollout.demo_stage import CANDIDATES, Stage
from video_recommendation.rollout.shadow import ShadowTraffic, worker_settings
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingEngine, ServingSettings

K = 10
MINUTE_S = 60
REFRESH_NEVER_S = 1e9
SHADOW_WAIT_S = 300.0


@dataclass
class Rollout:
    """One canary from its first request to its last.

    Attributes:
        name: The candidate's.
        n_requests: Of both arms.
        looks: Requests of both arms so far, and the decision.
        journal: Only the decisions that ended a step or the rollout, with all requests until then.
        truth: Version -> expected watches of every list shown, as the world knows them.
    """

    name: str
    n_requests: int = 0
    looks: list[tuple[int, Decision]] = field(default_factory=list)
    journal: list[tuple[int, Decision]] = field(default_factory=list)
    truth: dict[str, list[float]] = field(default_factory=dict)

    @property
    def last(self) -> Decision:
        """How it ended."""
        return self.looks[-1][1]


class Audience:
    """The users of one app.

    Attributes:
        n_visits: Requests so far.
    """

    def __init__(self, stage: Stage, client: TestClient, clock: list[float], seed: int) -> None:
        self._world, self._client, self._clock = stage.world, client, clock
        self._rng = np.random.default_rng((seed, 0xAD))
        self.n_visits = 0

    @property
    def engine(self) -> ServingEngine:
        """The app's engine."""
        engine: ServingEngine = self._client.app.state.engine  # type: ignore[attr-defined]
        return engine

    def visit(self) -> tuple[str, float]:
        """One user asks and answers; the version that served, and the list's expected watches."""
        world = self._world
        self._clock[0] += 1.0
        if self.n_visits % MINUTE_S == 0:  # item counts are as of the last full minute
            self._refresh()
        self.n_visits += 1
        user = int(self._rng.choice(world.config.n_users, p=world.activity))
        user_id = int(world.user_ids[user])
        response = self._client.get("/v1/recommendations", params={"user_id": user_id, "k": K})
        response.raise_for_status()
        body = response.json()
        items = np.array([item["item_id"] for item in body["items"]]) - 1
        watched = items[world.respond(user, items, self._rng).watched]
        self._report(user_id, (watched + 1).tolist(), body["request_id"])
        return body["version"], world.expected_value(user, items)

    def _report(self, user_id: int, item_ids: list[int], request_id: str) -> None:
        events = [
            {
                "event_id": f"{request_id}.{item}",
                "user_id": user_id,
                "item_id": item,
                "event_type": "watch",
            }
            for item in item_ids
        ]
        if events:
            self._client.post("/v1/events", json={"events": events}).raise_for_status()

    def _refresh(self) -> None:
        for model in (self.engine.production, self.engine.candidate):
            if model is not None:
                model.catch_up()


@contextmanager
def open_app(stage: Stage, data_dir: Path, seed: int) -> Iterator[Audience]:
    """The app with production, over a copy of its event log, and its users."""
    clock = [0.0]
    settings = ServingSettings(
        stage.copy_events(data_dir),
        deadline_ms=10_000.0,  # a busy machine must not turn into degraded answers here
        budgets_ms={},
        refresh_s=REFRESH_NEVER_S,
        monotonic=lambda: clock[0],
    )
    with TestClient(create_app(stage.recommender("production"), settings)) as client:
        audience = Audience(stage, client, clock, seed)
        audience.engine.clock.advance_to(stage.world.day_start(0))
        yield audience


def shadow_all(
    stage: Stage, folder: Path, n_requests: int, seed: int, step: Callable[[int], None]
) -> dict[str, ShadowSummary]:
    """Every candidate gets a copy of the same requests; none of them answers one."""
    with open_app(stage, folder / "serving" / "shadow", seed) as audience:
        engine = audience.engine
        lanes = {}
        for name in CANDIDATES:
            options = ["--delay-ms", str(stage.delay_ms)] if name == "slow" else []
            settings = worker_settings(
                stage.registry.path(stage.versions[name]),
                engine.log.path,
                share=1.0,
                options=options,
                max_waiting=n_requests,
                timeout_s=20.0,
                lowest_priority=False,  # three models load while we wait; no user waits here
            )
            lanes[name] = ShadowTraffic(engine, settings, name=f"shadow_{name}")
        try:
            for _ in range(n_requests):
                audience.visit()
                step(1)
            for lane in lanes.values():
                wait_until_drained(lane.lane, SHADOW_WAIT_S)
            return {name: lane.summary() for name, lane in lanes.items()}
        finally:
            for lane in lanes.values():
                lane.close()


def roll_out(
    stage: Stage,
    name: str,
    folder: Path,
    plan: CanaryPlan,
    *,
    journal: Path,
    max_requests: int,
    look_every: int,
    seed: int,
    step: Callable[[int], None],
) -> Rollout:
    """Runs a canary until it ends, or until ``max_requests``.

    Args:
        stage: What stands ready.
        name: Of the candidate.
        folder: For the data of the serving process.
        plan: Steps and guards.
        journal: Decisions are appended here.
        max_requests: Of both arms.
        look_every: Requests between looks.
        seed: Of the users.
        step: Told of every request.
    """
    found = Rollout(name)
    stage.registry.promote(stage.versions["production"], note="the demonstration begins again")
    stage.registry.set_candidate(stage.versions[name], note=name)
    with open_app(stage, folder / "serving" / name, seed) as audience:
        settings = CanarySettings(plan, plan.window_s, look_every_s=None, journal=journal)
        canary = Canary(audience.engine, stage.recommender(name), settings, stage.registry)
        audience.engine.clock.advance_to(stage.world.day_start(0))
        while found.n_requests < max_requests and not canary.controller.finished:
            version, value = audience.visit()
            found.truth.setdefault(version, []).append(value)
            found.n_requests += 1
            step(1)
            if found.n_requests % look_every == 0:
                decision = canary.look()
                found.looks.append((found.n_requests, decision))
                if decision.action != "hold" or decision.final:
                    found.journal.append((found.n_requests, decision))
        canary.close()
    return found
