"""The recall tables: every source alone, the merge, baselines, and what the sources share.

In: a retriever that knows nothing of the test days, queries of those days. Out:
``retrieval/<row>/<metric>`` in the results and two pictures.

Three views of one list of 1,000:

- logged: ``recall@100`` and ``recall@1000`` of what users watched through in the session. What the
  logging policy did not show cannot count, so this view favours what resembles that policy.
- uniform: ``uniform_recall@100`` and ``uniform_recall@1000``, the same long views weighed as if all
  slots were uniform (uniform_recall.py). Observable as well, and the one that defaults rest on.
- true: ``oracle_share``, the share of the 100 unseen videos of highest true satisfaction that are
  among the 1,000, and ``satisfaction``, the mean true satisfaction of all candidates. Only a
  simulator has it.

``coverage`` is the share of the existing catalogue in any list; ``length`` the mean length. Seen
videos are masked everywhere, ties are broken before. Intervals resample users whole. Baselines:
``random``, ``recent_popularity`` (long views of the 24-hour half-life, nothing personal) and
``oracle`` (the true order: it shows what the logged view misses).

Legend: Q queries, S sources, C = 1,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_platform.evaluation.diversity_metrics import catalogue_coverage
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.progress import Progress, Silent
from ml_platform.evaluation.ranking_metrics import hit_matrix, recall_at
from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.evaluation.top_k import tie_order
from shorts_recommendation.config import Config, RetrievalConfig
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.retrieval_plot import overlap_figure, recall_figure
from shorts_recommendation.evaluation.retrieval_queries import (
    Queries,
    session_queries,
    snapshots_of,
)
from shorts_recommendation.evaluation.uniform_recall import effective_events, uniform_recall_at
from shorts_recommendation.items import ItemTable
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.candidates import SOURCES
from shorts_recommendation.retrieval.sources import Retriever

BASELINES = ("random", "recent_popularity", "oracle")
ORACLE_TOP = 100
CUTS = (100, 1000)

Lists = dict[str, np.ndarray]
"""Row name to i32[Q, C], -1 padded."""


@dataclass(frozen=True)
class RecallTable:
    """What was measured, one value a query.

    Attributes:
        lists: The candidates of every row.
        values: Row, then metric, to f64[Q].
        coverage: Row to the share of the existing catalogue.
        overlap: f64[S, S]: share of the row source's hits that the column source has too.
        queries: What was asked.
    """

    lists: Lists
    values: dict[str, dict[str, np.ndarray]]
    coverage: dict[str, float]
    overlap: np.ndarray
    queries: Queries


def evaluate_retrieval(
    data: ShortsData,
    items: ItemTable,
    retriever: Retriever,
    config: Config,
    results: Results,
    plots: Path,
    progress: Progress | None = None,
) -> RecallTable:
    """The table on the test days; records it and draws it.

    Args:
        data: The world.
        items: The catalogue as models read it.
        retriever: Fitted before the test days.
        config: Queries and resamples.
        results: Takes ``retrieval/...``.
        plots: Folder of the pictures.
        progress: Told of the queries done.
    """
    windows = data.windows
    most = config.evaluation.queries
    queries = session_queries(data, items, config, windows.validation_end, windows.end, most=most)
    table = recall_table(data, retriever, queries, config, progress)
    protocol = (
        f"test days, first request of {len(queries):,} sessions with a long view, full catalogue "
        f"that exists then, seen masked, seed {config.seed}, SYNTHETIC"
        f"{', QUICK' if config.quick else ''}"
    )
    record(table, results, protocol, config.evaluation.resamples)
    plots.mkdir(parents=True, exist_ok=True)
    note = "quick run, synthetic" if config.quick else "synthetic"
    figures = {
        "retrieval_recall": recall_figure(results, note),
        "retrieval_overlap": overlap_figure(table.overlap, note),
    }
    for name, figure in figures.items():
        write_atomic(plots / f"{name}.png", png(figure))
    return table


def recall_table(
    data: ShortsData,
    retriever: Retriever,
    queries: Queries,
    config: Config,
    progress: Progress | None = None,
) -> RecallTable:
    """Lists and per-query metrics of every row."""
    lists = all_lists(data, retriever, queries, config, progress or Silent())
    top = oracle_lists(data, queries.batch, ORACLE_TOP)
    values = {row: _metrics(data, queries, videos, top) for row, videos in lists.items()}
    exists = int((data.catalogue.upload_s <= queries.batch.now_s[-1]).sum())
    coverage = {
        row: catalogue_coverage(videos, len(data.catalogue)) * len(data.catalogue) / exists
        for row, videos in lists.items()
    }
    return RecallTable(lists, values, coverage, overlap_matrix(lists, queries), queries)


def all_lists(
    data: ShortsData, retriever: Retriever, queries: Queries, config: Config, progress: Progress
) -> Lists:
    """Candidates of every row: sources alone, merged, baselines; requests in time order."""
    alone = retriever.resized(alone_config(retriever.config))
    length = retriever.config.n_candidates
    rng = np.random.default_rng(config.seed)
    place = tie_order(len(data.catalogue))[1]

    def random(batch: RequestBatch, _: CounterSnapshot) -> np.ndarray:
        return best_unseen(rng.random((len(batch), len(data.catalogue))), batch, data, length)

    def popular(batch: RequestBatch, snapshot: CounterSnapshot) -> np.ndarray:
        score = snapshot.long_views[1] - 1e-9 * place
        return best_unseen(np.tile(score, (len(batch), 1)), batch, data, length)

    makers: dict[str, Callable[[RequestBatch, CounterSnapshot], np.ndarray]] = {
        source: lambda b, s, source=source: alone.propose(b, s, only=source).videos  # type: ignore[misc]
        for source in SOURCES
    }
    makers["merged"] = lambda batch, snapshot: retriever.propose(batch, snapshot).videos
    makers |= {"random": random, "recent_popularity": popular}
    lists = {row: np.full((len(queries), length), -1, dtype=np.int32) for row in makers}
    with progress.stage("retrieval: queries of the test days", len(queries)) as step:
        for snapshot, at in snapshots_of(
            data.log, len(data.catalogue), config, queries.batch.now_s
        ):
            batch = queries.batch.take(at)
            for row, make in makers.items():
                lists[row][at] = make(batch, snapshot)
            step(len(at))
    lists["oracle"] = oracle_lists(data, queries.batch, length)
    return lists


def alone_config(config: RetrievalConfig) -> RetrievalConfig:
    """Every source with the whole list as its quota, for the rows of one source."""
    n = config.n_candidates
    quotas = dict.fromkeys(
        ("vector_quota", "collaborative_quota", "tag_quota", "trending_quota", "fresh_quota"), n
    )
    return config.model_copy(update={**quotas, "list_length": 2 * n})


def best_unseen(
    scores: np.ndarray, batch: RequestBatch, data: ShortsData, length: int
) -> np.ndarray:
    """The unseen existing videos of highest score f[B, V], i32[B, C], -1 padded."""
    scores = np.where(data.catalogue.upload_s[None] <= batch.now_s[:, None], scores, -np.inf)
    rows, places = np.nonzero(batch.seen >= 0)
    scores[rows, batch.seen[rows, places]] = -np.inf
    width = min(length, scores.shape[1])
    best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
    value = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-value, axis=1, kind="stable")
    chosen = np.take_along_axis(best, order, axis=1)
    chosen = np.where(np.isfinite(np.take_along_axis(value, order, axis=1)), chosen, -1)
    return np.pad(chosen, ((0, 0), (0, length - width)), constant_values=-1).astype(np.int32)


def oracle_lists(data: ShortsData, batch: RequestBatch, length: int) -> np.ndarray:
    """The unseen videos of highest true satisfaction, i32[B, length]."""
    exists = int((data.catalogue.upload_s <= batch.now_s.min()).sum())
    depth = min(length + batch.seen.shape[1], exists)
    top = data.world.oracle_top(batch.user_idx, batch.now_s, depth)
    lists = np.full((len(batch), length), -1, dtype=np.int32)
    for row, videos in enumerate(top):
        unseen = videos[~np.isin(videos, batch.seen[row])][:length]
        lists[row, : len(unseen)] = unseen
    return lists


def overlap_matrix(lists: Lists, queries: Queries) -> np.ndarray:
    """f64[S, S]: share of a source's hits (row) that another source (column) has as well.

    A source without any hit has nan in its row.
    """
    owner = np.repeat(np.arange(len(queries)), queries.n_relevant)
    found = np.stack(
        [(lists[source][owner] == queries.relevant[:, None]).any(axis=1) for source in SOURCES]
    )
    both = (found[:, None] & found[None]).sum(axis=2)
    hits = found.sum(axis=1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(both / hits[:, None])


def _metrics(
    data: ShortsData, queries: Queries, videos: np.ndarray, top: np.ndarray
) -> dict[str, np.ndarray]:
    hits = hit_matrix(videos, queries.ptr, queries.relevant)
    batch, there = queries.batch, videos >= 0
    expected = data.world.expected(batch.user_idx, np.maximum(videos, 0), batch.now_s)
    n_there = np.maximum(there.sum(axis=1), 1)
    share = [len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(videos, top, strict=True)]
    width = videos.shape[1]
    recalls = {f"recall@{k}": recall_at(hits, queries.n_relevant, min(k, width)) for k in CUTS}
    uniform = uniform_recall_at(videos, queries, CUTS)
    recalls |= {f"uniform_recall@{k}": values for k, values in zip(CUTS, uniform, strict=True)}
    return recalls | {
        "oracle_share": np.array(share) / np.maximum((top >= 0).sum(axis=1), 1),
        "satisfaction": (expected.satisfaction * there).sum(axis=1) / n_there,
        "length": there.sum(axis=1).astype(np.float64),
    }


def record(table: RecallTable, results: Results, protocol: str, resamples: int) -> None:
    """Adds every number; differences of the merge to each source are paired by query."""
    users = table.queries.batch.user_idx
    worth = f"weights worth {effective_events(table.queries):,.0f} long views; {protocol}"
    for row, metrics in table.values.items():
        for name, values in metrics.items():
            estimate = bootstrap_mean(values, users, resamples=resamples)
            words = worth if name.startswith("uniform") else protocol
            results.add(f"retrieval/{row}/{name}", estimate, protocol=words)
        results.add(
            f"retrieval/{row}/coverage", table.coverage[row], protocol=protocol, n=len(users)
        )
    merged = table.values["merged"]
    for row in (*SOURCES, "recent_popularity"):
        for name in ("recall@1000", "uniform_recall@1000", "oracle_share"):
            difference = bootstrap_difference(
                merged[name], table.values[row][name], users, resamples=resamples
            )
            results.add(f"retrieval/merged/{name}_over_{row}", difference, protocol=protocol)
    for i, one in enumerate(SOURCES):
        for j, other in enumerate(SOURCES):
            if i != j and np.isfinite(table.overlap[i, j]):
                results.add(
                    f"retrieval/{one}/hits_shared_with_{other}",
                    float(table.overlap[i, j]),
                    protocol=f"share of its hits in 1,000; {protocol}",
                    n=len(table.queries.relevant),
                )
