"""The kernels of ``hnsw_compiled``: HNSW on flat arrays, compiled by numba.

In: a ``Graph`` (the index as arrays) and a ``Scratch`` (what a search writes into). Each function
is one of the paper's algorithms as ``hnsw`` explains it, with its loops written out.

- Links stand in one matrix, base_links i32[C, 2M], unused places -1: a step of the walk reads one
  row of memory. The upper layers are a second matrix with a row for every (node, layer >= 1).
- "Seen before?" is one byte a node that holds the number of the search (marks), so that a new
  search clears nothing; after 255 searches the bytes are zeroed once. FAISS does the same.
- The heaps are arrays that live as long as the index; a search allocates only its answer.
- A distance is one loop that LLVM turns into SIMD instructions (fastmath lets it reorder the sum).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ml_algorithms.nearest_neighbour.index import NO_ID

Array = npt.NDArray[Any]
compiled = njit(cache=True, fastmath=True, nogil=True, error_model="numpy")


class Graph(NamedTuple):
    """The index as arrays. Legend: C capacity, D dimensions, M links, R (node, layer >= 1) pairs.

    Attributes:
        vectors: f32[C, D].
        inner_product: Whether the metric is "ip".
        diverse: Whether links are chosen by Algorithm 4; else by Algorithm 3, the nearest.
        levels: i32[C], top layer of each node.
        base_links: i32[C, 2M], layer 0; the first -1 ends a row.
        upper_links: i32[R, M]; layer l >= 1 of a node is row ``upper_begin[node] + l - 1``.
        upper_begin: i64[C].
    """

    vectors: Array
    inner_product: bool
    diverse: bool
    levels: Array
    base_links: Array
    upper_links: Array
    upper_begin: Array


class Scratch(NamedTuple):
    """What a search writes into.

    Attributes:
        marks: u8[C]; a node whose mark is ``stamp[0]`` was seen in this search.
        stamp: i64[1], the number of the search, 1..255.
        open_distance: f32[C + 1] and ``open_id`` i32[C + 1]: the heap of candidates.
        best_distance: f32[W] and ``best_id`` i32[W]: the heap of results, W >= ef + 1.
    """

    marks: Array
    stamp: Array
    open_distance: Array
    open_id: Array
    best_distance: Array
    best_id: Array


# --- heaps ----------------------------------------------------------------------------------------
# Smallest first by (distance, id). The heap of results holds both negated, as in hnsw.py.


@compiled
def push(distances: Array, ids: Array, size: int, distance: float, node: int) -> int:
    """Adds to a heap of ``size`` entries; returns the new size."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if distances[parent] < distance or (distances[parent] == distance and ids[parent] <= node):
            break
        distances[place], ids[place] = distances[parent], ids[parent]
        place = parent
    distances[place], ids[place] = distance, node
    return size + 1


@compiled
def pop(distances: Array, ids: Array, size: int) -> int:
    """Removes the first entry of a heap; returns the new size. Read entry 0 before."""
    size -= 1
    distance, node = distances[size], ids[size]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            distances[other] < distances[child]
            or (distances[other] == distances[child] and ids[other] < ids[child])
        ):
            child = other
        if distance < distances[child] or (distance == distances[child] and node <= ids[child]):
            break
        distances[place], ids[place] = distances[child], ids[child]
        place = child
    distances[place], ids[place] = distance, node
    return size


# --- distance, links ------------------------------------------------------------------------------


@compiled
def distance_between(graph: Graph, query: Array, node: int) -> np.float32:
    """Squared Euclidean distance or negated inner product, f32."""
    row = graph.vectors[node]
    total = np.float32(0.0)
    if graph.inner_product:
        for d in range(query.shape[0]):
            total -= row[d] * query[d]
    else:
        for d in range(query.shape[0]):
            difference = row[d] - query[d]
            total += difference * difference
    return total


@compiled
def links_of(graph: Graph, node: int, layer: int) -> Array:
    """The row of links of a node in a layer, a view: writing to it changes the graph."""
    if layer == 0:
        return graph.base_links[node]
    return graph.upper_links[graph.upper_begin[node] + layer - 1]


@compiled
def next_stamp(scratch: Scratch) -> int:
    """Begins a search: forgets all marks by taking a new number."""
    scratch.stamp[0] += 1
    if scratch.stamp[0] > 255:
        scratch.marks[:] = 0
        scratch.stamp[0] = 1
    return scratch.stamp[0]


# --- Algorithm 2 ----------------------------------------------------------------------------------


@compiled
def search_layer(
    graph: Graph, scratch: Scratch, query: Array, entry: int, ef: int, layer: int
) -> int:
    """Algorithm 2; the found stand in ``scratch.best_*`` as a heap. Returns how many."""
    stamp = next_stamp(scratch)
    marks, best_distance = scratch.marks, scratch.best_distance
    first = distance_between(graph, query, entry)
    marks[entry] = stamp
    n_open = push(scratch.open_distance, scratch.open_id, 0, first, entry)
    n_best = push(best_distance, scratch.best_id, 0, -first, -entry)
    while n_open > 0:
        if scratch.open_distance[0] > -best_distance[0]:
            break
        node = scratch.open_id[0]
        n_open = pop(scratch.open_distance, scratch.open_id, n_open)
        for near in links_of(graph, node, layer):
            if near < 0:
                break
            if marks[near] == stamp:
                continue
            marks[near] = stamp
            distance = distance_between(graph, query, near)
            if n_best < ef or distance < -best_distance[0]:
                n_open = push(scratch.open_distance, scratch.open_id, n_open, distance, near)
                n_best = push(best_distance, scratch.best_id, n_best, -distance, -near)
                if n_best > ef:
                    n_best = pop(best_distance, scratch.best_id, n_best)
    return n_best


