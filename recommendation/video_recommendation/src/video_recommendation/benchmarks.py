"""`make bench`, first half: at what size an approximate index pays, and how fast the metrics are.

In: a configuration, and the trained bundle where there is one. Out: a table, three plots, and the
``index`` and ``evaluation`` stages of the results file that the docs quote. What is measured and
how: ``benchmark_indexes``; on which vectors: ``benchmark_catalogues``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.table import Table

from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.progress import Console
from ml_platform.evaluation.ranking_metrics import (
    average_precision_at,
    hit_matrix,
    hit_rate_at,
    ndcg_at,
    recall_at,
    reciprocal_rank_at,
)
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_info import peak_memory_bytes
from video_recommendation.benchmark_catalogues import (
    CatalogueGenerator,
    VectorSource,
    bundle_source,
    nearness,
    stand_in_source,
)
from video_recommendation.benchmark_indexes import (
    CURVE_SIZE,
    SIZES,
    TARGET_RECALL,
    WINNING_FACTOR,
    IndexRow,
    benchmark_index_sizes,
    smallest_winning_sizes,
)
from video_recommendation.benchmark_plots import plot_index_benchmark
from video_recommendation.config import Config
from video_recommendation.data import load_data

BUNDLE = Path("artifacts/latest/bundle")
QUICK_SIZES = (600, 3_000)
QUICK_NOTE = "QUICK RUN, proves nothing; "
METRIC_USERS, QUICK_METRIC_USERS = 100_000, 2_000
METRIC_ITEMS, LIST_LENGTH, RELEVANT_ITEMS = 10_007, 100, 10
"""The number of items is prime: an arithmetic progression modulo it repeats no item."""


@dataclass(frozen=True)
class MetricSpeed:
    """Seconds for six metrics of ``n_users`` lists of 100, and for one bootstrap interval."""

    n_users: int
    metrics_s: float
    interval_s: float


def run_index_bench(
    config: Config,
    out: Path,
    quick: bool = False,
    *,
    bundle: Path = BUNDLE,
    console: RichConsole | None = None,
) -> list[IndexRow]:
    """Measures, prints the table, and writes ``out/bench.json`` and ``out/plots/``.

    Nothing is written before everything is measured, and each file is replaced whole: an
    interrupted run leaves the old ones.

    Args:
        config: The system's configuration; its data set names the run.
        out: Folder of the results.
        quick: Small catalogues, for tests; says so in the table, the plots and every protocol.
        bundle: A trained bundle; where there is none, stand-in vectors, and everything says so.
        console: Where to print.
    """
    console = console or RichConsole()
    data = load_data(config.data)
    results = Results.start(
        system="video_recommendation",
        config=config.model_dump(mode="json"),
        dataset_name=data.name,
        dataset_sha256=data.sha256,
        synthetic=data.synthetic,
        seed=config.seed,
        root=Path(__file__).parent,
    )
    trained = (bundle / "manifest.json").is_file()
    source = bundle_source(bundle, data) if trained else stand_in_source(config.seed)
    rows = benchmark_index_sizes(
        config,
        QUICK_SIZES if quick else SIZES,
        seed=config.seed,
        source=source,
        curve_size=QUICK_SIZES[-1] if quick else CURVE_SIZE,
        progress=Console(console),
    )
    speed = benchmark_metrics(QUICK_METRIC_USERS if quick else METRIC_USERS, seed=config.seed)
    origin = (QUICK_NOTE if quick else "") + source.description
    console.print(index_table(rows, origin), f"  {summary(rows, speed)}\n")
    add_rows(results, rows, source, origin)
    add_generator_check(results, source, origin, seed=config.seed)
    add_metric_speed(results, speed)
    plot_index_benchmark(rows, out / "plots", target_recall=TARGET_RECALL, origin=_footer(origin))
    _write(results, out / "bench.json")
    return rows


def benchmark_metrics(n_users: int = METRIC_USERS, *, seed: int = 0) -> MetricSpeed:
    """Times the ranking metrics on random lists of 100 items with 10 relevant items each."""
    rng = np.random.default_rng(seed)
    start, stride = rng.integers(1, METRIC_ITEMS, (2, n_users, 1))
    lists = ((start + stride * np.arange(LIST_LENGTH)) % METRIC_ITEMS).astype(np.int32)
    # Of 10 relevant items, spread over 10 places of 37 steps each, the first two or three are hits.
    places = rng.integers(0, 37, (n_users, 1)) + 37 * np.arange(RELEVANT_ITEMS)
    relevant = ((start + stride * places) % METRIC_ITEMS).astype(np.int32).ravel()
    n_relevant = np.full(n_users, RELEVANT_ITEMS)
    started = time.perf_counter()
    hits = hit_matrix(lists, np.arange(n_users + 1) * RELEVANT_ITEMS, relevant)
    ndcg = ndcg_at(hits, n_relevant, 10)
    hit_rate_at(hits, 10), reciprocal_rank_at(hits, 10), average_precision_at(hits, n_relevant, 10)
    recall_at(hits, n_relevant, LIST_LENGTH), ndcg_at(hits, n_relevant, LIST_LENGTH)
    metrics_s = time.perf_counter() - started
    started = time.perf_counter()
    bootstrap_mean(ndcg, np.arange(n_users), seed=seed)
    return MetricSpeed(n_users, metrics_s, time.perf_counter() - started)


def index_table(rows: Sequence[IndexRow], origin: str) -> Table:
    """The rows as they are printed. A star marks the fastest of a size among the comparable."""
    load = sorted(row.load_average for row in rows)
    table = Table(
        title=f"Index kinds by catalogue size: {origin}",
        caption=f"recall@100 against exact search; * fastest with recall of at least "
        f"{TARGET_RECALL:.2f}; latency of single queries on one thread; build on "
        f"{rows[0].build_threads} threads; load average {load[0]:.1f} to {load[-1]:.1f}; effort: "
        "n_probe or ef_search, chosen for the recall; all knobs stand in bench.json",
        box=SIMPLE_HEAD,
    )
    for name in ("vectors", "kind", "effort", "recall", "build s", "bytes", "p50 ms", "p99 ms"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    table.add_column("x flat", justify="right", no_wrap=True)
    for n_vectors in sorted({row.n_vectors for row in rows}):
        same_size = [row for row in rows if row.n_vectors == n_vectors]
        fastest = min(
            (r for r in same_size if r.reaches_target), key=lambda r: r.p50_ms, default=None
        )
        exact = next((row.p50_ms for row in same_size if row.kind == "flat"), float("nan"))
        for row in same_size:
            table.add_row(
                f"{n_vectors:,}",
                row.kind + (" *" if row is fastest else ""),
                f"{row.effort:g}" if row.kind != "flat" else "",
                f"{row.recall.value:.3f}",
                f"{row.build_s:.2f}",
                f"{row.bytes_per_vector:.0f}",
                f"{row.p50_ms:.3f}",
                f"{row.p99_ms:.3f}",
                f"{exact / row.p50_ms:.1f}",
                style="" if row.reaches_target else "dim",
                end_section=row is same_size[-1],
            )
    return table


def summary(rows: Sequence[IndexRow], speed: MetricSpeed) -> str:
    """The findings in a sentence or two."""
    wins = smallest_winning_sizes(rows)
    largest = max(row.n_vectors for row in rows)
    found = (
        "twice as fast as exact search from: "
        + ", ".join(f"{kind} {size:,}" for kind, size in wins.items())
        if wins
        else f"no approximate index is twice as fast as exact search up to {largest:,} vectors"
    )
    return (
        f"{found}. Metrics of {speed.n_users:,} users x {LIST_LENGTH}: {speed.metrics_s:.2f} s, "
        f"a bootstrap interval {speed.interval_s:.2f} s."
    )


def add_rows(results: Results, rows: Sequence[IndexRow], source: VectorSource, origin: str) -> None:
    """Adds ``index/<kind>_<N>/...``, the curve's points and ``index/crossover/...``."""
    for row in rows:
        own_size = row.n_vectors == len(source.items)
        made = "the vectors themselves" if own_size else "sampled from a mixture fitted to them"
        setting = f"{origin}; {row.n_vectors} vectors, {made}; {row.knobs}"
        load = f"load average {row.load_average:.1f} at the start"
        latency = f"{setting}; single queries, closed loop, one thread, in process; {load}"
        variant = f"index/{row.kind}_{row.n_vectors}"
        recall = f"{setting}; against exact search; knob chosen on other users' requests"
        build = f"{setting}; {row.build_threads} threads; {load}"
        results.add(f"{variant}/recall@100", row.recall, protocol=recall)
        results.add(f"{variant}/effort", row.effort, protocol=f"{setting}; n_probe or ef_search")
        results.add(f"{variant}/build_s", row.build_s, protocol=build, n=1)
        results.add(f"{variant}/bytes_per_vector", row.bytes_per_vector, protocol=setting)
        results.add(f"{variant}/p50_ms", row.p50_ms, protocol=latency, n=row.recall.n)
        results.add(f"{variant}/p99_ms", row.p99_ms, protocol=latency, n=row.recall.n)
        for point in row.curve:
            name = f"{variant}_effort={point.effort}"
            results.add(f"{name}/recall@100", point.recall, protocol=recall, n=row.recall.n)
            results.add(f"{name}/p50_ms", point.p50_ms, protocol=latency, n=row.recall.n)
    _add_crossover(results, rows, origin)


