"""Part ablations: one knob at a time, everything else at LightGBM's defaults."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.gradient_boosted_trees.bench_config import TreesStudyConfig
from ml_algorithms.gradient_boosted_trees.bench_handling import (
    categorical,
    missing_values,
    monotone,
)
from ml_algorithms.gradient_boosted_trees.bench_tasks import (
    Task,
    fit_and_predict,
    main_metric,
    pooled,
    table_task,
)
from ml_algorithms.gradient_boosted_trees.boosting import Validation, fit
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import BLUE, GREEN, ORANGE, PINK, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

REGULARISATION: dict[str, dict[str, object]] = {
    "defaults": {},
    "l2=10": {"l2": 10.0},
    "l2=100": {"l2": 100.0},
    "min_rows=1": {"min_rows_in_leaf": 1},
    "min_rows=100": {"min_rows_in_leaf": 100},
    "row_fraction=0.5": {"row_fraction": 0.5},
    "feature_fraction=0.5": {"feature_fraction": 0.5},
    "leaves=7": {"n_leaves": 7},
}


def run(study: StudyRun[TreesStudyConfig]) -> None:
    """Writes ``growth/``, ``bins/``, ``rate/``, ``regularisation/``, ``missing/``, ..."""
    config = study.config
    california = [
        table_task("california", seed, synthetic=config.synthetic) for seed in range(config.n_seeds)
    ]
    adult = [
        table_task("adult", seed, synthetic=config.synthetic) for seed in range(config.n_seeds)
    ]
    results = study.results(
        dataset_name=f"{adult[0].name} + {california[0].name}",
        dataset_sha256=f"{adult[0].sha256[:12]}+{california[0].sha256[:12]}",
        synthetic=config.synthetic,
    )
    with study.progress.stage("knobs", 7) as step:
        growth = _growth(california, config, results)
        step(1)
        bins = _bins(california, config, results)
        step(1)
        study.picture("shape", _shape_figure(config, growth, bins))
        study.picture("learning_rate", _learning_rate(california, config, results))
        step(1)
        _regularisation(california, config, results)
        step(1)
        missing_values(california, config, results)
        step(1)
        categorical(adult, config, results)
        step(1)
        study.picture("monotone", monotone(california, config, results))
        step(1)


def over_seeds(tasks: list[Task], config: TreesStudyConfig, **changes: object) -> Estimate:
    """The main metric of one setting, pooled over the seeds' tests."""
    parts = []
    for seed, task in enumerate(tasks):
        setting = config.ablation(task.loss, task.categorical, seed=seed, **changes)
        parts.append((task.test, fit_and_predict(task, setting)))
    return pooled(tasks[0], parts)


def _growth(
    tasks: list[Task], config: TreesStudyConfig, results: Results
) -> dict[str, list[float]]:
    """Leaf-wise against depth-wise at the same number of leaves, and how deep both go."""
    lines: dict[str, list[float]] = {"leaf_wise": [], "depth_wise": []}
    metric = main_metric(tasks[0])
    for n_leaves in config.leaves:
        for name in lines:
            changes = {"n_leaves": n_leaves, "leaf_wise": name == "leaf_wise"}
            estimate = over_seeds(tasks, config, **changes)
            key = f"growth/{name}_{n_leaves}"
            protocol = (
                f"{tasks[0].protocol}; {config.ablation_trees} trees; {len(tasks)} seeds pooled"
            )
            results.add(f"{key}/{metric}", estimate, protocol=protocol)
            lines[name].append(estimate.value)
            if n_leaves != config.leaves[-1]:
                continue
            setting = config.ablation(tasks[0].loss, tasks[0].categorical, **changes)
            train = tasks[0].train
            forest = fit(train.features, train.target, setting).forest
            results.add(f"{key}/deepest", float(forest.depths().max()),
                        protocol=f"deepest leaf of all trees, seed 0; {protocol}")  # fmt: skip
    return lines


