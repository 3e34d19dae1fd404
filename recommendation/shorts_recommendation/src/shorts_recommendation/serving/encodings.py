"""Histories encoded once for each event: the transformer's output by user, kept until it moves on.

In: rows, the versions of their states, and the batch. Out: f32[B, d]. Only rows whose state has
moved since are encoded; the counter `encoded` says how many. For one thread, that of the models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shorts_recommendation.requests import RequestBatch


class Encodings:
    """Encodings of U rows.

    Args:
        n_rows: U.
        encode: ``Recommender.encode``.
    """

    def __init__(self, n_rows: int, encode: Callable[[RequestBatch], np.ndarray]) -> None:
        self._encode = encode
        self._version = np.full(n_rows, -1, dtype=np.int64)
        self._vectors: np.ndarray | None = None
        self.encoded = 0

    def of(self, rows: np.ndarray, versions: np.ndarray, batch: RequestBatch) -> np.ndarray:
        """f32[B, d]; ``rows``, ``versions`` i64[B] of the requests in ``batch``."""
        stale = np.flatnonzero(self._version[rows] != versions)
        if len(stale):
            fresh = self._encode(batch.take(stale) if len(stale) < len(rows) else batch)
            if self._vectors is None:
                shape = (len(self._version), *fresh.shape[1:])
                self._vectors = np.zeros(shape, dtype=fresh.dtype)
            self._vectors[rows[stale]] = fresh
            self._version[rows[stale]] = versions[stale]
            self.encoded += len(stale)
        if self._vectors is None:
            raise ValueError("no rows were asked for: a batch holds at least one request")
        return self._vectors[rows]
