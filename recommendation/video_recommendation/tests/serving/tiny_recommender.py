"""The smallest recommender that satisfies the Protocol: it really ranks, by live popularity.

Run as a program it serves itself: ``tiny_recommender.py DATA_DIR PORT``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from feature_engineering.counters import EventCounter
from ml_platform.serving.stages import RequestStages, Step
from video_recommendation.serving.protocol import RecommendedItem, UserState

N_ITEMS = 60
N_USERS = 20
DATA_END = 893_286_638  # the last second of MovieLens-100K
GENRES = (("Action",), ("Comedy",), ("Action", "Comedy"), ())


class TinyCatalogue:
    """External id = 10 x internal index + 1."""

    def __init__(self) -> None:
        self.item_ids = np.arange(N_ITEMS, dtype=np.int64) * 10 + 1
        self.titles = [f"Film {i}" for i in range(N_ITEMS)]
        self.genres = [GENRES[i % 4] for i in range(N_ITEMS)]
        self.years = np.full(N_ITEMS, 1990, np.int16)
        self.years[3] = 0

    def item_idx(self, item_id: int) -> int | None:
        position, rest = divmod(item_id - 1, 10)
        return position if rest == 0 and 0 <= position < N_ITEMS else None


class TinyRecommender:
    """Item i has 60 - i training events in the last days: item 0 is the most popular.

    User u (1..20) has seen items 0 .. u % 5. `fail` makes a method raise that error.
    """

    version = "tiny-1"
    data_end = DATA_END

    def __init__(self) -> None:
        self.catalogue = TinyCatalogue()
        self.trained_through: dict[str, int] = {}
        self.fail: dict[str, Exception] = {}

    def history(self, user_id: int) -> UserState:
        if not 1 <= user_id <= N_USERS:
            return UserState.empty()
        n = user_id % 5 + 1
        when = DATA_END - 1000 + np.arange(n, dtype=np.int64)
        return UserState(np.arange(n, dtype=np.int32), np.full(n, 4, np.float32), when)

    def training_events(self) -> tuple[np.ndarray, np.ndarray]:
        item_idx = np.repeat(np.arange(N_ITEMS, dtype=np.int32), np.arange(N_ITEMS, 0, -1))
        when = DATA_END - len(item_idx) + np.arange(len(item_idx), dtype=np.int64)
        return item_idx, when

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
        self._maybe_fail("recommend")
        popularity = counter.before(np.arange(N_ITEMS), now)
        candidates = np.setdiff1d(np.arange(N_ITEMS), np.concatenate([state.item_idx, exclude]))

        def rank() -> list[int]:
            self._maybe_fail("rank")
            taste = np.zeros(N_ITEMS)
            for i, rating in zip(state.item_idx.tolist(), state.rating.tolist(), strict=True):
                taste[i % 4 :: 4] += rating - 3  # like what shares the last two bits
            score = popularity[candidates] + taste[candidates]
            return candidates[np.argsort(-score, kind="stable")].tolist()

        order = stages.ladder(Step("rank", rank), Step("prerank", candidates.tolist))
        return [
            RecommendedItem(i, float(popularity[i]), "Popular this month", ("popularity",))
            for i in order[:k]
        ]

    def similar(self, item_idx: int, k: int) -> Sequence[RecommendedItem]:
        self._maybe_fail("similar")
        near = sorted((abs(i - item_idx), i) for i in range(N_ITEMS) if i != item_idx)
        return [RecommendedItem(i, -float(d), "Near it", ("nearest",)) for d, i in near[:k]]

    def _maybe_fail(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]


if __name__ == "__main__":
    from video_recommendation.serving.engine import ServingSettings
    from video_recommendation.serving.server import serve

    serve(TinyRecommender(), ServingSettings(Path(sys.argv[1])), port=int(sys.argv[2]))
