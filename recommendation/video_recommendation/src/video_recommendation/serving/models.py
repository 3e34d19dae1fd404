"""One loaded version: the recommender, its live histories, its live item counts, its stage times.

A serving process holds one of these as *production*, a second one as *candidate* while a canary
runs, and swaps them as wholes. Everything that a version could spoil for another one is its own:
keys in the store carry the version (item indices mean something only for that bundle), and stage
times are kept apart, so that a slow candidate cannot make production skip its ranker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feature_engineering.online_store import CountRows, count_nothing
from ml_platform.serving.clock import ServerClock
from ml_platform.serving.event_log import EventLog
from ml_platform.serving.stages import RequestStages, StageMonitor, StageObserver, Step
from ml_platform.serving.store import Store, StoreUnavailableError
from video_recommendation.serving.feature_home import FeatureHome, ReadsStoredFeatures
from video_recommendation.serving.popularity import LivePopularity
from video_recommendation.serving.protocol import RecommendedItem, Recommender, UserState
from video_recommendation.serving.state import LiveState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListRequest:
    """One request for recommendations, as the engine hands it to a version.

    Attributes:
        user_id: External id.
        k: Most items.
        surface: Where the list is shown.
        exclude_ids: External ids; unknown ones are ignored.
        started: `time.perf_counter` at arrival.
    """

    user_id: int
    k: int
    surface: str
    exclude_ids: Sequence[int]
    started: float


@dataclass(frozen=True)
class Answer:
    """What one request came to.

    Attributes:
        model: The version that answered.
        slot: "production" or "candidate".
        listed: The items, as the recommender gave them.
        items: The same as plain dictionaries, as the response shows them.
        stages: Times and degradations.
        now: Server time of the request, Unix seconds; 0 where it played no part.
        state: The user's history as the version saw it.
        exclude: i32, items the request left out.
        candidate_failed: A candidate was asked first and could not answer.
    """

    model: ServedModel
    slot: str
    listed: Sequence[RecommendedItem]
    items: list[dict[str, Any]]
    stages: RequestStages
    now: int = 0
    state: UserState = field(default_factory=UserState.empty)
    exclude: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    candidate_failed: bool = False

    @property
    def cold_start(self) -> bool:
        """No history is known: the list is not personal."""
        return len(self.state) == 0


class ServedModel:
    """A version that can answer. Thread-safe.

    Args:
        recommender: The loaded bundle.
        log: All events.
        store: Where this version's derived state lives.
        clock: The process's clock; a version trained on later data moves it on.
        budgets_ms: Budgets of stages.
        observer: Counts stages and degradations.
        count_rows: Counts rows read from the feature store.
    """

    def __init__(
        self,
        recommender: Recommender,
        log: EventLog,
        store: Store,
        clock: ServerClock,
        *,
        budgets_ms: dict[str, float],
        observer: StageObserver,
        count_rows: CountRows = count_nothing,
    ) -> None:
        clock.advance_to(recommender.data_end)
        self.recommender = recommender
        self.version = recommender.version
        self.monitor = StageMonitor(budgets_ms, observer=observer)
        self._clock = clock
        self.state = LiveState(recommender, log, store, on_event_time=clock.advance_to)
        self.popularity = LivePopularity(recommender, store, self.state.prefix, clock.now())
        self.features: FeatureHome | None = None
        if isinstance(recommender, ReadsStoredFeatures):
            self.features = FeatureHome(recommender, store, self.state.prefix, count=count_rows)
            try:  # so that the very first request finds rows
                self.features.materialise(self.popularity.counter, clock.now())
            except StoreUnavailableError as error:
                logger.warning("version %s starts without feature rows: %s", self.version, error)

    def catch_up(self) -> None:
        """Applies what the log holds and the store does not, then refreshes counts and features.

        Raises:
            StoreUnavailableError: The store is down; nothing is lost, call again later.
        """
        self.state.recheck()
        self.popularity.refresh(self._clock.now())
        if self.features is not None:
            self.features.materialise(self.popularity.counter, self._clock.now())

    def knows_item(self, item_id: int) -> bool:
        """Whether the item is in this version's catalogue."""
        return self.recommender.catalogue.item_idx(item_id) is not None

    def recommend(self, request: ListRequest, stages: RequestStages, *, slot: str) -> Answer | None:
        """A list by the ladder; for a candidate only by the recommender itself, or None.

        A candidate has no popularity rung of its own: when it fails, production answers, which is
        a better list and keeps the comparison honest.
        """
        state = stages.ladder(
            Step("state", lambda: self.state.history(request.user_id)),
            Step("bundle_history", lambda: self.recommender.history(request.user_id)),
        )
        exclude = self.indices(request.exclude_ids)
        # An event of this very second is known and must count: the request comes after it.
        now = max(self._clock.now(), int(state.timestamp[-1]) + 1 if len(state) else 0)

        arguments: dict[str, Any] = {} if self.features is None else {"features": self.features}

        def personal() -> Sequence[RecommendedItem]:
            return self.recommender.recommend(
                user_id=request.user_id,
                state=state,
                now=now,
                k=request.k,
                exclude=exclude,
                counter=self.popularity.counter,
                stages=stages,
                surface=request.surface,
                **arguments,
            )

        def popular() -> Sequence[RecommendedItem]:
            blocked = np.concatenate([state.item_idx, exclude])
            return popular_items(self.popularity.counts, request.k, blocked)

        listed: Sequence[RecommendedItem] | None
        if slot == "candidate":
            listed = stages.attempt("candidate", personal)
        else:
            listed = stages.ladder(Step("recommend", personal), Step("popularity", popular))
        if listed is None:
            return None
        items = [self._describe(item) for item in listed]
        return Answer(self, slot, listed, items, stages, now, state, exclude)

    def similar(self, item_idx: int, k: int, stages: RequestStages) -> Answer:
        """Items like one item, or popular ones of its genres."""
        listed: Sequence[RecommendedItem] = stages.ladder(
            Step("similar", lambda: self.recommender.similar(item_idx, k)),
            Step("popularity", lambda: self._popular_like(item_idx, k)),
        )
        items = [self._describe(item) for item in listed]
        return Answer(self, "production", listed, items, stages)

    def indices(self, item_ids: Sequence[int]) -> np.ndarray:
        """i32 internal indices of external ids; unknown ones are left out."""
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
