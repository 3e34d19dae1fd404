"""One request: choose the version, recommend, say what happened. No HTTP in here.

The engine owns the resources of a serving process (event log, store, clock, request log, worker
threads), the versions that are loaded, and the outermost rungs of the fallback ladder:

    candidate  the canary's version  -> production
    state      live history          -> the bundle's own history
    recommend  the recommender       -> live popularity, unseen items (stage "popularity")
    similar    the recommender       -> live popularity within the item's genres

The recommender has its own rungs inside "recommend" (ranker -> pre-rank order -> popularity); the
ones here answer when it raises as a whole or when the deadline passed while the request waited for
a thread. That last case is what sheds load: a late request costs a popularity list.

Swapping versions. A request takes its version once, at its start, and keeps it to its end. A new
version is first warmed up and caught up with the event log while the old one serves; then events
are applied to both; then one assignment makes it the one that requests take. So no request waits,
none sees half of each, and an event that was acknowledged before the swap is seen after it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ml_platform.serving.clock import ServerClock
from ml_platform.serving.event_log import EventLog
from ml_platform.serving.metrics import ServiceMetrics
from ml_platform.serving.request_log import RequestLog
from ml_platform.serving.stages import Degradation, RequestStages
from ml_platform.serving.store import SOCKET_TIMEOUT_S, StoreUnavailableError, open_store
from video_recommendation.config import ServingConfig
from video_recommendation.serving.models import Answer, ListRequest, ServedModel
from video_recommendation.serving.observers import RequestObserver
from video_recommendation.serving.protocol import Recommender

logger = logging.getLogger(__name__)

STATE_BUDGET_MS = 50.0
REQUEST_LOG = "requests.jsonl"
RETIRE_AFTER_S = 30.0
"""How long a version that was swapped out keeps its state: far longer than any request lasts."""

Slot = Literal["production", "candidate"]


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
    workers: int = 1
    """Threads that compute. They share one interpreter: on two cores a second one makes each
    request dearer, for they wait for each other, and the median at 100 a second worse."""
    refresh_s: float = 1.0
    """Pause between refreshes of item counts and features, and checks of the store."""
    feature_log_share: float = 0.05
    """Of the requests; those keep the features of the items shown in the request log."""
    thread_start: Callable[[], None] = _nothing
    """Run by each computing thread when it starts; some libraries count threads for each."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that pass on the server's clock; a simulation stops them and moves the clock."""
    store_timeout_s: float = SOCKET_TIMEOUT_S
    """Longest wait for one command of the store."""

    @staticmethod
    def of(config: ServingConfig, data_dir: Path, **more: Any) -> ServingSettings:
        """Settings with the deadline and the budgets of the system's configuration."""
        budgets_ms = {
            "state": STATE_BUDGET_MS,
            "features": config.features_budget_ms,
            "rank": config.rank_budget_ms,
            "rerank": config.rerank_budget_ms,
        }
        return ServingSettings(
            data_dir,
            deadline_ms=config.deadline_ms,
            budgets_ms=budgets_ms,
            **{"feature_log_share": config.feature_log_share, **more},
        )


