"""One request: load the user's state, recommend, say what happened. No HTTP in here.

The engine owns the resources of a serving process (event log, store, state, item counts, clock,
request log, worker threads) and the outermost rungs of the fallback ladder:

    state      live history          -> the bundle's own history
    recommend  the recommender       -> live popularity, unseen items (stage "popularity")
    similar    the recommender       -> live popularity within the item's genres

The recommender has its own rungs inside "recommend" (ranker -> pre-rank order -> popularity); the
ones here answer when it raises as a whole or when the deadline passed while the request waited for
a thread. That last case is what sheds load: a late request costs a popularity list.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.serving.event_log import EventLog
from ml_platform.serving.metrics import ServiceMetrics
from ml_platform.serving.request_log import RequestLog
from ml_platform.serving.stages import RequestStages, StageMonitor, Step
from ml_platform.serving.store import StoreUnavailableError, open_store
from video_recommendation.config import ServingConfig
from video_recommendation.serving.clock import ServerClock
from video_recommendation.serving.popularity import LivePopularity
from video_recommendation.serving.protocol import RecommendedItem, Recommender
from video_recommendation.serving.state import LiveState

logger = logging.getLogger(__name__)

STATE_BUDGET_MS = 50.0
REQUEST_LOG = "requests.jsonl"


def _nothing() -> None:
    """No set-up."""


@dataclass(frozen=True)
class ServingSettings:
    """How one serving process runs."""

    data_dir: Path
    """Folder of the event log and the embedded store."""
    redis_url: str | None = None
    """A real Redis; the embedded store when absent."""
    deadline_ms: float = 100.0
    """A request's time, from its arrival."""
    budgets_ms: dict[str, float] = field(default_factory=lambda: {"state": STATE_BUDGET_MS})
    """Budgets of stages; others are limited by the deadline."""
    workers: int = 2
    """Threads that compute. More than cores only makes requests wait for each other."""
    refresh_s: float = 1.0
    """Pause between refreshes of item counts and checks of the store."""
    thread_start: Callable[[], None] = _nothing
    """Run by each computing thread when it starts; some libraries count threads for each."""

    @staticmethod
    def of(config: ServingConfig, data_dir: Path, **more: Any) -> ServingSettings:
        """Settings with the deadline and the budgets of the system's configuration."""
        budgets_ms = {
            "state": STATE_BUDGET_MS,
            "rank": config.rank_budget_ms,
            "rerank": config.rerank_budget_ms,
        }
        return ServingSettings(
            data_dir, deadline_ms=config.deadline_ms, budgets_ms=budgets_ms, **more
        )


@dataclass(frozen=True)
class Answer:
    """What one request came to.

    Attributes:
        items: Plain dictionaries, as the response shows them.
        stages: Times and degradations.
        now: Server time of the request, Unix seconds; 0 where it played no part.
        cold_start: No history is known.
    """

    items: list[dict[str, Any]]
    stages: RequestStages
    now: int = 0
    cold_start: bool = False


