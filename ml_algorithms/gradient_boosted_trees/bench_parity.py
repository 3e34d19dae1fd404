"""Part parity: ours, LightGBM and XGBoost at the same parameters, on two tables and a ranking."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.gradient_boosted_trees.bench_config import TreesStudyConfig
from ml_algorithms.gradient_boosted_trees.bench_tasks import (
    Rows,
    Task,
    main_metric,
    metrics,
    pooled,
    predict_as_metric,
    query_ndcg,
    ranking_task,
    table_task,
)
from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, fit
from ml_algorithms.gradient_boosted_trees.library_parameters import fit_lightgbm, fit_xgboost
from ml_platform.evaluation.intervals import bootstrap_difference
from ml_platform.evaluation.plot_style import BLACK, BLUE, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

Predictions = list[tuple[Rows, np.ndarray]]
MODELS = ("ours", "lightgbm", "xgboost")


def run(study: StudyRun[TreesStudyConfig]) -> None:
    """Writes ``<task>/<model>/<metric>`` and ``<task>/ours_vs_<model>/<metric>_percent``."""
    config = study.config
    tasks: list[tuple[str, Callable[[int], tuple[Task, BoostingConfig]]]] = [
        ("adult", lambda seed: _table("adult", seed, config)),
        ("california", lambda seed: _table("california", seed, config)),
        ("ranking", lambda seed: (ranking_task(synthetic=config.synthetic), config.ranking(seed))),
    ]
    first = [make(0)[0] for _, make in tasks]
    results = study.results(
        dataset_name=" + ".join(task.name for task in first),
        dataset_sha256="+".join(task.sha256[:12] for task in first),
        synthetic=config.synthetic,
    )
    shown: dict[str, dict[str, list[float]]] = {}
    with study.progress.stage("fits", len(tasks) * config.n_seeds) as step:
        for name, make in tasks:
            predictions: dict[str, Predictions] = {model: [] for model in MODELS}
            for seed in range(config.n_seeds):
                task, parameters = make(seed)
                for model, predicted in _predictions(task, parameters).items():
                    predictions[model].append((task.test, predicted))
                step(1)
            shown[name] = _report(results, task, parameters, predictions)
    study.picture("difference", _figure(shown))


def _table(name: str, seed: int, config: TreesStudyConfig) -> tuple[Task, BoostingConfig]:
    task = table_task(name, seed, synthetic=config.synthetic)
    return task, config.table(task.loss, task.categorical)


def _predictions(task: Task, parameters: BoostingConfig) -> dict[str, np.ndarray]:
    rows = task.train
    ours = fit(rows.features, rows.target, parameters, group=rows.group)
    predicted = {"ours": predict_as_metric(task, ours, task.test.features)}
    for name, fit_library in (("lightgbm", fit_lightgbm), ("xgboost", fit_xgboost)):
        model = fit_library(rows.features, rows.target, parameters, group=rows.group)
        predicted[name] = model.predict(task.test.features)
    return predicted


def _report(
    results: Results, task: Task, parameters: BoostingConfig, predictions: dict[str, Predictions]
) -> dict[str, list[float]]:
    """Adds the metrics; returns ours against each library in percent, by seed."""
    n_seeds = len(predictions["ours"])
    protocol = (
        f"{task.protocol}; {parameters.n_trees} trees of {parameters.n_leaves} leaves, learning "
        f"rate {parameters.learning_rate}; {n_seeds} seeds"
    )
    by_seed = {
        model: [metrics(task, rows, predicted) for rows, predicted in parts]
        for model, parts in predictions.items()
    }
    for model, parts in predictions.items():
        for metric in by_seed[model][0]:
            key = f"{task.name}/{model}/{metric}"
            if metric == main_metric(task):
                results.add(key, pooled(task, parts), protocol=f"{protocol}, pooled")
            else:
                mean = float(np.mean([one[metric] for one in by_seed[model]]))
                results.add(key, mean, protocol=f"{protocol}, mean", n=n_seeds)
    against: dict[str, list[float]] = {}
    for model in MODELS[1:]:
        for metric in by_seed["ours"][0]:
            differences = [
                100 * (ours[metric] / other[metric] - 1)
                for ours, other in zip(by_seed["ours"], by_seed[model], strict=True)
            ]
            key = f"{task.name}/ours_vs_{model}/{metric}"
            for suffix, value, how in (
                ("percent", float(np.mean(differences)), "mean of seeds"),
                ("percent_largest", float(np.abs(differences).max()), "largest size of a seed"),
            ):
                said = f"100 (ours / {model} - 1), {how}; {protocol}"
                results.add(f"{key}_{suffix}", value, protocol=said, n=n_seeds)
            if metric == main_metric(task):
                against[model] = differences
        if task.loss == "lambdamart":
            ours, other = (
                np.mean([query_ndcg(rows, p) for rows, p in predictions[m]], axis=0)
                for m in ("ours", model)
            )
            difference = bootstrap_difference(ours, other, task.test.user_id)
            results.add(f"{task.name}/ours_vs_{model}/ndcg@10_difference", difference,
                        protocol=f"paired, users resampled whole; {protocol}")  # fmt: skip
    return against


def _figure(shown: dict[str, dict[str, list[float]]]) -> Figure:
    figure, (axes,) = new_figure("Ours against the libraries, same parameters", height=3.0)
    metric = {"adult": "log loss", "california": "RMSE", "ranking": "NDCG@10"}
    names = []
    for row, (task, against) in enumerate(shown.items()):
        names.append(f"{task.capitalize()}, {metric[task]}")
        for offset, (model, colour, marker) in enumerate(
            (("lightgbm", BLUE, "o"), ("xgboost", ORANGE, "s"))
        ):
            values = against[model]
            label = {"lightgbm": "against LightGBM", "xgboost": "against XGBoost"}[model]
            axes.plot(values, [row + 0.22 * offset - 0.11] * len(values), marker, color=colour,
                      alpha=0.8, label=label if row == 0 else None)  # fmt: skip
    axes.axvspan(-1, 1, color="0.92", zorder=0)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("difference of ours, % of the library's metric (one point a seed; grey: 1%)")
    axes.legend(frameon=False, loc="lower left", fontsize=8)
    return figure
