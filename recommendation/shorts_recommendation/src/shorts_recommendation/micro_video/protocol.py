"""The published protocol: top 20 of the full catalogue, train rows masked, one hidden video a user.

In: a ``Scorer`` and ``Queries``. Out: ``Measured``: recall, NDCG and precision at k, one value a
user.

As in the code of DiffMM (github.com/HKUDS/DiffMM, ``Main.py`` and ``DataHandler.py``): every user
with a test pair is asked, those without train rows too; only train rows are masked, validation
pairs are not (no user has both a validation and a test pair: masking them would change nothing).

One departure: what chooses. DiffMM's code keeps the epoch with the best *test* recall and never
opens the validation file. MMSSL's, whose table ``published`` cites, does the same
(github.com/HKUDS/MMSSL, ``MMSSL/main.py``, ``Trainer.train``: it lists the validation users, asks
the test users after every epoch and stops by their recall). Here every choice is made on the
validation users, and the test users are asked once. A maximum over epochs is too high; by how much,
and how the baselines of that table were chosen, its source does not say.

Ties are broken by one fixed permutation of the catalogue.

Legend: B users of a block, V videos, Q queries, k list length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse

from ml_platform.evaluation.ranking_metrics import hit_matrix, ndcg_at, precision_at, recall_at
from ml_platform.evaluation.top_k import top_k
from shorts_recommendation.micro_video.split import Queries

Scorer: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""user_idx [B] to scores f32[B, V] of the whole catalogue, nothing masked."""

METRICS = ("recall", "ndcg", "precision")
BLOCK = 1024


@dataclass(frozen=True)
class Measured:
    """recall, ndcg, precision f64[Q], one a user; lists i32[Q, k]."""

    recall: np.ndarray
    ndcg: np.ndarray
    precision: np.ndarray
    lists: np.ndarray


def recommend(scorer: Scorer, train: sparse.csr_matrix, users: np.ndarray, k: int) -> np.ndarray:
    """Lists i32[Q, k] of the full catalogue without the users' train rows, best first."""
    blocks = []
    for begin in range(0, len(users), BLOCK):
        block = users[begin : begin + BLOCK]
        seen = train[block].nonzero()
        blocks.append(top_k(scorer(block), k, seen=(seen[0], seen[1]))[0])
    return np.concatenate(blocks)


def measure_lists(lists: np.ndarray, queries: Queries, k: int) -> Measured:
    """Metrics of lists i32[Q, k]."""
    one = np.ones(len(queries), dtype=np.int64)
    hits = hit_matrix(lists, np.arange(len(queries) + 1), queries.video_idx)
    return Measured(recall_at(hits, one, k), ndcg_at(hits, one, k), precision_at(hits, k), lists)


def measure(scorer: Scorer, train: sparse.csr_matrix, queries: Queries, k: int) -> Measured:
    """Recommends to the queries' users and looks where their hidden video stands."""
    return measure_lists(recommend(scorer, train, queries.user_idx, k), queries, k)


@dataclass(frozen=True)
class Tuned:
    """What won on the validation users.

    Attributes:
        scorer: The winner, fitted.
        setting: Its knobs, in words.
        validation_recall: Mean recall@k of the winner there: chosen as a maximum, so too high.
        tried: How many settings were tried.
    """

    scorer: Scorer
    setting: str
    validation_recall: float
    tried: int


def tune(
    fits: Sequence[tuple[str, Callable[[], Scorer]]],
    train: sparse.csr_matrix,
    queries: Queries,
    k: int,
) -> Tuned:
    """Fits every setting, keeps the one with the best recall@k on the (validation) queries.

    Args:
        fits: (setting in words, function that fits it); of equals the first wins.
        train: What is masked.
        queries: Validation users.
        k: List length.

    Raises:
        ValueError: If there is nothing to try.
    """
    if not fits:
        raise ValueError("an empty grid: give at least one setting")
    best = Tuned(lambda users: users, "", -1.0, len(fits))
    for setting, fit in fits:
        scorer = fit()
        value = float(measure(scorer, train, queries, k).recall.mean())
        if value > best.validation_recall:
            best = Tuned(scorer, setting, value, len(fits))
    return best
