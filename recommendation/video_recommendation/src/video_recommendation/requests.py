"""Who asks, when, and what is known strictly before: the input of the one request path.

A ``RequestBatch`` of Q requests is what the offline replay builds from a log and what the server
builds from a live user state (Q = 1). Everything downstream (towers, sources, features, ranker)
reads only this and the bundle, so offline and online cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries


@dataclass(frozen=True)
class RequestBatch:
    """Q requests with ragged histories, oldest event first.

    Attributes:
        user_idx: i32[Q], -1 for a user who is not in the user table.
        now: i64[Q], Unix seconds of the request.
        ptr: i64[Q + 1]; request q's history is rows ptr[q]:ptr[q + 1] of the three below.
        item_idx: i32[H].
        rating: f32[H].
        timestamp: i64[H], all strictly before ``now``.
    """

    user_idx: np.ndarray
    now: np.ndarray
    ptr: np.ndarray
    item_idx: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray

    def __len__(self) -> int:
        return len(self.now)

    @cached_property
    def lengths(self) -> np.ndarray:
        """i64[Q]: events in each history."""
        return np.diff(self.ptr)

    @cached_property
    def owner(self) -> np.ndarray:
        """i64[H]: the request of every history row."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def steps_back(self) -> np.ndarray:
        """i64[H]: 0 for the latest event of a history, 1 for the one before it, ..."""
        return np.repeat(self.ptr[1:] - 1, self.lengths) - np.arange(len(self.item_idx))

    def slice(self, begin: int, end: int) -> RequestBatch:
        """Requests begin..end, as a batch of their own."""
        rows = slice(self.ptr[begin], self.ptr[end])
        return RequestBatch(
            user_idx=self.user_idx[begin:end],
            now=self.now[begin:end],
            ptr=self.ptr[begin : end + 1] - self.ptr[begin],
            item_idx=self.item_idx[rows],
            rating=self.rating[rows],
            timestamp=self.timestamp[rows],
        )


def batch_of_queries(log: InteractionLog, queries: Queries) -> RequestBatch:
    """The requests that a log's queries stand for: history is all that came strictly before."""
    ptr, rows = queries.history(log)
    return RequestBatch(
        user_idx=queries.user_idx,
        now=queries.timestamp,
        ptr=ptr,
        item_idx=log.item_idx[rows],
        rating=log.rating[rows],
        timestamp=log.timestamp[rows],
    )


def single_request(
    user_idx: int, now: int, item_idx: np.ndarray, rating: np.ndarray, timestamp: np.ndarray
) -> RequestBatch:
    """One live request. Events at or after ``now`` are a caller's error.

    Raises:
        ValueError: if the arrays differ in length or an event is not strictly before ``now``.
    """
    if not len(item_idx) == len(rating) == len(timestamp):
        raise ValueError(f"history of {len(item_idx)}, {len(rating)}, {len(timestamp)} events")
    latest = timestamp.max() if len(timestamp) else now - 1
    if latest >= now:
        raise ValueError(f"an event at {latest} is not before the request at {now}")
    return RequestBatch(
        user_idx=np.array([user_idx], dtype=np.int32),
        now=np.array([now], dtype=np.int64),
        ptr=np.array([0, len(item_idx)], dtype=np.int64),
        item_idx=np.asarray(item_idx, dtype=np.int32),
        rating=np.asarray(rating, dtype=np.float32),
        timestamp=np.asarray(timestamp, dtype=np.int64),
    )
