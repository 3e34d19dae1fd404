"""The index on these embeddings, and where the time of recall goes.

In: a ``Run``. Out: ``results/indexes.json`` with ``index/<kind>_<width>/...`` and
``retrieval/profile/...``, a table. Towers are trained before the test days; the queries that the
index is measured on are user vectors of the training's last events, so no test day is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.retrieval_queries import session_queries, snapshots_of
from shorts_recommendation.items import items_known_at
from shorts_recommendation.retrieval.fitting import fit_retriever
from shorts_recommendation.retrieval.index import SEARCH_BATCH, TARGET_RECALL, Measured
from shorts_recommendation.retrieval.profile import profile
from shorts_recommendation.retrieval.sources import Retriever

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

PROFILE_QUERIES = 200


def main(run: Run) -> None:
    """Trains the towers, measures every kind of index, profiles a request, prints, writes."""
    data = run.load()
    results = run.start_results(data)
    config = run.config.model_copy(
        update={"retrieval": run.config.retrieval.model_copy(update={"index": "auto"})}
    )
    until_s = data.windows.validation_end
    retriever = fit_retriever(data, until_s, config, config.seed, run.progress)
    record_indexes(results, retriever)
    with run.progress.stage("retrieval: profile", 1):
        record_profile(results, retriever, data, config)
    folder = run.results_folder()
    results.write(folder / "indexes.json")
    run.console.print(index_table(retriever))
    run.console.print(f"numbers: {folder / 'indexes.json'}", highlight=False)


def record_indexes(results: Results, retriever: Retriever) -> None:
    """Recall, speed, bytes and build time of every kind and width."""
    k = retriever.depth
    protocol = (
        f"{len(retriever.index):,} vectors of {retriever.encoder.dim}, recall@{k} against exact "
        f"search, user vectors of the last training events, {SEARCH_BATCH} queries a search, "
        "processor time of one thread, SYNTHETIC"
    )
    for row in retriever.measured:
        for name, value in (
            ("recall", row.recall),
            ("qps", row.qps),
            ("bytes", row.bytes),
            ("build_s", row.build_s),
        ):
            results.add(f"index/{_name(row)}/{name}", value, protocol=protocol)


def record_profile(
    results: Results, retriever: Retriever, data: ShortsData, config: Config
) -> None:
    """Processor time of every part of a request, at one and at eight requests a call."""
    windows = data.windows
    items = items_known_at(data.catalogue, data.windows.train_end, seed=config.seed)
    queries = session_queries(
        data, items, config, windows.train_end, windows.validation_end, most=PROFILE_QUERIES
    )
    snapshot = next(snapshots_of(data.log, len(data.catalogue), config, queries.batch.now_s[-1:]))[
        0
    ]
    for size in (1, SEARCH_BATCH):
        if len(queries) < size:
            continue
        protocol = f"{size} requests a call, median, processor time of one thread, a request"
        for name, value in profile(retriever, queries.batch, snapshot, size=size).items():
            results.add(
                f"retrieval/profile_{size}/{name}", value, protocol=protocol, n=len(queries)
            )


def index_table(retriever: Retriever) -> Table:
    """One row a measurement; the one that serves is marked."""
    table = Table(title=f"indexes over {len(retriever.index):,} video vectors")
    for column in ("kind", "width", "recall", "queries/s", "MB", "build s", ""):
        table.add_column(column, justify="right")
    for row in retriever.measured:
        serves = (row.kind, row.width) == (retriever.index.kind, retriever.index.width)
        mark = "serves" if serves else "" if row.recall >= TARGET_RECALL else "too low"
        cells = (f"{row.recall:.3f}", f"{row.qps:,.0f}", f"{row.bytes / 1e6:.1f}")
        table.add_row(row.kind, str(row.width), *cells, f"{row.build_s:.1f}", mark)
    return table


def _name(row: Measured) -> str:
    return row.kind if row.width == 0 else f"{row.kind}_{row.width}"
