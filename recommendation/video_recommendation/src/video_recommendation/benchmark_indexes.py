"""Every kind of index at several catalogue sizes, at like recall.

In: a ``VectorSource``. Out: one ``IndexRow`` for each kind and size.

The knobs of the build follow N by a rule (``scaled_config``). The knob of the search (``n_probe``,
``ef_search``) is the smallest on a ladder that reaches recall@100 of .95 for one half of the users;
recall and latency are those of the other half. Where no step reaches it (product quantisation
loses more than that in the codes, and nothing re-ranks here), the row says so and takes the
smallest step within .01 of the best.

At the catalogue's own size the vectors are our item tower's; other sizes are sampled from a
generator fitted to them. Single queries, one thread, closed loop, called from Python.

Legend: Q queries, D embedding dim, N vectors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import faiss
import numpy as np

from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.progress import Progress, Silent
from video_recommendation.benchmark_catalogues import (
    CatalogueGenerator,
    VectorSource,
    stand_in_source,
)
from video_recommendation.config import Config, IndexConfig
from video_recommendation.retrieval.index import (
    TRAINING_VECTORS_PER_LIST,
    build_index,
    exact_worst_scores,
    neighbour_recall,
    search_one_by_one,
    serialised_bytes,
)

Kind = Literal["flat", "ivf", "hnsw", "pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES = (1_682, 10_000, 100_000, 1_000_000)
CURVE_SIZE = 100_000

K = 100
TARGET_RECALL = 0.95
WINNING_FACTOR = 2.0
MAX_LISTS = 4_096
LARGE = 500_000
LARGE_EF_CONSTRUCTION = 40
"""Above LARGE vectors HNSW is built with this: at 100,000 it took half the time of 100."""
MAX_EF_SEARCH = 3_200
NEAR_BEST = 0.01
PLATEAU = 0.002
"""The ladder ends where doubling the effort gains less recall than this."""
MAX_BUILD_THREADS = 2
CHOOSING_QUERIES, REPORTED_QUERIES = 500, 1_000


@dataclass(frozen=True)
class CurvePoint:
    """Recall and median latency at one value of the search's knob."""

    effort: int
    recall: float
    p50_ms: float


