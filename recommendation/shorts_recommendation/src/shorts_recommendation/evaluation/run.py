"""The evaluation of a run: recall, ranking by log and by truth, re-ranking, the data's shape.

In: the world and the trained system. Out: metrics in the run's ``Results`` and pictures. All on the
test days; models are frozen at the end of validation, histories and counters are live.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ml_platform.evaluation.intervals import bootstrap_mean, bootstrap_ratio
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.funnel import FunnelScores, score_funnel
from shorts_recommendation.evaluation.ranking import record_logged, record_truth, truth_table
from shorts_recommendation.evaluation.ranking_scores import logged_scores, rows_of_test_days
from shorts_recommendation.evaluation.reranking import evaluate_reranking
from shorts_recommendation.evaluation.reranking_session import RankedRequests, one_per_user
from shorts_recommendation.evaluation.retrieval import evaluate_retrieval
from shorts_recommendation.evaluation.values import evaluate_values
from shorts_recommendation.pipeline import Trained
from shorts_recommendation.ranking.prerank import recall_of_top


def evaluate_system(
    data: ShortsData,
    trained: Trained,
    config: Config,
    results: Results,
    plots: Path,
    progress: Progress,
) -> None:
    """Measures every stage and records it."""
    recommender = trained.recommender
    record_data(data, results)
    table = evaluate_retrieval(
        data,
        recommender.items,
        recommender.retriever.resized(config.retrieval),  # what it indexes stays its own
        config,
        results,
        plots,
        progress,
    )
    with progress.stage("ranking of the logged sessions", 1):
        evaluate_logged(data, trained, results)
    scores = score_funnel(recommender, data, table.queries, progress)
    evaluate_truth(scores, data, config, results)
    record_choices(trained, results)
    evaluate_values(data, trained, table.queries, results, progress)
    record_cascade(
        scores,
        results,
        keep=config.ranking.prerank_keep,
        resamples=config.evaluation.resamples,
    )
    evaluate_reranking(
        ranked_requests(scores, config.ranking.prerank_keep),
        data.world,
        recommender.basis,
        recommender.config,
        results,
        plots=plots,
        progress=progress,
    )


def record_data(data: ShortsData, results: Results) -> None:
    """The log in numbers."""
    log, windows = data.log, data.windows
    protocol = "the whole log of the simulated world"
    for name, value in {
        "impressions": len(log),
        "users": len(data.users),
        "videos": len(data.catalogue),
        "sessions": len(np.unique(log.session_id)),
        "long_view_rate": log.long_view.mean(),
        "skip_rate": log.skip.mean(),
        "like_rate": log.like.mean(),
        "test_impressions": int((log.timestamp >= windows.validation_end).sum()),
    }.items():
        results.add(f"data/log/{name}", float(value), protocol=protocol)


def evaluate_logged(data: ShortsData, trained: Trained, results: Results) -> None:
    """Protocol L: the shown impressions of the test days, re-ordered."""
    config = trained.recommender.config
    wanted, rows = rows_of_test_days(trained.transformer, data.log, data.windows)
    heads, scores = logged_scores(
        trained.transformer,
        trained.trees,
        data.catalogue,
        config.state,
        wanted,
        config.ranking.value_weights,
    )
    shown = trained.transformer.sequences.rows.log_row[wanted]
    users, videos = data.log.user_idx[shown], data.log.video_idx[shown]
    truth = data.world.expected(users, videos[:, None], data.log.timestamp[shown])
    scores["oracle"] = truth.satisfaction[:, 0]
    days = config.world.days - config.data.train_days - config.data.validation_days
    record_logged(
        results,
        rows,
        heads,
        scores,
        protocol=f"simulated world, last {days} of {config.world.days} days, n = {len(rows):,} "
        f"impressions, 95% bootstrap by user, seed {config.seed}",
        resamples=config.evaluation.resamples,
        seed=config.seed,
    )


def evaluate_truth(
    scores: FunnelScores, data: ShortsData, config: Config, results: Results
) -> None:
    """Protocol T: the funnel's candidates, judged by what the world knows."""
    known = np.maximum(scores.videos, 0)
    satisfaction = data.world.expected(scores.user_idx, known, scores.now_s).satisfaction
    table = truth_table(
        satisfaction, scores.videos, scores.scores, scores.user_idx, seed=config.seed
    )
    protocol = (
        f"simulated world, first requests of test-day sessions with a long view, the funnel's own "
        f"candidates (mean {table.n_candidates:.0f}), 95% bootstrap by user, seed {config.seed}"
    )
    resamples = config.evaluation.resamples
    record_truth(results, table, protocol=protocol, resamples=resamples)
    ceiling = catalogue_oracle(scores, data)
    for name, values in table.satisfaction.items():
        share = bootstrap_ratio(values, ceiling, scores.user_idx, resamples=resamples)
        words = f"{protocol}; over the best ten of the whole catalogue, seen ones included"
        results.add(f"ranking/{name}/share_of_catalogue_oracle", share, protocol=words)


def catalogue_oracle(scores: FunnelScores, data: ShortsData) -> np.ndarray:
    """Mean true satisfaction of the best ten of the catalogue that exists, f64[Q]."""
    best = data.world.oracle_top(scores.user_idx, scores.now_s, 10)
    return data.world.expected(scores.user_idx, best, scores.now_s).satisfaction.mean(axis=1)


def record_cascade(scores: FunnelScores, results: Results, *, keep: int, resamples: int) -> None:
    """How much of the ranker's best ten of 1,000 the pre-ranker lets through."""
    found = recall_of_top(scores.scores["transformer"], scores.scores["prerank"], top=10, keep=keep)
    estimate = bootstrap_mean(found, scores.user_idx, resamples=resamples)
    protocol = f"requests of test-day sessions with a long view; {keep} of 1,000 kept"
    results.add("prerank/distilled/recall_of_top_10", estimate, protocol=protocol)


def record_choices(trained: Trained, results: Results) -> None:
    """What the validation days decided."""
    fit, words = trained.transformer, "chosen on the validation days"
    for head, weight in fit.value_weights.items():
        results.add(f"ranking_choice/value_weight/{head}", weight, protocol=words)
    results.add(
        "ranking_choice/value_weight/ndcg@10",
        fit.validation_ndcg,
        protocol="engagement NDCG of the way that was taken (value_choice.py), validation days",
    )
    losses = [epoch.validation["total"] for epoch in fit.epochs]
    results.add("ranking_choice/transformer/epochs", float(np.argmin(losses) + 1), protocol=words)
    for epoch, loss in enumerate(losses, start=1):
        results.add(f"ranking_choice/transformer/loss_{epoch}", loss, protocol="validation loss")


def ranked_requests(scores: FunnelScores, keep: int) -> RankedRequests:
    """What the ranker hands on, one request a user: the pre-ranker's choice with its values."""
    rows = one_per_user(scores.user_idx)
    value = np.where(scores.kept[rows], scores.scores["transformer"][rows], -np.inf)
    order = np.argsort(-value, axis=1, kind="stable")[:, :keep]
    value = np.take_along_axis(value, order, axis=1)
    videos = np.take_along_axis(scores.videos[rows], order, axis=1)
    return RankedRequests(
        user_idx=scores.user_idx[rows],
        now_s=scores.now_s[rows],
        videos=np.where(np.isfinite(value), videos, -1),
        value=value,
        fresh=np.take_along_axis(scores.fresh[rows], order, axis=1),
    )
