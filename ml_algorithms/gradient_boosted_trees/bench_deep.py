"""Part deep: trees, a small network and a linear model, by amount of training data.

Each is tuned alike: three settings, chosen on the same held-out rows that stop the training. On the
ranking task all three learn the grade itself (squared loss), and LambdaMART stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.gradient_boosted_trees.bench_config import TreesStudyConfig
from ml_algorithms.gradient_boosted_trees.bench_tasks import (
    Rows,
    Task,
    main_metric,
    pooled,
    query_ndcg,
    ranking_task,
    row_losses,
    table_task,
)
from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, Validation, fit
from ml_algorithms.gradient_boosted_trees.losses import sigmoid
from ml_algorithms.gradient_boosted_trees.tabular_networks import (
    Kind,
    MLPConfig,
    Predict,
    fit_linear,
    fit_mlp,
)
from ml_platform.evaluation.intervals import bootstrap_difference
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

TREE_SETTINGS: tuple[dict[str, object], ...] = (
    {"n_leaves": 7, "learning_rate": 0.1},
    {"n_leaves": 31, "learning_rate": 0.1},
    {"n_leaves": 31, "learning_rate": 0.05, "row_fraction": 0.8, "feature_fraction": 0.8},
)
MLP_SETTINGS = (
    MLPConfig(width=64, dropout=0.0),
    MLPConfig(width=128, dropout=0.1),
    MLPConfig(width=256, dropout=0.3, learning_rate=1e-3, weight_decay=1e-2),
)
LINEAR_STRENGTHS = (1.0, 10.0, 100.0)
PATIENCE = 30
MANY_ROWS = 2_000
STYLE = {"trees": (BLUE, "o"), "mlp": (ORANGE, "s"), "linear": (GREY, "^"),
         "lambdamart": (GREEN, "D"), "item_mean": (BLACK, "x")}  # fmt: skip


def run(study: StudyRun[TreesStudyConfig]) -> None:
    """Writes ``<task>/<model>_<n>/<metric>``; n is the training rows, "all" for the largest."""
    config = study.config
    makers: dict[str, Callable[[int], Task]] = {
        "adult": lambda seed: table_task("adult", seed, synthetic=config.synthetic),
        "california": lambda seed: table_task("california", seed, synthetic=config.synthetic),
        "ranking": lambda _: ranking_task(synthetic=config.synthetic),
    }
    first = [make(0) for make in makers.values()]
    results = study.results(
        dataset_name=" + ".join(task.name for task in first),
        dataset_sha256="+".join(task.sha256[:12] for task in first),
        synthetic=config.synthetic,
    )
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    with study.progress.stage(
        "fits", len(makers) * config.n_seeds * len(config.train_rows)
    ) as step:
        for name, make in makers.items():
            lines[name] = {}
            for n in config.train_rows:
                parts: dict[str, list[tuple[Rows, np.ndarray]]] = {}
                for seed in range(config.n_seeds):
                    task = make(seed)
                    train, held_out = _sizes(task, n)
                    for model, predicted in _models(task, train, held_out, config, seed).items():
                        parts.setdefault(model, []).append((task.test, predicted))
                    step(1)
                _add(results, task, train, parts, n == config.train_rows[-1], lines[name])
    study.picture("by_rows", _figure(lines))


def _sizes(task: Task, n: int) -> tuple[Rows, Rows]:
    """Training rows, and a fifth as many to stop and choose by: both must be paid for."""
    return task.train.first(n), task.validation.first(max(100, n // 5))


def _models(
    task: Task, train: Rows, held_out: Rows, config: TreesStudyConfig, seed: int
) -> dict[str, np.ndarray]:
    """Test predictions of every model at its best setting."""
    kind: Kind = "binary" if task.loss == "logistic" else "regression"
    pair, held = (train.features, train.target), (held_out.features, held_out.target)
    x = task.test.features
    linear = [
        fit_linear(pair, kind, task.categorical, strength=s, seed=seed) for s in LINEAR_STRENGTHS
    ]
    # An epoch of few rows is few steps: give them more epochs, early stopping ends them.
    epochs = config.mlp_epochs * (4 if len(train.target) < MANY_ROWS else 1)
    networks = [
        fit_mlp(pair, held, kind, task.categorical, replace(setting, epochs=epochs), seed=seed)[0]
        for setting in MLP_SETTINGS
    ]
    pointwise = "logistic" if kind == "binary" else "squared"
    trees = [_trees(task, train, held_out, config, pointwise, s, seed) for s in TREE_SETTINGS]
    best = {
        "trees": _best(task, held_out, trees)(x),
        "mlp": _best(task, held_out, networks)(x),
        "linear": _best(task, held_out, linear)(x),
    }
    if task.loss == "lambdamart":
        ranked = [_trees(task, train, held_out, config, "lambdamart", s, seed)
                  for s in TREE_SETTINGS]  # fmt: skip
        best["lambdamart"] = _best(task, held_out, ranked)(x)
        mean = x[:, task.names.index("item_mean")]
        best["item_mean"] = np.where(np.isnan(mean), np.nanmean(mean), mean)
    return best


def _trees(
    task: Task,
    train: Rows,
    held_out: Rows,
    config: TreesStudyConfig,
    loss: str,
    setting: dict[str, object],
    seed: int,
) -> Predict:
    def metric(scores: np.ndarray) -> float:
        if loss == "lambdamart":
            return -float(query_ndcg(held_out, scores).mean())
        if loss == "logistic":
            return float(row_losses(task, held_out, sigmoid(scores)).mean())
        return float(np.mean((scores - held_out.target) ** 2))

    boosting = BoostingConfig.model_validate(
        {"loss": loss, "n_trees": config.max_trees, "categorical": task.categorical,
         "patience": PATIENCE, "seed": seed, **setting}
    )  # fmt: skip
    group = train.group if loss == "lambdamart" else None
    model = fit(train.features, train.target, boosting, group=group,
                validation=Validation(held_out.features, metric))  # fmt: skip
    return model.probability if loss == "logistic" else model.predict


def _best(task: Task, held_out: Rows, candidates: list[Predict]) -> Predict:
    """The candidate that does best on the held-out rows by the task's own metric."""
    sign = -1.0 if task.loss == "lambdamart" else 1.0
    values = [
        sign * float(row_losses(task, held_out, predict(held_out.features)).mean())
        for predict in candidates
    ]
    return candidates[int(np.argmin(values))]


