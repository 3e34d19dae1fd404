"""Ablations of what trees do by themselves: missing values, categories, monotone constraints."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.gradient_boosted_trees.bench_config import TreesStudyConfig
from ml_algorithms.gradient_boosted_trees.bench_tasks import (
    Rows,
    Task,
    fit_and_predict,
    metrics,
    pooled,
)
from ml_algorithms.gradient_boosted_trees.boosting import fit
from ml_platform.evaluation.plot_style import BLUE, ORANGE, new_figure
from ml_platform.evaluation.results import Results

HIDDEN_SHARE = 0.3
SWEEP = 30


def missing_values(tasks: list[Task], config: TreesStudyConfig, results: Results) -> None:
    """Hides 30% of the strongest column, at random or its top, and fills it in three ways."""
    for mechanism in ("at_random", "the_largest"):
        parts: dict[str, list[tuple[Rows, np.ndarray]]] = {}
        for seed, task in enumerate(tasks):
            hidden = _hide(task, mechanism, seed)
            for name, changed in _fillings(hidden).items():
                setting = config.ablation(changed.loss, changed.categorical)
                predicted = fit_and_predict(changed, setting)
                parts.setdefault(name, []).append((changed.test, predicted))
        for name, of_seeds in parts.items():
            results.add(
                f"missing/{name}/{mechanism}_rmse", pooled(tasks[0], of_seeds),
                protocol=f"{tasks[0].protocol}; {HIDDEN_SHARE:.0%} of the first column hidden "
                f"({mechanism}) in all parts; {config.ablation_trees} trees, "
                f"{len(tasks)} seeds pooled",
            )  # fmt: skip


def _hide(task: Task, mechanism: str, seed: int) -> Task:
    rng = np.random.default_rng(100 + seed)
    top = np.quantile(task.train.features[:, 0], 1 - HIDDEN_SHARE)

    def hide(rows: Rows) -> Rows:
        x = rows.features.copy()
        gone = rng.random(len(x)) < HIDDEN_SHARE if mechanism == "at_random" else x[:, 0] > top
        x[gone, 0] = np.nan
        return replace(rows, features=x)

    return replace(task, train=hide(task.train), test=hide(task.test))


def _fillings(task: Task) -> dict[str, Task]:
    """The missing values as they are, the mean in their place, and the mean with a flag."""
    mean = float(np.nanmean(task.train.features[:, 0]))

    def fill(rows: Rows, flag: bool) -> Rows:
        x = rows.features.copy()
        gone = np.isnan(x[:, 0])
        x[gone, 0] = mean
        return replace(rows, features=np.column_stack([x, gone]) if flag else x)

    def both(flag: bool) -> Task:
        return replace(task, train=fill(task.train, flag), test=fill(task.test, flag))

    return {"native": task, "mean": both(False), "mean_and_flag": both(True)}


def categorical(tasks: list[Task], config: TreesStudyConfig, results: Results) -> None:
    """Categories as sets, as indicators, and as if their codes were numbers; two tree sizes."""
    for n_leaves in (config.leaves[0], 31):
        parts: dict[str, list[tuple[Rows, np.ndarray]]] = {}
        seconds: dict[str, list[float]] = {}
        for task in tasks:
            for name, changed in _encodings(task).items():
                setting = config.ablation(changed.loss, changed.categorical, n_leaves=n_leaves)
                begin = time.perf_counter()
                predicted = fit_and_predict(changed, setting)
                seconds.setdefault(name, []).append(time.perf_counter() - begin)
                parts.setdefault(name, []).append((changed.test, predicted))
        for name, of_seeds in parts.items():
            protocol = (
                f"{tasks[0].protocol}; {config.ablation_trees} trees of {n_leaves} leaves; "
                f"{len(tasks)} seeds"
            )
            key = f"categorical/{name}_{n_leaves}"
            aucs = [metrics(tasks[0], rows, p)["auc"] for rows, p in of_seeds]
            results.add(f"{key}/auc", float(np.mean(aucs)), protocol=f"{protocol}, mean")
            results.add(f"{key}/log_loss", pooled(tasks[0], of_seeds),
                        protocol=f"{protocol}, pooled")  # fmt: skip
            timing = f"fit and predict, 1 thread, median of seeds; {protocol}"
            results.add(f"{key}/seconds", float(np.median(seconds[name])), protocol=timing)
            results.add(f"{key}/columns", float(of_seeds[0][0].features.shape[1]),
                        protocol=protocol)  # fmt: skip


def _encodings(task: Task) -> dict[str, Task]:
    columns = list(task.categorical)
    sizes = [int(np.nanmax(task.train.features[:, c])) + 1 for c in columns]

    def indicators(rows: Rows) -> Rows:
        parts = [np.delete(rows.features, columns, axis=1)]
        for column, size in zip(columns, sizes, strict=True):
            parts.append((rows.features[:, [column]] == np.arange(size)).astype(np.float64))
        return replace(rows, features=np.hstack(parts))

    one_hot = replace(
        task, categorical=(), train=indicators(task.train), test=indicators(task.test)
    )
    return {"native": task, "one_hot": one_hot, "codes": replace(task, categorical=())}


def monotone(tasks: list[Task], config: TreesStudyConfig, results: Results) -> Figure:
    """The first column (California: income) must not lower the prediction: cost, violations."""
    figure, axes = new_figure(
        "California: the same five districts, median income swept", panels=2, share_y=True
    )
    protocol = f"{tasks[0].protocol}; {config.ablation_trees} trees; {len(tasks)} seeds"
    for panel, (name, constraint) in enumerate((("free", {}), ("constrained", {0: 1}))):
        parts, rows_violated, steps_violated = [], [], []
        for task in tasks:
            setting = config.ablation(task.loss, task.categorical, monotone=constraint)
            model = fit(task.train.features, task.train.target, setting)
            parts.append((task.test, model.predict(task.test.features)))
            grid = np.quantile(task.train.features[:, 0], np.linspace(0.01, 0.99, SWEEP))
            some = task.test.features[:500]
            swept = np.repeat(some, SWEEP, axis=0)
            swept[:, 0] = np.tile(grid, len(some))
            curves = model.predict(swept).reshape(len(some), SWEEP)
            falls = np.diff(curves, axis=1) < -1e-9
            rows_violated.append(falls.any(axis=1).mean())
            steps_violated.append(falls.mean())
        results.add(f"monotone/{name}/rmse", pooled(tasks[0], parts), protocol=f"{protocol} pooled")
        sweep = f"500 test rows, first column swept over {SWEEP} quantiles; {protocol}, mean"
        results.add(f"monotone/{name}/violated_rows", float(np.mean(rows_violated)),
                    protocol=f"share with any fall; {sweep}")  # fmt: skip
        results.add(f"monotone/{name}/violated_steps", float(np.mean(steps_violated)),
                    protocol=f"share of steps that fall; {sweep}")  # fmt: skip
        for curve in curves[:5]:
            axes[panel].plot(grid, curve, color=(ORANGE, BLUE)[panel], alpha=0.8)
        axes[panel].set_title(("no constraint", "must not fall with income")[panel], fontsize=10)
        axes[panel].set_xlabel("median income, 10,000 dollars")
    axes[0].set_ylabel("predicted value, 100,000 dollars")
    return figure
