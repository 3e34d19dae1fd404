"""A server that starts in a second: the real service over a recommender without models.

Everything that a kill or a broken store can hurt is the real thing: uvicorn, the app, the engine,
the event log, the embedded store, the request log, the deployment that follows a registry. Only
the models are absent: 200 items are ranked by live popularity, the seen ones left out. A server
with the full bundle spends its start on importing and loading; fifty of those would take minutes.

    python -m video_recommendation.reliability.light_server FOLDER --data-dir D --port P
    python -m video_recommendation.reliability.light_server --registry R --data-dir D --port P
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from feature_engineering.counters import EventCounter
from ml_platform.operations.registry import ModelRegistry
from ml_platform.serving.stages import RequestStages
from video_recommendation.reliability.versions import VersionMark, check_light, light_mark
from video_recommendation.serving.deployment import follow_registry
from video_recommendation.serving.engine import ServingSettings
from video_recommendation.serving.protocol import RecommendedItem, UserState
from video_recommendation.serving.server import serve

LIGHT_USERS = 20
DATA_END = 893_286_638  # the last second of MovieLens-100K


class LightCatalogue:
    """Items named by their ids."""

    def __init__(self, item_ids: Sequence[int]) -> None:
        self.item_ids = np.array(item_ids, np.int64)
        self.titles = [f"Film {item_id}" for item_id in item_ids]
        self.genres: list[tuple[str, ...]] = [() for _ in item_ids]
        self.years = np.zeros(len(item_ids), np.int16)
        self._place = {item_id: place for place, item_id in enumerate(item_ids)}

    def item_idx(self, item_id: int) -> int | None:
        """Internal index, or None."""
        return self._place.get(item_id)


class LightRecommender:
    """Ranks by live popularity. See `serving.protocol.Recommender`.

    Users 1 to LIGHT_USERS have seen the first two items; item i has I - i training events.
    """

    def __init__(self, mark: VersionMark) -> None:
        self.version = mark.version
        self.data_end = DATA_END
        self.trained_through: Mapping[str, int] = {}
        self.catalogue = LightCatalogue(mark.item_ids)
        self._exploration_place = mark.exploration_place

    def history(self, user_id: int) -> UserState:
        """Two items for the known users."""
        if not 1 <= user_id <= LIGHT_USERS:
            return UserState.empty()
        when = np.array([DATA_END - 2, DATA_END - 1], np.int64)
        return UserState(np.array([0, 1], np.int32), np.full(2, 4, np.float32), when)

    def training_events(self) -> tuple[np.ndarray, np.ndarray]:
        """I - i events of item i."""
        n = len(self.catalogue.item_ids)
        item_idx = np.repeat(np.arange(n, dtype=np.int32), np.arange(n, 0, -1))
        return item_idx, DATA_END - len(item_idx) + np.arange(len(item_idx), dtype=np.int64)

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
        """The most popular unseen items; one place is marked as exploring."""
        del user_id, surface

        def rank() -> list[RecommendedItem]:
            popularity = counter.before(np.arange(counter.n_items), now).astype(np.float64)
            popularity[np.concatenate([state.item_idx, exclude])] = -1.0
            order = np.argsort(-popularity, kind="stable")[:k]
            return [
                RecommendedItem(
                    int(item),
                    float(popularity[item]),
                    "Popular this month",
                    ("popularity",),
                    exploration=place == self._exploration_place,
                    propensity=1.0 if place == self._exploration_place else None,
                )
                for place, item in enumerate(order)
            ]

        return stages.run("rank", rank)

    def similar(self, item_idx: int, k: int) -> Sequence[RecommendedItem]:
        """The next items by index."""
        after = range(item_idx + 1, min(item_idx + 1 + k, len(self.catalogue.item_ids)))
        return [RecommendedItem(i, -float(i), "Near it", ("nearest",)) for i in after]


def load_light(folder: Path) -> LightRecommender:
    """The recommender of a light bundle."""
    return LightRecommender(light_mark(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line, the same as that of ``serving.run``."""
    parser = argparse.ArgumentParser(description="Serve the light recommender.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--registry", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    registry = ModelRegistry(options.registry, check_light) if options.registry else None
    folder = options.folder or (registry.path("production") if registry else None)
    if folder is None:
        parser.error("name the folder of a light bundle, or --registry")
    settings = ServingSettings(options.data_dir, redis_url=os.environ.get("REDIS_URL") or None)
    attach = [follow_registry(registry, load_light)] if registry else []
    serve(load_light(folder), settings, port=options.port, attach=attach)


if __name__ == "__main__":
    main()
