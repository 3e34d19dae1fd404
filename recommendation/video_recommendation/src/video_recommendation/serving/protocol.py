"""What the API needs from a recommender: a catalogue, training histories and two methods.

The shell passes live state in and gets ranked items out; it never looks at models. Legend: I items
of the catalogue, L events of one user, N training events, K list length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from feature_engineering.counters import EventCounter
from ml_platform.serving.stages import RequestStages


@dataclass(frozen=True)
class UserState:
    """History of one user, oldest first, each item once.

    Attributes:
        item_idx: i32[L].
        rating: f32[L], 0.5 to 5; implicit events carry the values of `state.py`.
        timestamp: i64[L], Unix seconds.
    """

    item_idx: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray

    @staticmethod
    def empty() -> UserState:
        """No history: a cold user."""
        return UserState(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.item_idx)


class Catalogue(Protocol):
    """The items of the bundle; internal index i stands for external id `item_ids[i]`."""

    @property
    def item_ids(self) -> np.ndarray:
        """i64[I]."""

    @property
    def titles(self) -> Sequence[str]:
        """I titles."""

    @property
    def genres(self) -> Sequence[tuple[str, ...]]:
        """Genres of each of the I items; () for none."""

    @property
    def years(self) -> np.ndarray:
        """i16[I], 0 for unknown."""

    def item_idx(self, item_id: int) -> int | None:
        """Internal index of an external id; None when the bundle does not know it."""


@dataclass(frozen=True)
class RecommendedItem:
    """One item of an answer.

    Attributes:
        item_idx: Internal index.
        score: Comparable within one response only.
        reason: One sentence for the user.
        sources: Names of the candidate sources that proposed it.
        exploration: Whether it fills the exploration slot.
        propensity: Probability with which it was chosen for that slot.
        features: f32[F], what the ranker saw of it; None where the ranker did not run.
        features_as_of: Unix seconds, the minute that its stored features stand for; -1 where
            defaults stood in for them.
    """

    item_idx: int
    score: float
    reason: str
    sources: tuple[str, ...]
    exploration: bool = False
    propensity: float | None = None
    features: np.ndarray | None = field(default=None, compare=False)
    features_as_of: int = -1


class Recommender(Protocol):
    """The request path of one bundle. Called from several threads at once."""

    version: str
    """Names the bundle; derived state in the store is keyed by it."""
    data_end: int
    """Last timestamp of the training log: where the server's clock starts."""

    @property
    def trained_through(self) -> Mapping[str, int]:
        """By id of an event log, the last sequence number that is in the training log.

        Live state begins after it, or such events would count twice.
        """

    @property
    def catalogue(self) -> Catalogue:
        """The items it knows."""

    def history(self, user_id: int) -> UserState:
        """The user's events in the training log; empty for a user it does not know."""

    def training_events(self) -> tuple[np.ndarray, np.ndarray]:
        """All training events as (item_idx i32[N], timestamp i64[N]), ordered by timestamp."""

    def recommend(
        self,
        *,
        user_id: int,
        state: UserState,
        now: int,
        k: int,
        exclude: np.ndarray,
        counter: EventCounter,
        stages: RequestStages,
        surface: str,
    ) -> Sequence[RecommendedItem]:
        """Rank up to k items for a user.

        Args:
            user_id: External id, possibly unknown.
            state: Live history; empty for a cold user.
            now: Unix seconds in the data's own era, after the last event of ``state``.
            k: Most items to return.
            exclude: i32, items that must not appear (the seen filter is the recommender's).
            counter: Item events so far, those of training and live ones.
            stages: Runs the stages: budgets, fallbacks, timings and degradations.
            surface: Where the list is shown.
        """

    def similar(self, item_idx: int, k: int) -> Sequence[RecommendedItem]:
        """Up to k items most similar to one; the item itself is left out."""