@compiled
def drain(scratch: Scratch, found: int) -> tuple[Array, Array]:
    """Empties the heap of results into arrays (distances, ids) of ``found`` entries, ascending."""
    distances, ids = np.empty(found, np.float32), np.empty(found, np.int32)
    for place in range(found - 1, -1, -1):
        distances[place], ids[place] = -scratch.best_distance[0], -scratch.best_id[0]
        pop(scratch.best_distance, scratch.best_id, place + 1)
    return distances, ids


@compiled
def descend(graph: Graph, query: Array, entry: int, top: int, bottom: int) -> int:
    """Greedy walk (ef = 1) from layer ``top`` down to ``bottom + 1``; the nearest node there."""
    nearest, distance = entry, distance_between(graph, query, entry)
    for layer in range(top, bottom, -1):
        moved = True
        while moved:
            moved = False
            for near in links_of(graph, nearest, layer):
                if near < 0:
                    break
                candidate = distance_between(graph, query, near)
                if candidate < distance:
                    nearest, distance, moved = near, candidate, True
    return nearest


# --- Algorithm 4 ----------------------------------------------------------------------------------


@compiled
def select_diverse(
    graph: Graph, distances: Array, ids: Array, m: int, chosen: Array, kept: int
) -> int:
    """Algorithm 4 on candidates in ascending order; returns how many ``chosen`` holds, at most m.

    The first ``kept`` places of ``chosen`` are filled already, and occlude like any other.
    """
    for candidate in range(len(ids)):
        if kept == m:
            break
        vector, limit = graph.vectors[ids[candidate]], distances[candidate]
        occluded = False
        for other in range(kept if graph.diverse else 0):
            if distance_between(graph, vector, chosen[other]) < limit:
                occluded = True
                break
        if not occluded:
            chosen[kept] = ids[candidate]
            kept += 1
    return kept


@compiled
def rechoose(graph: Graph, node: int, candidates: Array, row: Array, kept: int) -> None:
    """Fills a node's links (``row``, a view) from place ``kept`` on with diverse candidates."""
    vector = graph.vectors[node]
    distances, ids = np.empty(len(candidates), np.float32), np.empty(len(candidates), np.int32)
    for end in range(len(candidates)):  # insertion sort by (distance, id): the lists are short
        near, place = candidates[end], end
        distance = distance_between(graph, vector, near)
        while place > 0 and (
            distances[place - 1] > distance
            or (distances[place - 1] == distance and ids[place - 1] > near)
        ):
            distances[place], ids[place] = distances[place - 1], ids[place - 1]
            place -= 1
        distances[place], ids[place] = distance, near
    row[select_diverse(graph, distances, ids, len(row), row, kept) :] = -1


# --- Algorithm 1 ----------------------------------------------------------------------------------


@compiled
def link_back(graph: Graph, node: int, new: int, layer: int) -> None:
    """Adds the link node -> new; a full node chooses among its links again."""
    row = links_of(graph, node, layer)
    for place in range(len(row)):
        if row[place] < 0:
            row[place] = new
            return
    candidates = np.empty(len(row) + 1, np.int32)
    candidates[:-1] = row
    candidates[-1] = new
    rechoose(graph, node, candidates, row, 0)


@compiled
def insert_rows(graph: Graph, scratch: Scratch, order: Array, entry: int, ef: int) -> int:
    """Algorithm 1 for rows i64[n] in this order, vectors in place; returns the entry node."""
    chosen = np.empty(graph.base_links.shape[1], np.int32)
    for node in order:
        if entry < 0:
            entry = node
            continue
        query, level, top = graph.vectors[node], graph.levels[node], graph.levels[entry]
        nearest = descend(graph, query, entry, top, level)
        for layer in range(min(top, level), -1, -1):
            n_found = search_layer(graph, scratch, query, nearest, ef, layer)
            distances, ids = drain(scratch, n_found)
            room = len(links_of(graph, node, layer))
            kept = select_diverse(graph, distances, ids, room, chosen, 0)
            links_of(graph, node, layer)[:kept] = chosen[:kept]
            for place in range(kept):
                link_back(graph, chosen[place], node, layer)
            nearest = ids[0]
        if level > top:
            entry = node
    return entry


# --- Algorithm 5 ----------------------------------------------------------------------------------


@compiled
def search_rows(
    graph: Graph, scratch: Scratch, queries: Array, entry: int, k: int, ef: int
) -> tuple[Array, Array]:
    """Algorithm 5 for each query [Q, D]."""
    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), NO_ID, np.int64)
    for row in range(len(queries)):
        query = queries[row]
        nearest = descend(graph, query, entry, graph.levels[entry], 0)
        found = search_layer(graph, scratch, query, nearest, max(ef, k), 0)
        while found > k:  # drop the farthest until k are left
            found = pop(scratch.best_distance, scratch.best_id, found)
        for place in range(found - 1, -1, -1):
            distances[row, place] = -scratch.best_distance[0]
            ids[row, place] = -scratch.best_id[0]
            pop(scratch.best_distance, scratch.best_id, place + 1)
    return distances, ids
