"""The knobs of the study of nearest neighbours, and the problems it is measured on.

A ``Problem`` is a base to search in, queries, and the exact answer. Three stand on real embeddings:
word vectors (cosine), pictures as raw pixels (Euclidean), and item factors of a matrix
factorisation (inner product: the queries are user factors). With ``generated`` vectors, for tests,
the base is drawn around random centres, which makes every index look better than it is.

Legend: N vectors, D dimensions, Q queries, k results.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import sparse

from ml_algorithms.matrix_factorization.ials import fit_ials
from ml_algorithms.nearest_neighbour.bench_memory import MemoryConfig
from ml_algorithms.nearest_neighbour.bench_quantisation_config import QuantisationConfig
from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.index import Distances, Metric, Vectors, normalise
from ml_algorithms.study_data import or_missing_input, study_dataset
from ml_platform.data.vectors import load_vectors
from ml_platform.evaluation.study import StudyRun


class IndexConfig(BaseModel):
    """How the indexes of one problem are built, and which knobs are swept when searching."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    m: int = 16
    ef_construction: int = 60
    efs: tuple[int, ...] = (10, 20, 40, 80, 160, 320)
    lists: int = 1024
    probes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    parts: int = 25  # of the 8-bit product quantiser
    # Of FAISS's 4-bit fast scan: two dimensions a part. Equal bytes need twice ``parts``: so for
    # pictures and movies; here it has half the bytes of ours.
    fast_scan_parts: int = 25
    refine: int = 20  # the best 20 k by code are compared exactly, ScaNN's too
    lsh_tables: int = 8
    lsh_bits: int = 16
    lsh_probes: tuple[int, ...] = (1, 4, 16, 64, 256)


class Config(BaseModel):
    """Sizes of the study; the defaults are the full run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = 10
    queries: int = 500
    seconds_per_point: float = 1.0
    generated: int = 0
    """Take that many generated vectors instead of the real ones; 0: the real ones."""
    glove: IndexConfig = IndexConfig()
    fashion_mnist: IndexConfig = IndexConfig(lists=256, parts=98, fast_scan_parts=196)
    movielens: IndexConfig = IndexConfig(
        lists=32, probes=(1, 2, 4, 8, 16, 32), parts=16, fast_scan_parts=32, lsh_bits=8
    )
    dataset: str = "movielens-100k"
    factors: int = 64
    # Parity, filters, deletes: on a random part of the word vectors.
    graph: IndexConfig = IndexConfig(ef_construction=100)
    parity_base: int = 50_000
    readable_base: int = 2_000
    readable_queries: int = 200
    filter_base: int = 50_000
    filter_queries: int = 200
    filter_ef: int = 64
    over_fetch: int = 10
    filter_clusters: int = 256
    selectivities: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.002)
    delete_base: int = 30_000
    delete_queries: int = 500
    delete_ef: int = 40
    deleted: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    memory: MemoryConfig = MemoryConfig()
    quantisation: QuantisationConfig = QuantisationConfig()


@dataclass(frozen=True)
class Problem:
    """A base f32[N, D], queries f32[Q, D], and the exact answer.

    ``known_kth`` f32[Q] is the distance of each query's k-th neighbour where it is known already;
    otherwise it is computed when it is first asked for.
    """

    name: str
    sha256: str
    synthetic: bool
    metric: Metric
    base: Vectors
    queries: Vectors
    k: int
    known_kth: Distances | None = None

    @cached_property
    def kth_distance(self) -> Distances:
        """Exact distance of each query's k-th neighbour, f32[Q]: the border of what is right."""
        if self.known_kth is not None:
            return self.known_kth
        return exact_kth(self.base, self.queries, self.k, self.metric)

    def describe(self) -> str:
        """The beginning of every protocol."""
        n, dimensions = self.base.shape
        measure = "squared L2" if self.metric == "l2" else "inner product"
        return f"{self.name}, {n:,} x {dimensions}, {measure}, k={self.k}"

    def part(self, rows: int, queries: int, *, seed: int = 0, keep_order: bool = False) -> Problem:
        """A random ``rows`` of the base (in random order, or their own), the first ``queries``."""
        chosen = np.random.default_rng(seed).permutation(len(self.base))[:rows]
        if keep_order:
            chosen = np.sort(chosen)
        base = np.ascontiguousarray(self.base[chosen])
        return replace(self, base=base, queries=self.queries[:queries], known_kth=None)


def exact_kth(base: Vectors, queries: Vectors, k: int, metric: Metric) -> Distances:
    """Exact distance of each query's k-th neighbour, f32[Q]."""
    return FlatIndex(base, metric).search(queries, k)[0][:, -1]


def vector_problem(run: StudyRun[Config], name: str) -> Problem:
    """A registered vector set as a problem; cosine becomes inner product of unit vectors.

    Raises:
        MissingInputError: If no source has the data.
    """
    config = run.config
    if config.generated:
        return generated_problem(config, run.seed)
    with or_missing_input():
        data = load_vectors(name)
    base, queries = data.base, data.queries[: config.queries]
    if data.metric == "cosine":
        base, queries = normalise(base), normalise(queries)
    metric: Metric = "l2" if data.metric == "l2" else "ip"
    return Problem(name, data.sha256, False, metric, base, queries, config.k)


def movielens_problem(run: StudyRun[Config]) -> Problem:
    """Item factors as base, user factors as queries, inner product.

    Fitted on all interactions: what is measured is how well an index finds the factors' best items,
    not how good a recommendation they are.

    Raises:
        MissingInputError: If no source has the data.
    """
    config = run.config
    data = study_dataset(config.dataset)
    users, items = (
        np.unique(data.interactions[side].to_numpy(), return_inverse=True)[1]
        for side in ("user_id", "item_id")
    )
    matrix = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)))
    model = fit_ials(
        matrix, factors=config.factors, unobserved_weight=0.1, reg=0.003, seed=run.seed
    )
    base, queries = model.item_factors, model.user_factors[: config.queries]
    name = f"{data.name} iALS factors"
    return Problem(name, data.sha256, data.synthetic, "ip", base, queries, config.k)


def generated_problem(config: Config, seed: int) -> Problem:
    """Clustered unit vectors of 16 dimensions, for tests."""
    base, queries = clustered_vectors(config.generated, config.queries, 16, seed=seed)
    digest = hashlib.sha256(base.tobytes()).hexdigest()
    return Problem("generated", digest, True, "ip", base, queries, config.k)


def clustered_vectors(
    n: int, queries: int, dimensions: int, *, centres: int = 50, seed: int = 0
) -> tuple[Vectors, Vectors]:
    """Unit vectors f32[n, D] around random centres, and queries f32[Q, D] from the same law."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, dimensions))
    spread = rng.normal(size=(n + queries, dimensions))
    points = middle[rng.integers(centres, size=n + queries)] + 0.7 * spread
    unit = normalise(points.astype(np.float32))
    return unit[:n], unit[n:]
