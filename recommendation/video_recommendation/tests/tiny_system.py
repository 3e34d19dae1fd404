"""A real system, small enough for every test: all parts trained, none of them good.

Run as a program it writes a bundle: ``tiny_system.py FOLDER``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from video_recommendation.bundle import save_bundle
from video_recommendation.config import Config
from video_recommendation.data import SystemData, load_data
from video_recommendation.pipeline import Trained, train_system

TINY = Config.model_validate(
    {
        "name": "tiny",
        "quick": True,
        "data": {
            "dataset": "synthetic",
            "synthetic": {"n_users": 200, "n_items": 300, "n_interactions": 12_000, "days": 120},
        },
        "two_tower": {
            "embedding_dim": 16,
            "history_length": 20,
            "batch_size": 1024,
            "max_epochs": 1,
        },
        "item_item": {"neighbours": 50},
        "retrieval": {
            "two_tower": 60,
            "co_visitation": 40,
            "ease": 30,
            "recent_popularity": 20,
            "fresh": 10,
        },
        "ranking": {
            "prerank_keep": 60,
            "min_rows_in_leaf": 20,
            "max_trees": 10,
            "mmoe_epochs": 1,
        },
        "reranking": {"exploration_slot": 2},
    }
)


@dataclass(frozen=True)
class TinySystem:
    """The trained system, all of its data (the test window too), and its bundle."""

    data: SystemData
    trained: Trained
    bundle: Path


def build_tiny_system(folder: Path) -> TinySystem:
    """Trains and saves; the bundle knows the events before the test window."""
    data = load_data(TINY.data)
    trained = train_system(data, TINY)
    save_bundle(trained.recommender, folder / "bundle")
    return TinySystem(data, trained, folder / "bundle")


if __name__ == "__main__":
    print(build_tiny_system(Path(sys.argv[1])).bundle)
