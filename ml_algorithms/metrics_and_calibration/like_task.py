"""A classification task from ratings, cut by time: will this user give this film 4 or more?

In: a data set of ratings. Out: ``LikeTask``: features, labels and users of three windows that
follow each other: one to train a model, one to calibrate it, one to test. The counters behind the
features come from a window before all three, so that no row's label is in its own features.

Legend: N rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml_platform.data.schema import Dataset, genre_flags

LIKED = 4.0
WINDOWS = (0.5, 0.7, 0.85)  # counters before 50% of the rows; train, calibration, test after it
PRIOR_ROWS = 5.0  # a like rate counts as if this many rows of the base rate had been seen before


@dataclass(frozen=True)
class Window:
    """Rows of one window: features f[N, F], labels i[N] of 0 and 1, users i[N]."""

    features: np.ndarray
    labels: np.ndarray
    users: np.ndarray


@dataclass(frozen=True)
class LikeTask:
    """Train, calibration and test windows, and the base rate of the time before."""

    train: Window
    calibration: Window
    test: Window
    base_rate: float


def build_like_task(data: Dataset) -> LikeTask:
    """The windows; rows in order of time."""
    rows = data.interactions.sort_values(["timestamp", "user_id", "item_id"], kind="stable")
    rows = rows.assign(liked=(rows["rating"] >= LIKED).astype(np.int64))
    cuts = [int(share * len(rows)) for share in WINDOWS]
    past = rows.iloc[: cuts[0]]
    base = float(past["liked"].mean())
    features = _features(rows, past, data, base)
    ends = [*cuts, len(rows)]
    windows = [
        Window(
            features[begin:end],
            rows["liked"].to_numpy()[begin:end],
            rows["user_id"].to_numpy()[begin:end],
        )
        for begin, end in zip(ends, ends[1:], strict=False)
    ]
    train, calibration, test = windows
    return LikeTask(train, calibration, test, base)


def _features(rows: pd.DataFrame, past: pd.DataFrame, data: Dataset, base: float) -> np.ndarray:
    """Like rates and counts of user and film, the film's year, age, gender, genres. [N, F]."""
    columns = []
    for key in ("user_id", "item_id"):
        ones, count = (
            rows[key].map(past.groupby(key)["liked"].agg(how)) for how in ("sum", "size")
        )
        ones, count = ones.fillna(0.0), count.fillna(0.0)
        columns.append((ones + PRIOR_ROWS * base) / (count + PRIOR_ROWS))
        columns.append(np.log1p(count))
    items = data.items.set_index("item_id")
    users = data.users.set_index("user_id")
    columns.append(rows["item_id"].map(items["year"]).astype(float))
    columns.append(rows["user_id"].map(users["age"]).astype(float))
    columns.append((rows["user_id"].map(users["gender"]) == "F").astype(float))
    genres = genre_flags(data)[1][items.index.get_indexer(rows["item_id"])]
    columns.append(genres.sum(axis=1) == 0)  # a film that the catalogue says nothing about
    return np.concatenate([np.stack([np.asarray(c) for c in columns], axis=1), genres], axis=1)
