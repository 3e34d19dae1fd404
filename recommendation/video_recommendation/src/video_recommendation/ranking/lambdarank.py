"""LambdaMART on graded relevance (LightGBM): the default ranker.

In: ``Examples`` with grades 0 (not watched), 1 (watched), 2 (liked). Out: scores whose order is
trained for NDCG. Burges, "From RankNet to LambdaRank to LambdaMART: An Overview", Microsoft
Research MSR-TR-2010-82; Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree",
NeurIPS 2017.

The score has no unit. Where a probability is needed (a threshold, a sum with another score, a
monitor of drift), ``Calibrator`` maps it to one.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np

from video_recommendation.config import RankingConfig
from video_recommendation.features import SCHEMA
from video_recommendation.ranking.examples import Examples

PATIENCE_TREES = 100
"""NDCG on a few hundred queries is noisy from tree to tree: wait long before stopping."""


@dataclass(frozen=True)
class LambdaRanker:
    """A trained booster; ``score`` for serving, ``contributions`` for reasons."""

    booster: lgb.Booster

    def score(self, features: np.ndarray) -> np.ndarray:
        """Scores f64[C] of features f32[C, F]. One thread: a request must not wait for a pool."""
        return self.booster.predict(features, num_threads=1)

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """TreeSHAP values f64[C, F + 1]; the last column is the expected score.

        Lundberg et al., "From local explanations to global understanding with explainable AI for
        trees", Nature Machine Intelligence 2020. Rows sum to the score.
        """
        return self.booster.predict(features, pred_contrib=True, num_threads=1)

    def gain(self) -> dict[str, float]:
        """Share of the total split gain of each feature, largest first."""
        gain = self.booster.feature_importance("gain")
        share = gain / max(gain.sum(), 1e-12)
        order = np.argsort(-share, kind="stable")
        return {SCHEMA.names[i]: float(share[i]) for i in order}


def fit_lambdarank(
    train: Examples,
    config: RankingConfig,
    *,
    seed: int,
    n_trees: int | None = None,
    choose: Examples | None = None,
) -> LambdaRanker:
    """Trains with early stopping on ``choose`` (NDCG@10), or for exactly ``n_trees``.

    Raises:
        ValueError: if neither or both of ``n_trees`` and ``choose`` are given.
    """
    if (n_trees is None) == (choose is None):
        raise ValueError("give either n_trees (a refit) or choose (early stopping)")
    data = _dataset(train, config)
    if choose is None:
        return LambdaRanker(lgb.train(_parameters(config, seed), data, n_trees))
    booster = lgb.train(
        _parameters(config, seed),
        data,
        config.max_trees,
        valid_sets=[_dataset(choose, config, reference=data)],
        callbacks=[lgb.early_stopping(PATIENCE_TREES, verbose=False)],
    )
    return LambdaRanker(booster)


def tree_parameters(config: RankingConfig, seed: int, *, threads: int) -> dict[str, object]:
    """How trees are grown here, whatever the loss: size, sampling, regularisation, repeatable."""
    return {
        "learning_rate": config.learning_rate,
        "num_leaves": config.n_leaves,
        "min_data_in_leaf": config.min_rows_in_leaf,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbose": -1,
    }


def _parameters(config: RankingConfig, seed: int) -> dict[str, object]:
    return {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [10],
        "label_gain": list(config.label_gain),
        "lambdarank_truncation_level": 30,
        **tree_parameters(config, seed, threads=2),
    }


def _dataset(
    examples: Examples, config: RankingConfig, reference: lgb.Dataset | None = None
) -> lgb.Dataset:
    """LightGBM's form; queries without a row are dropped, it does not take empty groups."""
    return lgb.Dataset(
        examples.features,
        label=examples.grade(config.like_threshold),
        group=examples.group[examples.group > 0],
        feature_name=list(SCHEMA.names),
        reference=reference,
        free_raw_data=True,
    )
