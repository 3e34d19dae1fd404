"""Catalogues of any size that look like ours: vectors for the index benchmark.

In: a trained bundle, or nothing. Out: ``VectorSource``, our item vectors with real requests to
search them by, and ``CatalogueGenerator``, which samples N unit vectors that are distributed as the
item vectors are.

How an index performs depends on the data: on isotropic vectors no cell and no graph is of help, on
tight clusters everything is. So the generator is fitted to what the item tower gave: a mixture of
Gaussians, one for each k-means cluster, whose covariance is the cluster's own, shrunk towards the
mean within-cluster covariance (a cluster of some 30 items cannot fill 64 dimensions by itself);
samples are scaled to unit length. ``nearness`` compares real and sampled catalogues.

It keeps the density near a request and the shape of the space. It does not invent tastes: a real
catalogue of a million items has more clusters than 50, so what it would measure is a guess.

Legend: I items, N vectors, Q queries, D embedding dim, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from ml_platform.data.splits import next_event_queries
from video_recommendation.data import SystemData
from video_recommendation.requests import batch_of_queries

N_CLUSTERS = 50
SHRINKAGE_ITEMS = 16.0
"""Weight of the mean covariance; of 16 and 64 the one whose ``nearness`` is nearer to ours."""
SAMPLE_BLOCK = 100_000
STAND_IN_ITEMS, STAND_IN_DIM, STAND_IN_QUERIES = 1_682, 64, 2_000


@dataclass(frozen=True)
class VectorSource:
    """Item vectors, and queries to search them by.

    Attributes:
        items: f32[I, D], unit rows.
        queries: f32[Q, D], unit rows.
        owner: i64[Q], the user of each query; queries of one user are not independent.
        is_real: Whether a trained model gave them.
        description: Where they come from, for protocols and captions.
    """

    items: np.ndarray
    queries: np.ndarray
    owner: np.ndarray
    is_real: bool
    description: str


def bundle_source(bundle: Path, data: SystemData) -> VectorSource:
    """The bundle's item vectors and user vectors of all requests in the test window.

    Raises:
        BundleError: if there is no usable bundle.
        ValueError: if the bundle was trained on other data than ``data``.
    """
    from video_recommendation.bundle import load_bundle  # torch and LightGBM: seconds to import

    recommender = load_bundle(bundle)
    if recommender.config.data.dataset != data.name:
        raise ValueError(
            f"{bundle} was trained on {recommender.config.data.dataset}, this benchmark is for "
            f"{data.name}: run `make train` with the same data set first"
        )
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    vectors = recommender.proposer.encoder.encode(batch_of_queries(data.log, queries))
    return VectorSource(
        items=recommender.proposer.retriever.item_vectors,
        queries=vectors,
        owner=queries.user_idx.astype(np.int64),
        is_real=True,
        description=f"item tower and test-window requests of {data.name}",
    )


def stand_in_source(seed: int) -> VectorSource:
    """Vectors for when nothing is trained: 50 clusters in a space of falling spectrum.

    The j-th of 64 directions has variance proportional to 1 / j, clusters hold a third of it.
    Queries are items moved to a cosine of about .7: whom a request resembles most.
    """
    rng = np.random.default_rng(seed)
    spread = 1.0 / np.sqrt(np.arange(1, STAND_IN_DIM + 1))
    centres = rng.normal(size=(N_CLUSTERS, STAND_IN_DIM)) * spread
    cluster = rng.integers(0, N_CLUSTERS, STAND_IN_ITEMS)
    around = rng.normal(size=(STAND_IN_ITEMS, STAND_IN_DIM)) * spread
    items = _unit(centres[cluster] / np.sqrt(3.0) + around * np.sqrt(2.0 / 3.0))
    near = items[rng.integers(0, STAND_IN_ITEMS, STAND_IN_QUERIES)]
    queries = _unit(near + _unit(rng.normal(size=near.shape)))
    return VectorSource(
        items=items,
        queries=queries,
        owner=np.arange(STAND_IN_QUERIES),
        is_real=False,
        description="STAND-IN vectors (nothing trained): 50 clusters, falling spectrum",
    )


@dataclass(frozen=True)
class CatalogueGenerator:
    """Mixture of Gaussians on the sphere, fitted to item vectors.

    Attributes:
        centres: f32[C, D].
        factors: f32[C, D, D], covariance = factor @ factor.T.
        shares: f64[C], share of the items in each cluster.
    """

    centres: np.ndarray
    factors: np.ndarray
    shares: np.ndarray

    @classmethod
    def fit(cls, items: np.ndarray) -> CatalogueGenerator:
        """Fits the mixture to f32[I, D]."""
        dim = items.shape[1]
        n_clusters = min(N_CLUSTERS, max(1, len(items) // 10))
        kmeans = faiss.Kmeans(dim, n_clusters, niter=20, seed=1, min_points_per_centroid=1)
        kmeans.train(items)
        centres = np.asarray(kmeans.centroids)
        cluster = kmeans.index.search(items, 1)[1][:, 0]
        residual = items - centres[cluster]
        pooled = residual.T @ residual / len(items)
        counts = np.bincount(cluster, minlength=n_clusters)
        factors = np.empty((n_clusters, dim, dim), dtype=np.float32)
        for number, count in enumerate(counts):
            own = residual[cluster == number]
            total = own.T @ own + SHRINKAGE_ITEMS * pooled
            covariance = total.astype(np.float64) / (count + SHRINKAGE_ITEMS)
            factors[number] = np.linalg.cholesky(covariance + 1e-9 * np.eye(dim))
        return cls(centres, factors, counts / counts.sum())

    def sample(self, n_vectors: int, seed: int) -> np.ndarray:
        """Unit vectors f32[N, D] in random order, in blocks: no copy beside the result."""
        rng = np.random.default_rng(seed)
        vectors = np.empty((n_vectors, self.centres.shape[1]), dtype=np.float32)
        for begin in range(0, n_vectors, SAMPLE_BLOCK):
            block = vectors[begin : begin + SAMPLE_BLOCK]
            cluster = rng.choice(len(self.shares), len(block), p=self.shares)
            for number in range(len(self.shares)):
                rows = np.flatnonzero(cluster == number)
                noise = rng.standard_normal((len(rows), block.shape[1]), dtype=np.float32)
                block[rows] = _unit(self.centres[number] + noise @ self.factors[number].T)
        return vectors


def nearness(vectors: np.ndarray, queries: np.ndarray, ranks: tuple[int, ...]) -> dict[int, float]:
    """Mean cosine of the queries' neighbours at the given 1-based ranks: the density near them."""
    scores, _ = faiss.knn(queries, vectors, max(ranks), metric=faiss.METRIC_INNER_PRODUCT)
    return {rank: float(scores[:, rank - 1].mean()) for rank in ranks}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
