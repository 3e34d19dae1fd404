"""HNSW as Malkov and Yashunin wrote it, one function per algorithm, written to be read.

In: vectors f32[N, D]. Out: distances f32[Q, k] and ids i64[Q, k].

The graph. Every vector is a node in layer 0. A node is in layer 1 with probability 1/M, in layer 2
with probability 1/M^2, and so on: a skip list of graphs. Nodes in a layer are linked to near nodes
of that layer. A search enters at the one node of the top layer, walks greedily to the node of that
layer nearest to the query, goes down a layer at that node, and so on; in layer 0 it widens its walk
to the ``ef`` best nodes it knows. The upper layers make the long jumps, layer 0 finds the
neighbours. Cost of a search about O(ef M log N) distances; of a build O(N ef_construction M log N).

Paper: Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs", TPAMI 2020 (arXiv 1603.09320). Algorithm 1 is
``insert``, 2 ``search_layer``, 3 ``select_nearest``, 4 ``select_diverse``, 5 ``search``.

Departures, all shared with FAISS (the first three with hnswlib too):

- Below a layer the search enters at the nearest node found there, not at all ef of them.
- Algorithm 4 keeps a candidate whose distance to the query *equals* that to a kept neighbour; the
  paper drops it. Among exact duplicates the paper's rule keeps one link in all and splits them off.
- Algorithm 4 leaves links free rather than filling them up with pruned ones (keepPruned = false).
- A new node links to as many neighbours as it has room for: 2 M in layer 0, where the paper has M.
- ``build`` inserts in random order, so that the order of the data (words by frequency, items by
  date) has no say. On word vectors the study finds hardly a difference (``in_order``).

``hnsw_compiled`` is the same algorithm on flat arrays, over ten times as fast; a test holds the two
to the same graph. Legend: N vectors, D dimensions, Q queries, k results, M links.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.index import (
    Distances,
    Ids,
    Vectors,
    as_vectors,
    check_k,
    check_metric,
    empty_result,
)

Found = list[tuple[float, int]]  # (distance, node), ascending: ties go to the smaller id


def draw_levels(nodes: int, m: int, *, seed: int = 0) -> npt.NDArray[np.int32]:
    """The top layer of every node: floor(-ln(U) / ln(M)), U uniform on (0, 1] (section 4.1).

    P(level >= l) = M^-l. So each layer has 1/M of the nodes of the one below, the expected height
    is log_M(N), and a greedy walk in a layer takes a number of steps that does not grow with N.
    """
    uniform = 1.0 - np.random.default_rng(seed).random(nodes)
    return np.floor(-np.log(uniform) / math.log(m)).astype(np.int32)


def insertion_order(nodes: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """A random order i64[n] of the nodes 0..n-1."""
    return np.random.default_rng([seed, nodes]).permutation(nodes)


def check_knobs(m: int, ef_construction: int) -> None:
    """Raises ValueError unless M >= 2 (ln M divides) and ef_construction >= 1."""
    if m < 2 or ef_construction < 1:
        raise ValueError(
            f"m must be at least 2 and ef_construction at least 1, got {m} and {ef_construction}"
        )


class HNSW:
    """The graph and its vectors.

    Attributes:
        links: ``links[node][layer]`` lists the node's neighbours in that layer.
        levels: ``levels[node]`` is its top layer.
        entry: The node where every search begins; it is in the top layer. None when empty.
        ef_search: Width of the search in layer 0, the recall knob; at least k is used.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        m: int = 16,
        ef_construction: int = 100,
        metric: str = "l2",
        seed: int = 0,
    ) -> None:
        """An empty index.

        Args:
            dimensions: D.
            m: A node has up to M links in each upper layer and 2 M in layer 0 (section 4.1:
                M_max0 = 2 M).
            ef_construction: Width of the search for a new node's neighbours.
            metric: "l2" (squared Euclidean) or "ip" (negated inner product).
            seed: Of the levels.

        Raises:
            ValueError: If m < 2, ef_construction < 1, or the metric is unknown.
        """
        check_knobs(m, ef_construction)
        check_metric(metric)
        self.m, self.ef_construction, self.metric = m, ef_construction, metric
        self.ef_search = 64
        self.vectors: Vectors = np.empty((0, dimensions), dtype=np.float32)
        self.links: list[list[list[int]]] = []
        self.levels: list[int] = []
        self.entry: int | None = None
        self._rng = np.random.default_rng(seed)

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        m: int = 16,
        ef_construction: int = 100,
        metric: str = "l2",
        seed: int = 0,
    ) -> HNSW:
        """An index of all vectors [N, D]; ids are rows, the order of insertion is random."""
        vectors = as_vectors(vectors)
        index = cls(
            vectors.shape[1], m=m, ef_construction=ef_construction, metric=metric, seed=seed
        )
        index.vectors = vectors
        index.levels = draw_levels(len(vectors), m, seed=seed).tolist()
        index.links = [[[] for _ in range(level + 1)] for level in index.levels]
        for node in insertion_order(len(vectors), seed=seed).tolist():
            index.connect(node)
        return index

    # --- Algorithm 1: insert -----------------------------------------------------------------

    def insert(self, vector: Vectors, level: int | None = None) -> int:
        """Adds one vector [D] and links it; returns its id. ``level``: drawn if None."""
        if level is None:
            level = int(-math.log(1.0 - self._rng.random()) / math.log(self.m))
        row = as_vectors(np.reshape(vector, (1, -1)), self.vectors.shape[1])
        self.vectors = np.concatenate([self.vectors, row])  # O(N), which only a readable index pays
        self.levels.append(level)
        self.links.append([[] for _ in range(level + 1)])
        self.connect(len(self.levels) - 1)
        return len(self.levels) - 1

    def connect(self, node: int) -> None:
        """Links a node, whose vector and level are known, into the graph of those before it."""
        if self.entry is None:
            self.entry = node
            return
        query, level = self.vectors[node], self.levels[node]
        nearest, top = self.entry, self.levels[self.entry]
        # Phase 1: above its own layers the node is only looked for, greedily (ef = 1).
        for layer in range(top, level, -1):
            nearest = self.search_layer(query, nearest, 1, layer)[0][1]
        # Phase 2: in its own layers it looks widely, links itself, and is linked back.
        for layer in range(min(top, level), -1, -1):
            found = self.search_layer(query, nearest, self.ef_construction, layer)
            self.links[node][layer] = self.select_diverse(found, self.max_links(layer))
            for neighbour in self.links[node][layer]:
                self._link_back(neighbour, node, layer)
            nearest = found[0][1]
        if level > top:
            self.entry = node  # a new top layer begins with this node alone

    def _link_back(self, node: int, new: int, layer: int) -> None:
        """Adds the link node -> new; a node with too many links chooses among them again.

        Shrinking drops links in one direction only: from then on the graph is directed. It bounds
        the degree, which bounds the cost of a step of the search.
        """
        linked = [*self.links[node][layer], new]
        if len(linked) > self.max_links(layer):
            linked = self.select_diverse(self._measured(node, linked), self.max_links(layer))
        self.links[node][layer] = linked

    def max_links(self, layer: int) -> int:
        """Links that a node may have: M above, 2 M in layer 0, where all nodes are."""
        return self.m if layer else 2 * self.m

    # --- Algorithm 2: search in one layer ----------------------------------------------------

    def search_layer(self, query: Vectors, entry: int, ef: int, layer: int) -> Found:
        """The ``ef`` nearest nodes that a best-first walk from ``entry`` finds, ascending.

        Two heaps. ``candidates`` (nearest on top): seen, its links not yet followed. ``best``
        (farthest on top, at most ef): the result so far. The walk always follows the nearest
        candidate, and ends when that is farther than the worst of ``best``: no link of it is
        likely to improve the result. With ef = 1 this is greedy descent, which stops in the first
        local minimum; a larger ef walks through local minima. That is all the recall there is.
        """
        distance = float(self.distances(query, [entry])[0])
        candidates = [(distance, entry)]
        best = [(-distance, -entry)]  # heapq has the smallest on top: negate for the farthest
        seen = {entry}
        while candidates:
            distance, node = heapq.heappop(candidates)
            if distance > -best[0][0]:
                break
            fresh = [n for n in self.links[node][layer] if n not in seen]
            seen.update(fresh)
            for distance, near in zip(self.distances(query, fresh), fresh, strict=True):
                if len(best) < ef or distance < -best[0][0]:
                    heapq.heappush(candidates, (float(distance), near))
                    heapq.heappush(best, (-float(distance), -near))
                    if len(best) > ef:
                        heapq.heappop(best)
        return sorted((-distance, -node) for distance, node in best)

    # --- Algorithms 3 and 4: which links to keep ---------------------------------------------

    @staticmethod
    def select_nearest(found: Found, m: int) -> list[int]:
        """Algorithm 3: the m nearest. Not used; here to compare with.

        On clustered data all m lie in the node's own cluster, and nothing leads out of it.
        """
        return [node for _, node in found[:m]]

    def select_diverse(self, found: Found, m: int, *, keep_pruned: bool = False) -> list[int]:
        """Algorithm 4: nearest first, each only if no kept one is nearer to it than the query is.

        If a kept neighbour r is nearer to candidate e than the query is, the walk reaches e by way
        of r, and the link is free for another direction. What remains approximates the relative
        neighbourhood graph: few links, spread around the node, some of them bridges to other
        clusters. O(m |found|) distances at worst.

        Args:
            found: Candidates with their distance to the query, ascending.
            m: Links wanted.
            keep_pruned: Fill up with the nearest of the pruned (the paper's option).
        """
        kept: list[int] = []
        pruned: list[int] = []
        for distance, node in found:
            if len(kept) == m:
                break
            if kept and (self.distances(self.vectors[node], kept) < distance).any():
                pruned.append(node)
            else:
                kept.append(node)
        return kept + pruned[: m - len(kept)] if keep_pruned else kept

    # --- Algorithm 5: search -----------------------------------------------------------------

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest found of each query [Q, D]: distances f32[Q, k], ids i64[Q, k].

        Raises:
            ValueError: On k < 1 or queries of another width.
        """
        check_k(k)
        queries = as_vectors(queries, self.vectors.shape[1])
        distances, ids = empty_result(len(queries), k)
        if self.entry is None:
            return distances, ids
        for row, query in enumerate(queries):
            nearest = self.entry
            for layer in range(self.levels[self.entry], 0, -1):
                nearest = self.search_layer(query, nearest, 1, layer)[0][1]
            found = self.search_layer(query, nearest, max(self.ef_search, k), 0)[:k]
            distances[row, : len(found)] = [distance for distance, _ in found]
            ids[row, : len(found)] = [node for _, node in found]
        return distances, ids

    # --- distances and size ------------------------------------------------------------------

    def distances(self, query: Vectors, nodes: list[int]) -> Distances:
        """Distances f32[n] of a query [D] to nodes, by the metric."""
        rows = self.vectors[nodes]
        if self.metric == "ip":
            return -(rows @ query)
        difference = rows - query
        return np.einsum("nd,nd->n", difference, difference)

    def _measured(self, node: int, others: list[int]) -> Found:
        """Others with their distance to a node, ascending."""
        distances = self.distances(self.vectors[node], others).tolist()
        return sorted(zip(distances, others, strict=True))

    @property
    def bytes_per_vector(self) -> float:
        """What the graph would take on flat arrays: floats and 4 bytes per link slot.

        4 D + 4 * 2 M + 4 M * (expected upper layers: 1 / (M - 1)), measured on the drawn levels.
        """
        upper = 4 * self.m * sum(self.levels)
        nodes = max(len(self.levels), 1)
        return 4 * self.vectors.shape[1] + 8 * self.m + upper / nodes
