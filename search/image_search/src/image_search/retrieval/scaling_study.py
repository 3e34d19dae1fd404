"""From how many vectors exact search stops being the right answer, on one core. SYNTHETIC vectors.

In: real vectors f32[G, D], a list of sizes. Out: ``Scaled``, one a kind and size, and the size at
which each kind's 99th percentile crosses the latency budget.

Vectors beyond the real ones are made: a real vector drawn at random, plus Gaussian noise whose
length is ``jitter`` times the median distance of a real vector to its nearest neighbour, brought
back to length 1. Clusters so stay where they are and grow denser. Time and bytes carry over to real
data of that size; recall does not, as a crowd of copies around one picture is no new picture.

Legend: G gallery, N vectors made, Q queries, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.config import IndexConfig
from image_search.embeddings.base import unit_rows
from image_search.retrieval.grid_study import (
    DEEP,
    Build,
    Measured,
    exact,
    measure_build,
    pq_bytes_for,
)
from image_search.retrieval.inverted import FEWEST_CODED
from image_search.retrieval.study_vectors import StudyVectors
from image_search.retrieval.timing import one_thread
from ml_platform.evaluation.progress import Progress

SAMPLE = 2_000
CHUNK = 50_000


@dataclass(frozen=True)
class Scaled:
    """A kind at a size.

    Attributes:
        n: Vectors.
        measured: As on the real ones.
    """

    n: int
    measured: Measured


def scaling_builds(dim: int, n: int, config: IndexConfig) -> list[Build]:
    """What is built over n vectors; no graph beyond ``scale_graph_most``."""
    # Cells grow with the root of n, so that the share that is read stays the same.
    made = [
        Build("flat", "flat"),
        Build("int8", "int8", widths=(config.shortlist,)),
        Build("ivf_flat", "ivf_flat", widths=(config.probes,)),
    ]
    if n >= FEWEST_CODED:
        size = pq_bytes_for(dim, 32)
        made.append(Build("ivf_pq", "ivf_pq", {"pq_bytes": size}, (config.probes,)))
    if dim % 8 == 0:
        made.append(Build("binary", "binary", {}, (config.shortlist,)))
    if dim >= 64:
        update = {"reduce": "prefix", "reduce_to": 32}
        made.append(Build("prefix32", "flat", update, (config.shortlist,)))
    if n <= config.study.scale_graph_most:
        made.append(Build("hnsw", "hnsw", widths=(2 * config.hnsw_search_width,)))
    return [build for build in made if build.kind in config.study.kinds]


def scale(
    vectors: StudyVectors, config: IndexConfig, seed: int, progress: Progress
) -> list[Scaled]:
    """Every kind at every size of the configuration."""
    made: list[Scaled] = []
    for n in config.study.scale_sizes:
        grown = jittered(vectors, n, config.study.jitter, config.study.scale_queries, seed)
        builds = scaling_builds(vectors.gallery.shape[1], n, config)
        truth = exact(grown, DEEP)
        with progress.stage(f"indexes: {n:,} made vectors", len(builds)) as advance:
            for build in builds:
                rows = measure_build(grown, build, truth, config, seed)
                made += [Scaled(n, row) for row in rows]
                advance(1)
    return made


def jittered(
    vectors: StudyVectors, n: int, jitter: float, n_queries: int, seed: int
) -> StudyVectors:
    """Draws n vectors around the real ones, and the first ``n_queries`` real queries. SYNTHETIC."""
    rng = np.random.default_rng(seed)
    length = jitter * nearest_distance(vectors.gallery, rng)
    dim = vectors.gallery.shape[1]
    made = np.empty((n, dim), dtype=np.float32)
    source = rng.integers(len(vectors.gallery), size=n)
    for begin in range(0, n, CHUNK):
        part = source[begin : begin + CHUNK]
        noise = rng.standard_normal((len(part), dim), dtype=np.float32) * (length / dim**0.5)
        made[begin : begin + CHUNK] = unit_rows(vectors.gallery[part] + noise)
    return StudyVectors(
        vectors.name,
        made,
        vectors.label[source],
        vectors.price[source],
        vectors.queries[:n_queries],
        vectors.query_label[:n_queries],
        f"SYNTHETIC: {n:,} vectors, real ones of {vectors.words} with noise of {length:.3f}",
    )


def nearest_distance(gallery: np.ndarray, rng: np.random.Generator) -> float:
    """Median Euclidean distance of a vector to its nearest other, over a sample."""
    chosen = rng.permutation(len(gallery))[:SAMPLE]
    sample = StudyVectors(
        "", gallery, chosen, np.zeros(0), gallery[chosen], np.zeros(len(chosen)), ""
    )
    with one_thread():
        near = exact(sample, 2)
    other = np.where(near[:, 0] == chosen, near[:, 1], near[:, 0])
    return float(np.median(np.linalg.norm(gallery[chosen] - gallery[other], axis=1)))


def within_budget(sizes: np.ndarray, p99_ms: np.ndarray, budget_ms: float) -> float | None:
    """Vectors at which a scan's 99th percentile reaches the budget, by a straight line.

    A scan's time is a + b N. The line is fitted with weights 1 / N, so that the largest size does
    not alone decide; the answer may lie beyond what was measured. None where the time does not grow
    with the size: sizes so small that a search costs the same whatever it reads.

    Raises:
        ValueError: If there are fewer than two sizes.
    """
    if len(np.unique(sizes)) < 2:
        raise ValueError(f"a line needs two sizes, got {sizes.tolist()}")
    slope, base = np.polyfit(sizes, p99_ms, 1, w=1 / np.asarray(sizes))
    return float(max((budget_ms - base) / slope, 0.0)) if slope > 0 else None


def scan_limits(scaled: list[Scaled], budget_ms: float) -> dict[str, float]:
    """Build -> vectors within the budget, of those that read every vector."""
    found: dict[str, float] = {}
    for name in ("flat", "int8", "binary", "prefix32"):
        rows = [row for row in scaled if row.measured.build.name == name]
        if len({row.n for row in rows}) > 1:
            sizes = np.array([row.n for row in rows])
            times = np.array([row.measured.speed.p99_ms for row in rows])
            if (limit := within_budget(sizes, times, budget_ms)) is not None:
                found[name] = limit
    return found
