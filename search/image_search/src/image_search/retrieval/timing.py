"""How long a search takes on one thread: one query at a time, and many at once.

In: a callable f32[q, D] -> anything, queries f32[Q, D]. Out: milliseconds. One caller, the next
query when the last is answered (a closed loop), no network. A tenth of the queries, at least
eight, is asked before the clock counts: the first touch of an index pays for page faults.

Legend: Q queries, D dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads

Search = Callable[[np.ndarray], object]
BATCH = 256
"""Queries a call of the batched measurement: an offline job, or a busy service's micro-batches."""


@dataclass(frozen=True)
class Speed:
    """What one thread does.

    Attributes:
        ms: f64[n], of single queries.
        batch_qps: Queries a second, BATCH a call.
    """

    ms: np.ndarray
    batch_qps: float

    @property
    def p50_ms(self) -> float:
        """Median of single queries."""
        return float(np.percentile(self.ms, 50))

    @property
    def p99_ms(self) -> float:
        """99th percentile of single queries."""
        return float(np.percentile(self.ms, 99))

    @property
    def qps(self) -> float:
        """Single queries a second, by their mean."""
        return float(1000 / self.ms.mean())


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for FAISS and for the matrix products of NumPy."""
    with threadpool_limits(limits=1), faiss_threads(1):
        yield


def measure(search: Search, queries: np.ndarray, *, single: int) -> Speed:
    """Times ``single`` queries one by one, then all in batches.

    Raises:
        ValueError: If there are no queries.
    """
    with one_thread():
        ms = single_ms(search, queries, single=single)
        started = time.perf_counter()
        for begin in range(0, len(queries), BATCH):
            search(queries[begin : begin + BATCH])
        seconds = time.perf_counter() - started
    return Speed(ms, len(queries) / seconds)


def single_ms(search: Search, queries: np.ndarray, *, single: int) -> np.ndarray:
    """f64[n] of at most ``single`` queries, after the warm-up; threads as the caller set them."""
    if not len(queries):
        raise ValueError("no queries to time")
    for place in range(max(8, single // 10)):
        search(queries[place % len(queries)][None])
    ms = np.empty(min(single, len(queries)))
    for place in range(len(ms)):
        query = queries[place : place + 1]
        started = time.perf_counter()
        search(query)
        ms[place] = 1000 * (time.perf_counter() - started)
    return ms
