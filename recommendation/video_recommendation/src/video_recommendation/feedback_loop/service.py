"""The serving process of the loop, in simulated time: the real engine, logs and event path.

In: requests and events with the second at which they happen. Out: answers, and two logs on disk
that the join reads. Nothing is imitated but the clock, which stands still between two moments, and
the background refresh, which is called before each request: so the same seed gives the same days
on any machine.

An event's id names what the user was shown: "request/item/kind". The client can send it again
without being counted twice, and however late it comes, it finds its own impression.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ml_platform.serving.event_log import LoggedEvent
from ml_platform.serving.metrics import ServiceMetrics
from ml_platform.serving.observers import tell
from video_recommendation.feedback_loop.logs import ORGANIC, LogReader
from video_recommendation.recommender import Recommender
from video_recommendation.serving.app import logged_features, logged_request
from video_recommendation.serving.engine import REQUEST_LOG, ServingEngine, ServingSettings, Slot
from video_recommendation.serving.models import Answer, ListRequest
from video_recommendation.serving.observers import served_request
from video_recommendation.serving.state import LiveState

NEVER_S = 1e9
AMPLE_MS = 60_000.0
"""Deadline of a request: a busy machine must not change what a simulated user is shown."""
STORE_TIMEOUT_S = 30.0
"""Of one command of the store, for the same reason."""
SURFACE = "home"


@dataclass(frozen=True)
class Watch:
    """What a client reports: a watch, or a rating that follows it.

    Attributes:
        at: Unix seconds at which it is known.
        request_id: Of the list; None where the user found the item without one.
        user_id, item_id: External ids.
        rating: 1 to 5, None for a plain watch.
    """

    at: int
    request_id: str | None
    user_id: int
    item_id: int
    rating: float | None = None

    @property
    def event_id(self) -> str:
        """The same for every sending of the same fact."""
        kind = "watch" if self.rating is None else "rating"
        if self.request_id is None:
            return f"{ORGANIC}/{self.user_id}-{self.item_id}-{self.at}/{kind}"
        return f"{self.request_id}/{self.item_id}/{kind}"

    def logged(self) -> LoggedEvent:
        """The event as the API would log it."""
        body: dict[str, Any] = {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "event_type": "watch" if self.rating is None else "rating",
            "rating": self.rating,
            "timestamp": self.at,
        }
        return LoggedEvent(self.event_id, orjson.dumps(body, option=orjson.OPT_SORT_KEYS), self.at)


class LiveService:
    """One engine that runs through all the days; versions are swapped while it lives.

    Attributes:
        engine: The real one.
        reader: Reads the logs that it writes.
        n_requests, n_events, n_duplicates, n_degraded: Counted since the start.
    """

    def __init__(self, recommender: Recommender, folder: Path) -> None:
        settings = ServingSettings(
            folder,
            deadline_ms=AMPLE_MS,
            budgets_ms={},
            workers=1,
            refresh_s=NEVER_S,
            monotonic=_standing_still,
            store_timeout_s=STORE_TIMEOUT_S,
        )
        self.engine = ServingEngine(recommender, settings, ServiceMetrics())
        while self.engine.not_ready():  # the keeper's one round
            time.sleep(0.001)
        self.reader = LogReader(folder / REQUEST_LOG, self.engine.log)
        self.n_requests = self.n_events = self.n_duplicates = self.n_degraded = 0

    def request(self, request_id: str, user_id: int, k: int, now: int) -> Answer:
        """Answers a request at a simulated second, and logs it as the API does."""
        engine = self.engine
        engine.clock.advance_to(now)
        answer = engine.recommend(ListRequest(user_id, k, SURFACE, (), time.perf_counter()))
        answer.stages.stages_ms["total"] = answer.stages.elapsed_ms()
        degradations = answer.stages.degradations
        body = {
            "request_id": request_id,
            "version": answer.model.version,
            "user_id": user_id,
            "degraded": bool(degradations),
            "degradations": degradations,
            "items": answer.items,
        }
        served = served_request(
            answer, request_id=request_id, user_id=user_id, k=k, surface=SURFACE
        )
        record = logged_request(body, answer, now=answer.now, surface=SURFACE)
        total_ms = answer.stages.stages_ms["total"]
        features = logged_features(answer)
        engine.requests.append({**record, "features": features, "total_ms": total_ms})
        tell(engine.observers, lambda o: o.request_served(served), engine.metrics.observer_failed)
        self.n_requests += 1
        self.n_degraded += bool(degradations)
        return answer

    def submit(self, watches: Sequence[Watch]) -> None:
        """Makes events durable and visible; a fact that was sent before counts as a duplicate."""
        if not watches:
            return
        results = self.engine.log.append([watch.logged() for watch in watches])
        duplicates = sum(result.duplicate for result in results)
        self.n_events += len(results) - duplicates
        self.n_duplicates += duplicates
        self.engine.apply_through(max(result.seq for result in results))

    def refresh(self, now: int) -> None:
        """Item counts and feature rows as of ``now``, in every version that serves."""
        self.engine.clock.advance_to(now)
        for model in (self.engine.production, self.engine.candidate):
            if model is not None:
                model.catch_up()

    def install(self, recommender: Recommender, slot: Slot, trained_through_seq: int) -> None:
        """Puts a version into a slot.

        The version was trained on the log's events up to ``trained_through_seq``: they are in its
        own histories and counts. Its live state therefore starts after them; replaying the whole
        log would count them twice.
        """
        state = LiveState(recommender, self.engine.log, self.engine.store)
        key = f"{state.prefix}applied"
        self.engine.store.call(lambda client: client.set(key, trained_through_seq, nx=True))
        self.engine.install(recommender, slot)

    def close(self) -> None:
        """Stops the engine; everything logged is on disk."""
        self.engine.close()


def _standing_still() -> float:
    return 0.0
