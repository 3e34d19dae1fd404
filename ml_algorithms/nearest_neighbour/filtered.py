"""Filtered search: the k nearest *among the vectors that pass a filter*, and where each way breaks.

In: an index, queries f32[Q, D], and allowed bool[N] (in stock, in this country, not yet seen). Out:
distances f32[Q, k] and ids i64[Q, k] of allowed vectors only; places that stay empty hold id -1.

Let s = share of vectors that are allowed, the filter's selectivity.

- ``pre_filter``: take the allowed vectors, compare all. Exact; O(s N D) a query, so it wins when
  s N is small and loses when s is near 1.
- ``post_filter``: search without the filter for ``over_fetch`` times k, drop what is not allowed.
  The expected number left is s * over_fetch * k *if filter and query are independent*: it needs
  over_fetch of several 1 / s. When the allowed vectors lie away from the query, none is left.
- ``walk``, filter during the traversal of an HNSW graph, under one of three rules:
  ``ADMIT`` walks over all nodes and only lets allowed ones into the result (hnswlib, FAISS). The
  graph stays whole; the walk must see about ef / s nodes, and more when the allowed ones are far.
  ``INSIDE`` walks over allowed nodes only. Cheap, but the graph was built for all nodes: with s
  below about one over the mean degree what is left of it falls into pieces.
  ``TWO_HOP`` also looks through a node that is not allowed at its neighbours (L. Patel et al.,
  "ACORN: Performant and Predicate-Agnostic Search Over Vector Embeddings and Structured Data",
  SIGMOD 2024, the ACORN-1 variant, without its cap on the neighbours looked at).

Independence is the trap: a filter by language or category goes with the query. Positive correlation
makes every method look good, negative correlation breaks all but the exact one.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW
from ml_algorithms.nearest_neighbour.hnsw_kernels import (
    Array,
    Graph,
    Scratch,
    compiled,
    descend,
    distance_between,
    links_of,
    next_stamp,
    pop,
    push,
)
from ml_algorithms.nearest_neighbour.index import (
    NO_ID,
    Distances,
    Ids,
    Metric,
    VectorIndex,
    Vectors,
    as_vectors,
    check_k,
    empty_result,
)

Rule = Literal[0, 1, 2]
ADMIT: Rule = 0
INSIDE: Rule = 1
TWO_HOP: Rule = 2
Allowed = npt.NDArray[np.bool_]


def check_allowed(allowed: Allowed, size: int) -> None:
    """Raises ValueError unless allowed is bool[N]."""
    if allowed.dtype != np.bool_ or allowed.shape != (size,):
        raise ValueError(f"allowed is {allowed.dtype}{list(allowed.shape)}, expected bool[{size}]")


def pre_filter(
    vectors: Vectors, allowed: Allowed, queries: Vectors, k: int, metric: Metric = "l2"
) -> tuple[Distances, Ids]:
    """Exact: every query against every allowed vector; O(s N D) a query.

    Raises:
        ValueError: If ``allowed`` does not fit the vectors.
    """
    check_allowed(allowed, len(vectors))
    rows = np.flatnonzero(allowed)
    distances, places = FlatIndex(vectors[rows], metric).search(queries, k)
    ids = np.where(places == NO_ID, NO_ID, np.append(rows, NO_ID)[places])
    return distances, ids


def post_filter(
    index: VectorIndex, allowed: Allowed, queries: Vectors, k: int, *, over_fetch: int
) -> tuple[Distances, Ids]:
    """Searches for over_fetch * k, then drops; rows may end short.

    Raises:
        ValueError: If k or over_fetch is below 1.
    """
    check_k(k)
    if over_fetch < 1:
        raise ValueError(f"over_fetch must be at least 1, got {over_fetch}")
    distances, ids = index.search(queries, over_fetch * k)
    passes = (ids != NO_ID) & allowed[ids]  # id -1 reads the last entry, and is masked
    best = empty_result(len(ids), k)
    for row, keep in enumerate(passes):
        chosen = np.flatnonzero(keep)[:k]
        best[0][row, : len(chosen)] = distances[row, chosen]
        best[1][row, : len(chosen)] = ids[row, chosen]
    return best


def expected_over_fetch(selectivity: float, k: int, *, confidence_sigmas: float = 3.0) -> int:
    """The over-fetch with which an *independent* filter leaves k almost surely.

    Of n fetched, Binomial(n, s) remain: the least n with n s - z sqrt(n s (1 - s)) >= k, over k.

    Raises:
        ValueError: If the selectivity is not in (0, 1].
    """
    if not 0.0 < selectivity <= 1.0:
        raise ValueError(f"selectivity must be in (0, 1], got {selectivity}")
    spread = confidence_sigmas * math.sqrt(1.0 - selectivity)
    root = (spread + math.sqrt(spread**2 + 4.0 * k)) / 2.0  # of x^2 - spread x - k, x^2 = n s
    return math.ceil(round(root**2 / selectivity / k, 6))  # 1.0000001 is rounding, not need


def walk(
    index: CompiledHNSW, allowed: Allowed, queries: Vectors, k: int, *, rule: Rule = ADMIT
) -> tuple[Distances, Ids, npt.NDArray[np.int64]]:
    """Filter during traversal: distances f32[Q, k], ids i64[Q, k], and distances computed i64[Q].

    Raises:
        ValueError: If ``allowed`` does not fit the index or the rule is unknown.
    """
    check_k(k)
    check_allowed(allowed, index.size)
    if rule not in (ADMIT, INSIDE, TWO_HOP):
        raise ValueError(f"rule is {rule!r}: use ADMIT, INSIDE or TWO_HOP")
    queries = as_vectors(queries, index.graph.vectors.shape[1])
    ef = max(index.ef_search, k)
    index.make_room(ef)
    return walk_rows(index.graph, index.scratch, queries, index.entry, k, ef, allowed, rule)


@compiled
def walk_rows(
    graph: Graph,
    scratch: Scratch,
    queries: Array,
    entry: int,
    k: int,
    ef: int,
    allowed: Array,
    rule: int,
) -> tuple[Array, Array, Array]:
    """``walk`` for each query; the upper layers are walked without the filter."""
    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), NO_ID, np.int64)
    computed = np.zeros(len(queries), np.int64)
    for row in range(len(queries)):
        nearest = descend(graph, queries[row], entry, graph.levels[entry], 0)
        found, computed[row] = walk_base(graph, scratch, queries[row], nearest, ef, allowed, rule)
        while found > k:
            found = pop(scratch.best_distance, scratch.best_id, found)
        for place in range(found - 1, -1, -1):
            distances[row, place] = -scratch.best_distance[0]
            ids[row, place] = -scratch.best_id[0]
            pop(scratch.best_distance, scratch.best_id, place + 1)
    return distances, ids, computed


@compiled
def walk_base(
    graph: Graph, scratch: Scratch, query: Array, entry: int, ef: int, allowed: Array, rule: int
) -> tuple[int, int]:
    """Algorithm 2 in layer 0 with a filter: how many were found, how many distances it took."""
    stamp, computed = next_stamp(scratch), 1
    first = distance_between(graph, query, entry)
    scratch.marks[entry] = stamp
    n_open = push(scratch.open_distance, scratch.open_id, 0, first, entry)
    n_best = 0
    if allowed[entry]:
        n_best = push(scratch.best_distance, scratch.best_id, 0, -first, -entry)
    while n_open > 0:
        if n_best == ef and scratch.open_distance[0] > -scratch.best_distance[0]:
            break
        node = scratch.open_id[0]
        n_open = pop(scratch.open_distance, scratch.open_id, n_open)
        for near in links_of(graph, node, 0):
            if near < 0:
                break
            if scratch.marks[near] == stamp:
                continue
            scratch.marks[near] = stamp
            if rule == ADMIT or allowed[near]:
                n_open, n_best = _offer(graph, scratch, query, near, ef, allowed, n_open, n_best)
                computed += 1
            elif rule == TWO_HOP:
                for beyond in links_of(graph, near, 0):
                    if beyond < 0:
                        break
                    if scratch.marks[beyond] == stamp or not allowed[beyond]:
                        continue
                    scratch.marks[beyond] = stamp
                    n_open, n_best = _offer(
                        graph, scratch, query, beyond, ef, allowed, n_open, n_best
                    )
                    computed += 1
    return n_best, computed


@compiled
def _offer(
    graph: Graph,
    scratch: Scratch,
    query: Array,
    node: int,
    ef: int,
    allowed: Array,
    n_open: int,
    n_best: int,
) -> tuple[int, int]:
    """A seen node becomes a candidate if near enough, and a result if it is also allowed."""
    distance = distance_between(graph, query, node)
    if n_best == ef and distance >= -scratch.best_distance[0]:
        return n_open, n_best
    n_open = push(scratch.open_distance, scratch.open_id, n_open, distance, node)
    if allowed[node]:
        n_best = push(scratch.best_distance, scratch.best_id, n_best, -distance, -node)
        if n_best > ef:
            n_best = pop(scratch.best_distance, scratch.best_id, n_best)
    return n_open, n_best
