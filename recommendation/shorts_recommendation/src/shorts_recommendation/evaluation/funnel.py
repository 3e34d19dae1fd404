"""The funnel on the requests of the test days: candidates and what every model says about each.

In: the trained recommender and ``Queries``. Out: ``FunnelScores``, for the truth table of the
rankers and for re-ranking. Goes through ``Recommender`` stage by stage, as the service does, but
scores all candidates with every model instead of only the pre-ranker's choice.

Legend: Q requests, C candidates, P kept by the pre-ranker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.progress import Progress
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.ranking_scores import candidate_scores
from shorts_recommendation.evaluation.retrieval_queries import Queries, snapshots_of
from shorts_recommendation.features import cross_features
from shorts_recommendation.recommender import Recommender
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.reranking import with_budget

BATCH = 32  # 1,000 candidates each: features of one batch stay in tens of megabytes


@dataclass(frozen=True)
class FunnelScores:
    """What the models say about the candidates of Q requests.

    Attributes:
        user_idx: i32[Q].
        now_s: i64[Q].
        videos: i32[Q, C], -1 padded.
        scores: Model -> f32[Q, C], -inf beside a padding; names as in ``ranking_scores``.
        kept: bool[Q, C], what the pre-ranker let through.
        fresh: bool[Q, C], uploads with exposures left.
    """

    user_idx: np.ndarray
    now_s: np.ndarray
    videos: np.ndarray
    scores: dict[str, np.ndarray]
    kept: np.ndarray
    fresh: np.ndarray


def score_funnel(
    recommender: Recommender, data: ShortsData, queries: Queries, progress: Progress
) -> FunnelScores:
    """Runs the requests in time order, each against the counters of its moment."""
    parts: list[FunnelScores] = []
    config = recommender.config
    with progress.stage("funnel on the test days", len(queries)) as step:
        for snapshot, places in snapshots_of(
            data.log, len(data.catalogue), config, queries.batch.now_s
        ):
            for start in range(0, len(places), BATCH):
                rows = places[start : start + BATCH]
                parts.append(_score(recommender, queries.batch.take(rows), snapshot))
                step(len(rows))
    return FunnelScores(
        user_idx=np.concatenate([p.user_idx for p in parts]),
        now_s=np.concatenate([p.now_s for p in parts]),
        videos=np.concatenate([p.videos for p in parts]),
        scores={name: np.concatenate([p.scores[name] for p in parts]) for name in parts[0].scores},
        kept=np.concatenate([p.kept for p in parts]),
        fresh=np.concatenate([p.fresh for p in parts]),
    )


def _score(
    recommender: Recommender, batch: RequestBatch, snapshot: CounterSnapshot
) -> FunnelScores:
    recommender.prepare(snapshot)
    videos = recommender.retrieve(batch, snapshot).videos
    there, known = videos >= 0, np.maximum(videos, 0)
    ranking = recommender.config.ranking
    scores = candidate_scores(
        recommender.rankers,
        recommender.preranker,
        recommender.encoder,
        batch,
        videos,
        cross_features(batch, videos, snapshot, recommender.items),
        ranking.value_weights,
        recommender.config.state,
        keep=ranking.prerank_keep,
    )
    retrieval = recommender.config.retrieval
    return FunnelScores(
        batch.user_idx,
        batch.now_s,
        videos,
        {name: np.where(there, s, -np.inf).astype(np.float32) for name, s in scores.items()},
        np.isfinite(scores["funnel"]) & there,
        there
        & with_budget(
            recommender.items.upload_s[known],
            snapshot.exposures[known],
            batch.now_s[:, None],
            fresh_hours=retrieval.fresh_hours,
            fresh_exposures=retrieval.fresh_exposures,
        ),
    )
