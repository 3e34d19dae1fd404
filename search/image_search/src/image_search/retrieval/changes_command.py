"""``index-changes``: adds, deletes and rebuilds of an index that is in use.

In: a ``Run``. Out: ``index_changes.json`` with ``index_changes/<scenario>.<step>/...`` and
``index_visible/<kind>/...``, a plot and two tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from image_search.config import Config
from image_search.retrieval.changes_plot import changes_plot
from image_search.retrieval.changes_study import (
    Change,
    Visible,
    measure_changes,
    measure_visible,
)
from image_search.retrieval.grid_study import FIRST
from image_search.retrieval.study_vectors import StudyVectors, study_vectors
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run


def run(run: Run) -> None:
    """Measures, prints, writes."""
    images, config = run.load(), run.config
    results = run.start_results(images)
    vectors = study_vectors(run, images, config.index.study.queries)
    changes = measure_changes(vectors, config.index, config.seed, run.progress)
    visible = measure_visible(vectors, config.index, config.seed, run.progress)
    for row in changes:
        record_change(results, row, vectors, config)
    for one in visible:
        record_visible(results, one, vectors)
    folder = run.results_folder()
    results.write(folder / "index_changes.json")
    write_atomic(folder / "plots" / "index_changes.png", png(changes_plot(changes)))
    run.console.print(change_table(changes))
    run.console.print(visible_table(visible))
    run.console.print(f"numbers: {folder / 'index_changes.json'}", highlight=False)


def record_change(results: Results, row: Change, vectors: StudyVectors, config: Config) -> None:
    """Recall of all and of the new, time of a query, time of the step."""
    key = f"index_changes/{row.scenario}.{row.step}"
    words = (
        f"{vectors.words}, {row.n:,} in the index, {len(row.recall):,} queries, recall of the "
        f"exact neighbours among those, seed {config.seed}{', QUICK' if config.quick else ''}"
    )
    resamples = config.evaluation.resamples
    estimate = bootstrap_mean(row.recall, resamples=resamples)
    results.add(f"{key}/recall@{FIRST}", estimate, protocol=words)
    if len(row.recall_new):
        estimate = bootstrap_mean(row.recall_new, resamples=resamples)
        about = f"queries of the class in question; {words}"
        results.add(f"{key}/recall@{FIRST}_class", estimate, protocol=about)
    clock = f"{words}, one caller, closed loop, one thread, after a warm-up of a tenth, no errors"
    for q in (50, 99):
        value = float(np.percentile(row.ms, q))
        results.add(f"{key}/p{q}_ms", value, protocol=clock, n=len(row.ms))
    results.add(f"{key}/seconds", row.seconds, protocol=f"of the step, one thread; {words}")
    if row.largest_cell:
        results.add(f"{key}/largest_cell", row.largest_cell, protocol=f"share of vectors; {words}")


def record_visible(results: Results, one: Visible, vectors: StudyVectors) -> None:
    """Milliseconds from add to found, how many were missed, seconds of a build."""
    key = f"index_visible/{one.kind}"
    words = f"{vectors.words}, {len(one.seconds)} rows one by one, one thread"
    for q in (50, 99):
        value = 1000 * float(np.percentile(one.seconds, q))
        results.add(
            f"{key}/p{q}_ms", value, protocol=f"add and search; {words}", n=len(one.seconds)
        )
    results.add(f"{key}/missed", one.missed, protocol=f"not found by their own vector; {words}")
    results.add(f"{key}/build_s", one.build_s, protocol=f"of the whole index; {words}")


def change_table(changes: list[Change]) -> Table:
    """One row a step."""
    table = Table(title="indexes that change")
    columns = (
        "scenario",
        "step",
        "vectors",
        f"R@{FIRST}",
        "of the class",
        "p50 ms",
        "fullest cell",
    )
    for column in (*columns, "seconds"):
        table.add_column(column, justify="right")
    for row in changes:
        table.add_row(
            row.scenario,
            row.step,
            f"{row.n:,}",
            f"{row.recall.mean():.4f}",
            f"{row.recall_new.mean():.4f}" if len(row.recall_new) else "",
            f"{np.median(row.ms):.3f}",
            f"{row.largest_cell:.2%}" if row.largest_cell else "",
            f"{row.seconds:.3f}",
        )
    return table


def visible_table(visible: list[Visible]) -> Table:
    """One row a kind."""
    table = Table(title="from add to found, one row at a time, one thread")
    for column in ("kind", "p50 ms", "p99 ms", "missed", "build s"):
        table.add_column(column, justify="right")
    for one in visible:
        p50, p99 = 1000 * np.percentile(one.seconds, (50, 99))
        table.add_row(one.kind, f"{p50:.2f}", f"{p99:.2f}", str(one.missed), f"{one.build_s:.1f}")
    return table
