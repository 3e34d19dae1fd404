"""The ANN index over item vectors: four kinds behind one function, and what each costs.

In: unit vectors f32[I, D]. Out: a FAISS index for maximum inner product (on unit vectors that is
cosine), and measurements of recall against exact search, build time, bytes and latency.

- flat: compares with every vector. Exact. Cost grows with I.
- ivf: k-means cells, only the nearest ``n_probe`` are searched (Sivic and Zisserman, ICCV 2003, in
  FAISS's form).
- hnsw: a layered proximity graph (Malkov and Yashunin, TPAMI 2020).
- pq: product quantisation in IVF cells, ``pq_bytes`` bytes a vector (Jegou et al., TPAMI 2011).
  Scores are those of the compressed vectors; nothing re-ranks them with the exact ones.

Legend: I items, Q queries, D embedding dim, k neighbours a query.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import faiss
import numpy as np

from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads
from video_recommendation.config import IndexConfig

TRAINING_VECTORS_PER_LIST = 39
"""FAISS warns below so many training vectors per k-means centroid."""
MAX_TRAINING_VECTORS_PER_LIST = 64
"""FAISS's own limit is 256; k-means would then be most of a large build."""
PQ_CENTROIDS = 256
SCORE_TOLERANCE = 1e-6
"""Scores of one pair differ in the last bits between FAISS's ways of computing them."""
WARM_UP_QUERIES = 20


@dataclass(frozen=True)
class IndexMeasurement:
    """What an index costs and gives on given vectors and queries.

    Attributes:
        kind: "flat", "ivf", "hnsw" or "pq".
        n_vectors: Size of the catalogue.
        recall: Share of the exact top k that is found, mean over queries.
        build_s: Training and adding.
        bytes_per_vector: Size of the serialised index / n_vectors.
        p50_ms: Median latency of single queries, one thread.
        p99_ms: 99th percentile of the same.
    """

    kind: str
    n_vectors: int
    recall: float
    build_s: float
    bytes_per_vector: float
    p50_ms: float
    p99_ms: float


def build_index(vectors: np.ndarray, config: IndexConfig) -> faiss.Index:
    """Builds and fills the index, on as many threads as FAISS is set to.

    Args:
        vectors: f32[I, D], unit rows.
        config: Kind and knobs. ``n_lists`` is lowered where the catalogue is too small to train
            that many cells.

    Raises:
        ValueError: if the vectors are not f32[I, D] with I > 0, or ``pq_bytes`` does not divide D,
            or the catalogue is too small for product quantisation.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"vectors must be f32[I, D], got {vectors.dtype} {vectors.shape}")
    if not len(vectors):
        raise ValueError("no vectors to index: the catalogue is empty")
    n_vectors, dim = vectors.shape
    index = _empty_index(n_vectors, dim, config)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    return index


def measure_index(
    vectors: np.ndarray,
    queries: np.ndarray,
    config: IndexConfig,
    *,
    k: int = 100,
    build_threads: int = 1,
) -> IndexMeasurement:
    """Builds the index and searches the queries one by one, on one thread.

    Args:
        vectors: f32[I, D].
        queries: f32[Q, D], real user vectors where there are some.
        config: Kind and knobs.
        k: Neighbours per query; recall is recall@k against exact search.
        build_threads: Threads of the build; the searches have one.
    """
    with faiss_threads(build_threads):
        started = time.perf_counter()
        index = build_index(vectors, config)
        build_s = time.perf_counter() - started
    found, latency_ms = search_one_by_one(index, queries, k)
    worst_score = exact_worst_scores(vectors, queries, k)
    return IndexMeasurement(
        kind=config.kind,
        n_vectors=len(vectors),
        recall=float(neighbour_recall(vectors, queries, found, worst_score).mean()),
        build_s=build_s,
        bytes_per_vector=serialised_bytes(index) / len(vectors),
        p50_ms=float(np.percentile(latency_ms, 50)),
        p99_ms=float(np.percentile(latency_ms, 99)),
    )


def search_one_by_one(
    index: faiss.Index, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours i64[Q, k] and latencies ms f64[Q]: one thread, one query at a time, warmed up.

    The call from Python is part of the latency.
    """
    found = np.empty((len(queries), k), dtype=np.int64)
    latency_ms = np.empty(len(queries))
    with faiss_threads(1):
        for query in queries[:WARM_UP_QUERIES]:
            index.search(query[None], k)
        for row, query in enumerate(queries):
            started = time.perf_counter()
            found[row] = index.search(query[None], k)[1][0]
            latency_ms[row] = (time.perf_counter() - started) * 1000
    return found, latency_ms


