"""Deleting from an HNSW graph: tombstones, cut links, repaired links, a rebuilt graph.

In: a ``CompiledHNSW`` and dead bool[N]. Out: results without the dead, or a graph without them.

A node cannot simply be taken out: others are reached through it. Four ways, in the order of cost:

- a *tombstone*: the node stays and is walked over, but not returned (``filtered.walk`` with
  ``ADMIT``; hnswlib's ``markDelete``). Nothing is lost but memory and speed: the walk still pays
  for the dead. Dropping the dead *after* the search instead lets them take up places among the ef.
- ``unlink``: links to dead nodes are cut. Memory comes back, and so many paths are gone that the
  recall of the living falls.
- ``repair``: a node that loses neighbours fills its free places, by Algorithm 4, from the links of
  those it lost (A. Singh et al., "FreshDiskANN: A Fast and Accurate Graph-Based ANN Index for
  Streaming Similarity Search", arXiv 2105.09613, section 4.2). A path a -> dead -> b becomes
  a -> b where b is worth a link. The links that live are not up for choice: choosing among all
  anew thins the graph with every round of deletes, which is why FreshDiskANN prunes with a factor
  alpha > 1.
- rebuild: all live vectors inserted anew; ``live_copy``. The reference for recall.

``unlink`` and ``repair`` leave the dead vectors in the arrays but out of reach. Legend: N nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.filtered import Allowed, check_allowed
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW
from ml_algorithms.nearest_neighbour.hnsw_kernels import (
    Array,
    Graph,
    compiled,
    links_of,
    rechoose,
)


def unlink(index: CompiledHNSW, dead: Allowed) -> None:
    """Cuts every link to or from a dead node, in place. O(N M).

    Raises:
        ValueError: If ``dead`` does not fit the index, or all nodes are dead.
    """
    _take_out(index, dead, mend=False)


def repair(index: CompiledHNSW, dead: Allowed) -> None:
    """Cuts every link to or from a dead node and mends the paths through them, in place.

    A node with d dead neighbours compares up to (1 + d) 2M candidates: O(d M^2) distances.

    Raises:
        ValueError: As ``unlink``.
    """
    _take_out(index, dead, mend=True)


def _take_out(index: CompiledHNSW, dead: Allowed, *, mend: bool) -> None:
    check_allowed(dead, index.size)
    live = np.flatnonzero(~dead)
    if not live.size:
        raise ValueError("all nodes are dead: make a new index")
    relink(index.graph, dead, index.size, mend)
    if dead[index.entry]:  # searches now begin at a living node of the highest layer left
        index.entry = int(live[np.argmax(index.graph.levels[live])])


@compiled
def relink(graph: Graph, dead: Array, size: int, mend: bool) -> None:
    """Sets the links of every living node; a dead node keeps its own until all have looked."""
    for node in range(size):
        if dead[node]:
            continue
        for layer in range(graph.levels[node] + 1):
            row = links_of(graph, node, layer)
            if not _touches(row, dead):
                continue
            candidates, living = _candidates(graph, dead, node, layer, mend)
            row[:living] = candidates[:living]
            row[living:] = -1
            if mend:
                rechoose(graph, node, candidates[living:], row, living)
    for node in range(size):
        if dead[node]:
            for layer in range(graph.levels[node] + 1):
                links_of(graph, node, layer)[:] = -1


@compiled
def _touches(row: Array, dead: Array) -> bool:
    """Whether a row of links holds a dead node."""
    for near in row:
        if near < 0:
            return False
        if dead[near]:
            return True
    return False


@compiled
def _candidates(graph: Graph, dead: Array, node: int, layer: int, mend: bool) -> tuple[Array, int]:
    """Living neighbours of a node and how many, then (``mend``) those of its dead ones, each once.

    A chain of dead nodes is followed to its end: where most are dead, one step seldom meets a
    living one. The search stops when 4 M living ones are known.
    """
    row = links_of(graph, node, layer)
    limit = 4 * len(row)
    found, n_found = np.empty(limit, np.int32), 0
    queue, n_queue = np.empty(limit, np.int32), 0
    for near in row:
        if near < 0:
            break
        if dead[near]:
            queue[n_queue] = near
            n_queue += 1
        else:
            found[n_found] = near
            n_found += 1
    place, living = 0, n_found
    while mend and place < n_queue and n_found < limit:
        for near in links_of(graph, queue[place], layer):
            if near < 0 or n_found == limit:
                break
            if near == node:
                continue
            if not dead[near] and not _holds(found, n_found, near):
                found[n_found] = near
                n_found += 1
            elif dead[near] and n_queue < limit and not _holds(queue, n_queue, near):
                queue[n_queue] = near
                n_queue += 1
        place += 1
    return found[:n_found], living


@compiled
def _holds(values: Array, size: int, wanted: int) -> bool:
    """Whether the first ``size`` values hold one; the lists are short."""
    held = False
    for place in range(size):
        held = held or values[place] == wanted
    return held


def live_copy(index: CompiledHNSW, dead: Allowed) -> tuple[CompiledHNSW, npt.NDArray[np.int64]]:
    """A new index of the living vectors, and the old id of each of its rows i64[n].

    Raises:
        ValueError: As ``unlink``.
    """
    check_allowed(dead, index.size)
    live = np.flatnonzero(~dead)
    if not live.size:
        raise ValueError("all nodes are dead: make a new index")
    rebuilt = CompiledHNSW.build(
        index.graph.vectors[live],
        m=index.m,
        ef_construction=index.ef_construction,
        metric=index.metric,
        seed=index.seed,
    )
    return rebuilt, live


def copy_of(index: CompiledHNSW) -> CompiledHNSW:
    """The same index with link arrays of its own, so that one graph can be damaged several ways."""
    twin = CompiledHNSW.__new__(CompiledHNSW)
    twin.__dict__.update(index.__dict__)
    twin.graph = index.graph._replace(
        base_links=index.graph.base_links.copy(), upper_links=index.graph.upper_links.copy()
    )
    twin.scratch = index.new_scratch(index.ef_construction)
    return twin
