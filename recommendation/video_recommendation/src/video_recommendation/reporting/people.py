"""Two people: what they watched, what the system would have shown them, what they watched next.

In: the trained system and the test queries. Out: ``Person`` with history, list and ticks. The
people are found by a rule that does not look at the outcome: of all test queries of a kind (a long
history; a short one) the one in the middle by time. Their lists come from
``Recommender.recommend``, the path that is served, with history and counters as of that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.serving.stages import RequestStages
from video_recommendation.data import SystemData
from video_recommendation.evaluation.run import COLD_EVENTS, Evaluation, live_recommender
from video_recommendation.pipeline import Trained
from video_recommendation.recommender import Recommender
from video_recommendation.requests import batch_of_queries
from video_recommendation.serving.protocol import RecommendedItem, UserState

WARM_EVENTS = 50
SHOWN_HISTORY = 8
SHOWN_LIST = 10
LEAST_COLD = 3
"""A cold person with no event at all would have no history to look at; the rule asks for a few."""


@dataclass(frozen=True)
class Watched:
    """One event of a history."""

    title: str
    genres: str
    rating: float


@dataclass(frozen=True)
class Shown:
    """One item of a list.

    Attributes:
        title: Of the item.
        genres: Joined by commas; "" for none.
        score: Calibrated probability of a watch.
        reason: As the service states it.
        sources: Names of the sources that proposed it.
        outcome: "next": watched in the second of the request; "later": in the rest of the test
            window; "" neither.
    """

    title: str
    genres: str
    score: float
    reason: str
    sources: tuple[str, ...]
    outcome: str


@dataclass(frozen=True)
class Person:
    """One user at one moment of the test window.

    Attributes:
        kind: "warm" or "cold".
        user_id: External id.
        n_events: Events in the whole history.
        history: The last of them, newest first.
        shown: The head of the list.
        n_next: Number of items the user watched in that second.
    """

    kind: str
    user_id: int
    n_events: int
    history: tuple[Watched, ...]
    shown: tuple[Shown, ...]
    n_next: int

    @property
    def headline(self) -> str:
        """Who it is and how the list did."""
        hits = sum(item.outcome == "next" for item in self.shown)
        later = sum(item.outcome == "later" for item in self.shown)
        return (
            f"User {self.user_id}, {self.kind}: {self.n_events} events before; of the "
            f"{len(self.shown)} shown, {hits} watched next (of {self.n_next}), {later} later"
        )


CHOICE_NOTE = (
    "Chosen by rule, not by outcome: the test query in the middle by time of those with a history "
    f"of {WARM_EVENTS} or more events, and of those with under {COLD_EVENTS}."
)


def two_people(data: SystemData, trained: Trained, evaluation: Evaluation) -> tuple[Person, ...]:
    """A warm and a cold person; fewer when the test window has no such query."""
    queries = evaluation.queries
    length = queries.history_end - queries.history_begin
    short = (length < COLD_EVENTS) & (length >= min(LEAST_COLD, int(length.max())))
    recommender = live_recommender(trained.recommender, data)
    people: list[Person] = []
    for kind, wanted in (("warm", length >= WARM_EVENTS), ("cold", short)):
        chosen = middle_query(queries, wanted)
        if chosen is not None:
            people.append(person(kind, data, recommender, queries.subset(np.array([chosen]))))
    return tuple(people)


def middle_query(queries: Queries, wanted: np.ndarray) -> int | None:
    """The query in the middle by time (then by user) of those wanted; None when there is none."""
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return None
    order = np.lexsort((queries.user_idx[rows], queries.timestamp[rows]))
    return int(rows[order[len(rows) // 2]])


def person(kind: str, data: SystemData, recommender: Recommender, query: Queries) -> Person:
    """The person of one query (Q = 1)."""
    batch = batch_of_queries(data.log, query)
    state = UserState(batch.item_idx, batch.rating, batch.timestamp)
    user_id = int(data.log.user_ids[query.user_idx[0]])
    listed = recommender.recommend(
        user_id=user_id,
        state=state,
        now=int(query.timestamp[0]),
        k=recommender.config.reranking.k,
        exclude=np.zeros(0, dtype=np.int32),
        counter=recommender.proposer.retriever.counter,
        stages=RequestStages(),
        surface="home",
    )
    _, relevant = query.relevant(data.log)
    end = data.log.user_ptr[query.user_idx[0] + 1]
    later = data.log.item_idx[query.relevant_end[0] : end]
    return Person(
        kind=kind,
        user_id=user_id,
        n_events=len(state),
        history=_history(data, state),
        shown=_shown(data, listed, set(relevant.tolist()), set(later.tolist())),
        n_next=len(relevant),
    )


def _history(data: SystemData, state: UserState) -> tuple[Watched, ...]:
    newest = range(len(state) - 1, max(-1, len(state) - 1 - SHOWN_HISTORY), -1)
    return tuple(
        Watched(
            title=data.catalogue.titles[state.item_idx[row]],
            genres=_genres(data, int(state.item_idx[row])),
            rating=float(state.rating[row]),
        )
        for row in newest
    )


def _shown(
    data: SystemData, listed: Sequence[RecommendedItem], following: set[int], later: set[int]
) -> tuple[Shown, ...]:
    items = []
    for item in listed[:SHOWN_LIST]:
        outcome = "later" if item.item_idx in later else ""
        items.append(
            Shown(
                title=data.catalogue.titles[item.item_idx],
                genres=_genres(data, item.item_idx),
                score=item.score,
                reason=item.reason,
                sources=item.sources,
                outcome="next" if item.item_idx in following else outcome,
            )
        )
    return tuple(items)


def _genres(data: SystemData, item_idx: int) -> str:
    return ", ".join(data.catalogue.genres[item_idx])
