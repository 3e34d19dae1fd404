"""What the watch label does to a ranking: seconds, ratio and D2Q with everything else equal.

In: training rows with their features, the watch times behind them, and candidates of requests with
their true satisfaction. Out: ``duration/<label>/...`` in the results: NDCG@10 by true satisfaction,
the mean satisfaction and duration of the ten first, and the rank correlation of score and duration
within a candidate list. The same trees on the same columns learn three labels, so that whatever
differs is the label's doing.

Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation" (KDD
2022) measure watch time won online; a simulator can ask the better question, what the viewer
thought of it. Two later answers to the same bias are cited and not built: trees of conditional
watch-time steps (Lin et al., "Tree based Progressive Regression Model for Watch-Time Prediction in
Short-video Recommendation", KDD 2023) and the watch time that would have been without the video's
end (Zhao et al., "Counteracting Duration Bias in Video Recommendation via Counterfactual Watch
Time", KDD 2024).

Legend: Q requests, C candidates, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
from scipy.stats import rankdata

from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import RankingConfig
from shorts_recommendation.evaluation.ranking import K, truth_table
from shorts_recommendation.log import Catalogue, ImpressionLog
from shorts_recommendation.ranking.duration import Label, fit_watch_label
from shorts_recommendation.ranking.sequences import Sequences
from shorts_recommendation.ranking.trees import candidate_columns, row_columns, tree_parameters
from shorts_recommendation.requests import RequestBatch

LABELS: tuple[Label, ...] = ("seconds", "ratio", "d2q")
ROWS = 200_000
TREES = 80


@dataclass(frozen=True)
class LabelScores:
    """What each label's trees say of the candidates, f32[Q, C] by label."""

    scores: dict[str, np.ndarray]


def fit_label_scores(
    sequences: Sequences,
    learn: np.ndarray,
    catalogue: Catalogue,
    log: ImpressionLog,
    batch: RequestBatch,
    cross: np.ndarray,
    config: RankingConfig,
    *,
    seed: int,
    threads: int = 2,
) -> LabelScores:
    """Trains trees on every label and scores the candidates.

    Args:
        sequences: Rows with features.
        learn: bool[M], training rows; at most 200,000 are drawn.
        catalogue: For durations.
        log: The watch times of ``sequences.rows.log_row``.
        batch: Q requests.
        cross: f32[Q, C, F], features of their candidates.
        config: Leaves and duration groups.
        seed: Of the draw and of the trees.
        threads: Of LightGBM.
    """
    rows = np.flatnonzero(learn)
    if len(rows) > ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, ROWS, replace=False))
    watch_s = log.watch_s[sequences.rows.log_row[rows]]
    duration_s = catalogue.duration_s[sequences.video[rows]]
    data = lgb.Dataset(row_columns(sequences, rows), free_raw_data=False)
    asked = candidate_columns(batch.user, batch.context, cross)
    scores: dict[str, np.ndarray] = {}
    for kind in LABELS:
        label = fit_watch_label(watch_s, duration_s, kind=kind, groups=config.duration_groups)
        data.set_label(label.transform(watch_s, duration_s))
        booster = lgb.train(tree_parameters("watch", config, seed, threads), data, TREES)
        predicted = booster.predict(asked, num_threads=threads)
        scores[kind] = np.asarray(predicted, dtype=np.float32).reshape(cross.shape[:2])
    return LabelScores(scores)


def record_duration_study(
    results: Results,
    found: LabelScores,
    satisfaction: np.ndarray,
    videos: np.ndarray,
    duration_s: np.ndarray,
    users: np.ndarray,
    *,
    protocol: str,
    resamples: int = 1000,
) -> None:
    """Writes ``duration/<label>/<metric>``, and D2Q's paired differences.

    Args:
        results: Where to.
        found: Scores by label.
        satisfaction: f32[Q, C], true.
        videos: i32[Q, C], -1 padded.
        duration_s: f32[Q, C], of the candidates.
        users: i32[Q].
        protocol: Split and data, in words.
        resamples: Of the bootstrap.
    """
    table = truth_table(satisfaction, videos, found.scores, users)
    for name in (*LABELS, "random", "oracle"):
        score = {**found.scores, "oracle": satisfaction}.get(name)
        values = {
            "truth_ndcg@10": table.ndcg[name],
            "truth_satisfaction": table.satisfaction[name],
        }
        if score is not None:
            values["duration_rank_correlation"] = rank_correlation(score, duration_s, videos >= 0)
            values["top_duration_s"] = _top_mean(score, duration_s, videos >= 0)
        for metric, per_query in values.items():
            estimate = bootstrap_mean(per_query, users, resamples=resamples)
            results.add(f"duration/{name}/{metric}", estimate, protocol=protocol)
    for name in ("seconds", "ratio"):
        gap = bootstrap_difference(
            table.satisfaction["d2q"], table.satisfaction[name], users, resamples=resamples
        )
        key = f"duration/d2q_minus_{name}/truth_satisfaction"
        results.add(key, gap, protocol=f"paired by request; {protocol}")


def rank_correlation(score: np.ndarray, other: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Spearman's correlation within each request, f64[Q]; 0 where a column is constant."""
    found = np.zeros(len(score))
    for row, has in enumerate(there):
        a, b = rankdata(score[row, has]), rankdata(other[row, has])
        if len(a) > 1 and a.std() > 0 and b.std() > 0:
            found[row] = np.corrcoef(a, b)[0, 1]
    return found


def _top_mean(score: np.ndarray, other: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Mean of ``other`` over the ten of highest score, f64[Q]."""
    order = np.argsort(-np.where(there, score, -np.inf), axis=1, kind="stable")[:, :K]
    has = np.take_along_axis(there, order, axis=1)
    values = np.take_along_axis(other, order, axis=1)
    return np.asarray((values * has).sum(axis=1) / np.maximum(has.sum(axis=1), 1))
