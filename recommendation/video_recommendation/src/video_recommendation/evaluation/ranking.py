"""The replay of the funnel over the test window: pool, pre-rank order, both rankers, final list.

In: the trained recommender and queries. Out: ``Replay``, per-query metrics of each stage's order on
the full catalogue, what the rankers do on the candidates alone (AUC, NDCG), scores and outcomes for
calibration, and the ranked candidates that the re-ranking sweep starts from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.evaluation.classification_metrics import auc
from video_recommendation.evaluation.lists import LIST_LENGTH, PerQuery, metrics_of_lists
from video_recommendation.evaluation.retrieval import blocks, join, lists_by_score
from video_recommendation.ranking.examples import ratings_of
from video_recommendation.recommender import Ranked, Recommender

FUNNEL = ("retrieve", "prerank", "rank", "rerank")


@dataclass(frozen=True)
class Replay:
    """What happened to Q queries.

    Attributes:
        per_query: variant -> metrics; variants "prerank", "lambdarank", "mmoe", "final".
        final_lists: i32[Q, k], the lists that would have been shown.
        watched: bool[C] of all ranked candidates of all queries, in query order.
        score: ranker -> f64[C].
        ptr: i64[Q + 1] of those candidates.
        blocks: Ranked candidates by the configured ranker, block by block, with the query number
            at which each block starts.
        sizes: Mean number of items at each stage of the funnel.
        stage_ms: Milliseconds per request of each stage in batches (not a latency: see serving).
    """

    per_query: dict[str, PerQuery]
    final_lists: np.ndarray
    watched: np.ndarray
    score: dict[str, np.ndarray]
    ptr: np.ndarray
    blocks: list[tuple[int, Ranked]]
    sizes: dict[str, float]
    stage_ms: dict[str, float]


def replay(
    recommender: Recommender,
    log: InteractionLog,
    queries: Queries,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Replay:
    """Runs every query through the request path."""
    rankers = list(recommender.rankers)
    configured = recommender.config.ranking.ranker
    k = recommender.config.reranking.k
    metrics: dict[str, list[PerQuery]] = {name: [] for name in ["prerank", *rankers, "final"]}
    score: dict[str, list[np.ndarray]] = {name: [] for name in rankers}
    watched, counts, lists, ranked_blocks = [], [], [], []
    seconds = dict.fromkeys(FUNNEL, 0.0)
    pool_items, begin = 0, 0
    for part, batch in blocks(log, queries):
        clock = time.perf_counter()
        candidates = recommender.proposer.retrieve(batch)
        clock = _lap(seconds, "retrieve", clock)
        prerank_score, survivors = recommender.prerank(batch, candidates)
        clock = _lap(seconds, "prerank", clock)
        ranked = recommender.rank(batch, survivors, configured)
        clock = _lap(seconds, "rank", clock)
        final = _final_lists(recommender, ranked, part, k)
        _lap(seconds, "rerank", clock)
        lists.append(final)
        metrics["prerank"].append(
            metrics_of_lists(lists_by_score(candidates, prerank_score, LIST_LENGTH), log, part)
        )
        for name in rankers:
            values = np.asarray(recommender.rankers[name].score(ranked.features), dtype=np.float64)
            score[name].append(values)
            ordered = lists_by_score(survivors, values, LIST_LENGTH)
            metrics[name].append(metrics_of_lists(ordered, log, part))
        metrics["final"].append(metrics_of_lists(final, log, part))
        watched.append(ratings_of(log, part, survivors) > 0)
        counts.append(np.diff(survivors.ptr))
        pool_items += len(candidates.item_idx)
        ranked_blocks.append((begin, ranked))
        begin += len(part)
        on_progress(len(part))
    n_survivors = sum(int(count.sum()) for count in counts)
    return Replay(
        per_query={name: join(parts) for name, parts in metrics.items()},
        final_lists=np.concatenate(lists),
        watched=np.concatenate(watched),
        score={name: np.concatenate(parts) for name, parts in score.items()},
        ptr=np.concatenate(([0], np.cumsum(np.concatenate(counts)))),
        blocks=ranked_blocks,
        sizes={
            "catalogue": float(len(recommender.catalogue)),
            "candidates": pool_items / len(queries),
            "ranked": n_survivors / len(queries),
            "reranked": float(min(recommender.config.reranking.pool, n_survivors / len(queries))),
            "list": float(k),
        },
        stage_ms={name: value * 1000 / len(queries) for name, value in seconds.items()},
    )


def candidate_metrics(result: Replay, ranker: str, users: np.ndarray) -> PerQuery:
    """AUC and NDCG@10 against the candidates alone, for queries with both outcomes among them.

    The AUC is within a query, averaged: an AUC over all rows would mostly measure which queries
    are easy. ``users`` i32[Q] comes back as "user", the clusters of an interval.
    """
    scores = result.score[ranker]
    values: dict[str, list[float]] = {"auc": [], "ndcg@10": [], "user": []}
    discount = 1 / np.log2(np.arange(2, 12))
    for query, (a, b) in enumerate(zip(result.ptr[:-1], result.ptr[1:], strict=True)):
        watched = result.watched[a:b]
        if not watched.any() or watched.all():
            continue
        hits = watched[np.argsort(-scores[a:b], kind="stable")[:10]]
        ideal = discount[: min(10, int(watched.sum()))].sum()
        values["auc"].append(auc(watched, scores[a:b]))
        values["ndcg@10"].append((hits * discount[: len(hits)]).sum() / ideal)
        values["user"].append(users[query])
    return {name: np.asarray(column) for name, column in values.items()}


def _final_lists(recommender: Recommender, ranked: Ranked, part: Queries, k: int) -> np.ndarray:
    lists = np.full((len(part), k), -1, dtype=np.int32)
    ptr = ranked.candidates.ptr
    for query, (a, b) in enumerate(zip(ptr[:-1], ptr[1:], strict=True)):
        user_idx, now = int(part.user_idx[query]), int(part.timestamp[query])
        rows = recommender.rerank(ranked, a, b, k=k, user_idx=user_idx, now=now).rows
        lists[query, : len(rows)] = ranked.candidates.item_idx[rows]
    return lists


def _lap(seconds: dict[str, float], stage: str, started: float) -> float:
    now = time.perf_counter()
    seconds[stage] += now - started
    return now
