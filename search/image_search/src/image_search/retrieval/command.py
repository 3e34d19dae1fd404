"""``indexes``: every kind of index, how far exact search carries, and filters.

In: a ``Run``. Out: ``indexes.json`` with

    index_validation/<build>_<width>/...   the whole grid, on queries held out of the gallery
    index/<build>/...                      one width of each, chosen there, on the test queries
    index_scaling/<build>_<n>/...          SYNTHETIC vectors; index_scaling/<build>/within_budget
    index_filter/<filter>.<way>/...        prices are SYNTHETIC

three plots and three tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from image_search.config import Config
from image_search.retrieval.filter_study import Filtered, measure_filters
from image_search.retrieval.grid_study import (
    BUILD_THREADS,
    DEEP,
    FIRST,
    Measured,
    builds_for,
    chosen_of,
    measure_grid,
)
from image_search.retrieval.plots import filter_plot, pareto_plot, scaling_plot
from image_search.retrieval.scaling_study import Scaled, scale, scan_limits
from image_search.retrieval.study_vectors import StudyVectors, study_vectors
from image_search.retrieval.timing import BATCH
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run


def run(run: Run) -> None:
    """Measures, prints, writes."""
    images, config = run.load(), run.config
    study = config.index.study
    results = run.start_results(images)
    vectors = study_vectors(run, images, study.queries)
    held = vectors.held_out(min(study.queries, len(vectors.gallery) // 4), config.seed)
    builds = builds_for(vectors.gallery.shape[1], len(held.gallery), study.kinds)
    grid = measure_grid(held, builds, config.index, config.seed, run.progress, "validation")
    carried = chosen_of(grid, study.target_recall)
    test = measure_grid(vectors, carried, config.index, config.seed, run.progress, "test")
    scaled = scale(vectors, config.index, config.seed, run.progress)
    filtered = measure_filters(vectors, config.index, config.seed, run.progress)
    for row in grid:
        record(results, f"index_validation/{row.key}", row, held, config)
    for row in test:
        record(results, f"index/{row.build.name}", row, vectors, config, flat=test[0])
    record_scaling(results, scaled, vectors, config)
    record_filters(results, filtered, vectors, config)
    folder = run.results_folder()
    results.write(folder / "indexes.json")
    plots = {
        "indexes_pareto": pareto_plot(grid, held.words),
        "indexes_scaling": scaling_plot(scaled, study.budget_ms),
        "indexes_filters": filter_plot(filtered),
    }
    for name, figure in plots.items():
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
    for table in (index_table(test), scaling_table(scaled, config), filter_table(filtered)):
        run.console.print(table)
    run.console.print(f"numbers: {folder / 'indexes.json'}", highlight=False)


def record(
    results: Results,
    key: str,
    row: Measured,
    vectors: StudyVectors,
    config: Config,
    flat: Measured | None = None,
) -> None:
    """Quality with intervals, speed, bytes; against ``flat`` where it is given."""
    resamples = config.evaluation.resamples
    words = protocol(vectors, row, config)
    quality = {
        f"recall@{FIRST}": row.recall[FIRST],
        f"recall@{DEEP}": row.recall[DEEP],
        "label_r1": row.first_right,
    }
    for name, values in quality.items():
        results.add(f"{key}/{name}", bootstrap_mean(values, resamples=resamples), protocol=words)
    if flat is not None and row is not flat:
        harm = bootstrap_difference(row.first_right, flat.first_right, resamples=resamples)
        results.add(f"{key}/label_r1_over_flat", harm, protocol=words)
    record_speed(results, key, row, words)


def record_speed(results: Results, key: str, row: Measured, words: str) -> None:
    """Latency of single queries, queries a second in batches, bytes, seconds to build."""
    clock = f"{words}, one caller, closed loop, one thread, after a warm-up of a tenth, no errors"
    n = len(row.speed.ms)
    results.add(f"{key}/p50_ms", row.speed.p50_ms, protocol=clock, n=n)
    results.add(f"{key}/p99_ms", row.speed.p99_ms, protocol=clock, n=n)
    results.add(f"{key}/qps", row.speed.qps, protocol=f"1 over the mean; {clock}", n=n)
    batches = f"{BATCH} queries a call, one thread; {words}"
    results.add(f"{key}/batch_qps", row.speed.batch_qps, protocol=batches)
    results.add(f"{key}/bytes", row.bytes, protocol=f"as written, full vectors too; {words}")
    results.add(f"{key}/core_bytes", row.core_bytes, protocol=f"what a search scans; {words}")
    built = f"training and adding, {BUILD_THREADS} threads; {words}"
    results.add(f"{key}/build_s", row.build_s, protocol=built)


def protocol(vectors: StudyVectors, row: Measured, config: Config) -> str:
    """What stands beneath every number."""
    width = f", width {row.width}" if row.width or len(row.build.widths) > 1 else ""
    return (
        f"{vectors.words}, {len(vectors.queries):,} queries, recall of the exact neighbours"
        f"{width}, seed {config.seed}{', QUICK' if config.quick else ''}"
    )


def record_scaling(
    results: Results, scaled: list[Scaled], vectors: StudyVectors, config: Config
) -> None:
    """Each size, and from how many vectors a scan is over the budget."""
    study = config.index.study
    for row in scaled:
        key = f"index_scaling/{row.measured.build.name}_{row.n}"
        words = (
            f"SYNTHETIC: {row.n:,} vectors around those of {vectors.words}, jitter {study.jitter}, "
            f"{study.scale_queries} real queries, seed {config.seed}"
        )
        found = row.measured.recall[FIRST]
        estimate = bootstrap_mean(found, resamples=config.evaluation.resamples)
        results.add(f"{key}/recall@{FIRST}", estimate, protocol=words)
        record_speed(results, key, row.measured, words)
    for name, limit in scan_limits(scaled, study.budget_ms).items():
        words = f"SYNTHETIC, p99 of {study.budget_ms:g} ms, one thread, straight line through sizes"
        results.add(f"index_scaling/{name}/within_budget", limit, protocol=words)


def record_filters(
    results: Results, filtered: list[Filtered], vectors: StudyVectors, config: Config
) -> None:
    """Recall, short pages and time of each way under each filter."""
    for row in filtered:
        key = f"index_filter/{row.filter}.{row.way}"
        words = (
            f"{vectors.words}, {len(row.recall)} queries, {100 * row.passing:.2g}% pass, prices "
            f"SYNTHETIC, recall of the exact neighbours that pass, seed {config.seed}"
        )
        resamples = config.evaluation.resamples
        for name, values in ((f"recall@{FIRST}", row.recall), ("short_pages", row.short)):
            estimate = bootstrap_mean(values, resamples=resamples)
            results.add(f"{key}/{name}", estimate, protocol=words)
        clock = f"{words}, one caller, closed loop, one thread, no errors"
        for q in (50, 99):
            value = float(np.percentile(row.ms, q))
            results.add(f"{key}/p{q}_ms", value, protocol=clock, n=len(row.ms))


def index_table(rows: list[Measured]) -> Table:
    """One row a build, on the test queries."""
    table = Table(title="indexes, one width each (chosen on validation), test queries")
    columns = ("build", "width", f"R@{FIRST}", f"R@{DEEP}", "class R@1", "p50 ms", "p99 ms")
    for column in (*columns, "batch q/s", "MB", "scanned MB", "build s"):
        table.add_column(column, justify="right")
    for row in rows:
        quality = (row.recall[FIRST], row.recall[DEEP], row.first_right)
        table.add_row(
            row.build.name,
            str(row.width or ""),
            *(f"{values.mean():.4f}" for values in quality),
            f"{row.speed.p50_ms:.3f}",
            f"{row.speed.p99_ms:.3f}",
            f"{row.speed.batch_qps:,.0f}",
            f"{row.bytes / 1e6:.1f}",
            f"{row.core_bytes / 1e6:.1f}",
            f"{row.build_s:.1f}",
        )
    return table


def scaling_table(scaled: list[Scaled], config: Config) -> Table:
    """99th percentile by size, and the scan's limit."""
    sizes = sorted({row.n for row in scaled})
    limits = scan_limits(scaled, config.index.study.budget_ms)
    table = Table(title="SYNTHETIC vectors: p99 ms of single queries (recall@10)")
    table.add_column("build")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    table.add_column(f"vectors in {config.index.study.budget_ms:g} ms", justify="right")
    for name in dict.fromkeys(row.measured.build.name for row in scaled):
        at = {row.n: row.measured for row in scaled if row.measured.build.name == name}
        cells = [
            f"{at[n].speed.p99_ms:.2f} ({at[n].recall[FIRST].mean():.3f})" if n in at else "-"
            for n in sizes
        ]
        table.add_row(name, *cells, f"{limits[name]:,.0f}" if name in limits else "")
    return table


def filter_table(filtered: list[Filtered]) -> Table:
    """Recall, short pages, median time."""
    table = Table(title="filters (prices SYNTHETIC): recall@10 | short pages | p50 ms")
    names = list(dict.fromkeys(row.filter for row in filtered))
    table.add_column("way")
    for name in names:
        table.add_column(name, justify="right")
    for way in dict.fromkeys(row.way for row in filtered):
        cells = [
            f"{row.recall.mean():.3f} | {row.short.mean():.2f} | {np.median(row.ms):.2f}"
            for row in filtered
            if row.way == way
        ]
        table.add_row(way, *cells)
    return table
