"""Gradient boosting: trees added one by one, each a small step down the loss.

In: features f64[N, F] with NaN where missing, target [N]; for ranking the rows of each query.
Out: a ``Model``, whose ``predict`` gives scores f64[N] (and ``probability`` for 0/1 targets).

    F_0 = best constant
    F_t = F_{t-1} + learning_rate * (tree fitted to gradient and hessian at F_{t-1})

Friedman, Annals of Statistics 2001 (gradient boosting, shrinkage); "Stochastic Gradient Boosting",
Computational Statistics & Data Analysis 2002 (rows drawn for each tree); Chen and Guestrin, KDD
2016 (hessians, L2, column sampling). Small steps with more trees regularise better than few large
ones; early stopping on rows that were not learned from decides how many.

Names and defaults are LightGBM's with the units spelled out, so that ``library_parameters.py`` can
say the same to LightGBM and XGBoost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ml_algorithms.gradient_boosted_trees.forest import Forest, concatenate
from ml_algorithms.gradient_boosted_trees.histogram import Bins, fit_bins
from ml_algorithms.gradient_boosted_trees.losses import (
    LambdaMART,
    LogisticLoss,
    Loss,
    SquaredLoss,
    sigmoid,
)
from ml_algorithms.gradient_boosted_trees.split import Limits
from ml_algorithms.gradient_boosted_trees.tree import UNLIMITED, Shape, TreeGrower

Metric = Callable[[np.ndarray], float]
"""Scores f64[N] of the validation rows -> a number, lower is better."""


class BoostingConfig(BaseModel):
    """Knobs of a fit; the defaults are LightGBM's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["squared", "logistic", "lambdamart"] = "squared"
    n_trees: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    n_leaves: int = Field(default=31, ge=2)
    max_depth: int = Field(default=UNLIMITED, ge=1)
    leaf_wise: bool = True
    max_bins: int = Field(default=255, ge=2, le=255)
    l2: float = Field(default=0.0, ge=0)
    min_gain: float = Field(default=0.0, ge=0)
    min_rows_in_leaf: int = Field(default=20, ge=1)
    min_hessian_in_leaf: float = Field(default=1e-3, ge=0)
    row_fraction: float = Field(default=1.0, gt=0, le=1)
    feature_fraction: float = Field(default=1.0, gt=0, le=1)
    categorical: tuple[int, ...] = ()
    cat_smooth: float = Field(default=10.0, ge=0)
    cat_l2: float = Field(default=10.0, ge=0)
    monotone: dict[int, Literal[-1, 1]] = {}
    truncation: int = Field(default=30, ge=1)
    patience: int = Field(default=0, ge=0)
    """Trees without a better validation metric before stopping; 0 never stops."""
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """Rows to stop by: features [N, F] and what to judge their scores with (lower is better)."""

    features: np.ndarray
    metric: Metric


@dataclass(frozen=True)
class Model:
    """A fitted ensemble.

    Attributes:
        initial_score: Added to the trees' sum.
        history: f64[trees grown], the validation metric after each; empty without validation.
    """

    forest: Forest
    initial_score: float
    bins: Bins
    history: np.ndarray

    def predict(self, features: np.ndarray, *, n_trees: int | None = None) -> np.ndarray:
        """Scores f64[N]: values, log odds, or ranking scores by the loss."""
        return self.initial_score + self.forest.predict(features, n_trees=n_trees)

    def probability(self, features: np.ndarray) -> np.ndarray:
        """P(target = 1) f64[N], for the logistic loss."""
        return sigmoid(self.predict(features))


