"""Option A: gradient boosted trees (LightGBM) on the candidate's features.

In: features f32[B, C, F]; vectors are not read. Out: logits of the attraction f32[B, C]. G. Ke,
Q. Meng, T. Finley and others, "LightGBM: A Highly Efficient Gradient Boosting Decision Tree"
(NeurIPS 2017), with the click losses of ``positions`` as its objective. The number of trees is
where the loss on the validation days stops to fall.

Trees cannot multiply a query's vector with an item's: what they know of the pictures is in the
similarity features.

Legend: B queries, C candidates, F features, R impressions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightgbm as lgb
import numpy as np

from image_search.config import RankingConfig
from image_search.ranking.learning import Lessons
from image_search.ranking.positions import ClickLoss, Correction
from ml_platform.evaluation.progress import Progress

MODEL_FILE, SETTINGS_FILE = "trees.txt", "trees.json"


@dataclass(frozen=True)
class TreeRanker:
    """A booster; a ``base.Ranker``.

    Attributes:
        booster: Of logits, less ``base``.
        base: The constant logit it started from.
        place: Whether the place is a column of its own, set to the first while scoring.
        columns: i64[F'], the features that it reads.
        threads: Of a prediction.
    """

    booster: lgb.Booster
    base: float
    place: bool
    columns: np.ndarray
    threads: int = 1
    name: str = "trees"

    def score(
        self, features: np.ndarray, query_vectors: np.ndarray, item_vectors: np.ndarray
    ) -> np.ndarray:
        """See ``base.Ranker``; the vectors are not read."""
        rows = features.reshape(-1, features.shape[-1])
        table = tree_columns(rows, np.zeros(len(rows)), self.columns, with_place=self.place)
        logits = self.booster.predict(table, num_threads=self.threads, raw_score=True)
        return (np.asarray(logits) + self.base).astype(np.float32).reshape(features.shape[:-1])

    def save(self, folder: Path) -> None:
        """See ``base.Ranker``."""
        self.booster.save_model(folder / MODEL_FILE)
        kept = {"base": self.base, "place": self.place, "columns": self.columns.tolist()}
        (folder / SETTINGS_FILE).write_text(json.dumps(kept) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``base.Ranker``."""
        kept = json.loads((folder / SETTINGS_FILE).read_text())
        booster = lgb.Booster(model_file=folder / MODEL_FILE)
        return cls(booster, float(kept["base"]), bool(kept["place"]), np.array(kept["columns"]))


def tree_columns(
    rows: np.ndarray, place: np.ndarray, columns: np.ndarray, *, with_place: bool
) -> np.ndarray:
    """f32[R, F' (+ 1)]: the chosen columns, and last the place i64[R] where it is one."""
    chosen = rows[:, columns]
    if not with_place:
        return chosen
    return np.concatenate([chosen, place[:, None].astype(np.float32)], axis=1)


def fit_trees(
    learn: Lessons,
    check: Lessons,
    config: RankingConfig,
    *,
    correction: Correction,
    columns: np.ndarray,
    seed: int,
    threads: int,
    progress: Progress,
) -> TreeRanker:
    """Fits the trees on ``learn``, their number on ``check``.

    Args:
        learn: Pages of the training days.
        check: Pages of the validation days.
        config: Sizes.
        correction: Of the places.
        columns: i64[F'], the features to read.
        seed: Of the draws.
        threads: Of the fit.
        progress: Told of every tree.
    """
    place = correction == "feature"
    sets = []
    for part in (learn, check):
        loss = ClickLoss(correction, part.clicked.ravel().astype(float), part.theta.ravel())
        rows = part.features.reshape(-1, part.features.shape[-1])
        sets.append((loss, tree_columns(rows, part.place.ravel(), columns, with_place=place)))
    base = sets[0][0].base
    data = [lgb.Dataset(rows, label=loss.clicked, free_raw_data=True) for loss, rows in sets]
    data[1].reference = data[0]
    with progress.stage("ranker: trees", config.trees) as advance:
        booster = lgb.train(
            tree_parameters(config, seed, threads, sets[0][0], base),
            data[0],
            config.trees,
            valid_sets=[data[1]],
            feval=lambda logits, _: ("loss", sets[1][0].value(logits + base), False),
            callbacks=[
                lgb.early_stopping(config.patience, verbose=False),
                lambda _: advance(1),
            ],
        )
    return TreeRanker(booster, base, place, columns)


def tree_parameters(
    config: RankingConfig, seed: int, threads: int, loss: ClickLoss, base: float
) -> dict[str, Any]:
    """LightGBM's parameters; repeatable for a given number of threads."""
    return {
        "objective": lambda logits, _: loss.gradient(logits + base),
        "metric": "none",
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": 100,
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