@dataclass(frozen=True)
class IndexRow:
    """One kind of index at one size.

    Attributes:
        config: All knobs, the chosen one included.
        n_vectors: Size of the catalogue.
        recall: recall@100 against exact search on the reported queries, interval over users.
        build_s: Training and adding.
        build_threads: Threads of the build: two, or fewer where OMP_NUM_THREADS says so. (Setting
            more than that inside the process made builds several times slower, not faster.)
        bytes_per_vector: Of the serialised index.
        p50_ms: Median latency of a single query, one thread.
        p99_ms: 99th percentile of the same.
        load_average: Of the machine when the row began; above the cores, timings are inflated.
        curve: The whole ladder of efforts; empty but at the size chosen for curves.
    """

    config: IndexConfig
    n_vectors: int
    recall: Estimate
    build_s: float
    build_threads: int
    bytes_per_vector: float
    p50_ms: float
    p99_ms: float
    load_average: float
    curve: tuple[CurvePoint, ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of index."""
        return self.config.kind

    @property
    def effort(self) -> int:
        """Value of the search's knob; 0 for exact search, which has none."""
        return _effort(self.config)

    @property
    def reaches_target(self) -> bool:
        """Whether its latency may be compared with the others'."""
        return self.recall.value >= TARGET_RECALL

    @property
    def knobs(self) -> str:
        """The knobs that matter for this kind, in words."""
        config = self.config
        cells = f"{config.n_lists} lists, n_probe {config.n_probe}"
        return {
            "flat": "exact",
            "ivf": cells,
            "hnsw": f"M {config.hnsw_m}, ef {config.ef_construction} / {config.ef_search}",
            "pq": f"{config.pq_bytes}-byte codes, {cells}",
        }[config.kind]


@dataclass(frozen=True)
class QuerySplit:
    """Queries of disjoint users: one part chooses knobs, the other is reported.

    Attributes:
        choosing: f32[., D].
        reported: f32[Q, D].
        reported_owner: i64[Q], the users of ``reported``.
    """

    choosing: np.ndarray
    reported: np.ndarray
    reported_owner: np.ndarray


def benchmark_index_sizes(
    config: Config,
    sizes: Sequence[int] = SIZES,
    kinds: Sequence[Kind] = KINDS,
    *,
    seed: int = 0,
    source: VectorSource | None = None,
    curve_size: int = CURVE_SIZE,
    progress: Progress | None = None,
) -> list[IndexRow]:
    """One row for each size and kind, sizes ascending.

    Peak memory is some three times the largest catalogue: the vectors, an index of them, its graph.

    Args:
        config: ``config.index`` gives the knobs that do not follow N.
        sizes: Numbers of vectors. The size of ``source.items`` takes those vectors themselves.
        kinds: Kinds of index.
        seed: Of sampling catalogues and splitting queries.
        source: Vectors and queries; stand-ins by default.
        curve_size: The size at which the whole ladder is measured.
        progress: Told of each index measured.
    """
    source = source or stand_in_source(seed)
    told = progress or Silent()
    generator = CatalogueGenerator.fit(source.items)
    queries = split_queries(source, seed)
    rows = []
    for n_vectors in sorted(sizes):
        with told.stage(f"index: {n_vectors:,} vectors", len(kinds)) as step:
            own_size = n_vectors == len(source.items)
            vectors = source.items if own_size else generator.sample(n_vectors, seed)
            for kind in kinds:
                knobs = scaled_config(config.index, kind, n_vectors)
                rows.append(
                    measure_row(vectors, queries, knobs, with_curve=n_vectors == curve_size)
                )
                step(1)
    return rows


def scaled_config(base: IndexConfig, kind: Kind, n_vectors: int) -> IndexConfig:
    """The knobs of the build for N vectors: 4 sqrt(N) cells, a cheaper graph above LARGE.

    At most MAX_LISTS cells, and only as many as there are vectors to train.
    """
    n_lists = min(MAX_LISTS, round(4 * n_vectors**0.5), n_vectors // TRAINING_VECTORS_PER_LIST)
    ef_construction = base.ef_construction
    if n_vectors > LARGE:
        ef_construction = min(ef_construction, LARGE_EF_CONSTRUCTION)
    return base.model_copy(
        update={"kind": kind, "n_lists": max(1, n_lists), "ef_construction": ef_construction}
    )


def split_queries(source: VectorSource, seed: int) -> QuerySplit:
    """Half of the users choose the search's knob, the other half is reported."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.unique(source.owner))
    chooses = np.isin(source.owner, users[: len(users) // 2])
    choosing = rng.permutation(np.flatnonzero(chooses))[:CHOOSING_QUERIES]
    reported = rng.permutation(np.flatnonzero(~chooses))[:REPORTED_QUERIES]
    return QuerySplit(source.queries[choosing], source.queries[reported], source.owner[reported])


def measure_row(
    vectors: np.ndarray, queries: QuerySplit, config: IndexConfig, *, with_curve: bool = False
) -> IndexRow:
    """Builds one index, chooses its effort, measures it.

    Args:
        vectors: f32[N, D].
        queries: To choose and to report.
        config: Kind and knobs; the search's knob is replaced by the chosen one.
        with_curve: Whether to measure recall and latency along the whole ladder.
    """
    load_average = os.getloadavg()[0]
    build_threads = min(MAX_BUILD_THREADS, faiss.omp_get_max_threads())
    with faiss_threads(build_threads):
        started = time.perf_counter()
        index = build_index(vectors, config)
        build_s = time.perf_counter() - started
        efforts = _ladder_recalls(index, vectors, queries.choosing, config)
        config = _with_effort(config, choose_effort(efforts))
        worst_score = exact_worst_scores(vectors, queries.reported, K)
    recall, latency_ms = _measure_search(index, vectors, queries.reported, config, worst_score)
    row = IndexRow(
        config=config,
        n_vectors=len(vectors),
        recall=bootstrap_mean(recall, queries.reported_owner),
        build_s=build_s,
        build_threads=build_threads,
        bytes_per_vector=serialised_bytes(index) / len(vectors),
        p50_ms=float(np.percentile(latency_ms, 50)),
        p99_ms=float(np.percentile(latency_ms, 99)),
        load_average=load_average,
    )
    if not with_curve:
        return row
    points = []
    for effort in effort_ladder(config):
        knobs = _with_effort(config, effort)
        recall, latency_ms = _measure_search(index, vectors, queries.reported, knobs, worst_score)
        points.append(CurvePoint(effort, float(recall.mean()), float(np.median(latency_ms))))
        if _has_levelled([point.recall for point in points]):
            break
    return replace(row, curve=tuple(points))


def effort_ladder(config: IndexConfig) -> list[int]:
    """Values of the search's knob in steps of sqrt(2); [0] for exact search, which has none.

    ``ef_search`` starts at K: FAISS never searches with less than the number of neighbours asked.
    """
    if config.kind == "flat":
        return [0]
    first, last = (K, MAX_EF_SEARCH) if config.kind == "hnsw" else (1, config.n_lists)
    n_steps = int(2 * np.log2(last / first))
    return sorted({round(first * 2 ** (step / 2)) for step in range(n_steps + 1)} | {last})


def choose_effort(recalls: dict[int, float]) -> int:
    """The smallest effort with TARGET_RECALL; if none has, the smallest within NEAR_BEST."""
    best = max(recalls.values())
    goal = TARGET_RECALL if best >= TARGET_RECALL else best - NEAR_BEST
    return min(effort for effort, recall in recalls.items() if recall >= goal)


def smallest_winning_sizes(rows: Sequence[IndexRow]) -> dict[Kind, int]:
    """For each approximate kind the smallest size measured at which it wins.

    To win is to reach TARGET_RECALL with a median latency of at most half of exact search's. A kind
    that never does is absent.
    """
    exact = {row.n_vectors: row.p50_ms for row in rows if row.kind == "flat"}
    wins: dict[Kind, int] = {}
    for row in sorted(rows, key=lambda row: row.n_vectors):
        if row.kind == "flat" or not row.reaches_target or row.n_vectors not in exact:
            continue
        if row.p50_ms * WINNING_FACTOR <= exact[row.n_vectors]:
            wins.setdefault(row.kind, row.n_vectors)
    return wins


def _ladder_recalls(
    index: faiss.Index, vectors: np.ndarray, queries: np.ndarray, config: IndexConfig
) -> dict[int, float]:
    """Recall by effort, upwards until the target or a plateau."""
    worst_score = exact_worst_scores(vectors, queries, K)
    recalls: dict[int, float] = {}
    for effort in effort_ladder(config):
        _apply_effort(index, effort)
        found = index.search(queries, K)[1]
        recalls[effort] = float(neighbour_recall(vectors, queries, found, worst_score).mean())
        if recalls[effort] >= TARGET_RECALL or _has_levelled(list(recalls.values())):
            break
    return recalls


def _measure_search(
    index: faiss.Index,
    vectors: np.ndarray,
    queries: np.ndarray,
    config: IndexConfig,
    worst_score: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Recall f64[Q] and latency ms f64[Q] at the config's effort."""
    _apply_effort(index, _effort(config))
    found, latency_ms = search_one_by_one(index, queries, K)
    return neighbour_recall(vectors, queries, found, worst_score), latency_ms


def _has_levelled(recalls: Sequence[float]) -> bool:
    return len(recalls) > 2 and recalls[-1] - recalls[-3] < PLATEAU


def _effort(config: IndexConfig) -> int:
    return {"flat": 0, "hnsw": config.ef_search}.get(config.kind, config.n_probe)


def _with_effort(config: IndexConfig, effort: int) -> IndexConfig:
    field = {"flat": "", "hnsw": "ef_search"}.get(config.kind, "n_probe")
    return config.model_copy(update={field: effort}) if field else config


def _apply_effort(index: faiss.Index, effort: int) -> None:
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efSearch = effort
    elif isinstance(index, faiss.IndexIVF):
        index.nprobe = effort
