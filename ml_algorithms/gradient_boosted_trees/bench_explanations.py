"""Part explanations: four importances of one model, where they disagree, and what TreeSHAP costs.

The Adult table gets two columns of pure noise: ``noise_number`` (every value different) and
``noise_bit`` (two values). Whatever an importance gives them is error, and the difference between
the two is the bias towards features with many values. The table has a natural pair that says the
same twice: ``education`` and ``educational-num``.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from ml_algorithms.gradient_boosted_trees.bench_config import TreesStudyConfig
from ml_algorithms.gradient_boosted_trees.bench_tasks import (
    Rows,
    Task,
    fit_and_predict,
    row_losses,
    table_task,
)
from ml_algorithms.gradient_boosted_trees.boosting import Model, fit
from ml_algorithms.gradient_boosted_trees.importance import (
    gain_importance,
    permutation_importance,
    shap_importance,
    split_importance,
)
from ml_algorithms.gradient_boosted_trees.library_parameters import fit_lightgbm
from ml_algorithms.gradient_boosted_trees.tree_shap import tree_shap
from ml_platform.evaluation.intervals import bootstrap_difference
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, ORANGE, PINK, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

KINDS = {"gain": (BLUE, "o"), "split": (ORANGE, "s"), "permutation": (GREEN, "^"),
         "shap": (PINK, "D")}  # fmt: skip


def run(study: StudyRun[TreesStudyConfig]) -> None:
    """Writes ``share/<kind>/<feature>``, ``rank/...``, ``agreement/...``, ``retrain/...``."""
    config = study.config
    task = _with_noise(table_task("adult", study.seed, synthetic=config.synthetic), study.seed)
    results = study.results_of(task)
    setting = config.table(task.loss, task.categorical)
    model = fit(task.train.features, task.train.target, setting)
    shares = _importances(task, model, config)
    protocol = (
        f"{task.protocol} plus two noise columns; {config.table_trees} trees; permutation and "
        f"SHAP on test rows; seed {study.seed}"
    )
    for kind, share in shares.items():
        rank = np.argsort(np.argsort(-share, kind="stable"))
        for feature, name in enumerate(task.names):
            clean = name.lower().replace("-", "_")
            results.add(f"share/{kind}/{clean}", share[feature], protocol=protocol)
            results.add(f"rank/{kind}/{clean}", float(rank[feature] + 1), protocol=protocol)
    kinds = list(shares)
    for i, one in enumerate(kinds):
        for other in kinds[i + 1 :]:
            results.add(f"agreement/{one}_{other}/spearman",
                        float(spearmanr(shares[one], shares[other]).statistic),
                        protocol=protocol)  # fmt: skip
    _retrained(task, config, results, protocol)
    _cost(task, model, config, results)
    study.picture("importances", _figure(task, shares))


def _with_noise(task: Task, seed: int) -> Task:
    rng = np.random.default_rng(900 + seed)

    def add(rows: Rows) -> Rows:
        noise = np.column_stack(
            [rng.random(len(rows.target)), rng.integers(0, 2, len(rows.target))]
        )
        return replace(rows, features=np.hstack([rows.features, noise]))

    return replace(
        task, names=(*task.names, "noise_number", "noise_bit"),
        train=add(task.train), validation=add(task.validation), test=add(task.test),
    )  # fmt: skip


def _importances(task: Task, model: Model, config: TreesStudyConfig) -> dict[str, np.ndarray]:
    """Each as shares of its sum; permutation can be below 0, which stays."""
    n = len(task.names)
    some = task.test.features[: config.explained_rows]

    def quality(features: np.ndarray) -> float:
        return -float(row_losses(task, task.test, model.probability(features)).mean())

    permuted = permutation_importance(
        quality, task.test.features, repeats=config.permutation_repeats
    )
    raw = {
        "gain": gain_importance(model.forest, n),
        "split": split_importance(model.forest, n),
        "permutation": permuted,
        "shap": shap_importance(model.forest, some),
    }
    return {kind: values / max(np.abs(values).sum(), 1e-300) for kind, values in raw.items()}


def _retrained(task: Task, config: TreesStudyConfig, results: Results, protocol: str) -> None:
    """What really happens without a feature: drop it, train again, compare on the same rows."""
    setting = config.table(task.loss, task.categorical)
    complete = row_losses(task, task.test, fit_and_predict(task, setting))
    pair: list[str] = [name for name in ("education", "educational-num") if name in task.names]
    one, other = pair if len(pair) == 2 else ["x0", "x1"]
    groups = {
        "noise_number": ["noise_number"],
        "education": [one],
        "educational_num": [other],
        "both_of_the_pair": [one, other],
    }
    for label, names in groups.items():
        gone = [task.names.index(name) for name in names]
        without = _without(task, gone)
        less = fit_and_predict(without, config.table(task.loss, without.categorical))
        difference = bootstrap_difference(row_losses(task, task.test, less), complete)
        results.add(f"retrain/without_{label}/log_loss_rise", difference,
                    protocol=f"paired, {' and '.join(names)} dropped; {protocol}")  # fmt: skip


def _without(task: Task, gone: list[int]) -> Task:
    kept = [f for f in range(len(task.names)) if f not in gone]

    def drop(rows: Rows) -> Rows:
        return replace(rows, features=rows.features[:, kept])

    categorical = tuple(kept.index(f) for f in task.categorical if f in kept)
    return replace(task, categorical=categorical, train=drop(task.train), test=drop(task.test))


def _cost(task: Task, model: Model, config: TreesStudyConfig, results: Results) -> None:
    """Microseconds a row: predict, TreeSHAP of ours, pred_contrib of LightGBM."""
    some = task.test.features[: config.explained_rows]
    light = fit_lightgbm(
        task.train.features, task.train.target, config.table(task.loss, task.categorical)
    )
    work = {
        "predict_ours": lambda: model.predict(some),
        "tree_shap_ours": lambda: tree_shap(model.forest, some),
        "tree_shap_lightgbm": lambda: light.booster.predict(some, pred_contrib=True, num_threads=1),
    }
    for name, call in work.items():
        call()
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        results.add(f"cost/{name}/us_per_row", 1e6 * float(np.median(seconds)) / len(some),
                    n=len(some), protocol=f"{config.table_trees} trees of 31 leaves; 1 thread, "
                    "warm-up, median of 3")  # fmt: skip


def _figure(task: Task, shares: dict[str, np.ndarray]) -> Figure:
    order = np.argsort(-shares["shap"], kind="stable")
    figure, (axes,) = new_figure("Adult: four importances of one model", height=4.6)
    for row, feature in enumerate(order):
        values = [share[feature] for share in shares.values()]
        axes.plot([min(values), max(values)], [row, row], color="0.85", linewidth=3, zorder=1)
        for kind, (colour, marker) in KINDS.items():
            axes.plot([shares[kind][feature]], [row], marker, color=colour, markersize=6,
                      label=kind if row == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(order)), [task.names[f] for f in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_xlabel("share of the importance's sum")
    axes.legend(frameon=False, loc="lower right")
    return figure