def add_generator_check(results: Results, source: VectorSource, origin: str, *, seed: int) -> None:
    """Adds how near a request its best items are, in our catalogue and in one sampled of its size.

    The two agree where the generator keeps the density around requests.
    """
    sampled = CatalogueGenerator.fit(source.items).sample(len(source.items), seed)
    for name, vectors in (("real", source.items), ("sampled", sampled)):
        for rank, cosine in nearness(vectors, source.queries, (1, 10, 100)).items():
            results.add(
                f"index/catalogue_{name}/cosine@{rank}",
                cosine,
                protocol=f"{origin}; mean cosine of a request's neighbour of this rank",
                n=len(source.queries),
            )


def add_metric_speed(results: Results, speed: MetricSpeed) -> None:
    """Adds ``evaluation/ranking_metrics/...`` and the peak memory of the process so far."""
    lists = f"{speed.n_users} random lists of {LIST_LENGTH}, {RELEVANT_ITEMS} relevant items each"
    results.add(
        "evaluation/ranking_metrics/seconds",
        speed.metrics_s,
        protocol=f"{lists}; hits, HR, RR, AP and NDCG@10, recall and NDCG@100",
        n=speed.n_users,
    )
    results.add(
        "evaluation/bootstrap_interval/seconds",
        speed.interval_s,
        protocol=f"{lists}; one mean, 1000 resamples, every user a cluster",
        n=speed.n_users,
    )
    results.add(
        "index/benchmark/peak_mib", _peak_mib(), protocol="peak resident memory of this process"
    )


