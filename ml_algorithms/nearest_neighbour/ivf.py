"""Inverted file: cut the space into cells, and search only the cells nearest to the query.

In: vectors f32[N, D]. Out: an index that scans about nprobe / C of them. The coarse quantiser of
Sivic and Zisserman's visual words, as Jegou, Douze and Schmid, "Product Quantization for Nearest
Neighbor Search", TPAMI 2011, section IV, use it; here with the vectors kept as they are ("Flat").

1. Train: k-means gives C centroids (C near 4 to 16 sqrt(N)).
2. Add: every vector goes to the list of its nearest centroid.
3. Search: compare the query with all C centroids, scan the nprobe nearest lists exactly.

Cost of one query: O(C D) to choose lists and O(nprobe N / C D) to scan them, least when the two are
alike: C about sqrt(nprobe N). Lists of unequal length cost more than that mean, because a query is
likelier to fall where vectors are many: ``imbalance`` measures it.

The lists are stored one after another in one array, with offsets (a CSR layout): a scan is a matrix
product on a contiguous slice, with no pointer to follow.

Legend: N vectors, D dimensions, Q queries, C centroids, P lists probed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.exact import distances, norms_squared, smallest_k
from ml_algorithms.nearest_neighbour.index import (
    Distances,
    Ids,
    Metric,
    Vectors,
    as_vectors,
    check_k,
    check_metric,
    empty_result,
)
from ml_algorithms.nearest_neighbour.kmeans import BLOCK, train_kmeans


@dataclass(frozen=True)
class InvertedLists:
    """Which vector lies in which list.

    Attributes:
        order: Ids i64[N], list by list; ascending within a list.
        offsets: i64[C + 1]; list c is ``order[offsets[c]:offsets[c + 1]]``.
    """

    order: Ids
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: npt.NDArray[np.int64], lists: int) -> InvertedLists:
        """From the list number of each vector i64[N]."""
        counts = np.bincount(labels, minlength=lists)
        order = np.argsort(labels, kind="stable")
        return cls(order, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def slices(self, lists: npt.NDArray[np.int64]) -> list[slice]:
        """Where these lists stand in ``order``."""
        return [slice(int(self.offsets[c]), int(self.offsets[c + 1])) for c in lists]

    @property
    def imbalance(self) -> float:
        """C sum n_c^2 / N^2: 1 when all lists are equal, 2 when a typical scan costs double."""
        sizes = np.diff(self.offsets).astype(np.float64)
        return float(sizes.size * (sizes**2).sum() / sizes.sum() ** 2)


def nearest_lists(
    vectors: Vectors, centroids: Vectors, metric: Metric, probes: int = 1
) -> npt.NDArray[np.int64]:
    """The nearest centroids of each vector, i64[N, P], nearest first; O(N C D)."""
    chosen = np.empty((len(vectors), probes), dtype=np.int64)
    for begin in range(0, len(vectors), BLOCK):
        table = distances(vectors[begin : begin + BLOCK], centroids, metric)
        if probes == 1:
            chosen[begin : begin + BLOCK, 0] = table.argmin(axis=1)
        else:
            for row, values in enumerate(table):
                chosen[begin + row] = smallest_k(values, probes)[1]
    return chosen


def default_lists(n: int) -> int:
    """4 sqrt(N), within what N can train (39 vectors a centroid, FAISS's own warning limit)."""
    return max(1, min(int(4 * np.sqrt(n)), n // 39))


@dataclass(frozen=True)
class IVFIndex:
    """Exact vectors in inverted lists. Build it with ``build``; ``probing`` changes the knob.

    Attributes:
        centroids: f32[C, D].
        lists: Where each vector lies.
        vectors: f32[N, D] in the order of the lists.
        squared_norms: f32[N] in that order.
        metric: "l2" or "ip".
        probes: Lists scanned per query (nprobe).
    """

    centroids: Vectors
    lists: InvertedLists
    vectors: Vectors
    squared_norms: Distances
    metric: Metric
    probes: int

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        metric: Metric = "l2",
        lists: int | None = None,
        probes: int = 8,
        iterations: int = 10,
        seed: int = 0,
        centroids: Vectors | None = None,
    ) -> IVFIndex:
        """Trains the centroids (or takes those given) and files every vector: O(N C D).

        Args:
            vectors: f32[N, D].
            metric: Also decides which list is nearest, as in FAISS. The centroids are plain means
                for both; FAISS scales them to length 1 for "ip".
            lists: C; 4 sqrt(N) when None.
            probes: Lists scanned per query.
            iterations: Of k-means.
            seed: Of k-means.
            centroids: f32[C, D] instead of training.

        Raises:
            ValueError: On bad vectors, metric or probes.
        """
        check_metric(metric)
        vectors = as_vectors(vectors)
        if centroids is None:
            n_lists = lists or default_lists(len(vectors))
            centroids = train_kmeans(vectors, n_lists, iterations=iterations, seed=seed).centroids
        centroids = as_vectors(centroids, vectors.shape[1])
        labels = nearest_lists(vectors, centroids, metric)[:, 0]
        filed = InvertedLists.of(labels, len(centroids))
        stored = vectors[filed.order]
        index = cls(centroids, filed, stored, norms_squared(stored), metric, 1)
        return index.probing(probes)

    def probing(self, probes: int) -> IVFIndex:
        """The same index (nothing is copied) with another number of lists to scan."""
        if not 1 <= probes <= len(self.centroids):
            raise ValueError(f"probes must be 1..{len(self.centroids)} (the lists), got {probes}")
        return replace(self, probes=probes)

    @property
    def bytes_per_vector(self) -> float:
        """4 D + 4 (norm) + 8 (id), and the centroids' and offsets' share."""
        shared = self.centroids.nbytes + self.lists.offsets.nbytes
        return 4.0 * self.vectors.shape[1] + 4.0 + 8.0 + shared / len(self.vectors)

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest within the probed lists: f32[Q, k], i64[Q, k]."""
        check_k(k)
        queries = as_vectors(queries, self.vectors.shape[1])
        found = empty_result(len(queries), k)
        chosen = nearest_lists(queries, self.centroids, self.metric, self.probes)
        for row, query in enumerate(queries):
            slices = self.lists.slices(chosen[row])
            values = self._scan(query, slices)
            ids = np.concatenate([self.lists.order[one] for one in slices])
            near, places = smallest_k(values, k)
            found[0][row, : near.size], found[1][row, : near.size] = near, ids[places]
        return found

    def _scan(self, query: Vectors, slices: list[slice]) -> Distances:
        """Distances of one query to the vectors of these lists, one list after another."""
        products = np.concatenate([self.vectors[one] @ query for one in slices])
        if self.metric == "ip":
            return -products
        norms = np.concatenate([self.squared_norms[one] for one in slices])
        return np.maximum(norms - 2.0 * products + query @ query, 0.0)
