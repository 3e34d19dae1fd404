"""What a model may see: the train rows as dense arrays, and inner folds of them.

In: an ``InteractionLog`` that holds train rows only. Out: a ``TrainPart`` (three [U, I] arrays),
and folds ``(TrainPart, labels f32[U, I])`` cut inside it, on which every choice is made. Nothing
in this package that fits or chooses takes anything but a train log, so the test part cannot leak.

Dense on purpose: at 943 x 1,682 an array is 6 MB, and every scorer becomes a few lines of algebra.

Legend: U users, I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from ml_platform.data.interactions import InteractionLog

MAX_CELLS = 30_000_000  # 120 MB per f32[U, I] score array; some fifty of them live at a time


@dataclass(frozen=True)
class TrainPart:
    """The train rows as arrays; a cell without a row is 0 in all three.

    Attributes:
        rated: f32[U, I], 1 where the user rated the item.
        rating: f32[U, I].
        timestamp: f64[U, I], Unix seconds.
    """

    rated: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray

    @classmethod
    def of(cls, log: InteractionLog) -> TrainPart:
        """The arrays of a log.

        Raises:
            ValueError: If U x I is too large to be dense.
        """
        shape = (log.n_users, log.n_items)
        if shape[0] * shape[1] > MAX_CELLS:
            raise ValueError(
                f"the published table works on dense arrays; {shape[0]} users x {shape[1]} items "
                f"is over {MAX_CELLS} cells: use movielens-100k"
            )
        cells = (log.user_idx, log.item_idx)
        rated, rating = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        timestamp = np.zeros(shape)
        rated[cells], rating[cells], timestamp[cells] = 1.0, log.rating, log.timestamp
        return cls(rated, rating, timestamp)

    @property
    def shape(self) -> tuple[int, int]:
        """(U, I)."""
        return self.rated.shape[0], self.rated.shape[1]

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """The rated cells as (users, items), for ``top_k``."""
        users, items = np.nonzero(self.rated)
        return users, items

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """``rated`` as csr [U, I], for the fitters of ``ml_algorithms``."""
        return sparse.csr_matrix(self.rated)

    @cached_property
    def popularity(self) -> np.ndarray:
        """f32[I], ratings per item."""
        return self.rated.sum(axis=0)

    @cached_property
    def activity(self) -> np.ndarray:
        """f32[U], ratings per user; 1 for a user without any, who then scores 0 / 1 = 0."""
        return np.maximum(self.rated.sum(axis=1), 1.0)


def inner_folds(
    log: InteractionLog, *, n_folds: int, seed: int
) -> Iterator[tuple[TrainPart, np.ndarray]]:
    """Cuts a train log into folds, each user's rows spread evenly, and yields them in turn.

    With four folds a fold hides 25 % of the rows it is given: the proportions of the outer split.

    Yields:
        The part that stays visible, and the hidden rows as labels f32[U, I].
    """
    rng = np.random.default_rng([seed, n_folds])
    order = np.lexsort((rng.random(len(log)), log.user_idx))
    position = np.arange(len(log)) - np.repeat(log.user_ptr[:-1], np.diff(log.user_ptr))
    first_fold = rng.integers(n_folds, size=log.n_users)  # or fold 0 would always get the odd row
    fold = np.empty(len(log), dtype=np.int64)
    fold[order] = (position + first_fold[log.user_idx]) % n_folds
    for number in range(n_folds):
        hidden = log.select(fold == number)
        labels = np.zeros((log.n_users, log.n_items), np.float32)
        labels[hidden.user_idx, hidden.item_idx] = 1.0
        yield TrainPart.of(log.select(fold != number)), labels


def standardise(scores: np.ndarray, part: TrainPart) -> np.ndarray:
    """Scores [U, I] as z-scores within each user's unseen items, f32[U, I].

    A model refitted on more rows scores on another scale; ranks and z-scores survive the change,
    which is what lets a stack trained on folds be applied to models of the whole train part.
    """
    unseen = part.rated == 0
    count = np.maximum(unseen.sum(axis=1, keepdims=True), 1)
    mean = np.where(unseen, scores, 0.0).sum(axis=1, keepdims=True) / count
    variance = np.where(unseen, (scores - mean) ** 2, 0.0).sum(axis=1, keepdims=True) / count
    return ((scores - mean) / np.sqrt(variance + 1e-12)).astype(np.float32)
