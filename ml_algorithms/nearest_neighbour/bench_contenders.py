"""The indexes that the study compares, ours and the libraries', behind one small interface.

In: a ``Problem`` and an ``IndexConfig``. Out: ``Contender``s; ``build`` gives a ``Built``, which is
tuned by one number and asked one query at a time.

All indexes of a kind get the same knobs: equal M and ef_construction for the graphs, equal numbers
of lists for the inverted files. Everything runs on one thread.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ml_algorithms.nearest_neighbour.bench_config import IndexConfig, Problem
from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW, warm_up
from ml_algorithms.nearest_neighbour.index import Ids, VectorIndex, Vectors
from ml_algorithms.nearest_neighbour.ivf import IVFIndex
from ml_algorithms.nearest_neighbour.ivf_pq import IVFPQIndex
from ml_algorithms.nearest_neighbour.kmeans import train_kmeans
from ml_algorithms.nearest_neighbour.lsh import LSHIndex
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY
from ml_platform.evaluation.study import MissingInputError


@dataclass
class Built:
    """An index that can be asked.

    Attributes:
        tune: Sets the search knob (ef, probes, leaves).
        ask: One query f32[1, D] to ids [k], nearest first, -1 where there is none.
        bytes_per_vector: Of the index as it would be saved.
        build_s: Its build time alone, without what is done afterwards to learn its size; with
            the shared part where it shares something with a curve built before. None: time it.
    """

    tune: Callable[[int], None]
    ask: Callable[[Vectors], Ids]
    bytes_per_vector: float
    build_s: float | None = None


@dataclass(frozen=True)
class Contender:
    """One curve: its name in keys, its label, colour and line in plots, how to build it."""

    name: str
    label: str
    colour: str
    ours: bool
    knob: str
    values: tuple[int, ...]
    build: Callable[[], Built]


def library(name: str) -> Any:
    """An optional library.

    Raises:
        MissingInputError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingInputError(
            f"{name} is not installed (scann: Linux on x86-64 only); "
            "install the extra 'algorithms' of the repository (make setup)"
        ) from error


def contenders(problem: Problem, knobs: IndexConfig) -> list[Contender]:
    """All curves of a problem, in the order in which they are measured.

    Raises:
        MissingInputError: If one of the libraries is not installed.
    """
    field = [*our_contenders(problem, knobs), *library_contenders(problem, knobs)]
    for contender in field:
        if not contender.ours:
            library(contender.name.partition("_")[0])  # imported now, not while a build is timed
    return field


def our_contenders(problem: Problem, knobs: IndexConfig) -> list[Contender]:
    """Flat, LSH, IVF, IVF-PQ with and without refinement, HNSW of this folder."""
    base, metric, k = problem.base, problem.metric, problem.k
    warm_up(metric)  # numba compiles now, not while a build is timed

    def flat() -> Built:
        return _fixed(FlatIndex(base, metric), k)

    def lsh() -> Built:
        # Planes go through the origin: put it amid the vectors. No squared distance changes.
        centre = base.mean(axis=0, keepdims=True) if metric == "l2" else np.zeros_like(base[:1])
        tables, bits = knobs.lsh_tables, knobs.lsh_bits
        built = _probed(LSHIndex.build(base - centre, metric=metric, tables=tables, bits=bits), k)
        return replace(built, ask=lambda query: built.ask(query - centre))

    @cache
    def centroids() -> tuple[Vectors, float]:
        """Of both inverted files, and the seconds they took, which count in both build times."""
        begin = time.perf_counter()
        trained = train_kmeans(base, knobs.lists, iterations=10).centroids
        return trained, time.perf_counter() - begin

    def ivf() -> Built:
        trained, seconds = centroids()
        begin = time.perf_counter()
        index = IVFIndex.build(base, metric=metric, centroids=trained)
        return replace(_probed(index, k), build_s=seconds + time.perf_counter() - begin)

    @cache
    def ivf_pq() -> tuple[IVFPQIndex, float]:
        """One index and its build time for both curves: refining changes only the search."""
        trained, seconds = centroids()
        begin = time.perf_counter()
        index = IVFPQIndex.build(
            base, metric=metric, parts=knobs.parts, centroids=trained, probes=1, refine=1
        )
        return index, seconds + time.perf_counter() - begin

    def by_codes() -> Built:
        index, seconds = ivf_pq()
        return replace(_probed(replace(index, refine=0, exact=None), k), build_s=seconds)

    def refined() -> Built:
        index, seconds = ivf_pq()
        return replace(_probed(index.probing(1, knobs.refine), k), build_s=seconds)

    return [
        Contender("ours_flat", "flat, ours", BLACK, True, "all", (0,), flat),
        Contender("ours_lsh", "LSH, ours", GREY, True, "probes", knobs.lsh_probes, lsh),
        Contender("ours_ivf", "IVF, ours", ORANGE, True, "probes", knobs.probes, ivf),
        Contender(
            "ours_ivf_pq", "IVF-PQ codes only, ours", SKY, True, "probes", knobs.probes,
            by_codes,
        ),
        Contender(
            "ours_ivf_pq_refined", "IVF-PQ refined, ours", GREEN, True, "probes", knobs.probes,
            refined,
        ),
        Contender(
            "ours_hnsw", "HNSW, ours", BLUE, True, "ef", knobs.efs,
            lambda: hnsw_built(problem, knobs),
        ),
    ]  # fmt: skip


def _fixed(index: VectorIndex, k: int) -> Built:
    return Built(lambda value: None, lambda query: index.search(query, k)[1][0], size_of(index))


def size_of(index: VectorIndex) -> float:
    """Bytes per vector that the index says it holds."""
    return index.bytes_per_vector


