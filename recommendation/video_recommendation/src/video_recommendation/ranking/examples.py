"""Training rows of the rankers: what the candidate generators proposed, and what happened next.

In: the queries of a window, a retriever that was fitted before that window. Out: ``Examples``, the
candidates of every query with their features and graded labels.

Two rules keep it honest. The window is later than everything the retriever has seen, so the scores
in the features are as uncertain as they will be at serving; a ranker trained on the retriever's own
training events learns to trust scores that have memorised the answer. And a relevant item that no
source proposed is not added to the pool: at serving it would not be there either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries
from video_recommendation.requests import RequestBatch, batch_of_queries
from video_recommendation.retrieval.sources import Candidates

BLOCK = 512
"""Requests at a time: bounds the dense score blocks to BLOCK x I floats."""


@dataclass(frozen=True)
class Examples:
    """Rows of Q queries; row r of query q lies in ptr[q] <= r < ptr[q + 1].

    Attributes:
        ptr: i64[Q + 1].
        features: f32[C, F].
        prerank_features: f32[C, P].
        watched: bool[C].
        rating: f32[C], the rating given, 0 where not watched.
        item_idx: i32[C].
    """

    ptr: np.ndarray
    features: np.ndarray
    prerank_features: np.ndarray
    watched: np.ndarray
    rating: np.ndarray
    item_idx: np.ndarray

    @property
    def group(self) -> np.ndarray:
        """Rows per query, as LightGBM wants them."""
        return np.diff(self.ptr)

    @property
    def owner(self) -> np.ndarray:
        """i64[C]: the query of every row."""
        return np.repeat(np.arange(len(self.ptr) - 1), self.group)

    def grade(self, like_threshold: float) -> np.ndarray:
        """i64[C]: 0 not watched, 1 watched, 2 watched and liked."""
        return self.watched.astype(np.int64) + (self.rating >= like_threshold)

    def take(self, rows: np.ndarray) -> Examples:
        """A selection of rows (ascending); queries without rows stay, with none."""
        counts = np.bincount(self.owner[rows], minlength=len(self.ptr) - 1)
        return Examples(
            ptr=np.concatenate(([0], np.cumsum(counts))),
            features=self.features[rows],
            prerank_features=self.prerank_features[rows],
            watched=self.watched[rows],
            rating=self.rating[rows],
            item_idx=self.item_idx[rows],
        )

    def queries(self, begin: int, end: int) -> Examples:
        """The rows of queries begin..end."""
        rows = np.arange(self.ptr[begin], self.ptr[end])
        part = self.take(rows)
        return Examples(
            ptr=self.ptr[begin : end + 1] - self.ptr[begin],
            features=part.features,
            prerank_features=part.prerank_features,
            watched=part.watched,
            rating=part.rating,
            item_idx=part.item_idx,
        )


Proposal = tuple[Candidates, np.ndarray, np.ndarray]
"""Candidates, their features f32[C, F] and their pre-rank features f32[C, P]."""


def build_examples(
    log: InteractionLog,
    queries: Queries,
    propose: Callable[[RequestBatch], Proposal],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Examples:
    """Candidates, features and labels of all queries, in blocks.

    Args:
        log: The log the queries were made from.
        queries: In time order, so that a later part can choose what an earlier part trained.
        propose: The retrieval and feature part of the request path.
        on_progress: Called with the number of queries done.
    """
    blocks = []
    for begin in range(0, len(queries), BLOCK):
        block = queries.subset(np.arange(begin, min(begin + BLOCK, len(queries))))
        candidates, features, prerank = propose(batch_of_queries(log, block))
        blocks.append((candidates, features, prerank, ratings_of(log, block, candidates)))
        if on_progress is not None:
            on_progress(len(block))
    counts = np.concatenate([np.diff(candidates.ptr) for candidates, *_ in blocks])
    rating = np.concatenate([block[3] for block in blocks])
    return Examples(
        ptr=np.concatenate(([0], np.cumsum(counts))),
        features=np.concatenate([block[1] for block in blocks]),
        prerank_features=np.concatenate([block[2] for block in blocks]),
        watched=rating > 0,
        rating=rating,
        item_idx=np.concatenate([block[0].item_idx for block in blocks]),
    )


def ratings_of(log: InteractionLog, queries: Queries, candidates: Candidates) -> np.ndarray:
    """f32[C]: the rating the user gave to each candidate in this very query, else 0."""
    lengths = queries.relevant_end - queries.history_end
    owner = np.repeat(np.arange(len(queries)), lengths)
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.repeat(queries.history_end, lengths) + offset
    key = owner * log.n_items + log.item_idx[rows]
    order = np.argsort(key)
    key, rating = key[order], log.rating[rows][order]
    wanted = candidates.owner * log.n_items + candidates.item_idx
    place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return np.where(key[place] == wanted, rating[place], 0.0).astype(np.float32)
