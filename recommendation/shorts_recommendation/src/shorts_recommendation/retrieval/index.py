"""The index of video vectors: four kinds, chosen by measurement on these very vectors.

In: video vectors f32[V, D] (direction and bias, so lengths differ a little) and user vectors
f32[B, D]. Out: the k videos of largest inner product. Uploads are appended, never a rebuild.

- flat: every vector. Exact; cost grows with V.
- ivf: cells of k-means, only the nearest ``n_probe`` are read (Sivic and Zisserman, "Video Google:
  A Text Retrieval Approach to Object Matching in Videos", ICCV 2003, as FAISS has it). An upload
  joins its nearest cell; cells are those of the videos that existed when they were trained.
- hnsw: a layered proximity graph (Malkov and Yashunin, "Efficient and Robust Approximate Nearest
  Neighbor Search Using Hierarchical Navigable Small World Graphs", TPAMI 2020, algorithm 5).

- int8: every vector in 8 bits, the best again in full (scan.py). Cost grows with V, a quarter of
  flat's.

``auto`` measures all four at several widths of search and takes the fastest with recall@k of at
least ``TARGET_RECALL``, at the depth of a request: k = 600 is far from the k = 10 of published
comparisons, and a graph walk that must collect so many loses its lead.

Legend: V videos, D dimensions, B queries at once, k neighbours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads
from shorts_recommendation.retrieval.scan import Int8Scan

TARGET_RECALL = 0.95
CELL_TRAINING = 64
"""Vectors per cell that k-means reads at most."""
FEWEST_PER_CELL = 39
"""FAISS warns below so many."""
SEARCH_BATCH = 8
"""Queries a search: what micro-batching across requests hands over."""
IVF_PROBES = (8, 16, 32, 48, 64, 80, 96)
HNSW_WIDTHS = (300, 500, 800)
KINDS = ("flat", "ivf", "hnsw", "int8")
HNSW_M, HNSW_BUILD_WIDTH = 16, 48


@dataclass(frozen=True)
class Measured:
    """One kind at one width of search.

    Attributes:
        kind: One of KINDS.
        width: Probes or the width of the graph walk; 0 where every vector is read.
        recall: Share of the exact k that is found, mean over queries.
        qps: Queries a second of processor time of one thread, SEARCH_BATCH at a time, median.
        bytes: Of the index as written.
        build_s: Training and adding, one thread.
    """

    kind: str
    width: int
    recall: float
    qps: float
    bytes: int
    build_s: float


class VideoIndex:
    """A FAISS index, or a scan, whose rows are videos in the order in which they were added.

    Args:
        kind: One of KINDS.
        width: Probes or the width of the walk; 0 where every vector is read.
        vectors: f32[n, D], those of the videos that exist.
        videos: i32[n].

    Raises:
        ValueError: If there is no vector, or the kind is unknown.
    """

    def __init__(self, kind: str, width: int, vectors: np.ndarray, videos: np.ndarray) -> None:
        if not len(vectors):
            raise ValueError("no vectors to index: no video exists yet")
        self.kind, self.width = kind, width
        self.videos = np.zeros(0, dtype=np.int32)
        self.index: Any
        if kind == "int8":
            self.index = Int8Scan.of(vectors)
            self.videos = videos.astype(np.int32)
            return
        self.index = _empty(kind, vectors.shape[1], len(vectors))
        if not self.index.is_trained:
            self.index.train(vectors)
        self.set_width(width)
        self.add(vectors, videos)

    def set_width(self, width: int) -> None:
        """How far a search looks: probes of ivf, width of hnsw's walk."""
        self.width = width
        if self.kind == "ivf":
            self.index.nprobe = width
        elif self.kind == "hnsw":
            self.index.hnsw.efSearch = width

    def add(self, vectors: np.ndarray, videos: np.ndarray) -> None:
        """Append uploads: vectors f32[n, D] and their videos i32[n]."""
        self.index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self.videos = np.concatenate([self.videos, videos.astype(np.int32)])

    def replace(self, vectors: np.ndarray, videos: np.ndarray) -> None:
        """New vectors f32[n, D] for videos i32[n] that are in the index: the sync of id rows.

        Raises:
            ValueError: For hnsw, whose edges belong to the old vectors: build it again.
        """
        order = np.argsort(self.videos, kind="stable")
        rows = order[np.searchsorted(self.videos[order], videos)].astype(np.int64)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.kind == "flat":
            size = self.index.ntotal * self.index.d
            held = faiss.rev_swig_ptr(self.index.get_xb(), size)
            held.reshape(self.index.ntotal, self.index.d)[rows] = vectors
        elif self.kind == "ivf":
            self.index.set_direct_map_type(faiss.DirectMap.Array)  # type: ignore[attr-defined]
            self.index.update_vectors(rows, vectors)
        elif self.kind == "int8":
            self.index.replace(vectors, rows)
        else:
            raise ValueError(f"{self.kind} cannot change a vector in place: build a new index")

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Videos i32[B, k], best first, -1 where fewer were found."""
        depth = min(k, len(self.videos))
        rows = self.index.search(queries, depth)
        if self.kind != "int8":  # FAISS returns scores as well
            rows = rows[1]
        found = np.where(rows >= 0, self.videos[rows], -1).astype(np.int32)
        return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)

    def copy(self) -> VideoIndex:
        """An index of its own with the same content."""
        made = VideoIndex.__new__(VideoIndex)
        made.kind, made.videos = self.kind, self.videos.copy()
        own = self.kind == "int8"
        made.index = self.index.copy() if own else faiss.clone_index(self.index)
        made.set_width(self.width)
        return made

    @property
    def n_bytes(self) -> int:
        """As written."""
        if self.kind == "int8":
            return int(self.index.n_bytes)
        return len(faiss.serialize_index(self.index))

    def __len__(self) -> int:
        return len(self.videos)

    def save(self, folder: Path) -> None:
        """Write the index and its videos."""
        if self.kind == "int8":
            self.index.save(folder)
        else:
            faiss.write_index(self.index, str(folder / "videos.faiss"))
        np.save(folder / "index_videos.npy", self.videos)

    @classmethod
    def load(cls, folder: Path, kind: str, width: int) -> VideoIndex:
        """What ``save`` wrote."""
        made = cls.__new__(cls)
        made.kind = kind
        if kind == "int8":
            made.index = Int8Scan.load(folder)
        else:
            made.index = faiss.read_index(str(folder / "videos.faiss"))
        made.videos = np.load(folder / "index_videos.npy")
        made.set_width(width)
        return made


def choose_index(
    kind: str, vectors: np.ndarray, videos: np.ndarray, queries: np.ndarray, k: int
) -> tuple[VideoIndex, list[Measured]]:
    """The index that serves, and what was measured to choose it.

    Args:
        kind: "auto" compares all four; a name measures that kind only, to set its width.
        vectors: f32[n, D].
        videos: i32[n].
        queries: f32[Q, D], real user vectors, not those that quality is reported on.
        k: Neighbours that recall is about.
    """
    kinds = KINDS if kind == "auto" else (kind,)
    rows: list[Measured] = []
    built: dict[str, VideoIndex] = {}
    for name in kinds:
        index, measured = bench_kind(name, vectors, videos, queries, k)
        built[name] = index
        rows += measured
    good = [row for row in rows if row.recall >= TARGET_RECALL]
    best = max(good, key=lambda row: row.qps) if good else max(rows, key=lambda row: row.recall)
    chosen = built[best.kind]
    chosen.set_width(best.width)
    return chosen, rows


def bench_kind(
    kind: str, vectors: np.ndarray, videos: np.ndarray, queries: np.ndarray, k: int
) -> tuple[VideoIndex, list[Measured]]:
    """Build one kind and measure it at its widths, on one thread.

    Widths that already reach everything (flat) or that the catalogue cannot fill are left out.
    """
    with faiss_threads(1):
        started = time.perf_counter()
        index = VideoIndex(kind, 1, vectors, videos)
        build_s = time.perf_counter() - started
        size = index.n_bytes
        k = min(k, len(vectors))
        exact = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0][:, -1]
        rows = []
        for width in _widths(index):
            index.set_width(width)
            recall = _recall(index, queries, vectors, videos, exact, k)
            rows.append(Measured(kind, width, recall, _qps(index, queries, k), size, build_s))
    return index, rows


def _recall(
    index: VideoIndex,
    queries: np.ndarray,
    vectors: np.ndarray,
    videos: np.ndarray,
    worst: np.ndarray,
    k: int,
) -> float:
    """Mean share of the exact k found, judged by score: a tie at the edge is no miss."""
    row_of = np.zeros(int(videos.max()) + 1, dtype=np.int64)
    row_of[videos] = np.arange(len(videos))
    found = index.search(queries, k)
    scores = np.einsum("qkd,qd->qk", vectors[row_of[np.maximum(found, 0)]], queries)
    good = (found >= 0) & (scores >= worst[:, None] - 1e-5)
    return float(np.minimum(good.sum(axis=1), k).mean() / k)


def _qps(index: VideoIndex, queries: np.ndarray, k: int) -> float:
    batches = [queries[i : i + SEARCH_BATCH] for i in range(0, len(queries), SEARCH_BATCH)]
    index.search(batches[0], k)
    seconds = []
    for batch in batches:
        started = time.thread_time()  # a busy machine does not count against an index
        index.search(batch, k)
        seconds.append((time.thread_time() - started) / len(batch))
    return float(1.0 / np.median(seconds))


def _widths(index: VideoIndex) -> tuple[int, ...]:
    if index.kind in ("flat", "int8"):
        return (0,)
    if index.kind == "ivf":
        cells = index.index.nlist
        return tuple(width for width in IVF_PROBES if width < cells) or (cells,)
    return HNSW_WIDTHS


def _empty(kind: str, dim: int, n_vectors: int) -> faiss.Index:
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, HNSW_M, metric)
        graph.hnsw.efConstruction = HNSW_BUILD_WIDTH
        return graph
    if kind != "ivf":
        raise ValueError(f"index kind {kind!r}: choose {', '.join(KINDS)}")
    cells = max(1, min(int(np.sqrt(n_vectors)), n_vectors // FEWEST_PER_CELL))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, metric)
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = CELL_TRAINING
    return index