def _add(
    results: Results,
    task: Task,
    train: Rows,
    parts: dict[str, list[tuple[Rows, np.ndarray]]],
    largest: bool,
    lines: dict[str, list[tuple[int, float]]],
) -> None:
    rows = len(train.target)
    label = "all" if largest else str(rows if train.group is None else _round(rows))
    n_seeds = len(parts["trees"])
    protocol = (
        f"{task.protocol}; {rows} training rows, a fifth as many held out to choose among 3 "
        f"settings and to stop; {n_seeds} seeds pooled"
    )
    for model, of_seeds in parts.items():
        estimate = pooled(task, of_seeds)
        results.add(f"{task.name}/{model}_{label}/{main_metric(task)}", estimate, protocol=protocol)
        lines.setdefault(model, []).append((rows, estimate.value))
    clusters = [r.row_id if r.user_id is None else r.user_id for r, _ in parts["trees"]]
    losses = {
        model: np.concatenate([row_losses(task, r, p) for r, p in of_seeds])
        for model, of_seeds in parts.items()
    }
    for model in losses:
        if model != "trees":
            difference = bootstrap_difference(
                losses["trees"], losses[model], np.concatenate(clusters), resamples=400
            )
            unit = {"squared": "squared_error", "logistic": "log_loss"}.get(task.loss, "ndcg@10")
            results.add(
                f"{task.name}/trees_minus_{model}_{label}/{unit}", difference,
                protocol=f"paired difference; {protocol}",
            )  # fmt: skip


def _round(rows: int) -> int:
    """Whole queries do not add up to a round number; the key does."""
    return round(rows, -2)


NAMES = {"mlp": "network", "lambdamart": "LambdaMART", "item_mean": "film's mean"}


def _figure(lines: dict[str, dict[str, list[tuple[int, float]]]]) -> Figure:
    figure, axes = new_figure("Trees, network, line: by amount of training data", panels=3,
                              height=3.9)  # fmt: skip
    labels = {"adult": "Adult: log loss (low is good)",
              "california": "California: RMSE (low is good)",
              "ranking": "ranking: NDCG@10 (high is good)"}  # fmt: skip
    for one, (task, models) in zip(axes, lines.items(), strict=True):
        for model, points in models.items():
            colour, marker = STYLE[model]
            one.plot(*zip(*points, strict=True), f"{marker}-", color=colour, markersize=4,
                     label=NAMES.get(model, model.replace("_", " ")))  # fmt: skip
        one.set(xscale="log", xlabel="training rows")
        one.set_title(labels[task], fontsize=8.5)
        one.legend(frameon=False, fontsize=7.5)
    return figure
