"""The tasks of the study: Adult, California housing, graded ranking on MovieLens; or generated.

In: a name, a seed, whether data are generated. Out: ``Task`` with its rows split into train,
validation and test, and the metrics that it is judged by.

Tables are split at random (70/10/20), anew for each seed: their rows have no time. The ranking task
is split by time, once; there a seed draws rows and features for the trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, Model, fit
from ml_algorithms.gradient_boosted_trees.ranking_features import RankingTable, ranking_table
from ml_algorithms.study_data import SYNTHETIC, or_missing_input, study_dataset
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.data.tabular import load_table
from ml_platform.evaluation.classification_metrics import auc, log_loss
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.ranking_metrics import graded_ndcg_at

CUT = 10
SMALL_WORLD = SyntheticConfig(n_users=150, n_items=200, n_interactions=6_000)
N_WINDOWS = 20
TRAIN_WINDOWS, VALIDATION_WINDOWS = (1, 12), (12, 14)


@dataclass(frozen=True)
class Rows:
    """Some rows of a task; ``group`` and ``user_id`` only for ranking; ``row_id`` names them."""

    features: np.ndarray
    target: np.ndarray
    row_id: np.ndarray
    group: np.ndarray | None = None
    user_id: np.ndarray | None = None

    def first(self, n: int) -> Rows:
        """The first n rows (of a table, whose order is random), whole queries for ranking."""
        if self.group is None or self.user_id is None:
            return Rows(self.features[:n], self.target[:n], self.row_id[:n])
        queries = max(2, int(np.searchsorted(np.cumsum(self.group), n, side="right")))
        rows = int(self.group[:queries].sum())
        return Rows(
            self.features[:rows], self.target[:rows], self.row_id[:rows],
            self.group[:queries], self.user_id[:queries],
        )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A task with its split."""

    name: str
    loss: str
    names: tuple[str, ...]
    categorical: tuple[int, ...]
    train: Rows
    validation: Rows
    test: Rows
    sha256: str
    synthetic: bool
    protocol: str = field(default="")


def row_losses(task: Task, rows: Rows, predicted: np.ndarray) -> np.ndarray:
    """What is averaged, one value a row (a query for ranking): squared error, log loss, NDCG@10."""
    if task.loss == "squared":
        return (predicted - rows.target) ** 2
    if task.loss == "logistic":
        p = np.clip(predicted, 1e-15, 1 - 1e-15)
        return -np.log(np.where(rows.target == 1, p, 1 - p))
    return query_ndcg(rows, predicted)


def query_ndcg(rows: Rows, scores: np.ndarray) -> np.ndarray:
    """NDCG@10 of each query, gains 2^grade - 1, f64[Q]; ties in the order of item ids."""
    if rows.group is None:
        raise ValueError("NDCG needs the rows of each query")
    longest = max(CUT, int(rows.group.max()))
    gains, ideal = (np.zeros((len(rows.group), longest)) for _ in range(2))
    start = np.concatenate([[0], np.cumsum(rows.group)])
    for q, (a, b) in enumerate(zip(start[:-1], start[1:], strict=True)):
        gain = 2.0 ** rows.target[a:b] - 1.0
        gains[q, : b - a] = gain[np.argsort(-scores[a:b], kind="stable")]
        ideal[q, : b - a] = gain
    return graded_ndcg_at(gains, ideal, CUT)


def metrics(task: Task, rows: Rows, predicted: np.ndarray) -> dict[str, float]:
    """The task's metrics: rmse; auc and log_loss; or ndcg@10."""
    if task.loss == "squared":
        return {"rmse": float(np.sqrt(row_losses(task, rows, predicted).mean()))}
    if task.loss == "logistic":
        return {"auc": auc(rows.target, predicted), "log_loss": log_loss(rows.target, predicted)}
    return {"ndcg@10": float(query_ndcg(rows, predicted).mean())}


def main_metric(task: Task) -> str:
    """The metric whose interval is reported: of a mean over rows or queries."""
    return {"squared": "rmse", "logistic": "log_loss", "lambdamart": "ndcg@10"}[task.loss]


