"""k-means: the one learning step behind inverted files and product quantisation.

In: vectors f32[N, D] and the number of centroids. Out: centroids f32[C, D] and the mean squared
distance after each iteration. Lloyd, "Least Squares Quantization in PCM", IEEE Transactions on
Information Theory 1982; seeding by Arthur and Vassilvitskii, "k-means++: The Advantages of Careful
Seeding", SODA 2007.

Each half-step can only lower the objective: assigning every vector to its nearest centroid, then
moving every centroid to the mean of its vectors. So the objective never rises, and it stops at a
local minimum that depends on the start.

Three departures from the textbook, as FAISS has them:
- trained on a sample of at most ``per_centroid`` vectors a centroid: beyond some 256 the centroids
  hardly move, and an iteration costs O(N C D);
- an empty cluster takes half of the largest one, whose centroid is split in two;
- a fixed number of iterations instead of a test of convergence: 10 to 25 are enough for an index.

Legend: N vectors, D dimensions, C centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.exact import distances, norms_squared
from ml_algorithms.nearest_neighbour.index import Distances, Vectors, as_vectors

BLOCK = 8192
SPLIT = 1.0 / 1024.0
Labels = npt.NDArray[np.int64]
Seeding = Literal["random", "kmeans++"]


@dataclass(frozen=True)
class KMeans:
    """Trained centroids f32[C, D], and the objective (mean squared distance) by iteration."""

    centroids: Vectors
    objective: list[float]


def train_kmeans(
    vectors: Vectors,
    clusters: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    seeding: Seeding = "random",
    per_centroid: int = 256,
    start: Vectors | None = None,
) -> KMeans:
    """Lloyd's iterations: O(iterations N C D) time, O(BLOCK C) memory beside the vectors.

    Args:
        vectors: f32[N, D].
        clusters: C; at most N.
        iterations: Passes over the (sampled) vectors.
        seed: For the sample and the seeding.
        seeding: "random" vectors, or "kmeans++": slower (O(N C D) once), better on few clusters.
        per_centroid: Train on at most this many vectors per centroid.
        start: Centroids [C, D] to begin with instead.

    Returns:
        Centroids and the objective of the sample before each update.

    Raises:
        ValueError: If there are fewer vectors than clusters or a number is out of range.
    """
    vectors = as_vectors(vectors)
    if not 1 <= clusters <= len(vectors):
        raise ValueError(
            f"{clusters} clusters need at least as many vectors and at least 1; got {len(vectors)}"
        )
    if iterations < 1 or per_centroid < 1:
        raise ValueError(
            f"iterations and per_centroid must be at least 1, got {iterations}, {per_centroid}"
        )
    rng = np.random.default_rng(seed)
    sample = _sample(vectors, clusters * per_centroid, rng)
    if start is not None:
        centroids = as_vectors(start, vectors.shape[1]).copy()
    elif seeding == "kmeans++":
        centroids = plus_plus(sample, clusters, rng)
    else:
        centroids = sample[rng.choice(len(sample), clusters, replace=False)].copy()
    objective = []
    for _ in range(iterations):
        labels, near = assign(sample, centroids)
        objective.append(float(near.mean(dtype=np.float64)))
        centroids = update(sample, labels, centroids)
    return KMeans(centroids, objective)


def assign(vectors: Vectors, centroids: Vectors) -> tuple[Labels, Distances]:
    """Nearest centroid of each vector i64[N] and the squared distance to it f32[N]."""
    labels = np.empty(len(vectors), dtype=np.int64)
    near = np.empty(len(vectors), dtype=np.float32)
    norms = norms_squared(centroids)
    for begin in range(0, len(vectors), BLOCK):
        block = slice(begin, begin + BLOCK)
        table = distances(vectors[block], centroids, "l2", norms)
        labels[block] = table.argmin(axis=1)
        near[block] = table.min(axis=1)
    return labels, near


def update(vectors: Vectors, labels: Labels, centroids: Vectors) -> Vectors:
    """Mean of each cluster f32[C, D]; an empty one takes half of the largest."""
    n_clusters, dimensions = centroids.shape
    counts = np.bincount(labels, minlength=n_clusters)
    moved = np.empty((n_clusters, dimensions), dtype=np.float32)
    for column in range(dimensions):  # bincount sums in float64
        sums = np.bincount(labels, weights=vectors[:, column], minlength=n_clusters)
        moved[:, column] = sums / np.maximum(counts, 1)
    for empty in np.flatnonzero(counts == 0):
        largest = int(counts.argmax())
        # Push the two copies apart in alternating coordinates, so that they do split the cluster.
        nudge = np.where(np.arange(dimensions) % 2 == 0, 1 + SPLIT, 1 - SPLIT).astype(np.float32)
        moved[empty] = moved[largest] * nudge
        moved[largest] *= 2 - nudge
        counts[empty] = counts[largest] // 2
        counts[largest] -= counts[empty]
    return moved


def plus_plus(vectors: Vectors, clusters: int, rng: np.random.Generator) -> Vectors:
    """Seeds f32[C, D]: each next one drawn with probability proportional to D(x)^2.

    D(x) is the distance to the nearest seed so far: far regions get a seed, yet single outliers
    seldom do. Expected objective within 8 (ln C + 2) of the best (Arthur and Vassilvitskii).
    """
    chosen = np.empty(clusters, dtype=np.int64)
    chosen[0] = rng.integers(len(vectors))
    near = distances(vectors[chosen[:1]], vectors)[0].astype(np.float64)
    for position in range(1, clusters):
        total = near.sum()
        weights = near / total if total > 0 else None  # fewer distinct vectors than clusters
        chosen[position] = rng.choice(len(vectors), p=weights)
        new = distances(vectors[chosen[position : position + 1]], vectors)[0]
        np.minimum(near, new, out=near)
    return vectors[chosen].copy()


def _sample(vectors: Vectors, limit: int, rng: np.random.Generator) -> Vectors:
    """At most ``limit`` vectors without replacement."""
    if len(vectors) <= limit:
        return vectors
    return vectors[np.sort(rng.choice(len(vectors), limit, replace=False))]
