"""The same fit said to LightGBM and XGBoost: what each knob of ours is called there.

In: a ``BoostingConfig``. Out: the parameter dictionaries of ``lightgbm.train`` and
``xgboost.train``, and one fitted model each behind one call, ``predict`` of features f64[N, F].

Two differences no parameter removes, both XGBoost's: its only limit on small leaves is the
hessian's sum (``min_child_weight``), which equals ``min_rows_in_leaf`` for the squared loss only;
and its lambdas are normalised otherwise. What has no counterpart is left at the library's default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import xgboost as xgb

from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig
from ml_algorithms.gradient_boosted_trees.tree import UNLIMITED

_LIGHTGBM_LOSS = {"squared": "regression", "logistic": "binary", "lambdamart": "lambdarank"}
_XGBOOST_LOSS = {
    "squared": "reg:squarederror",
    "logistic": "binary:logistic",
    "lambdamart": "rank:ndcg",
}


@dataclass(frozen=True)
class LibraryModel:
    """A fitted booster and how it predicts: values, probabilities or ranking scores f64[N]."""

    booster: Any
    predict: Callable[[np.ndarray], np.ndarray]


def lightgbm_parameters(config: BoostingConfig, *, threads: int = 1) -> dict[str, Any]:
    """Parameters of ``lightgbm.train``."""
    return {
        "objective": _LIGHTGBM_LOSS[config.loss],
        "learning_rate": config.learning_rate,
        "num_leaves": config.n_leaves,
        "max_depth": -1 if config.max_depth == UNLIMITED else config.max_depth,
        "max_bin": config.max_bins,
        "lambda_l2": config.l2,
        "min_gain_to_split": config.min_gain,
        "min_data_in_leaf": config.min_rows_in_leaf,
        "min_sum_hessian_in_leaf": config.min_hessian_in_leaf,
        "bagging_fraction": config.row_fraction,
        "bagging_freq": 1 if config.row_fraction < 1 else 0,
        "feature_fraction": config.feature_fraction,
        "cat_smooth": config.cat_smooth,
        "cat_l2": config.cat_l2,
        "lambdarank_truncation_level": config.truncation,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbose": -1,
    }


def fit_lightgbm(
    features: np.ndarray,
    target: np.ndarray,
    config: BoostingConfig,
    *,
    group: np.ndarray | None = None,
    threads: int = 1,
) -> LibraryModel:
    """LightGBM at our parameters."""
    parameters = lightgbm_parameters(config, threads=threads)
    if config.monotone:
        parameters["monotone_constraints"] = [
            config.monotone.get(feature, 0) for feature in range(features.shape[1])
        ]
    categorical = list(config.categorical) if config.categorical else "auto"
    data = lgb.Dataset(features, target, group=group, categorical_feature=categorical)
    booster = lgb.train(parameters, data, config.n_trees)
    return LibraryModel(booster, lambda x: booster.predict(x, num_threads=threads))


def xgboost_parameters(config: BoostingConfig, *, threads: int = 1) -> dict[str, Any]:
    """Parameters of ``xgboost.train``: hist, leaf-wise, as many leaves."""
    least = config.min_rows_in_leaf if config.loss == "squared" else config.min_hessian_in_leaf
    return {
        "objective": _XGBOOST_LOSS[config.loss],
        "tree_method": "hist",
        "grow_policy": "lossguide" if config.leaf_wise else "depthwise",
        "max_leaves": config.n_leaves,
        "max_depth": 0 if config.max_depth == UNLIMITED else config.max_depth,
        "max_bin": config.max_bins,
        "learning_rate": config.learning_rate,
        "lambda": config.l2,
        "gamma": config.min_gain,
        "min_child_weight": least,
        "subsample": config.row_fraction,
        "colsample_bytree": config.feature_fraction,
        "seed": config.seed,
        "nthread": threads,
        "verbosity": 0,
    }


def fit_xgboost(
    features: np.ndarray,
    target: np.ndarray,
    config: BoostingConfig,
    *,
    group: np.ndarray | None = None,
    threads: int = 1,
) -> LibraryModel:
    """XGBoost's hist method at our parameters, categories as categories."""
    parameters = xgboost_parameters(config, threads=threads)
    if config.loss == "lambdamart":
        parameters["lambdarank_num_pair_per_sample"] = config.truncation
    matrix = _xgboost_matrix(features, config, threads, target)
    if group is not None:
        matrix.set_group(group)
    booster = xgb.train(parameters, matrix, config.n_trees)
    return LibraryModel(
        booster, lambda x: booster.predict(_xgboost_matrix(x, config, threads)).astype(np.float64)
    )


def _xgboost_matrix(
    features: np.ndarray,
    config: BoostingConfig,
    threads: int,
    target: np.ndarray | None = None,
) -> Any:
    types = ["c" if f in config.categorical else "q" for f in range(features.shape[1])]
    return xgb.DMatrix(
        features, target, feature_types=types, enable_categorical=True, nthread=threads
    )
