"""The study's data and yardstick: a split, lists from scores, metrics a user.

In: a configuration. Out: ``Split`` (train and test as csr [U, I], with ratings beside), top-k lists
i32[U, K] and values per user.

The protocol is that of the published comparison on MovieLens-100K by the recommenders team: a
random quarter of each user's ratings is hidden, every rating counts as relevant, all items that
the user has not rated in train are ranked. ``splits.py`` of ml_platform says why such a split
flatters every model alike: it knows the future. It is used here because it has a published row.

Legend: U users, I items, K list length, T users with test rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import sparse

from ml_algorithms.study_data import study_dataset
from ml_platform.data.interactions import InteractionLog, build_interaction_log
from ml_platform.data.schema import Dataset
from ml_platform.data.splits import stratified_random_split
from ml_platform.data.synthetic import SyntheticConfig
from ml_platform.evaluation.ranking_metrics import hit_matrix, ndcg_at, recall_at
from ml_platform.evaluation.top_k import top_k

SMALL = SyntheticConfig(n_users=120, n_items=150, n_interactions=5_000)
TUNING_SEED = 0  # its split is never reported
TEST_FRACTION = 0.25
K = 10


@dataclass(frozen=True)
class Split:
    """Train and test of one seed.

    Attributes:
        train: csr f32[U, I], ones.
        train_ratings: csr f32[U, I], the stars of the same pairs.
        test: csr f32[U, I], the stars of the hidden pairs.
    """

    train: sparse.csr_matrix
    train_ratings: sparse.csr_matrix
    test: sparse.csr_matrix

    @property
    def users(self) -> np.ndarray:
        """i64[T], users with something hidden."""
        return np.flatnonzero(np.diff(self.test.indptr))


@cache
def dataset_of(name: str) -> Dataset:
    """The data set by name; generated data are small.

    Raises:
        MissingInputError: If no source has it.
    """
    return study_dataset(name, small=SMALL)


@cache
def log_of(name: str) -> InteractionLog:
    """The data set as one user-major log."""
    return build_interaction_log(dataset_of(name))


@cache
def split_of(name: str, seed: int) -> Split:
    """The outer split of a seed."""
    log = log_of(name)
    return _split(log, stratified_random_split(log, test_fraction=TEST_FRACTION, seed=seed))


@cache
def tuning_split_of(name: str) -> Split:
    """A split inside the train part of the tuning seed: what settings are chosen on."""
    log = log_of(name)
    outer = stratified_random_split(log, test_fraction=TEST_FRACTION, seed=TUNING_SEED)
    inner = log.select(~outer)
    return _split(
        inner, stratified_random_split(inner, test_fraction=TEST_FRACTION, seed=TUNING_SEED + 100)
    )


def lists_of(scores: np.ndarray, train: sparse.csr_matrix, k: int = K) -> np.ndarray:
    """The k best unseen items of every row, i32[U, K]."""
    rows = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    return top_k(scores, k, seen=(rows, train.indices))[0]


def ndcg(lists: np.ndarray, split: Split) -> np.ndarray:
    """nDCG@K of each user with test rows, f64[T]."""
    hits, n_relevant = _hits(lists, split)
    return ndcg_at(hits, n_relevant, lists.shape[1])


def recall(lists: np.ndarray, split: Split) -> np.ndarray:
    """Recall@K of each user with test rows, f64[T]."""
    hits, n_relevant = _hits(lists, split)
    return recall_at(hits, n_relevant, lists.shape[1])


def _hits(lists: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
    counts = np.diff(split.test.indptr)
    users = split.users
    ptr = np.concatenate(([0], np.cumsum(counts[users])))
    return hit_matrix(lists[users], ptr, split.test.indices), counts[users]


def _split(log: InteractionLog, hidden: np.ndarray) -> Split:
    train, test = log.select(~hidden), log.select(hidden)
    return Split(
        train=train.matrix(),
        train_ratings=train.matrix(values=train.rating),
        test=test.matrix(values=test.rating),
    )
