"""Every kind of index on the same vectors: what it finds, how fast, in how many bytes.

In: ``StudyVectors``. Out: ``Measured``, one a build and width of search. The width is what a built
index can still be set to: cells read, nodes kept open, or rows whose order is put right.

Recall@k is the share of the k exact neighbours found. It counts neighbours, not relevance: what a
user sees is the class of the first result, so that is measured beside it (``label_r1``).

The grid is measured on validation queries; for each build the fastest width that reaches the target
recall goes to the test.

Legend: G gallery, Q queries, D dimension.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.graph import HnswIndex
from image_search.retrieval.index import FlatIndex, VectorIndex, build_index
from image_search.retrieval.inverted import FEWEST_CODED, IvfIndex
from image_search.retrieval.rescored import RescoredIndex
from image_search.retrieval.study_vectors import StudyVectors
from image_search.retrieval.timing import Speed, measure
from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads
from ml_platform.evaluation.progress import Progress

FIRST, DEEP = 10, 100
"""Neighbours: of a page, and of what goes on to ranking."""
BUILD_THREADS = 2
PROBES = (1, 2, 4, 8, 16, 32, 64)
WIDTHS = (16, 32, 64, 128, 256)
SHORTLISTS = (0, 20, 50, 100, 200, 500)
"""Rows ordered again; 0: none, the order of the codes stands."""


@dataclass(frozen=True)
class Build:
    """One index to make, and the widths at which it is measured.

    Attributes:
        name: In results.
        kind: Of the index.
        update: What differs from the configuration.
        widths: See the module; (0,) where there is nothing to set.
    """

    name: str
    kind: str
    update: dict[str, Any] = field(default_factory=dict)
    widths: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Measured:
    """One build at one width.

    Attributes:
        build: Which.
        width: At which width.
        recall: k -> f64[Q], share of the exact k that was found.
        first_right: f64[Q], 1 where the first result has the query's class.
        speed: On one thread.
        bytes: Everything that the index holds.
        core_bytes: Without full vectors that only order the shortlist.
        build_s: Training and adding, BUILD_THREADS threads.
    """

    build: Build
    width: int
    recall: dict[int, np.ndarray]
    first_right: np.ndarray
    speed: Speed
    bytes: int
    core_bytes: int
    build_s: float

    @property
    def key(self) -> str:
        """Build and width."""
        return f"{self.build.name}_{self.width}" if len(self.build.widths) > 1 else self.build.name


def builds_for(dim: int, n: int, kinds: tuple[str, ...]) -> list[Build]:
    """The grid for n vectors of D numbers: what they are too few or too odd for is left out."""
    made = [
        Build("flat", "flat"),
        Build("ivf_flat", "ivf_flat", widths=PROBES),
        Build("hnsw_16", "hnsw", widths=WIDTHS),
        Build("int8_codes", "int8", {"rescore": False}),
        Build("int8", "int8", widths=SHORTLISTS[1:3]),
    ]
    sizes = {pq_bytes_for(dim, wanted) for wanted in (16, 32)} if n >= FEWEST_CODED else set()
    for size in sorted(sizes):
        made += [
            Build(
                f"ivf_pq{size}_codes", "ivf_pq", {"pq_bytes": size, "rescore": False}, PROBES[3:]
            ),
            Build(f"ivf_pq{size}", "ivf_pq", {"pq_bytes": size}, PROBES[3:]),
        ]
    if dim % 8 == 0:
        for turn in ("random", "learned"):
            made.append(Build(f"binary_{turn}", "binary", {"rotation": turn}, SHORTLISTS))
    for to in (size for size in (16, 32, 64) if size < dim):
        for reduce in ("prefix", "pca"):
            update = {"reduce": reduce, "reduce_to": to}
            made.append(Build(f"{reduce}{to}", "flat", update, SHORTLISTS))
    return [build for build in made if build.kind in kinds]


def pq_bytes_for(dim: int, wanted: int) -> int:
    """The largest divisor of D that is at most ``wanted``."""
    return max(size for size in range(1, wanted + 1) if dim % size == 0)


def exact(vectors: StudyVectors, k: int) -> np.ndarray:
    """i64[Q, k]: the exact neighbours' places in the gallery."""
    index = FlatIndex(vectors.gallery.shape[1])
    index.add(np.arange(len(vectors.gallery)), vectors.gallery)
    return index.search(vectors.queries, min(k, len(index)))[0]


