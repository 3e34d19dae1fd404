"""What the ranking tables compare: the models and baselines, as scores of rows and of candidates.

In: trained models, features. Out: name -> scores, for the logged rows of the test days or for
candidates of requests. The baselines read features that the rankers have too:

- ``trending``: smoothed long views of the 24-hour half-life, nothing personal;
- ``long_view_rate``: the smoothed rate alone, halved for another language: the stronger floor;
- ``tag_match``: mean affinity of the user's profile to the video's tags;
- ``logged`` (logged protocol only): the order in which the policy showed them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shorts_recommendation.config import StateConfig
from shorts_recommendation.evaluation.ranking import LoggedRows
from shorts_recommendation.features import cross_feature_names
from shorts_recommendation.log import Catalogue, ImpressionLog, Windows
from shorts_recommendation.ranking.fitting import Fit, score_log, sequence_grades
from shorts_recommendation.ranking.heads import Heads, Ranker
from shorts_recommendation.ranking.prerank import PreRanker
from shorts_recommendation.ranking.trees import TreeRanker
from shorts_recommendation.ranking.value import value
from shorts_recommendation.requests import RequestBatch

DAY_RATE = 1
"""Position of the 24-hour half-life in ``state.counter_half_lives_h``."""


def rows_of_test_days(
    fit: Fit, log: ImpressionLog, windows: Windows
) -> tuple[np.ndarray, LoggedRows]:
    """The mask bool[M] of the test days over ``fit.sequences``, and what happened in them."""
    sequences = fit.sequences
    wanted = sequences.time_s >= windows.validation_end
    taken = sequences.rows.log_row[wanted]
    return wanted, LoggedRows(
        user=sequences.user_idx[wanted],
        session=sequences.session[wanted],
        gains=sequence_grades(sequences)[wanted],
        labels=sequences.labels[wanted],
        position=log.position[taken],
        strategy=log.strategy[taken],
    )


def logged_scores(
    fit: Fit,
    trees: TreeRanker | None,
    catalogue: Catalogue,
    config: StateConfig,
    wanted: np.ndarray,
    weights: Mapping[str, float],
    *,
    threads: int = 2,
) -> tuple[dict[str, Heads], dict[str, np.ndarray]]:
    """Heads of the models, and scores of models and baselines, for the wanted rows."""
    heads = {"transformer": score_log(fit, catalogue, wanted, threads=threads)}
    if trees is not None:
        heads["lightgbm"] = trees.score_rows(fit.sequences, wanted)
    scores = {name: value(found, weights) for name, found in heads.items()}
    cross = fit.sequences.rows.cross[wanted]
    scores |= _baselines(cross, config)
    scores["logged"] = -np.arange(len(cross), dtype=np.float64)
    return heads, scores


def candidate_scores(
    rankers: Mapping[str, Ranker],
    preranker: PreRanker | None,
    encoder: Ranker,
    batch: RequestBatch,
    videos: np.ndarray,
    cross: np.ndarray,
    weights: Mapping[str, float],
    config: StateConfig,
    *,
    keep: int | None = None,
) -> dict[str, np.ndarray]:
    """Scores f32[Q, C] of candidates by every model and baseline.

    Args:
        rankers: Name to ranker.
        preranker: The student; adds "prerank", its own order, and "funnel": the transformer's order
            of what the student keeps, -inf for the rest.
        encoder: Encodes the histories once for all.
        batch: Q requests.
        videos: i32[Q, C], -1 padded.
        cross: f32[Q, C, F].
        weights: Of the value.
        config: Of the states: names the cross features.
        keep: Candidates that the student lets through; needed for "funnel".
    """
    encoded = encoder.encode(batch)
    scores = {
        name: value(ranker.score(encoded, batch.user, batch.context, videos, cross), weights)
        for name, ranker in rankers.items()
    }
    scores |= _baselines(cross, config)
    if preranker is not None:
        student = np.where(videos >= 0, preranker.score(encoded, videos), -np.inf)
        scores["prerank"] = student.astype(np.float32)
        if keep is not None and "transformer" in scores:
            bar = -np.sort(-student, axis=1)[:, min(keep, student.shape[1]) - 1 : keep][:, :1]
            scores["funnel"] = np.where(student >= bar, scores["transformer"], -np.inf)
    return scores


def _baselines(cross: np.ndarray, config: StateConfig) -> dict[str, np.ndarray]:
    names = cross_feature_names(config)
    half_life = f"{config.counter_half_lives_h[DAY_RATE]:g}h"
    shown = np.expm1(cross[..., names.index(f"log_impressions_{half_life}")])
    rate = cross[..., names.index(f"long_view_rate_{half_life}")]
    return {
        "trending": shown * rate,
        "long_view_rate": rate * np.where(cross[..., names.index("language_match")] > 0, 1.0, 0.5),
        "tag_match": cross[..., names.index("mean_tag_affinity")],
    }