def pooled(task: Task, parts: Sequence[tuple[Rows, np.ndarray]]) -> Estimate:
    """The main metric over all seeds' test rows, a row (or user) that returns resampled whole."""
    losses = np.concatenate([row_losses(task, rows, predicted) for rows, predicted in parts])
    ids = np.concatenate([rows.row_id if rows.user_id is None else rows.user_id
                          for rows, _ in parts])  # fmt: skip
    mean = bootstrap_mean(losses, ids, resamples=400)
    if task.loss != "squared":
        return mean
    low, high = (None if end is None else float(np.sqrt(end)) for end in (mean.low, mean.high))
    return Estimate(float(np.sqrt(mean.value)), low, high, mean.n)


def predict_as_metric(task: Task, model: Model, features: np.ndarray) -> np.ndarray:
    """Probabilities for a logistic task, else scores."""
    return model.probability(features) if task.loss == "logistic" else model.predict(features)


def fit_and_predict(task: Task, config: BoostingConfig, rows: Rows | None = None) -> np.ndarray:
    """Predictions of the test rows after training on ``rows`` (all training rows by default)."""
    rows = task.train if rows is None else rows
    group = rows.group if config.loss == "lambdamart" else None
    model = fit(rows.features, rows.target, config, group=group)
    return predict_as_metric(task, model, task.test.features)


def table_task(name: str, seed: int, *, synthetic: bool) -> Task:
    """Adult ("adult") or California housing ("california"), or a generated table in its place."""
    if synthetic:
        features, target, names, categorical = generated_table(name, 1200)
        sha256 = "generated"
    else:
        features, target, names, categorical, sha256 = _real_table(name)
    order = np.random.default_rng(seed).permutation(len(target))
    ends = np.cumsum([int(0.7 * len(order)), int(0.1 * len(order))])
    train, validation, test = (
        Rows(features[part], target[part], part) for part in np.split(order, ends)
    )
    loss = "squared" if name == "california" else "logistic"
    protocol = f"{name}{' (generated)' if synthetic else ''}, random split 70/10/20 by seed"
    return Task(
        name, loss, names, categorical, train, validation, test, sha256, synthetic, protocol
    )


@cache
def _real_table(
    name: str,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[int, ...], str]:
    full = {"california": "california-housing"}.get(name, name)
    with or_missing_input():
        table = load_table(full)
    features, names, categorical = table.matrix()
    return features, table.target, tuple(names), categorical, table.sha256


def generated_table(
    name: str, n: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[int, ...]]:
    """Seven numbers and a category, holes in one column; for smoke runs and speed."""
    rng = np.random.default_rng(7)
    features = rng.normal(size=(n, 8))
    features[:, 7] = rng.integers(0, 12, n)
    signal = features[:, 0] + features[:, 1] * features[:, 2] + np.sin(2 * features[:, 3])
    signal += (features[:, 7] % 3) - 1.0 + 0.5 * rng.normal(size=n)
    features[rng.random(n) < 0.2, 4] = np.nan
    target = signal if name == "california" else (signal > 0).astype(np.float64)
    return features, target, (*(f"x{i}" for i in range(7)), "category"), (7,)


@cache
def _ranking(synthetic: bool) -> tuple[RankingTable, str]:
    data = study_dataset(SYNTHETIC if synthetic else "movielens-100k", small=SMALL_WORLD)
    return ranking_table(data, n_windows=N_WINDOWS), data.sha256


def ranking_task(*, synthetic: bool) -> Task:
    """Graded ranking, split by time."""
    table, sha256 = _ranking(synthetic)
    train, validation, test = (
        _ranking_rows(table.of_windows(*windows))
        for windows in (TRAIN_WINDOWS, VALIDATION_WINDOWS, (VALIDATION_WINDOWS[1], N_WINDOWS))
    )
    name = "synthetic interactions" if synthetic else "movielens-100k"
    protocol = (
        f"{name}, rated films of one user in one of {N_WINDOWS} windows of time; "
        f"trained on windows 1-{TRAIN_WINDOWS[1] - 1}, tested on the last "
        f"{N_WINDOWS - VALIDATION_WINDOWS[1]}, gains 2^grade - 1"
    )
    return Task(
        "ranking",
        "lambdamart",
        table.names,
        (),
        train,
        validation,
        test,
        sha256,
        synthetic,
        protocol,
    )


def _ranking_rows(table: RankingTable) -> Rows:
    user_row = np.repeat(table.user_id, table.group)
    return Rows(table.features, table.grade, user_row, table.group, table.user_id)
