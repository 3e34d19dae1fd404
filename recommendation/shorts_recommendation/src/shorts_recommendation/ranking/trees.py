"""Option B: gradient boosted trees (LightGBM) on the same features, one booster per head.

In: context f32[., 32], the four plain numbers of the user vector (its length of history and rates)
and the cross features f32[., F]. Out: calibrated ``Heads``.

The user's embeddings and tag profile are left out as raw columns: a tree cannot multiply them with
an item's vector, and the cross features hold their products with the candidate (session and taste
cosine, tag affinities) already. That is also the difference between the two options: what the
transformer learns to look for in a history must here be written as a feature by hand.

Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree" (NeurIPS 2017). The watch
head learns the quantile label with squared error, which in a regression tree is a leaf's mean.

Legend: B requests, C candidates, F cross features, N rows, G columns of the trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from ml_platform.evaluation.progress import Progress, Silent
from shorts_recommendation.config import RankingConfig
from shorts_recommendation.log import Catalogue
from shorts_recommendation.ranking.calibration import Calibration, fit_calibration
from shorts_recommendation.ranking.heads import BINARY, TASKS, Heads
from shorts_recommendation.ranking.sequences import Sequences
from shorts_recommendation.requests import RequestBatch

PLAIN_USER = slice(124, 128)
"""Columns of the user vector that are numbers of their own: see state.UserStates."""
TREES_OF = {"diversity": 0.25, "like": 0.5}
"""Share of config.trees for a head: a smooth target, and one with few positives."""
PATIENCE = 20
LEARNING_RATE = 0.1


@dataclass(frozen=True)
class TreeRanker:
    """Trained boosters; a ``heads.Ranker`` that reads no encoded history.

    Attributes:
        boosters: Task -> booster.
        calibration: Of their outputs.
        threads: Of a prediction.
    """

    boosters: dict[str, lgb.Booster]
    calibration: Calibration
    threads: int = 1

    def encode(self, batch: RequestBatch) -> np.ndarray:
        """f32[B, 0]: trees read the history through the features."""
        return np.zeros((len(batch), 0), dtype=np.float32)

    def add_videos(self, catalogue: Catalogue) -> None:
        """Nothing to do: trees know videos by their features only."""

    def score(
        self,
        encoded: np.ndarray,
        user: np.ndarray,
        context: np.ndarray,
        videos: np.ndarray,
        cross: np.ndarray,
    ) -> Heads:
        """Calibrated heads of candidates i32[B, C]; ``encoded`` is not read."""
        outputs = self.outputs(candidate_columns(user, context, cross))
        return self.calibration.heads(outputs.reshape(*videos.shape, -1))

    def score_rows(self, sequences: Sequences, wanted: np.ndarray) -> Heads:
        """Calibrated heads of the wanted logged rows, f32[R] each."""
        return self.calibration.heads(self.outputs(row_columns(sequences, np.flatnonzero(wanted))))

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """Uncalibrated outputs f32[N, 5] of columns f32[N, G]."""
        columns = [self.boosters[task].predict(rows, num_threads=self.threads) for task in TASKS]
        return np.clip(np.stack(columns, axis=-1), 0.0, 2.0).astype(np.float32)


def fit_trees(
    sequences: Sequences,
    learn: np.ndarray,
    check: np.ndarray,
    config: RankingConfig,
    *,
    seed: int,
    threads: int = 2,
    progress: Progress | None = None,
) -> TreeRanker:
    """Fits one booster per head with early stopping, then calibrates.

    Args:
        sequences: All rows.
        learn: bool[M], training rows; at most ``config.tree_rows`` of them are drawn.
        check: bool[M], validation rows, for early stopping and calibration.
        config: Sizes.
        seed: Of the draw and of the trees.
        threads: Of LightGBM while training.
        progress: Told after every booster.

    Raises:
        ValueError: If either set of rows is empty.
    """
    if not learn.any() or not check.any():
        raise ValueError(f"{learn.sum()} training and {check.sum()} validation rows")
    rows, held = np.flatnonzero(learn), np.flatnonzero(check)
    if len(rows) > config.tree_rows:
        rows = np.sort(np.random.default_rng(seed).choice(rows, config.tree_rows, replace=False))
    columns, held_columns = row_columns(sequences, rows), row_columns(sequences, held)
    boosters = {}
    with (progress or Silent()).stage("Ranker: trees", len(TASKS)) as advance:
        for i, task in enumerate(TASKS):
            boosters[task] = _fit_one(
                task,
                (columns, sequences.labels[rows, i]),
                (held_columns, sequences.labels[held, i]),
                config,
                seed,
                threads,
            )
            advance(1)
    uncalibrated = TreeRanker(boosters, Calibration({}, {}), threads)
    outputs = uncalibrated.outputs(held_columns)
    calibration = fit_calibration(outputs, sequences.labels[held], sequences.user_idx[held])
    return TreeRanker(boosters, calibration)


def tree_columns(user: np.ndarray, context: np.ndarray) -> np.ndarray:
    """The request's columns f32[B, 36]."""
    return np.concatenate([context, user[:, PLAIN_USER]], axis=1).astype(np.float32)


def candidate_columns(user: np.ndarray, context: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """All columns f32[B * C, G] of candidates with cross features f32[B, C, F]."""
    n, c, n_cross = cross.shape
    request = tree_columns(user, context)
    rows = np.empty((n, c, request.shape[1] + n_cross), dtype=np.float32)
    rows[..., : request.shape[1]] = request[:, None]
    rows[..., request.shape[1] :] = cross
    return rows.reshape(n * c, -1)


def row_columns(sequences: Sequences, rows: np.ndarray) -> np.ndarray:
    """All columns f32[n, G] of logged rows."""
    source = sequences.rows
    request = tree_columns(source.user[rows], source.context[rows])
    return np.concatenate([request, source.cross[rows]], axis=1)


def tree_parameters(task: str, config: RankingConfig, seed: int, threads: int) -> dict[str, object]:
    """LightGBM's parameters for a head; repeatable for a given number of threads."""
    return {
        "objective": "binary" if task in BINARY else "regression",
        "metric": "binary_logloss" if task in BINARY else "l2",
        "learning_rate": LEARNING_RATE,
        "num_leaves": config.leaves,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "max_bin": 127,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbose": -1,
    }


def _fit_one(
    task: str,
    train: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    config: RankingConfig,
    seed: int,
    threads: int,
) -> lgb.Booster:
    has, held_has = np.isfinite(train[1]), np.isfinite(held[1])
    data = lgb.Dataset(train[0][has], label=train[1][has])
    return lgb.train(
        tree_parameters(task, config, seed, threads),
        data,
        max(1, round(config.trees * TREES_OF.get(task, 1.0))),
        valid_sets=[lgb.Dataset(held[0][held_has], label=held[1][held_has], reference=data)],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