def _probed(index: LSHIndex | IVFIndex | IVFPQIndex, k: int) -> Built:
    """An index whose knob is ``probing``, which hands back a new view of the same arrays."""
    current = [index]

    def tune(value: int) -> None:
        current[0] = index.probing(value)

    return Built(tune, lambda query: current[0].search(query, k)[1][0], size_of(index))


def hnsw_built(problem: Problem, knobs: IndexConfig, index: CompiledHNSW | None = None) -> Built:
    """Our compiled HNSW of a problem, or the one given."""
    made = index or CompiledHNSW.build(
        problem.base, m=knobs.m, ef_construction=knobs.ef_construction, metric=problem.metric
    )

    def tune(value: int) -> None:
        made.ef_search = value

    return Built(tune, lambda query: made.search(query, problem.k)[1][0], size_of(made))


def library_contenders(problem: Problem, knobs: IndexConfig) -> list[Contender]:
    """FAISS's flat, IVF, HNSW and fast-scan IVF-PQ, ScaNN, usearch."""
    lists, parts = knobs.lists, knobs.fast_scan_parts
    fast_scan = f"IVF{lists},PQ{parts}x4fs,RFlat"
    leaves = knobs.probes

    def by_faiss(factory: str, knob: str) -> Callable[[], Built]:
        return lambda: build_faiss(problem, factory, knob, knobs)

    return [
        Contender("faiss_flat", "flat, FAISS", BLACK, False, "all", (0,), by_faiss("Flat", "")),
        Contender(
            "faiss_ivf", "IVF, FAISS", ORANGE, False, "probes", knobs.probes,
            by_faiss(f"IVF{lists},Flat", "nprobe"),
        ),
        Contender(
            "faiss_ivf_pq_fs", "IVF-PQ fast scan refined, FAISS", GREEN, False, "probes",
            knobs.probes, by_faiss(fast_scan, "nprobe"),
        ),
        Contender(
            "faiss_hnsw", "HNSW, FAISS", BLUE, False, "ef", knobs.efs,
            by_faiss(f"HNSW{knobs.m},Flat", "efSearch"),
        ),
        Contender(
            "usearch", "HNSW, usearch", SKY, False, "ef", knobs.efs,
            lambda: build_usearch(problem, knobs),
        ),
        Contender(
            "scann", "ScaNN", PINK, False, "leaves", leaves, lambda: build_scann(problem, knobs)
        ),
    ]  # fmt: skip


def build_faiss(problem: Problem, factory: str, knob: str, knobs: IndexConfig) -> Built:
    """A FAISS index by its factory string, trained and filled on one thread."""
    faiss = library("faiss")
    faiss.omp_set_num_threads(1)
    metric = faiss.METRIC_L2 if problem.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(problem.base.shape[1], factory, metric)
    space = faiss.ParameterSpace()
    begin = time.perf_counter()
    if "HNSW" in factory:
        index.hnsw.efConstruction = knobs.ef_construction
    index.train(problem.base)
    index.add(problem.base)
    build_s = time.perf_counter() - begin
    if "RFlat" in factory:
        space.set_index_parameter(index, "k_factor_rf", knobs.refine)

    def tune(value: int) -> None:
        if knob:
            space.set_index_parameter(index, knob, value)

    size = faiss.serialize_index(index).size / len(problem.base)
    return Built(tune, lambda query: index.search(query, problem.k)[1][0], size, build_s)


def build_usearch(problem: Problem, knobs: IndexConfig) -> Built:
    """The HNSW of usearch on float32, filled on one thread."""
    module = library("usearch.index")
    index = module.Index(
        ndim=problem.base.shape[1],
        metric="l2sq" if problem.metric == "l2" else "ip",
        dtype="f32",
        connectivity=knobs.m,
        expansion_add=knobs.ef_construction,
    )
    index.add(np.arange(len(problem.base)), problem.base, threads=1)

    def tune(value: int) -> None:
        index.expansion_search = value

    def ask(query: Vectors) -> Ids:
        return padded(index.search(query[0], problem.k, threads=1).keys, problem.k)

    return Built(tune, ask, index.serialized_length / len(problem.base))


def build_scann(problem: Problem, knobs: IndexConfig) -> Built:
    """ScaNN: tree, 4-bit score-aware codes of two dimensions each, exact re-ordering."""
    scann = library("scann")
    measure = "squared_l2" if problem.metric == "l2" else "dot_product"
    threshold = {} if problem.metric == "l2" else {"anisotropic_quantization_threshold": 0.2}
    reorder = knobs.refine * problem.k
    begin = time.perf_counter()
    searcher = (
        scann.scann_ops_pybind.builder(problem.base, problem.k, measure)
        .set_n_training_threads(1)
        .tree(knobs.lists, knobs.probes[0], training_sample_size=len(problem.base))
        .score_ah(2, **threshold)
        .reorder(reorder)
        .build()
    )
    build_s = time.perf_counter() - begin
    leaves = [knobs.probes[0]]

    def tune(value: int) -> None:
        leaves[0] = value

    def ask(query: Vectors) -> Ids:
        ids, _ = searcher.search(
            query[0], leaves_to_search=leaves[0], pre_reorder_num_neighbors=reorder
        )
        return padded(ids, problem.k)

    with tempfile.TemporaryDirectory() as folder:
        searcher.serialize(folder)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return Built(tune, ask, size / len(problem.base), build_s)


def padded(ids: Any, k: int) -> Ids:
    """Ids i64[k], filled up with -1."""
    row = np.full(k, -1, dtype=np.int64)
    row[: len(ids)] = np.asarray(ids).astype(np.int64)
    return row
