"""The compiled HNSW: the same graph as ``hnsw.HNSW`` builds, fast enough to measure.

In: vectors f32[N, D]. Out: distances f32[Q, k] and ids i64[Q, k]. ``hnsw`` explains the algorithm,
``hnsw_kernels`` holds its loops; at the same levels and insertion order both build the same graph
(a test holds them to it).

What FAISS has on top: prefetching of the next rows, four distances at once, hand-written kernels.

Searches write into the index's scratch arrays: one search at a time per index object.
The first call compiles (some seconds; kept on disk by cache=True): ``warm_up`` does it ahead.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.nearest_neighbour.hnsw import check_knobs, draw_levels, insertion_order
from ml_algorithms.nearest_neighbour.hnsw_kernels import Graph, Scratch, insert_rows, search_rows
from ml_algorithms.nearest_neighbour.index import (
    Distances,
    Ids,
    Vectors,
    as_vectors,
    check_k,
    check_metric,
    empty_result,
)


class CompiledHNSW:
    """The compiled index: the same knobs and results as ``hnsw.HNSW``.

    Attributes:
        graph: The arrays.
        size: Nodes in the index, N.
        entry: Node where every search begins; -1 when empty.
        ef_search: Width of the search in layer 0; at least k is used.
    """

    def __init__(
        self,
        capacity: int,
        dimensions: int,
        *,
        m: int = 16,
        ef_construction: int = 100,
        metric: str = "l2",
        seed: int = 0,
        shuffle: bool = True,
        diverse: bool = True,
    ) -> None:
        """Room for ``capacity`` vectors; m to seed as for ``hnsw.HNSW``.

        Args:
            capacity: Vectors that can be added in all.
            dimensions: D.
            m: Links.
            ef_construction: Width of the search for a new node's neighbours.
            metric: "l2" or "ip".
            seed: Of levels and order.
            shuffle: Whether ``add`` inserts a batch in random order; to see what it is for.
            diverse: Whether links are chosen by Algorithm 4 or 3; to see what it is for.

        Raises:
            ValueError: If a knob is out of range.
        """
        check_knobs(m, ef_construction)
        check_metric(metric)
        self.m, self.ef_construction, self.metric = m, ef_construction, metric
        self.shuffle, self.ef_search = shuffle, 64
        self.seed, self.size, self.entry = seed, 0, -1
        levels = draw_levels(capacity, m, seed=seed)
        self.graph = Graph(
            vectors=np.zeros((capacity, dimensions), np.float32),
            inner_product=metric == "ip",
            diverse=diverse,
            levels=levels,
            base_links=np.full((capacity, 2 * m), -1, np.int32),
            upper_links=np.full((max(int(levels.sum()), 1), m), -1, np.int32),
            upper_begin=np.cumsum(levels, dtype=np.int64) - levels,
        )
        self.scratch = self.new_scratch(ef_construction)

    def new_scratch(self, width: int) -> Scratch:
        """Working arrays for searches of up to this ``ef``."""
        capacity = len(self.graph.levels)
        return Scratch(
            marks=np.zeros(capacity, np.uint8),
            stamp=np.zeros(1, np.int64),
            open_distance=np.empty(capacity + 1, np.float32),
            open_id=np.empty(capacity + 1, np.int32),
            best_distance=np.empty(width + 1, np.float32),
            best_id=np.empty(width + 1, np.int32),
        )

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        m: int = 16,
        ef_construction: int = 100,
        metric: str = "l2",
        seed: int = 0,
    ) -> CompiledHNSW:
        """An index of all vectors [N, D]; ids are rows."""
        vectors = as_vectors(vectors)
        index = cls(*vectors.shape, m=m, ef_construction=ef_construction, metric=metric, seed=seed)
        index.add(vectors)
        return index

    def add(self, vectors: Vectors) -> Ids:
        """Inserts vectors [n, D], in a random order of their own; returns their ids i64[n].

        Raises:
            ValueError: If there is no room, or the width differs.
        """
        vectors = as_vectors(vectors, self.graph.vectors.shape[1])
        begin, end = self.size, self.size + len(vectors)
        if end > len(self.graph.levels):
            raise ValueError(f"room for {len(self.graph.levels)} vectors, {end} wanted")
        self.graph.vectors[begin:end] = vectors
        self.make_room(self.ef_construction)
        order = np.arange(begin, end)
        if self.shuffle:
            order = begin + insertion_order(len(vectors), seed=self.seed)
        self.entry = insert_rows(self.graph, self.scratch, order, self.entry, self.ef_construction)
        self.size = end
        return np.arange(begin, end)

    def make_room(self, ef: int) -> None:
        """Lets the heap of results hold ``ef`` entries."""
        if len(self.scratch.best_id) <= ef:
            self.scratch = self.new_scratch(ef)

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest found of each query [Q, D]: distances f32[Q, k], ids i64[Q, k].

        Raises:
            ValueError: On k < 1 or queries of another width.
        """
        check_k(k)
        queries = as_vectors(queries, self.graph.vectors.shape[1])
        if self.entry < 0:
            return empty_result(len(queries), k)
        self.make_room(max(self.ef_search, k))
        return search_rows(self.graph, self.scratch, queries, self.entry, k, self.ef_search)

    @property
    def bytes_per_vector(self) -> float:
        """Floats, both link matrices, levels and row begins, over the nodes; without scratch."""
        arrays = [array for array in self.graph if isinstance(array, np.ndarray)]
        return sum(array.nbytes for array in arrays) / max(self.size, 1)


def warm_up(metric: str = "l2") -> None:
    """Compiles everything by building and searching a tiny index; call it before timing."""
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    CompiledHNSW.build(vectors, m=2, ef_construction=4, metric=metric).search(vectors[:2], 3)