class ServingEngine:
    """Resources and request logic of one process.

    Attributes:
        production: The version that answers.
        candidate: A second version while a canary runs.
        router: Says which slot a user is served from; None means production.
        observers: Told about every answer and every event.

    Args:
        recommender: The loaded bundle.
        settings: How to run.
        metrics: Counts stages and degradations.
    """

    def __init__(
        self, recommender: Recommender, settings: ServingSettings, metrics: ServiceMetrics
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.clock = ServerClock(recommender.data_end, settings.monotonic)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = EventLog(settings.data_dir / "events.sqlite")
        try:
            self.store = open_store(
                settings.redis_url, settings.data_dir, timeout_s=settings.store_timeout_s
            )
        except Exception:
            self.log.close()
            raise
        self.router: Callable[[int], Slot] | None = None
        self.observers: list[RequestObserver] = []
        self.production = self._served(recommender)
        self.candidate: ServedModel | None = None
        self._swap_lock = threading.Lock()
        # Every version that events are applied to: those in the slots, and one being installed.
        self._followers: tuple[ServedModel, ...] = (self.production,)
        self._retired: list[tuple[float, ServedModel]] = []
        metrics.model_installed("production", recommender.version)
        self.requests = RequestLog(settings.data_dir / REQUEST_LOG, count=metrics.request_logged)
        self.workers = ThreadPoolExecutor(settings.workers, "recommend", settings.thread_start)
        self.appliers = ThreadPoolExecutor(2, "apply")  # events never wait behind rankings
        self._caught_up = False
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="state-keeper", daemon=True)
        self._keeper.start()

    # --- versions -------------------------------------------------------------------------------

    def install(self, recommender: Recommender, slot: Slot = "production") -> None:
        """Puts a version into a slot; requests in flight end with the one they began with.

        A store that is down does not stop it: the version then serves from its bundle's histories,
        as the old one does, until the keeper has caught up.

        Args:
            recommender: Loaded and warmed up.
            slot: "production", or "candidate" for the users that ``router`` sends there.
        """
        with self._swap_lock:
            model = self._served(recommender)
            self._try_to_catch_up(model)  # the long part, while nobody waits for it
            self._followers = (*self._followers, model)  # from here on events reach it
            self._try_to_catch_up(model)  # those between the two lines above
            old = self.production if slot == "production" else self.candidate
            if slot == "production":
                self.production = model
            else:
                self.candidate = model
            self.metrics.model_installed(slot, model.version)
            self._retire(old)
        logger.info("%s is %s now", slot, model.version)

    def remove_candidate(self) -> None:
        """Empties the candidate's slot; its users are production's again with the next request."""
        with self._swap_lock:
            old, self.candidate = self.candidate, None
            self.metrics.model_installed("candidate", None)
            self._retire(old)

    def knows_item(self, item_id: int) -> bool:
        """Whether a version that serves, or did a moment ago, has the item: events on it count."""
        models = [*self._followers, *(model for _, model in list(self._retired))]
        return any(model.knows_item(item_id) for model in models)

    def _served(self, recommender: Recommender) -> ServedModel:
        return ServedModel(
            recommender,
            self.log,
            self.store,
            self.clock,
            budgets_ms=self.settings.budgets_ms,
            observer=self.metrics,
            count_rows=self.metrics.feature_rows_read,
        )

    def _try_to_catch_up(self, model: ServedModel) -> None:
        try:
            model.catch_up()
        except StoreUnavailableError as error:
            logger.warning("version %s starts without live state: %s", model.version, error)

    def _retire(self, old: ServedModel | None) -> None:
        if old is None:
            return
        self._followers = tuple(model for model in self._followers if model is not old)
        self._retired.append((time.monotonic() + RETIRE_AFTER_S, old))

    def _forget_retired(self) -> None:
        """Drops versions that no request can hold any more, and their keys in the store."""
        with self._swap_lock:
            now = time.monotonic()
            due = [model for at, model in self._retired if at <= now]
            self._retired = [(at, model) for at, model in self._retired if at > now]
            still_used = {model.state.prefix for model in self._followers}
            still_used |= {model.state.prefix for _, model in self._retired}
            for model in due:
                if model.state.prefix not in still_used:
                    model.state.forget()

    # --- requests -------------------------------------------------------------------------------

    def recommend(self, request: ListRequest) -> Answer:
        """Recommendations for a user, by the version that the router chose or by production."""
        candidate, router = self.candidate, self.router
        if candidate is None or router is None or router(request.user_id) != "candidate":
            return self._by_production(request)
        stages = self._stages(candidate, request)
        answer = candidate.recommend(request, stages, slot="candidate")
        if answer is not None:
            return answer
        return replace(self._by_production(request, stages.degradations), candidate_failed=True)

    def _by_production(self, request: ListRequest, before: Sequence[Degradation] = ()) -> Answer:
        model = self.production  # once: a swap may come between any two lines
        stages = self._stages(model, request)
        stages.degradations += before
        answer = model.recommend(request, stages, slot="production")
        if answer is None:
            raise TypeError("production's ladder ended without a list")
        return answer

    def similar(self, model: ServedModel, item_idx: int, k: int, started: float) -> Answer:
        """Items like one item of ``model``'s catalogue."""
        return model.similar(item_idx, k, self._stages(model, started=started))

    def _stages(
        self, model: ServedModel, request: ListRequest | None = None, *, started: float = 0.0
    ) -> RequestStages:
        started = request.started if request else started
        deadline_ms = self.settings.deadline_ms
        stages = RequestStages(model.monitor, deadline_ms=deadline_ms, started=started)
        if request:
            stages.stages_ms["queue"] = stages.elapsed_ms()
        return stages

    def apply_through(self, seq: int) -> bool:
        """Make events visible to recommendations; False when the store is down for now."""
        try:
            for model in self._followers:
                model.state.apply(seq)
        except StoreUnavailableError as error:
            logger.warning("events up to %d are durable but not applied yet: %s", seq, error)
            return False
        return True

    # --- life -----------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why requests should go elsewhere. A store that is down is no reason: we degrade."""
        if self._caught_up:
            return []
        return [f"replaying events: {self.production.state.applied_seq} of {self.log.last_seq()}"]

    def describe(self) -> dict[str, Any]:
        """Extra fields of ``/v1/version``."""
        production, candidate = self.production, self.candidate
        return {
            "version": production.version,
            "candidate": candidate.version if candidate else None,
            "items": len(production.recommender.catalogue.item_ids),
            "store": self.store.kind,
            "applied_seq": production.state.applied_seq,
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
                    for model in self._followers:
                        model.catch_up()
                    self._forget_retired()
                # A store that is down at the start must not keep the service out of rotation.
                self._caught_up = True
            except StoreUnavailableError as error:
                logger.warning("store: %s", error)
            except Exception:  # the keeper must outlive any one failure; it tries again
                logger.exception("refresh of live state failed")
            if self._stop.wait(self.settings.refresh_s):
                return
