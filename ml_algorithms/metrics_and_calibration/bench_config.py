"""The knobs of the study of metrics, and the data its parts share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.scoring import score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.study_data import next_events, study_dataset
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.data.schema import Dataset

SMALL = SyntheticConfig(n_users=150, n_items=200, n_interactions=8000)


class Config(BaseModel):
    """Sizes of the study; the defaults are the full run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "movielens-100k"
    queries: int = 3000
    ease_reg: float = 300.0
    neighbours: int = 20
    sampled: tuple[int, ...] = (10, 20, 50, 100, 200, 400, 800, 1200)
    bootstrap: int = 500
    # Calibration.
    calibration_sizes: tuple[int, ...] = (100, 300, 1000, 3000, 10000)
    calibration_seeds: int = 10
    bins: int = 15
    kept_negatives: float = 0.2
    trees: int = 300
    null_draws: int = 40


def load(config: Config) -> Dataset:
    """The data set, or what to do to get it.

    Raises:
        MissingInputError: If no source has it.
    """
    return study_dataset(config.dataset, small=SMALL)


@dataclass(frozen=True)
class Ranking:
    """Queries of the last tenth of time, and the scores of several models for them.

    Attributes:
        scores: By model, f32[Q, I].
        seen: Rows and items of the histories, to be masked.
        relevant: Ragged: ptr i64[Q + 1], items.
        users: i[Q].
        popularity: i[I], ratings in the past.
        n_past_users: Users with a rating in the past.
        protocol: How it was split.
    """

    scores: dict[str, np.ndarray]
    seen: tuple[np.ndarray, np.ndarray]
    relevant: tuple[np.ndarray, np.ndarray]
    users: np.ndarray
    popularity: np.ndarray
    n_past_users: int
    protocol: str

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.popularity)


def rank_all(data: Dataset, config: Config, seed: int) -> Ranking:
    """Fits popularity, EASE and item neighbours on the past and scores the queries."""
    events = next_events(data, queries=config.queries, seed=seed)
    past, ptr, items = events.past, events.ptr, events.history
    size, users = len(events.queries), events.queries.user_idx
    matrix = past.matrix()
    popularity = np.bincount(past.item_idx, minlength=past.n_items)
    ease = fit_ease(matrix, reg=config.ease_reg)
    knn = fit_item_knn(matrix, neighbours=config.neighbours, shrink=10.0)
    last = np.maximum(ptr[1:] - 1, ptr[:-1])
    last_ptr = np.concatenate([[0], np.cumsum(ptr[1:] > ptr[:-1])])
    last_item = items[last[ptr[1:] > ptr[:-1]]]
    scores = {
        "popularity": np.tile(popularity.astype(np.float32), (size, 1)),
        "ease": score_histories(ease, items, ptr),
        "item_knn": score_histories(knn, items, ptr),
        "last_film": score_histories(knn, last_item, last_ptr),
    }
    protocol = (
        f"{data.name}: {size} next-event queries of {len(np.unique(users))} users in "
        f"the last 10% of time, live histories, full catalogue of {past.n_items}, seen masked"
    )
    return Ranking(
        scores, events.seen, events.relevant, users,
        popularity, len(np.unique(past.user_idx)), protocol,
    )  # fmt: skip