def _bins(tasks: list[Task], config: TreesStudyConfig, results: Results) -> list[float]:
    values = []
    for n in config.bins:
        estimate = over_seeds(tasks, config, max_bins=n)
        results.add(
            f"bins/bins_{n}/{main_metric(tasks[0])}", estimate,
            protocol=f"{tasks[0].protocol}; {config.ablation_trees} trees; "
 f"{len(tasks)} seeds pooled",
        )  # fmt: skip
        values.append(estimate.value)
    return values


def _shape_figure(
    config: TreesStudyConfig, growth: dict[str, list[float]], bins: list[float]
) -> Figure:
    figure, axes = new_figure(
        "California: how trees grow, and how coarse they see", panels=2, share_y=True
    )
    for name, colour, marker in (("leaf_wise", BLUE, "o"), ("depth_wise", ORANGE, "s")):
        axes[0].plot(config.leaves, growth[name], f"{marker}-", color=colour,
                     label=name.replace("_", "-"))  # fmt: skip
    axes[0].set(xscale="log", xlabel="leaves of a tree", ylabel="test RMSE, 100,000 dollars")
    axes[0].set_xticks(config.leaves, [str(n) for n in config.leaves])
    axes[0].legend(frameon=False)
    axes[1].plot(config.bins, bins, "o-", color=BLUE)
    axes[1].set(xscale="log", xlabel="bins of a feature")
    axes[1].set_xticks(config.bins, [str(n) for n in config.bins])
    for one in axes:
        one.minorticks_off()
    return figure


def _learning_rate(tasks: list[Task], config: TreesStudyConfig, results: Results) -> Figure:
    """Validation RMSE after each tree, by learning rate; stopping at its minimum."""
    figure, (axes,) = new_figure("California: the step size decides how many trees", height=3.6)
    looks = [(PINK, "-."), (BLUE, "-"), (GREEN, "--"), (ORANGE, ":")]
    lowest = np.inf
    for rate, (colour, style) in zip(config.learning_rates, looks, strict=False):
        curves, parts, best = [], [], []
        for task in tasks:
            held_out = task.validation

            def rmse(scores: np.ndarray, target: np.ndarray = held_out.target) -> float:
                return float(np.sqrt(np.mean((scores - target) ** 2)))

            model = fit(
                task.train.features, task.train.target,
                config.ablation(task.loss, task.categorical, learning_rate=rate,
                             n_trees=config.curve_trees),
                validation=Validation(held_out.features, rmse),
            )  # fmt: skip
            curves.append(model.history)
            best.append(int(model.history.argmin()) + 1)
            parts.append((task.test, model.predict(task.test.features, n_trees=best[-1])))
        protocol = (
            f"{tasks[0].protocol}; at most {config.curve_trees} trees, as many as were best on "
            f"validation; {len(tasks)} seeds pooled"
        )
        results.add(f"rate/rate_{rate}/rmse", pooled(tasks[0], parts), protocol=protocol)
        results.add(f"rate/rate_{rate}/best_trees", float(np.mean(best)), protocol=protocol)
        mean = np.mean(curves, axis=0)
        lowest = min(lowest, float(mean.min()))
        axes.plot(np.arange(1, len(mean) + 1), mean, style, color=colour, label=f"{rate:g}")
    axes.set_ylim(lowest * 0.95, lowest * 1.8)
    axes.set(xlabel="trees", ylabel="validation RMSE, 100,000 dollars")
    axes.legend(title="learning rate", frameon=False, loc="upper right")
    return figure


def _regularisation(tasks: list[Task], config: TreesStudyConfig, results: Results) -> None:
    """On few rows, where it matters, and on all."""
    for variant, changes in REGULARISATION.items():
        for size in ("few_rows", "all_rows"):
            parts = []
            for seed, task in enumerate(tasks):
                rows = task.train.first(config.small_rows) if size == "few_rows" else task.train
                setting = config.ablation(task.loss, task.categorical, seed=seed, **changes)
                parts.append((task.test, fit_and_predict(task, setting, rows)))
            n = len(rows.target)
            results.add(
                f"regularisation/{variant}/{size}_rmse", pooled(tasks[0], parts),
                protocol=f"{tasks[0].protocol}; {n} training rows ({size}), "
                f"{config.ablation_trees} trees; {len(tasks)} seeds pooled",
            )  # fmt: skip
