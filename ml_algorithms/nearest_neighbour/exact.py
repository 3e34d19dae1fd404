"""Exact nearest neighbours: the distances, their blocked matrix form, the heap, and the merge.

In: vectors f32[N, D], queries f32[Q, D]. Out: the k nearest of each query, distances f32[Q, k] and
ids i64[Q, k] (conventions: ``index``).

Three ways to the same answer, from the definition to what one runs:

1. ``direct_distances``: subtract, square, add. Q N D values in memory, and nothing is reused.
2. ``distances``: |q - x|^2 = |q|^2 - 2 q.x + |x|^2. The norms cost (Q + N) D, and what is left is
   one matrix product, which a BLAS runs at a large part of the processor's peak. It pays with
   digits: two large numbers are subtracted, so the absolute error is about 1e-7 (|q|^2 + |x|^2).
3. ``FlatIndex``: the product block by block, keeping k results, so that memory stays bounded
   however large N is.

Complexity of a search: O(N D) for the distances of one query and O(N) to select k of them. A
selection is not a sort: ``smallest_k`` partitions (introselect, O(N)) and sorts k values;
``heap_search`` streams past a heap of k, O(N log k) at worst, and on vectors in random order only
about k ln(N / k) of them enter the heap.

Legend: N vectors, D dimensions, Q queries, B vectors in a block, C candidates, S parts.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from ml_algorithms.nearest_neighbour.index import (
    NO_ID,
    Distances,
    Ids,
    Metric,
    Vectors,
    as_vectors,
    check_k,
    check_metric,
    empty_result,
)

# Distances of one block: 2^22 float32 values are 16 MB.
BLOCK_VALUES = 1 << 22
# Queries that share one pass over the vectors.
QUERY_BLOCK = 256


def direct_distances(queries: Vectors, vectors: Vectors, metric: Metric = "l2") -> Distances:
    """Distances f32[Q, N] from the definition; O(Q N D) values in memory. The reference."""
    check_metric(metric)
    if metric == "ip":
        return -np.einsum("qd,nd->qn", queries, vectors)
    difference = queries[:, None, :] - vectors[None, :, :]
    return np.asarray((difference**2).sum(axis=2), dtype=np.float32)


def distances(
    queries: Vectors,
    vectors: Vectors,
    metric: Metric = "l2",
    squared_norms: Distances | None = None,
) -> Distances:
    """The same as one matrix product, f32[Q, N].

    Args:
        queries: [Q, D].
        vectors: [N, D].
        metric: "l2" (squared Euclidean) or "ip" (negated inner product).
        squared_norms: |x|^2 of the vectors [N] where they are known; only for "l2".
    """
    check_metric(metric)
    product = queries @ vectors.T
    if metric == "ip":
        return -product
    if squared_norms is None:
        squared_norms = norms_squared(vectors)
    product *= -2.0
    product += squared_norms[None, :]
    product += norms_squared(queries)[:, None]
    return np.maximum(product, 0.0, out=product)  # rounding can push a zero below zero


def norms_squared(vectors: Vectors) -> Distances:
    """|x|^2 of each row, f32[N]."""
    return np.einsum("nd,nd->n", vectors, vectors)


def smallest_k(values: Distances, k: int) -> tuple[Distances, Ids]:
    """The k smallest of a row f32[N], ascending, with their positions; ties to the lower position.

    O(N + k log k). Fewer than k come back when N < k.
    """
    if k < values.size:
        border = np.partition(values, k - 1)[k - 1]
        places = np.flatnonzero(values <= border)  # all k, and whatever ties with the last
    else:
        places = np.arange(values.size)
    order = np.argsort(values[places], kind="stable")[:k]
    chosen = places[order]
    return values[chosen], chosen


def heap_search(
    query: Vectors, vectors: Vectors, k: int, metric: Metric = "l2"
) -> tuple[Distances, Ids, int]:
    """One query against one vector after the other, the k best kept in a heap. To be read.

    The heap's top is the *worst* of the k best: a vector enters only if it beats that one, so most
    vectors cost one comparison. Python's heap is a min-heap, hence the negated distances; negated
    ids let the lower id win a tie.

    Args:
        query: f32[D].
        vectors: [N, D].
        k: Neighbours to keep.
        metric: As everywhere.

    Returns:
        Distances f32[k'], ids i64[k'] with k' = min(k, N), and how often a vector entered the heap.
    """
    check_k(k)
    heap: list[tuple[float, int]] = []
    entered = 0
    for number, vector in enumerate(vectors):
        if metric == "l2":
            difference = query - vector
            distance = float(difference @ difference)
        else:
            distance = -float(query @ vector)
        if len(heap) < k:
            heapq.heappush(heap, (-distance, -number))
            entered += 1
        elif distance < -heap[0][0]:
            heapq.heapreplace(heap, (-distance, -number))
            entered += 1
    ordered = sorted((-negated, -number) for negated, number in heap)
    found = np.array([distance for distance, _ in ordered], dtype=np.float32)
    return found, np.array([number for _, number in ordered], dtype=np.int64), entered


class FlatIndex:
    """Exact search: every query against every vector, block by block."""

    def __init__(self, vectors: Vectors, metric: Metric = "l2") -> None:
        """Keeps a reference to the vectors and, for "l2", their squared norms.

        Args:
            vectors: f32[N, D].
            metric: "l2" or "ip".

        Raises:
            ValueError: On a wrong shape, values that are not finite, or an unknown metric.
        """
        check_metric(metric)
        self.metric = metric
        self.vectors = as_vectors(vectors)
        self._norms = norms_squared(self.vectors) if metric == "l2" else None

    @property
    def bytes_per_vector(self) -> float:
        """4 D for the vector, and 4 for its norm under "l2"."""
        return 4.0 * self.vectors.shape[1] + (4.0 if self._norms is not None else 0.0)

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest of each query: f32[Q, k], i64[Q, k]. Time O(Q N D), memory O(block)."""
        check_k(k)
        queries = as_vectors(queries, self.vectors.shape[1])
        found = empty_result(len(queries), k)
        for begin in range(0, len(queries), QUERY_BLOCK):
            rows = slice(begin, begin + QUERY_BLOCK)
            self._search_block(queries[rows], k, found[0][rows], found[1][rows])
        return found

    def _search_block(self, queries: Vectors, k: int, best: Distances, ids: Ids) -> None:
        """Fills ``best`` and ``ids`` [q, k], which hold +inf and NO_ID so far."""
        for block in _blocks(len(self.vectors), max(k, BLOCK_VALUES // len(queries))):
            norms = None if self._norms is None else self._norms[block]
            table = distances(queries, self.vectors[block], self.metric, norms)  # [q, B]
            for row, values in enumerate(table):
                near, places = smallest_k(values, k)
                # Earlier blocks hold lower ids and stand first: the stable sort keeps ties right.
                both = np.concatenate([best[row], near])
                both_ids = np.concatenate([ids[row], places + block.start])
                order = np.argsort(both, kind="stable")[:k]
                best[row], ids[row] = both[order], both_ids[order]


def _blocks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover 0..total."""
    for begin in range(0, total, size):
        yield slice(begin, min(begin + size, total))


def merge(parts: Sequence[tuple[Distances, Ids]], k: int) -> tuple[Distances, Ids]:
    """One result from those of S shards: what the root of a sharded index does.

    Each shard must hand over its own k nearest, not k / S: all k of a query may live in one shard.

    Args:
        parts: Results (f32[Q, k_s], i64[Q, k_s]) with *global* ids; NO_ID where there is none.
        k: Neighbours to keep.

    Returns:
        f32[Q, k], i64[Q, k]; ties to the lower id.
    """
    check_k(k)
    values = np.concatenate([part[0] for part in parts], axis=1)
    ids = np.concatenate([part[1] for part in parts], axis=1)
    order = np.lexsort((ids, values), axis=1)[:, :k]
    found = empty_result(len(values), k)
    width = order.shape[1]
    found[0][:, :width] = np.take_along_axis(values, order, axis=1)
    found[1][:, :width] = np.take_along_axis(ids, order, axis=1)
    return found


def rerank(
    queries: Vectors, candidates: Ids, vectors: Vectors, k: int, metric: Metric = "l2"
) -> tuple[Distances, Ids]:
    """The k nearest among candidates by the exact vectors: the last stage over compressed codes.

    Args:
        queries: [Q, D].
        candidates: Ids [Q, C]; NO_ID is skipped.
        vectors: The uncompressed vectors [N, D] (in memory, or a memory map on a disk).
        k: Neighbours to keep.
        metric: As everywhere.

    Returns:
        f32[Q, k], i64[Q, k]; time O(Q C D).
    """
    check_k(k)
    found = empty_result(len(queries), k)
    for row, query in enumerate(queries):
        ids = candidates[row][candidates[row] != NO_ID]
        values = distances(query[None, :], vectors[ids], metric)[0]
        near, places = smallest_k(values, k)
        found[0][row, : near.size], found[1][row, : near.size] = near, ids[places]
    return found
