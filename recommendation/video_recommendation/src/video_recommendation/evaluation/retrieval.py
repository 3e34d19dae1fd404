"""The retrieval table: every source and every baseline on the same queries.

In: the trained system and a set of queries. Out: a ``Table`` with one row per model. Scores are
made and cut to lists in blocks, so memory stays bounded by BLOCK x I.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.evaluation.top_k import tie_order
from video_recommendation.data import SystemData
from video_recommendation.evaluation.baselines import Baseline, Scorer
from video_recommendation.evaluation.lists import (
    LIST_LENGTH,
    PerQuery,
    list_metrics,
    metrics_of_lists,
)
from video_recommendation.ranking.examples import Examples
from video_recommendation.recommender import Recommender
from video_recommendation.requests import RequestBatch, batch_of_queries
from video_recommendation.retrieval.sources import SOURCES, Candidates

BLOCK = 1024
TUNING_QUERIES = 1500


def blocks(log: InteractionLog, queries: Queries) -> list[tuple[Queries, RequestBatch]]:
    """The queries in blocks, with their requests."""
    parts = [
        queries.subset(np.arange(begin, min(begin + BLOCK, len(queries))))
        for begin in range(0, len(queries), BLOCK)
    ]
    return [(part, batch_of_queries(log, part)) for part in parts]


def evaluate_scorer(scorer: Scorer, log: InteractionLog, queries: Queries) -> PerQuery:
    """Per-query metrics of a full-catalogue scorer."""
    parts = [list_metrics(scorer(batch), batch, log, part) for part, batch in blocks(log, queries)]
    return join(parts)


def join(parts: list[PerQuery]) -> PerQuery:
    """Concatenates per-query metrics of blocks."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tune(baseline: Baseline, data: SystemData, queries: Queries, metric: str) -> dict[str, float]:
    """The setting of the grid with the best mean ``metric`` on validation queries.

    Models are fitted on the training window alone; a random part of the queries decides.
    """
    if len(baseline.grid) == 1:
        return baseline.grid[0]
    known = data.log.select(data.log.timestamp < data.windows.train_end)
    chosen = np.random.default_rng(0).permutation(len(queries))[:TUNING_QUERIES]
    part = queries.subset(np.sort(chosen))
    values = [
        evaluate_scorer(baseline.fit(known, setting), data.log, part)[metric].mean()
        for setting in baseline.grid
    ]
    return baseline.grid[int(np.argmax(values))]


def source_scorers(recommender: Recommender) -> dict[str, Scorer]:
    """Full-catalogue scores of the three sources that score every item."""
    proposer = recommender.proposer
    retriever = proposer.retriever
    return {
        "two_tower": lambda batch: proposer.encoder.encode(batch) @ retriever.item_vectors.T,
        "co_visitation": retriever.item_item.co_visitation_scores,
        "ease_recency": retriever.item_item.ease_scores,
    }


def evaluate_merge(
    recommender: Recommender,
    log: InteractionLog,
    queries: Queries,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[PerQuery, dict[str, float]]:
    """The merged pool in pre-rank order, cut to 100 like every other row, and facts of the pool.

    Returns:
        Per-query metrics, and means over queries: pool_size, pool_recall (the whole pool), and for
        each source its share of the relevant items found (alone and only by it).
    """
    parts, facts = [], []
    for part, batch in blocks(log, queries):
        candidates = recommender.proposer.retrieve(batch)
        scores, _ = recommender.prerank(batch, candidates)
        lists = lists_by_score(candidates, scores, LIST_LENGTH)
        parts.append(metrics_of_lists(lists, log, part))
        facts.append(_pool_facts(candidates, log, part))
        on_progress(len(part))
    weights = [len(part) for part, _ in blocks(log, queries)]
    merged = {
        name: float(np.average([fact[name] for fact in facts], weights=weights))
        for name in facts[0]
    }
    return join(parts), merged


def lists_by_score(candidates: Candidates | Examples, scores: np.ndarray, k: int) -> np.ndarray:
    """The k best candidates of each request, i32[Q, k] with -1 padding.

    Equal scores keep the pool's order, which is pseudo-random.
    """
    owner = candidates.owner
    order = np.lexsort((-scores, owner))
    place = np.arange(len(scores)) - candidates.ptr[owner]
    lists = np.full((len(candidates.ptr) - 1, k), -1, dtype=np.int32)
    kept = place < k
    lists[owner[kept], place[kept]] = candidates.item_idx[order[kept]]
    return lists


def _pool_facts(candidates: Candidates, log: InteractionLog, queries: Queries) -> dict[str, float]:
    ptr, items = queries.relevant(log)
    owner = np.repeat(np.arange(len(queries)), np.diff(ptr))
    place_of = tie_order(log.n_items)[1]  # a pool is in this order
    key = candidates.owner * log.n_items + place_of[candidates.item_idx]
    wanted = owner * log.n_items + place_of[items]
    place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    found = key[place] == wanted
    by_source = candidates.in_source[place] & found[:, None]
    alone = by_source & (by_source.sum(axis=1) == 1)[:, None]
    weight = 1.0 / np.diff(ptr)[owner] / len(queries)  # mean over queries of the recall
    facts = {
        "pool_size": float(np.diff(candidates.ptr).mean()),
        "pool_recall": float((found * weight).sum()),
    }
    for column, name in enumerate(SOURCES):
        facts[f"recall_{name}"] = float((by_source[:, column] * weight).sum())
        facts[f"only_{name}"] = float((alone[:, column] * weight).sum())
    return facts
