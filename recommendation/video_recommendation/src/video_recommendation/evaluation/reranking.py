"""What diversity costs: the trade-off sweep of MMR and DPP over one sample of queries.

In: ranked candidates of the replay. Out: one ``SweepPoint`` per method and trade-off: relevance
(NDCG@10, HR@10) against diversity in two named spaces (genres; item-tower vectors), the smallest
distance of any pair, genre entropy, catalogue coverage and novelty. Diversity is judged in both
spaces and by measures the re-ranker does not optimise, because intra-list distance in its own space
is what MMR maximises by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.evaluation.diversity_metrics import (
    catalogue_coverage,
    category_entropy,
    intra_list_distance,
    min_pairwise_distance,
    novelty,
)
from video_recommendation.config import RerankingConfig
from video_recommendation.evaluation.lists import metrics_of_lists
from video_recommendation.evaluation.ranking import Replay
from video_recommendation.recommender import Recommender
from video_recommendation.reranking import rerank

TRADE_OFFS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3)
K = 10


@dataclass(frozen=True)
class SweepPoint:
    """One setting of the re-ranker.

    Attributes:
        method: "none", "mmr" or "dpp".
        trade_off: 1 is relevance only.
        values: metric -> f64[Q], per query.
        coverage: Share of the catalogue that appears in any of the lists.
    """

    method: str
    trade_off: float
    values: dict[str, np.ndarray] = field(repr=False)
    coverage: float

    @property
    def name(self) -> str:
        """Variant name in the results."""
        return "none" if self.method == "none" else f"{self.method}_{self.trade_off:g}"


def sweep(
    recommender: Recommender,
    result: Replay,
    log: InteractionLog,
    queries: Queries,
    *,
    n_queries: int,
    seed: int,
) -> tuple[list[SweepPoint], np.ndarray]:
    """Lists of length 10 for each setting, without exploration and freshness boost.

    Returns:
        The points, the first being the ranker's own order, and the query numbers they are over.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(queries))[:n_queries])
    base = recommender.config.reranking.model_copy(
        update={"exploration_slot": -1, "freshness_boost": 0.0, "genre_cap": 10**6}
    )
    settings = [base.model_copy(update={"method": "none", "trade_off": 1.0})]
    settings += [
        base.model_copy(update={"method": method, "trade_off": trade_off})
        for method in ("mmr", "dpp")
        for trade_off in TRADE_OFFS[1:]
    ]
    pools = _pools(recommender, result, chosen)
    points = []
    for setting in settings:
        lists = np.full((len(chosen), K), -1, dtype=np.int32)
        for row, (pool, item_idx) in enumerate(pools):
            rng = np.random.default_rng(0)  # nothing is drawn: exploration is off
            rows = rerank(pool, setting, k=K, rng=rng).rows
            lists[row, : len(rows)] = item_idx[rows]
        points.append(_point(recommender, setting, lists, log, queries.subset(chosen)))
    return points, chosen


def list_qualities(
    recommender: Recommender, lists: np.ndarray, log: InteractionLog
) -> dict[str, np.ndarray]:
    """Diversity and novelty of each list i32[Q, K], f64[Q] each."""
    known = recommender.log
    item_users = np.bincount(known.item_idx[known.is_first], minlength=known.n_items)
    genres = recommender.catalogue.genre_flags
    return {
        "ild_genre@10": intra_list_distance(genres, lists),
        "ild_embedding@10": intra_list_distance(recommender.proposer.retriever.item_vectors, lists),
        "min_distance_genre@10": min_pairwise_distance(genres, lists),
        "genre_entropy@10": category_entropy(lists, genres),
        "novelty@10": novelty(lists, np.maximum(item_users, 1), known.n_users),
    }


def _pools(recommender: Recommender, result: Replay, chosen: np.ndarray) -> list[tuple]:
    """(Pool, item_idx of the block's rows) of the chosen queries."""
    pools = []
    for begin, ranked in result.blocks:
        ptr = ranked.candidates.ptr
        inside = chosen[(chosen >= begin) & (chosen < begin + len(ptr) - 1)] - begin
        for query in inside:
            pool = recommender.pool(ranked, int(ptr[query]), int(ptr[query + 1]))
            pools.append((pool, ranked.candidates.item_idx))
    return pools


def _point(
    recommender: Recommender,
    setting: RerankingConfig,
    lists: np.ndarray,
    log: InteractionLog,
    queries: Queries,
) -> SweepPoint:
    relevance = metrics_of_lists(lists, log, queries)
    qualities = list_qualities(recommender, lists, log)
    return SweepPoint(
        method=setting.method,
        trade_off=setting.trade_off,
        values={"ndcg@10": relevance["ndcg@10"], "hr@10": relevance["hr@10"], **qualities},
        coverage=catalogue_coverage(lists, log.n_items),
    )
