"""Two labels per rating, for multi-task models on movie data.

In: a `Dataset`. Out: rows with indices, genres and two labels, cut by time.

    liked     the rating is 4 or more
    stays     the user's next rated film shares a genre with this one

Both are about one row, one about satisfaction and one about what comes next: a small cousin of a
"watch next" ranker's heads. A user's last rating before a cut has no known successor and is left
out of that window, so that no label looks past the cut.

Legend: N rows, G genres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml_platform.data.interactions import build_interaction_log
from ml_platform.data.schema import Dataset, genre_flags
from ml_platform.data.splits import temporal_windows


@dataclass(frozen=True)
class MovieRows:
    """One window's rows.

    Attributes:
        user: i64[N].
        item: i64[N].
        genres: f[N, G], many-hot.
        labels: f[N, 2], liked and stays.
    """

    user: Tensor
    item: Tensor
    genres: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class MovieTasks:
    """The three windows and the sizes of the vocabularies."""

    train: MovieRows
    validation: MovieRows
    test: MovieRows
    n_users: int
    n_items: int

    @property
    def n_genres(self) -> int:
        """G."""
        return self.train.genres.shape[1]


def movie_tasks(dataset: Dataset, *, seed: int = 0, limit: int | None = None) -> MovieTasks:
    """Label the ratings and cut them 80 / 10 / 10 by time.

    Args:
        dataset: Movies with genres.
        seed: Of the order of ratings within the same second.
        limit: At most so many rows for each window, drawn at random; None: all.

    Raises:
        ValueError: If a window is left without rows.
    """
    log = build_interaction_log(dataset, seed=seed)
    genres = genre_flags(dataset)[1].astype(np.float32)
    n = len(log)
    same_user = log.user_idx[1:] == log.user_idx[:-1]
    shares = (genres[log.item_idx[1:]] * genres[log.item_idx[:-1]]).sum(axis=1) > 0
    cuts = temporal_windows(log.timestamp)
    window = np.searchsorted([cuts.train_end, cuts.validation_end], log.timestamp, side="right")
    has_next = np.append(same_user & (window[1:] == window[:-1]), False)
    stays = np.append(shares, False)
    labels = np.stack([log.rating >= 4.0, stays], axis=1).astype(np.float32)
    rng = np.random.default_rng(seed)
    parts = []
    for index in range(3):
        rows = np.flatnonzero(has_next & (window == index))
        if not len(rows):
            raise ValueError(f"window {index} of {dataset.name} has no rows among {n}")
        if limit is not None and len(rows) > limit:
            rows = np.sort(rng.choice(rows, limit, replace=False))
        parts.append(
            MovieRows(
                torch.from_numpy(log.user_idx[rows].astype(np.int64)),
                torch.from_numpy(log.item_idx[rows].astype(np.int64)),
                torch.from_numpy(genres[log.item_idx[rows]]),
                torch.from_numpy(labels[rows]),
            )
        )
    train, validation, test = parts
    return MovieTasks(train, validation, test, n_users=log.n_users, n_items=log.n_items)
