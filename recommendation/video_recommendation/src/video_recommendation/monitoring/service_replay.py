"""Plays the test window through the real service: every event at its time, requests in between.

In: a bundle, and the events after its training. Out: what a service leaves behind, an event log and
a request log with features, and how its stages fared.

The service is the real one: HTTP, event log, embedded store, request log. Two things differ, so
that a replay of weeks takes seconds: the clock stands still between events (each event moves it),
and the keeper's work is done before each request instead of once a second. ``Keeper`` is that work;
a scenario gives another one to show what happens when it is late or wrong.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI

from ml_platform.serving.store import StoreUnavailableError
from video_recommendation.data import SystemData
from video_recommendation.recommender import Recommender
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingEngine, ServingSettings

START_TIMEOUT_S = 30.0
BATCH_EVENTS = 50
KEEP_TRIES = 5
Keeper = Callable[[ServingEngine], None]


def on_time(engine: ServingEngine) -> None:
    """What the engine's own keeper does."""
    engine.production.catch_up()


@dataclass(frozen=True)
class ReplayPlan:
    """How much is played.

    Attributes:
        n_events: Events of the window, in time order.
        ask_every: Before every so many-th event its user asks for a list.
        unknown_every: Every so many-th of those requests is followed by one of an unknown user.
        k: Length of the lists.
    """

    n_events: int
    ask_every: int = 8
    unknown_every: int = 5
    k: int = 20


@dataclass(frozen=True)
class Replayed:
    """What is left behind.

    Attributes:
        events: Path of the event log.
        requests: Path of the request log.
        answers: The responses, in order.
        feature_rows: Rows read from the feature store by (set, outcome).
    """

    events: Path
    requests: Path
    answers: list[dict[str, Any]]
    feature_rows: dict[tuple[str, str], int]

    @property
    def degraded_share(self) -> float:
        """Of the answers."""
        return float(np.mean([answer["degraded"] for answer in self.answers]))

    def outcome_share(self, feature_set: str, outcome: str) -> float:
        """Of the rows that were read of one set."""
        total = sum(n for (name, _), n in self.feature_rows.items() if name == feature_set)
        return self.feature_rows.get((feature_set, outcome), 0) / total if total else 0.0

    def stage_ms(self, stage: str) -> np.ndarray:
        """f64[n], milliseconds of a stage in the answers that ran it."""
        return np.array([a["stages_ms"][stage] for a in self.answers if stage in a["stages_ms"]])


def replay(
    recommender: Recommender,
    data: SystemData,
    folder: Path,
    plan: ReplayPlan,
    *,
    keep: Keeper = on_time,
    prepare: Keeper = lambda engine: None,
) -> Replayed:
    """Serves the events that follow the bundle's training.

    Args:
        recommender: Loaded; it has seen what comes before ``data.windows.validation_end``.
        data: All events.
        folder: Of the logs and the store; empty.
        plan: How much.
        keep: Done before each request.
        prepare: Done once, before the first event.
    """
    settings = ServingSettings(
        folder,
        deadline_ms=60_000.0,
        budgets_ms={},
        refresh_s=3600.0,
        feature_log_share=1.0,
        monotonic=lambda: 0.0,
    )
    app = create_app(recommender, settings)
    with running_app(app) as port:
        engine: ServingEngine = app.state.engine
        prepare(engine)
        answers = _play(engine, port, data, plan, keep)
        rows = _feature_rows(engine)
    return Replayed(folder / "events.sqlite", folder / "requests.jsonl", answers, rows)


@contextmanager
def running_app(app: FastAPI) -> Iterator[int]:
    """Runs an app on a free loopback port in a thread of this process; gives the port.

    Raises:
        RuntimeError: if it does not become ready.
    """
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="replayed-service")
    thread.start()
    try:
        give_up = time.monotonic() + START_TIMEOUT_S
        while not (server.started and not app.state.engine.not_ready()):
            if not thread.is_alive() or time.monotonic() > give_up:
                raise RuntimeError(f"the service was not ready within {START_TIMEOUT_S:g} s")
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def _play(
    engine: ServingEngine, port: int, data: SystemData, plan: ReplayPlan, keep: Keeper
) -> list[dict[str, Any]]:
    log = data.log
    rows = np.flatnonzero(log.timestamp >= data.windows.validation_end)
    rows = rows[np.argsort(log.timestamp[rows], kind="stable")][: plan.n_events]
    nobody = int(log.user_ids.max())
    answers: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []  # events reach the service in batches, before the next list
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        asked_at = -plan.ask_every
        for number, row in enumerate(rows):
            engine.clock.advance_to(int(log.timestamp[row]))
            user_id = int(log.user_ids[log.user_idx[row]])
            if number >= asked_at + plan.ask_every and _begins_second(data, int(row)):
                asked_at = number
                _post(connection, waiting)
                _kept(engine, keep)
                answers.append(_ask(connection, user_id, plan.k))
                if len(answers) % plan.unknown_every == 0:
                    answers.append(_ask(connection, nobody + len(answers), plan.k))
            waiting.append(_event(data, int(row), user_id))
        _post(connection, waiting)
    finally:
        connection.close()
    return answers


def _kept(engine: ServingEngine, keep: Keeper) -> None:
    """Does the keeper's work; tries again, as the keeper would, when the store was too slow.

    Raises:
        StoreUnavailableError: if it stays so.
    """
    for _ in range(KEEP_TRIES - 1):
        try:
            return keep(engine)
        except StoreUnavailableError:  # a busy machine held the store up beyond its socket timeout
            time.sleep(engine.store.retry_after_s)
            engine.store.revive()
    return keep(engine)


def _begins_second(data: SystemData, row: int) -> bool:
    """Whether a row is its user's first of that second.

    Within one second there is no before and after to be rebuilt: of two events with one timestamp
    the log cannot say which one a request between them had seen.
    """
    log = data.log
    same_user = row > 0 and log.user_idx[row - 1] == log.user_idx[row]
    return not (same_user and log.timestamp[row - 1] == log.timestamp[row])


def _event(data: SystemData, row: int, user_id: int) -> dict[str, Any]:
    return {
        "event_id": str(row),
        "user_id": user_id,
        "item_id": int(data.log.item_ids[data.log.item_idx[row]]),
        "event_type": "rating",
        "rating": float(data.log.rating[row]),
        "timestamp": int(data.log.timestamp[row]),
    }


def _post(connection: http.client.HTTPConnection, events: list[dict[str, Any]]) -> None:
    """Sends the events and empties the list."""
    for begin in range(0, len(events), BATCH_EVENTS):
        _call(connection, "POST", "/v1/events", {"events": events[begin : begin + BATCH_EVENTS]})
    events.clear()


def _ask(connection: http.client.HTTPConnection, user_id: int, k: int) -> dict[str, Any]:
    return _call(connection, "GET", f"/v1/recommendations?user_id={user_id}&k={k}")


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    content = None if body is None else orjson.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{method} {path} answered {response.status}: {answer[:300]!r}")
    found: dict[str, Any] = orjson.loads(answer)
    return found


def _feature_rows(engine: ServingEngine) -> dict[tuple[str, str], int]:
    samples = [s for family in engine.metrics.feature_rows.collect() for s in family.samples]
    return {
        (s.labels["feature_set"], s.labels["outcome"]): int(s.value)
        for s in samples
        if s.name.endswith("_total")
    }