def _footer(origin: str) -> str:
    """Beneath the pictures: a run is told from a quick one, real vectors from sampled ones."""
    return f"{origin}; other sizes sampled from a mixture fitted to these vectors"


def _add_crossover(results: Results, rows: Sequence[IndexRow], origin: str) -> None:
    """The smallest sizes at which an index wins; a kind that never wins has no key."""
    wins = smallest_winning_sizes(rows)
    rule = (
        f"{origin}; smallest size measured with recall@100 >= {TARGET_RECALL} and p50 at most "
        f"1/{WINNING_FACTOR:g} of flat's"
    )
    for kind, size in wins.items():
        results.add(f"index/crossover/n_vectors_{kind}", size, protocol=rule)
    if wins:
        results.add("index/crossover/n_vectors", min(wins.values()), protocol=rule)


def _write(results: Results, path: Path) -> None:
    """Writes the file whole; a file of another run is replaced.

    What another part of the same run put there stays: the serving half of the benchmark.
    """
    if path.is_file():
        before = Results.read(path)
        same = ("system", "commit", "config_sha256", "dataset", "seed", "hardware")
        if all(getattr(before.run, field) == getattr(results.run, field) for field in same):
            before.merge(results, replace=True)
            results = before
    results.write(path)


def _peak_mib() -> float:
    return peak_memory_bytes() / 1024**2