def fit(
    features: np.ndarray,
    target: np.ndarray,
    config: BoostingConfig,
    *,
    group: np.ndarray | None = None,
    validation: Validation | None = None,
) -> Model:
    """Trains; with a validation and patience, keeps the trees up to the best metric.

    Cost: O(trees * depth * N * F / 2) for the histograms, O(trees * leaves * F * B) for the cuts.

    Args:
        features: [N, F], NaN where missing.
        target: [N]; 0 and 1 for logistic, grades for lambdamart.
        config: The knobs.
        group: i64[Q], rows of each query in order; for lambdamart only.
        validation: What to stop by.

    Raises:
        ValueError: On shapes or values that do not fit, or knobs that contradict the data.
    """
    features, target = np.asarray(features, np.float64), np.asarray(target, np.float64)
    if target.shape != features.shape[:1] or not np.isfinite(target).all():
        raise ValueError(f"need finite targets [N] for features {features.shape}: {target.shape}")
    loss = _loss(target, group, config)
    bins = fit_bins(features, max_bins=config.max_bins, categorical=config.categorical)
    grower = TreeGrower(
        np.ascontiguousarray(bins.transform(features)), bins, _monotone(features, config),
        _shape(config),
    )  # fmt: skip
    return _boost(features, loss, grower, bins, config, validation)


def _boost(
    features: np.ndarray,
    loss: Loss,
    grower: TreeGrower,
    bins: Bins,
    config: BoostingConfig,
    validation: Validation | None,
) -> Model:
    """The loop."""
    rng = np.random.default_rng(config.seed)
    initial = loss.initial_score()
    scores = np.full(len(features), initial)
    held_out = None if validation is None else np.full(len(validation.features), initial)
    trees: list[Forest] = []
    history: list[float] = []
    for _ in range(config.n_trees):
        gradient, hessian = loss.gradients(scores)
        rows = _draw_rows(len(features), config.row_fraction, rng)
        allowed = _draw_features(features.shape[1], config.feature_fraction, rng)
        tree, leaves = grower.grow(rows, gradient, hessian, allowed)
        tree.value[:] *= config.learning_rate
        trees.append(tree)
        if len(rows) == len(features):
            for leaf, rows_of_leaf in leaves:  # the rows know their leaves already
                scores[rows_of_leaf] += tree.value[leaf]
        else:
            scores += tree.predict(features)
        if validation is not None and held_out is not None:
            held_out += tree.predict(validation.features)
            history.append(validation.metric(held_out))
            if config.patience and len(history) - 1 - int(np.argmin(history)) >= config.patience:
                break
    best = int(np.argmin(history)) + 1 if config.patience and history else len(trees)
    return Model(concatenate(trees[:best]), initial, bins, np.array(history))


def _loss(target: np.ndarray, group: np.ndarray | None, config: BoostingConfig) -> Loss:
    if (group is not None) != (config.loss == "lambdamart"):
        raise ValueError(f"loss {config.loss} with group = {group}: groups go with lambdamart")
    if group is not None:
        return LambdaMART(target, group, truncation=config.truncation)
    return SquaredLoss(target) if config.loss == "squared" else LogisticLoss(target)


def _shape(config: BoostingConfig) -> Shape:
    limits = Limits(
        l2=config.l2,
        min_rows=float(config.min_rows_in_leaf),
        min_hessian=config.min_hessian_in_leaf,
        cat_smooth=config.cat_smooth,
        cat_l2=config.cat_l2,
    )
    return Shape(config.n_leaves, config.max_depth, config.leaf_wise, config.min_gain, limits)


def _monotone(features: np.ndarray, config: BoostingConfig) -> np.ndarray:
    direction = np.zeros(features.shape[1], dtype=np.int64)
    for feature, sign in config.monotone.items():
        if feature in config.categorical or not 0 <= feature < features.shape[1]:
            raise ValueError(f"feature {feature} is categorical or absent: no order to keep")
        direction[feature] = sign
    return direction


def _draw_rows(n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    if fraction == 1.0:
        return np.arange(n)
    return np.sort(rng.choice(n, max(1, int(n * fraction)), replace=False))


def _draw_features(n: int, fraction: float, rng: np.random.Generator) -> np.ndarray:
    allowed = np.ones(n, dtype=np.bool_)
    if fraction < 1.0:
        allowed[:] = False
        allowed[rng.choice(n, max(1, round(n * fraction)), replace=False)] = True
    return allowed