def found_share(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """f64[Q]: of each query's true rows i64[Q, k] (-1 is none), the share among ``found``."""
    hit = (truth[:, :, None] == found[:, None, :]).any(axis=2) & (truth >= 0)
    return np.asarray(hit.sum(axis=1) / np.maximum((truth >= 0).sum(axis=1), 1), dtype=np.float64)


def measure_grid(
    vectors: StudyVectors,
    builds: list[Build],
    config: IndexConfig,
    seed: int,
    progress: Progress,
    what: str,
) -> list[Measured]:
    """Builds and measures everything, one after the other."""
    made: list[Measured] = []
    truth = exact(vectors, DEEP)
    with progress.stage(f"indexes: {what}", len(builds)) as advance:
        for build in builds:
            made += measure_build(vectors, build, truth, config, seed)
            advance(1)
    return made


def measure_build(
    vectors: StudyVectors, build: Build, truth: np.ndarray, config: IndexConfig, seed: int
) -> Iterator[Measured]:
    """One build at each of its widths."""
    chosen = config.model_copy(update=build.update)
    started = time.perf_counter()
    with faiss_threads(BUILD_THREADS):
        index = build_index(
            build.kind, vectors.gallery, np.arange(len(vectors.gallery)), chosen, seed
        )
    build_s = time.perf_counter() - started
    core = index.core_bytes if isinstance(index, RescoredIndex) else index.bytes
    for width in build.widths:
        set_width(index, width)
        rows, _ = index.search(vectors.queries, truth.shape[1])
        first = index.search(vectors.queries, min(FIRST, truth.shape[1]))[0]
        label = np.where(first[:, 0] < 0, -1, vectors.label[first[:, 0]])
        speed = measure(
            lambda queries: index.search(queries, FIRST),
            vectors.queries,
            single=config.study.timed_queries,
        )
        recall = {
            FIRST: found_share(first, truth[:, :FIRST]),
            DEEP: found_share(rows, truth),
        }
        right = (label == vectors.query_label).astype(np.float64)
        yield Measured(build, width, recall, right, speed, index.bytes, core, build_s)


def set_width(index: VectorIndex, width: int) -> None:
    """Sets what a built index can still be set to; nothing for a flat one."""
    inner = index.core if isinstance(index, RescoredIndex) else index
    if isinstance(inner, IvfIndex):
        inner.probes = width
    elif isinstance(inner, HnswIndex):
        inner.search_width = width
    elif isinstance(index, RescoredIndex) and index.config.rescore:
        # Of a build without full vectors (rescore off) there is nothing to order again by.
        index.shortlist = width


def chosen_of(measured: list[Measured], target: float) -> list[Build]:
    """Each build with the one width that goes to the test.

    The fastest (single queries) of those that reach the target recall@10; where none does, the one
    of the highest recall.
    """
    best: dict[str, Measured] = {}
    for row in measured:
        name = row.build.name
        if name not in best or _better(row, best[name], target):
            best[name] = row
    return [
        Build(row.build.name, row.build.kind, row.build.update, (row.width,))
        for row in best.values()
    ]


def _better(one: Measured, other: Measured, target: float) -> bool:
    here, there = (row.recall[FIRST].mean() for row in (one, other))
    if min(here, there) >= target:
        return bool(one.speed.p50_ms < other.speed.p50_ms)
    return bool(here > there)
