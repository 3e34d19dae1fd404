"""A world and a system small enough to train within seconds, for tests that need real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from shorts_recommendation.bundle import save_bundle
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData, load_data
from shorts_recommendation.pipeline import Trained, train_system

TINY = Config.model_validate(
    {
        "name": "tiny",
        "quick": True,
        "world": {
            "n_users": 150,
            "n_videos": 900,
            "impressions_per_user": 40,
            "n_tags": 16,
            "days": 6,
            "n_shocks": 4,
        },
        "data": {"train_days": 3, "validation_days": 1},
        "two_tower": {"epochs": 1, "n_uniform": 128, "batch_size": 128, "embedding_dim": 16},
        "ranking": {
            "epochs": 1,
            "n_layers": 2,
            "d_model": 32,
            "trees": 20,
            "tree_rows": 4000,
            "distil_requests": 60,
        },
        "evaluation": {"queries": 60, "resamples": 100},
    }
)


@dataclass(frozen=True)
class TinySystem:
    """A trained system and where its bundle is; tests must not change it."""

    config: Config
    data: ShortsData
    trained: Trained
    bundle: Path


def build_tiny_system(folder: Path) -> TinySystem:
    torch.set_num_threads(1)
    data = load_data(TINY, cache_dir=folder / "cache")
    trained = train_system(data, TINY)
    save_bundle(trained.recommender, folder / "bundle", trained.reference)
    return TinySystem(TINY, data, trained, folder / "bundle")
