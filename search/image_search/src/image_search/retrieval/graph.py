"""HNSW: a walk through a layered graph of near vectors, with tombstones and a rebuild.

In: vectors f32[N, D] of length 1. Out: the most similar rows. The graph is FAISS's (Y. Malkov,
D. Yashunin, "Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable
Small World Graphs", TPAMI 2020, algorithms 1, 2, 4 and 5).

FAISS cannot take a node out: others are reached through it. A removed row becomes a tombstone,
which the walk passes over and never returns. When the dead are ``rebuild_share`` of all nodes the
graph is built anew from the living, inside the ``remove`` that crossed the line; a service would
build beside the old graph and swap. A row that is added again after its removal gets a new node.

With a filter the walk still goes over all nodes and admits those that pass, so it must be wider the
fewer pass: ``search_width / share``. Below ``exact_below`` passing rows the walk is not taken at
all: every passing vector is compared, which is exact and by then cheaper.

Legend: N nodes, D dimensions, M links.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.faiss_library import faiss
from image_search.retrieval.filtering import best_of
from image_search.retrieval.index import (
    checked,
    padded,
    queries_of,
    read_config,
    selector,
    write_kind,
    written_bytes,
)


class HnswIndex:
    """See the module.

    Attributes:
        rebuilds: How often the graph was built anew.
    """

    FILE = "hnsw.faiss"

    def __init__(self, dim: int, config: IndexConfig) -> None:
        self.dim, self.config = dim, config
        self._graph = self._empty()
        self._row = np.zeros(0, dtype=np.int64)  # of each node
        self._alive = np.zeros(0, dtype=bool)
        self.rebuilds = 0

    def __len__(self) -> int:
        return int(self._alive.sum())

    @property
    def dead_share(self) -> float:
        """Of the nodes that are walked over and never returned."""
        return 1 - len(self) / len(self._alive) if len(self._alive) else 0.0

    @property
    def bytes(self) -> int:
        """The graph as FAISS writes it, the dead included, and 9 bytes a node for row and mark."""
        return written_bytes(self._graph) + 9 * len(self._row)

    @property
    def search_width(self) -> int:
        """Nodes that the walk keeps open; may be set."""
        return int(self._graph.hnsw.efSearch)

    @search_width.setter
    def search_width(self, width: int) -> None:
        self._graph.hnsw.efSearch = width

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """See ``VectorIndex``.

        Raises:
            ValueError: For a row that is alive in the graph.
        """
        rows, vectors = checked(rows, vectors, self.dim)
        if (again := rows[np.isin(rows, self._row[self._alive])]).size:
            raise ValueError(f"row {again[0]} is in the index; remove it before you add it again")
        self._graph.add(vectors)
        self._row = np.concatenate([self._row, rows])
        self._alive = np.concatenate([self._alive, np.ones(len(rows), dtype=bool)])

    def remove(self, rows: np.ndarray) -> None:
        """See ``VectorIndex``: tombstones, and a rebuild once there are too many."""
        self._alive &= ~np.isin(self._row, rows)
        if self.dead_share >= self.config.rebuild_share:
            self.rebuild()

    def rebuild(self) -> None:
        """Builds the graph anew from the living, in the order in which they came."""
        nodes = np.flatnonzero(self._alive)
        vectors = self._vectors(nodes)
        width = self.search_width
        self._graph = self._empty()
        self.search_width = width
        if len(nodes):
            self._graph.add(vectors)
        self._row, self._alive = self._row[nodes], np.ones(len(nodes), dtype=bool)
        self.rebuilds += 1

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``VectorIndex``."""
        passing = self._alive
        if allowed is not None:
            known = self._row < len(allowed)
            passing = passing & known & allowed[np.where(known, self._row, 0)]
            if (number := int(passing.sum())) < self.config.exact_below:
                nodes = np.flatnonzero(passing)
                return best_of(queries, self._row[nodes], self._vectors(nodes), k)
            share = number / len(self._row)
        else:
            share = 1.0
        return self._walk(queries, k, passing, share)

    def during(
        self, queries: np.ndarray, k: int, allowed: np.ndarray, *, widen: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The filtered walk whatever passes, for the study; ``widen`` by the share or not."""
        passing = self._alive & allowed[self._row]
        share = float(passing.mean()) if widen else 1.0
        return self._walk(queries, k, passing, share)

    def _walk(
        self, queries: np.ndarray, k: int, passing: np.ndarray, share: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """At most N nodes wide; without a selector where every node passes."""
        width = math.ceil(max(self.search_width, k) / max(share, 1 / max(len(self._row), 1)))
        parameters = faiss.SearchParametersHNSW(efSearch=min(width, max(len(self._row), k)))
        if not passing.all():
            chosen = selector(passing)  # held by name: FAISS keeps a bare pointer
            parameters.sel = chosen
        similarity, nodes = self._graph.search(queries_of(queries), k, params=parameters)
        rows = np.where(nodes < 0, -1, np.append(self._row, -1)[nodes])
        return padded(rows, similarity)

    def _vectors(self, nodes: np.ndarray) -> np.ndarray:
        """f32[n, D] as they were added."""
        stored = faiss.downcast_index(self._graph.storage).get_xb()
        whole = faiss.rev_swig_ptr(stored, len(self._row) * self.dim).reshape(-1, self.dim)
        return whole[nodes].copy()

    def _empty(self) -> Any:
        made = faiss.IndexHNSWFlat(self.dim, self.config.hnsw_m, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = self.config.hnsw_build_width
        made.hnsw.efSearch = self.config.hnsw_search_width
        return made

    def save(self, folder: Path) -> None:
        """See ``VectorIndex``."""
        faiss.write_index(self._graph, str(folder / self.FILE))
        np.savez(folder / "hnsw_rows.npz", row=self._row, alive=self._alive)
        write_kind(folder, "hnsw", config=self.config.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``VectorIndex``."""
        graph = faiss.read_index(str(folder / cls.FILE))
        made = cls(int(graph.d), read_config(folder))
        made._graph = graph
        with np.load(folder / "hnsw_rows.npz", allow_pickle=False) as kept:
            made._row, made._alive = kept["row"], kept["alive"]
        return made