class ServingEngine:
    """Resources and request logic of one process.

    Args:
        recommender: The loaded bundle.
        settings: How to run.
        metrics: Counts stages and degradations.
    """

    def __init__(
        self, recommender: Recommender, settings: ServingSettings, metrics: ServiceMetrics
    ) -> None:
        self.recommender = recommender
        self.settings = settings
        self.metrics = metrics
        self.clock = ServerClock(recommender.data_end)
        self.monitor = StageMonitor(settings.budgets_ms, observer=metrics)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = EventLog(settings.data_dir / "events.sqlite")
        try:
            self.store = open_store(settings.redis_url, settings.data_dir)
        except Exception:
            self.log.close()
            raise
        self.state = LiveState(
            recommender, self.log, self.store, on_event_time=self.clock.advance_to
        )
        self.popularity = LivePopularity(
            recommender, self.store, self.state.prefix, self.clock.now()
        )
        self.requests = RequestLog(settings.data_dir / REQUEST_LOG, count=metrics.request_logged)
        self.workers = ThreadPoolExecutor(settings.workers, "recommend", settings.thread_start)
        self.appliers = ThreadPoolExecutor(2, "apply")  # events never wait behind rankings
        self._caught_up = False
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="state-keeper", daemon=True)
        self._keeper.start()

    def recommend(
        self, user_id: int, k: int, surface: str, exclude_ids: Sequence[int], started: float
    ) -> Answer:
        """Recommendations for a user.

        Args:
            user_id: External id.
            k: Most items.
            surface: Where the list is shown.
            exclude_ids: External ids; unknown ones are ignored.
            started: `time.perf_counter` at arrival.
        """
        stages = RequestStages(self.monitor, deadline_ms=self.settings.deadline_ms, started=started)
        stages.stages_ms["queue"] = stages.elapsed_ms()
        state = stages.ladder(
            Step("state", lambda: self.state.history(user_id)),
            Step("bundle_history", lambda: self.recommender.history(user_id)),
        )
        exclude = self._indices(exclude_ids)
        # An event of this very second is known and must count: the request comes after it.
        now = max(self.clock.now(), int(state.timestamp[-1]) + 1 if len(state) else 0)

        def personal() -> Sequence[RecommendedItem]:
            return self.recommender.recommend(
                user_id=user_id,
                state=state,
                now=now,
                k=k,
                exclude=exclude,
                counter=self.popularity.counter,
                stages=stages,
                surface=surface,
            )

        def popular() -> Sequence[RecommendedItem]:
            blocked = np.concatenate([state.item_idx, exclude])
            return popular_items(self.popularity.counts, k, blocked)

        items = stages.ladder(Step("recommend", personal), Step("popularity", popular))
        return Answer([self._describe(item) for item in items], stages, now, len(state) == 0)

    def similar(self, item_idx: int, k: int, started: float) -> Answer:
        """Items like one item; see `recommend` for arguments and results."""
        stages = RequestStages(self.monitor, deadline_ms=self.settings.deadline_ms, started=started)
        items: Sequence[RecommendedItem] = stages.ladder(
            Step("similar", lambda: self.recommender.similar(item_idx, k)),
            Step("popularity", lambda: self._popular_like(item_idx, k)),
        )
        return Answer([self._describe(item) for item in items], stages)

    def apply_through(self, seq: int) -> bool:
        """Make events visible to recommendations; False when the store is down for now."""
        try:
            self.state.apply(seq)
        except StoreUnavailableError as error:
            logger.warning("events up to %d are durable but not applied yet: %s", seq, error)
            return False
        return True

    def not_ready(self) -> list[str]:
        """Why requests should go elsewhere. A store that is down is no reason: we degrade."""
        if self._caught_up:
            return []
        return [f"replaying events: {self.state.applied_seq} of {self.log.last_seq()}"]

    def describe(self) -> dict[str, Any]:
        """Extra fields of ``/v1/version``."""
        return {
            "version": self.recommender.version,
            "items": len(self.recommender.catalogue.item_ids),
            "store": self.store.kind,
            "applied_seq": self.state.applied_seq,
            "server_time": self.clock.now(),
        }

    def close(self) -> None:
        """Stop threads, close log and store."""
        self._stop.set()
        self._keeper.join()
        self.workers.shutdown()
        self.appliers.shutdown()
        self.requests.close()
        self.log.close()
        self.store.close()

    def _keep(self) -> None:
        """Background: catch up with the log, revive the store, refresh popularity."""
        while True:
            try:
                if self.store.revive():
                    self.state.recheck()
                    self.popularity.refresh(self.clock.now())
                # A store that is down at the start must not keep the service out of rotation.
                self._caught_up = True
            except StoreUnavailableError as error:
                logger.warning("store: %s", error)
            except Exception:  # the keeper must outlive any one failure; it tries again
                logger.exception("refresh of live state failed")
            if self._stop.wait(self.settings.refresh_s):
                return

    def _indices(self, item_ids: Sequence[int]) -> np.ndarray:
        found = (self.recommender.catalogue.item_idx(i) for i in item_ids)
        return np.array([i for i in found if i is not None], np.int32)

    def _popular_like(self, item_idx: int, k: int) -> Sequence[RecommendedItem]:
        genres = self.recommender.catalogue.genres
        wanted = set(genres[item_idx])
        other = [i for i, g in enumerate(genres) if not wanted.intersection(g)] if wanted else []
        blocked = np.array([item_idx, *other], np.int32)
        return popular_items(self.popularity.counts, k, blocked)

    def _describe(self, item: RecommendedItem) -> dict[str, Any]:
        catalogue, i = self.recommender.catalogue, item.item_idx
        return {
            "item_id": int(catalogue.item_ids[i]),
            "title": catalogue.titles[i],
            "genres": catalogue.genres[i],
            "year": int(catalogue.years[i]) or None,
            "score": float(item.score),
            "reason": item.reason,
            "sources": item.sources,
            "exploration": item.exploration,
            "propensity": item.propensity,
        }


def popular_items(counts: np.ndarray, k: int, blocked: np.ndarray) -> list[RecommendedItem]:
    """The k most counted items that are not blocked; ties by index.

    Args:
        counts: f32[I].
        k: Most items.
        blocked: i32, indices to leave out.
    """
    scores = counts.astype(np.float64)
    scores[blocked] = -np.inf
    order = np.argsort(-scores, kind="stable")[:k]
    return [
        RecommendedItem(int(i), float(scores[i]), "Popular this month", ("popularity",))
        for i in order
        if scores[i] > -np.inf
    ]