def exact_worst_scores(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Score f32[Q] of the last item of the exact top min(k, I)."""
    k = min(k, len(vectors))
    scores, _ = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return np.asarray(scores[:, -1])


def neighbour_recall(
    vectors: np.ndarray, queries: np.ndarray, found: np.ndarray, worst_score: np.ndarray
) -> np.ndarray:
    """Share of the exact top k among the found items, by score, so that a tie is not a miss.

    Args:
        vectors: f32[I, D].
        queries: f32[Q, D].
        found: i64[Q, k], distinct items of each query, -1 where the index found fewer than k.
        worst_score: f32[Q], from ``exact_worst_scores`` for the same k.

    Returns:
        f64[Q].
    """
    scores = np.stack([vectors[row] @ query for row, query in zip(found, queries, strict=True)])
    good = (scores >= worst_score[:, None] - SCORE_TOLERANCE) & (found >= 0)
    k = min(found.shape[1], len(vectors))
    # More than k can reach the score of the k-th where several share it.
    return np.minimum(good.sum(axis=1), k) / k


def serialised_bytes(index: faiss.Index) -> int:
    """Bytes of the index as FAISS would write it, counted without holding a copy."""
    n_bytes = 0

    def count(block: bytes) -> None:
        nonlocal n_bytes
        n_bytes += len(block)

    writer = faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(count))  # type: ignore[attr-defined]
    faiss.write_index(index, writer)
    del writer  # flushes what is left
    return n_bytes


def _empty_index(n_vectors: int, dim: int, config: IndexConfig) -> faiss.Index:
    """The untrained index."""
    if config.kind == "flat":
        return faiss.IndexFlatIP(dim)
    if config.kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, config.hnsw_m, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = config.ef_construction
        graph.hnsw.efSearch = config.ef_search
        return graph
    return _empty_cells(n_vectors, dim, config)


def _empty_cells(n_vectors: int, dim: int, config: IndexConfig) -> faiss.IndexIVF:
    """The untrained IVF index, with plain vectors or codes in its cells.

    The Python object of the index keeps that of the coarse quantiser alive: to set ``own_fields``
    beside that would free the quantiser twice.
    """
    n_lists = max(1, min(config.n_lists, n_vectors // TRAINING_VECTORS_PER_LIST))
    coarse, metric = faiss.IndexFlatIP(dim), faiss.METRIC_INNER_PRODUCT
    if config.kind == "ivf":
        index: faiss.IndexIVF = faiss.IndexIVFFlat(coarse, dim, n_lists, metric)
    else:
        _check_pq(n_vectors, dim, config.pq_bytes)
        index = faiss.IndexIVFPQ(coarse, dim, n_lists, config.pq_bytes, 8, metric)
        # 256 centroids train on what there is, without a warning below 39 vectors each.
        index.pq.cp.min_points_per_centroid = 1
        index.pq.cp.max_points_per_centroid = MAX_TRAINING_VECTORS_PER_LIST
    # Below that many vectors there is one cell, and nothing to warn of.
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = MAX_TRAINING_VECTORS_PER_LIST
    index.nprobe = config.n_probe
    return index


def _check_pq(n_vectors: int, dim: int, pq_bytes: int) -> None:
    if dim % pq_bytes:
        raise ValueError(f"pq_bytes {pq_bytes} must divide the dimension {dim}")
    if n_vectors < PQ_CENTROIDS:
        raise ValueError(f"product quantisation needs {PQ_CENTROIDS} vectors, got {n_vectors}")
