"""Plain facts about a user, an item and their pair, as inputs of the stack.

In: ``TrainPart`` and ``Side`` (years, genres, ages: facts that no rating tells). Out: dict of
f32 arrays that broadcast to [U, I]: [U, 1] for a user's fact, [1, I] for an item's, [U, I] for
a pair's. Everything counted is counted in the train part; averages are shrunk by five
pseudo-counts.

Legend: U users, I items, G genres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.data.datasets import Dataset
from video_recommendation.published_table.time_scorers import SECONDS_PER_DAY
from video_recommendation.published_table.train_part import TrainPart

PSEUDO_COUNT = 5.0


@dataclass(frozen=True)
class Side:
    """What is known of items and users apart from ratings.

    Attributes:
        year: f32[I], release year, the catalogue's median where unknown.
        genres: f32[I, G], 1 where the item has the genre.
        age: f32[U], the users' median where unknown.
        is_female: f32[U].
    """

    year: np.ndarray
    genres: np.ndarray
    age: np.ndarray
    is_female: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> Side:
        """The side information of a data set, rows in the order of the interaction log."""
        genres = dataset.items["genres"].str.get_dummies("|").to_numpy(np.float32)
        return cls(
            year=_median_for(dataset.items["year"].to_numpy(np.float32), unknown=0.0),
            genres=genres,
            age=_median_for(dataset.users["age"].to_numpy(np.float32), unknown=-1.0),
            is_female=(dataset.users["gender"] == "F").to_numpy(np.float32),
        )


def context_features(part: TrainPart, side: Side) -> dict[str, np.ndarray]:
    """Facts without time, by name."""
    rated, count = part.rated, part.popularity + PSEUDO_COUNT
    activity = part.activity[:, None]
    genre_share = side.genres / np.maximum(side.genres.sum(axis=1, keepdims=True), 1.0)
    mean_star = part.rating.sum() / rated.sum()

    def item_mean(values: np.ndarray) -> np.ndarray:
        return ((values @ rated + PSEUDO_COUNT * values.mean()) / count)[None, :]

    facts = {
        "user_log_ratings": np.log(activity),
        "user_mean_star": (part.rating.sum(axis=1, keepdims=True) + PSEUDO_COUNT * mean_star)
        / (activity + PSEUDO_COUNT),
        "user_mean_popularity": (rated @ np.log1p(part.popularity))[:, None] / activity,
        "user_mean_year": (rated @ side.year)[:, None] / activity,
        "user_age": side.age[:, None],
        # A share, not a count: counts grow by a third when the folds' part becomes the whole.
        "item_share": (part.popularity / rated.sum())[None, :],
        "item_mean_star": ((part.rating.sum(axis=0) + PSEUDO_COUNT * mean_star) / count)[None, :],
        "item_year": side.year[None, :],
        "item_mean_age": item_mean(side.age),
        "item_share_female": item_mean(side.is_female),
        "genre_affinity": (rated @ side.genres / activity) @ genre_share.T,
    }
    return {name: values.astype(np.float32) for name, values in facts.items()}


def time_context_features(part: TrainPart) -> dict[str, np.ndarray]:
    """Facts from the timestamps of the train rows, in days, by name."""
    user_first, user_last = (edge[:, None] for edge in _first_and_last(part, axis=1))
    # An item or a user without train rows has no first and last: NaN, "missing" to LightGBM.
    item_first, item_last = (edge[None, :] for edge in _first_and_last(part, axis=0))
    facts = {
        "user_span_days": user_last - user_first,
        "since_item_first_days": user_last - item_first,
        "until_item_last_days": item_last - user_first,
    }
    return {name: (days / SECONDS_PER_DAY).astype(np.float32) for name, days in facts.items()}


def _first_and_last(part: TrainPart, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
    seen = part.rated > 0
    first = np.where(seen, part.timestamp, np.inf).min(axis=axis)
    last = np.where(seen, part.timestamp, -np.inf).max(axis=axis)
    known = seen.any(axis=axis)
    return np.where(known, first, np.nan), np.where(known, last, np.nan)


def _median_for(values: np.ndarray, *, unknown: float) -> np.ndarray:
    known = values[values != unknown]
    return np.where(values == unknown, np.median(known) if len(known) else 0.0, values)
