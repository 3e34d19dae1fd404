"""Locality-sensitive hashing with random hyperplanes: the index with a theorem.

In: vectors f32[N, D]. Out: an index that compares a query only with vectors that share a bucket.
Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002 (the hash); Indyk
and Motwani, "Approximate Nearest Neighbors: Towards Removing the Curse of Dimensionality", STOC
1998 (tables of concatenated hashes); Lv, Josephson, Wang, Charikar and Li, "Multi-Probe LSH:
Efficient Indexing for High-Dimensional Similarity Search", VLDB 2007 (probing).

A random hyperplane through the origin separates two vectors with probability angle / pi, so one
bit agrees with p = 1 - angle / pi. b bits make a bucket (agreement p^b: selective), L tables give L
chances (recall 1 - (1 - p^b)^L). Nothing is learned: the price of the theorem is that the planes
cut dense and empty regions alike.

Multi-probe spends on probes instead of tables: a near vector that misses the bucket most likely
fell just across one plane, namely one that the query itself lies close to. Buckets are tried in the
order of the sum of squared distances to the planes crossed (the score of Lv et al., section 4,
here with one way to cross each plane instead of two).

Departures: buckets are stored as one sorted array per table and found by binary search, not in a
hash map; candidates are compared exactly at the end.

Legend: N vectors, D dimensions, Q queries, L tables, b bits, P probes per table.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.exact import distances, smallest_k
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

MAX_BITS = 62
Keys = npt.NDArray[np.int64]


def collision_probability(angle: float, bits: int, tables: int = 1) -> float:
    """Chance that two vectors at this angle (radians) share a bucket in at least one table."""
    agree = 1.0 - angle / np.pi
    return float(1.0 - (1.0 - agree**bits) ** tables)


def probe_sequence(margins: npt.NDArray[np.floating], probes: int) -> list[tuple[int, ...]]:
    """Which bits to flip, cheapest set first: [(), (i,), (j,), (i, j), ...].

    The cost of a set is the sum of its squared margins. Sets are grown over bits sorted by margin
    with two moves, so that each is made once and never before a cheaper one: *shift* the last bit
    to the next, or *expand* by the next (after Lv et al.).

    Args:
        margins: Signed distance of the query to each plane [b].
        probes: Number of sets, at most 2^b.
    """
    order = np.argsort(np.abs(margins), kind="stable")
    cost = margins[order].astype(np.float64) ** 2
    found: list[tuple[int, ...]] = [()]
    heap: list[tuple[float, tuple[int, ...]]] = [(float(cost[0]), (0,))]
    while len(found) < probes and heap:
        total, chosen = heapq.heappop(heap)
        found.append(tuple(int(order[place]) for place in chosen))
        last = chosen[-1]
        if last + 1 < cost.size:
            extra = float(cost[last + 1])
            heapq.heappush(heap, (total - float(cost[last]) + extra, (*chosen[:-1], last + 1)))
            heapq.heappush(heap, (total + extra, (*chosen, last + 1)))
    return found


@dataclass(frozen=True)
class LSHIndex:
    """L sorted tables of b-bit keys over the exact vectors.

    Attributes:
        vectors: f32[N, D].
        planes: Normals f32[L, D, b].
        keys: Sorted keys of each table i64[L, N].
        ids: The vector of each key i32[L, N].
        metric: How candidates are compared; the hash itself sees angles only, so use "ip" on
            normalised vectors, or "l2" on them.
        probes: Buckets looked at per table.
    """

    vectors: Vectors
    planes: Vectors
    keys: Keys
    ids: npt.NDArray[np.int32]
    metric: Metric
    probes: int

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        metric: Metric = "ip",
        tables: int = 8,
        bits: int = 16,
        probes: int = 1,
        seed: int = 0,
    ) -> LSHIndex:
        """Hashes every vector into every table: O(L N (D b + log N)).

        Args:
            vectors: f32[N, D].
            metric: For the final comparison.
            tables: L.
            bits: b, 1..62; about log2(N / 10) leaves some ten vectors a bucket if they were even.
            probes: Buckets per table and query.
            seed: Of the planes.

        Raises:
            ValueError: If a number is out of range.
        """
        check_metric(metric)
        vectors = as_vectors(vectors)
        if tables < 1 or not 1 <= bits <= MAX_BITS:
            raise ValueError(f"need tables >= 1 and bits in 1..{MAX_BITS}, got {tables}, {bits}")
        rng = np.random.default_rng(seed)
        planes = rng.normal(size=(tables, vectors.shape[1], bits)).astype(np.float32)
        planes /= np.linalg.norm(planes, axis=1, keepdims=True)  # a margin is then a distance
        keys = np.stack([pack(vectors @ normals) for normals in planes])
        ids = np.argsort(keys, axis=1, kind="stable").astype(np.int32)
        ordered = np.take_along_axis(keys, ids.astype(np.int64), axis=1)
        return cls(vectors, planes, ordered, ids, metric, 1).probing(probes)

    def probing(self, probes: int) -> LSHIndex:
        """The same tables (nothing is copied) with another number of probes per table."""
        if probes < 1:
            raise ValueError(f"probes must be at least 1, got {probes}")
        return replace(self, probes=probes)

    @property
    def bytes_per_vector(self) -> float:
        """4 D for the vector; 8 (key) + 4 (id) for every table."""
        return float(4 * self.vectors.shape[1] + len(self.planes) * 12)

    def candidates(self, query: Vectors) -> Ids:
        """Ids i64[C] that share a probed bucket with the query f32[D], ascending, each once."""
        parts = []
        for table, normals in enumerate(self.planes):
            margins = query @ normals
            key = int(pack(margins[None, :])[0])
            flips = [sum(1 << bit for bit in one) for one in probe_sequence(margins, self.probes)]
            wanted = np.array([key ^ flip for flip in flips], dtype=np.int64)
            begins = np.searchsorted(self.keys[table], wanted, side="left")
            ends = np.searchsorted(self.keys[table], wanted, side="right")
            parts += [self.ids[table, begin:end] for begin, end in zip(begins, ends, strict=True)]
        return np.unique(np.concatenate(parts)).astype(np.int64)

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest among the candidates: f32[Q, k], i64[Q, k]; NO_ID where they run out."""
        check_k(k)
        queries = as_vectors(queries, self.vectors.shape[1])
        found = empty_result(len(queries), k)
        for row, query in enumerate(queries):
            ids = self.candidates(query)
            values = distances(query[None, :], self.vectors[ids], self.metric)[0]
            near, places = smallest_k(values, k)
            found[0][row, : near.size], found[1][row, : near.size] = near, ids[places]
        return found


def pack(margins: npt.NDArray[np.floating]) -> Keys:
    """Signs of margins [N, b] as one integer each, bit i from column i: i64[N]."""
    weights = np.int64(1) << np.arange(margins.shape[1], dtype=np.int64)
    return np.asarray((margins > 0).astype(np.int64) @ weights, dtype=np.int64)
