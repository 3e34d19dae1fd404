"""What real-time learning of the towers is worth: frozen, uploads only, daily to quarter-hourly.

In: a ``Run``. Out: ``results/incremental.json`` with ``realtime_learning/<way>/...``, a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.ranking_metrics import hit_matrix, recall_at
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.retrieval_queries import Queries, session_queries
from shorts_recommendation.items import items_known_at
from shorts_recommendation.log import DAY_S
from shorts_recommendation.retrieval.fitting import fit_with_tower
from shorts_recommendation.retrieval.incremental import Way, make_ways, replay_ways
from shorts_recommendation.retrieval.pairs import training_pairs

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

PERIODS_S = (DAY_S, 3600, 900)
K = 100


def main(run: Run) -> None:
    """Trains before the test days, replays them, prints, writes."""
    data, config = run.load(), run.config
    results = run.start_results(data)
    with run.progress.stage("queries of the test days", 1):
        items = items_known_at(data.catalogue, data.windows.train_end, seed=config.seed)
        queries = session_queries(
            data,
            items,
            config,
            data.windows.validation_end,
            data.windows.end,
            most=config.evaluation.queries,
        )
    ways = ways_of(data, config, run)
    with run.progress.stage("replay of the test days", len(queries)) as step:
        lists = replay_ways(
            ways,
            queries.batch,
            data.catalogue,
            grid_s=min(PERIODS_S),
            k=K,
            step=step,
        )
    table = record(results, ways, lists, queries, data, config)
    folder = run.results_folder()
    results.write(folder / "incremental.json")
    run.console.print(table)
    run.console.print(f"numbers: {folder / 'incremental.json'}", highlight=False)


def ways_of(data: ShortsData, config: Config, run: Run) -> list[Way]:
    """All ways, from towers that know nothing of the test days."""
    start_s, end_s = data.windows.validation_end, data.windows.end
    # The index is not part of the comparison: flat is the cheapest to make.
    flat = config.retrieval.model_copy(update={"index": "flat"})
    fitted = config.model_copy(update={"retrieval": flat})
    retriever, tower = fit_with_tower(data, start_s, fitted, config.seed, run.progress)
    pairs = training_pairs(
        data.log,
        data.catalogue,
        until_s=end_s,
        since_s=start_s - DAY_S,
        length=config.two_tower.history_length,
        decay=config.state.profile_decay,
    )
    return make_ways(
        tower,
        retriever.encoder,
        retriever.vectors,
        data.catalogue,
        config.two_tower,
        pairs,
        start_s=start_s,
        periods_s=PERIODS_S,
        seed=config.seed,
    )


def record(
    results: Results,
    ways: list[Way],
    lists: dict[str, np.ndarray],
    queries: Queries,
    data: ShortsData,
    config: Config,
) -> Table:
    """Adds recall of all and of new videos, what each way gains on ``uploads``, and its cost."""
    protocol = (
        f"test days, first request of {len(queries):,} sessions, exact search over what exists, "
        f"seen masked, seed {config.seed}, SYNTHETIC{', QUICK' if config.quick else ''}"
    )
    users, resamples = queries.batch.user_idx, config.evaluation.resamples
    new = only_new(queries, data.catalogue.upload_s, data.windows.validation_end)
    recalls = {name: _recall(found, queries) for name, found in lists.items()}
    table = Table(title=f"recall@{K}, sessions of the test days")
    for column in ("way", "all videos", "new videos", "over uploads", "s an update"):
        table.add_column(column, justify="right")
    for way in ways:
        key = f"realtime_learning/{way.name}"
        everything = bootstrap_mean(recalls[way.name], users, resamples=resamples)
        gain = bootstrap_difference(
            recalls[way.name], recalls["uploads"], users, resamples=resamples
        )
        results.add(f"{key}/recall@{K}", everything, protocol=protocol)
        results.add(f"{key}/recall@{K}_over_uploads", gain, protocol=protocol)
        cells = [_text(everything), "", _text(gain), ""]
        if new is not None:
            rows, part = new
            found = _recall(lists[way.name][rows], part)
            fresh = bootstrap_mean(found, part.batch.user_idx, resamples=resamples)
            words = f"of videos uploaded in the test days; {protocol}"
            results.add(f"{key}/recall@{K}_new", fresh, protocol=words)
            cells[1] = _text(fresh)
        if way.update_s:
            median = float(np.median(way.update_s))
            words = f"processor time of an update, median, every {way.period_s} s"
            results.add(f"{key}/update_s", median, protocol=words, n=len(way.update_s))
            cells[3] = f"{median:.2f}"
        table.add_row(way.name, *cells)
    return table


def only_new(
    queries: Queries, upload_s: np.ndarray, since_s: int
) -> tuple[np.ndarray, Queries] | None:
    """The queries with a relevant video uploaded from ``since_s`` on, with those alone; or None."""
    keep = upload_s[queries.relevant] >= since_s
    owner = np.repeat(np.arange(len(queries)), queries.n_relevant)[keep]
    rows, counts = np.unique(owner, return_counts=True)
    if not len(rows):
        return None
    ptr = np.concatenate([[0], np.cumsum(counts)])
    kept = queries.relevant[keep], queries.weight[keep]
    return rows, Queries(queries.batch.take(rows), ptr, *kept)


def _recall(lists: np.ndarray, queries: Queries) -> np.ndarray:
    return recall_at(hit_matrix(lists, queries.ptr, queries.relevant), queries.n_relevant, K)


def _text(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"
