"""Part speed: fit time against rows, and inference from one row to ten thousand, on one thread.

The data are generated: speed depends on shape, not on meaning. ONNX Runtime runs LightGBM's model,
converted; so does our own walk, in the row "ours", on our model of the same shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ml_algorithms.gradient_boosted_trees.bench_config import TreesStudyConfig
from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, fit
from ml_algorithms.gradient_boosted_trees.cart import best_split
from ml_algorithms.gradient_boosted_trees.histogram import (
    accumulate,
    accumulate_numpy,
    fit_bins,
)
from ml_algorithms.gradient_boosted_trees.library_parameters import fit_lightgbm, fit_xgboost
from ml_platform.evaluation.plot_style import BLUE, GREEN, ORANGE, PINK, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError, StudyRun

COLOURS = {"ours": BLUE, "lightgbm": GREEN, "xgboost": ORANGE, "onnxruntime": PINK}
NAMES = {"ours": "ours", "lightgbm": "LightGBM", "xgboost": "XGBoost", "onnxruntime": "ONNX RT"}
FIT_REPEATS = 3


def run(study: StudyRun[TreesStudyConfig]) -> None:
    """Writes ``fit/<model>/seconds_<rows>``, ``inference/<model>/p50_us_<rows>``, ``node/...``."""
    config = study.config
    results = study.results(dataset_name="generated", dataset_sha256="generated", synthetic=True)
    times = _fit_times(study, results)
    latencies = _inference(config, results)
    _node(config, results)
    figure, axes = new_figure("One thread: training and inference", panels=2, height=3.9)
    _lines(axes[0], list(config.fit_rows), times, "rows", f"fit of {config.fit_trees} trees, s")
    per_row = {
        model: [us / n for us, n in zip(values, config.inference_rows, strict=True)]
        for model, values in latencies.items()
    }
    _lines(axes[1], list(config.inference_rows), per_row, "rows in a call", "time per row, µs")
    study.picture("time", figure)


def generated(n: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers with some interactions, and a noisy target."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, n_features))
    target = features[:, 0] * features[:, 1] + np.sin(3 * features[:, 2]) + features[:, 3]
    return features, target + rng.normal(size=n)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of ``repeats`` runs after one that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def _fit_times(study: StudyRun[TreesStudyConfig], results: Results) -> dict[str, list[float]]:
    config = study.config
    boosting = BoostingConfig(loss="squared", n_trees=config.fit_trees)
    protocol = (
        f"generated, {config.fit_features} numeric features, {config.fit_trees} trees of 31 "
        f"leaves, 255 bins, binning included; 1 thread, warm-up, median of {FIT_REPEATS}"
    )
    times: dict[str, list[float]] = {"ours": [], "lightgbm": [], "xgboost": []}
    with study.progress.stage("fit", len(config.fit_rows)) as step:
        for n in config.fit_rows:
            x, y = generated(n, config.fit_features)
            work: dict[str, Callable[[], object]] = {
                "ours": partial(fit, x, y, boosting),
                "lightgbm": partial(fit_lightgbm, x, y, boosting),
                "xgboost": partial(fit_xgboost, x, y, boosting),
            }
            for model, one in work.items():
                times[model].append(median_seconds(one, min(FIT_REPEATS, config.repeats)))
                results.add(f"fit/{model}/seconds_{n}", times[model][-1], protocol=protocol, n=n)
            step(1)
    for model in ("lightgbm", "xgboost"):
        ratio = times["ours"][-1] / times[model][-1]
        results.add(f"fit/ours_vs_{model}/ratio", ratio, protocol=f"largest size; {protocol}")
    return times


def _inference(config: TreesStudyConfig, results: Results) -> dict[str, list[float]]:
    try:
        import onnxruntime
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError as error:
        raise MissingInputError(f"{error}: install the extra `algorithms`") from error
    x, y = generated(config.inference_train_rows, config.fit_features)
    x = x.astype(np.float32).astype(np.float64)  # ONNX compares in float32: the same thresholds
    boosting = BoostingConfig(
        loss="squared", n_trees=config.inference_trees, n_leaves=config.inference_leaves
    )
    ours, light = fit(x, y, boosting), fit_lightgbm(x, y, boosting)
    xgboost = fit_xgboost(x, y, boosting)
    onnx = convert_lightgbm(
        light.booster, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], zipmap=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    calls: dict[str, Callable[[np.ndarray], object]] = {
        "ours": ours.predict,
        "lightgbm": light.predict,
        "xgboost": lambda rows: xgboost.booster.inplace_predict(rows),
        "onnxruntime": lambda rows: session.run(None, {"x": rows}),
    }
    protocol = (
        f"generated, {config.fit_features} features, {config.inference_trees} trees of "
        f"{config.inference_leaves} leaves; 1 thread, Python call included, warm-up, "
        f"median of {config.repeats} or more calls"
    )
    latencies: dict[str, list[float]] = {model: [] for model in calls}
    for n in config.inference_rows:
        rows = np.ascontiguousarray(x[np.arange(n) % len(x)])
        repeats = config.repeats * (20 if n <= 100 else 1)
        for model, call in calls.items():
            batch = rows.astype(np.float32) if model == "onnxruntime" else rows
            us = 1e6 * median_seconds(partial(call, batch), repeats)
            latencies[model].append(us)
            results.add(f"inference/{model}/p50_us_{n}", us, protocol=protocol, n=repeats)
    converted = session.run(None, {"x": x[:500].astype(np.float32)})[0][:, 0]
    apart = float(np.abs(converted - light.predict(x[:500])).max())
    results.add("inference/onnxruntime/largest_difference", apart, n=500,
                protocol="against LightGBM, whose model it runs")  # fmt: skip
    return latencies


def _node(config: TreesStudyConfig, results: Results) -> None:
    """The heart alone: the root's histogram, compiled and not, and the exact search beside it."""
    n = config.fit_rows[1]
    x, y = generated(n, config.fit_features)
    bins = fit_bins(x)
    binned, rows, ones = bins.transform(x), np.arange(n), np.ones(n)
    protocol = f"root of {n} rows, {config.fit_features} features; 1 thread, warm-up, median of 5"
    for name, work in (
        ("histogram_numba", lambda: accumulate(binned, rows, y, ones, 256)),
        ("histogram_numpy", lambda: accumulate_numpy(binned, rows, y, ones, 256)),
        ("exact", lambda: best_split(x, y)),
    ):
        repeats = min(5, config.repeats)
        results.add(f"node/{name}/ms", 1e3 * median_seconds(work, repeats), protocol=protocol)


def _lines(
    axes: Any, x: list[int], lines: dict[str, list[float]], x_label: str, y_label: str
) -> None:
    """Log-log lines named at their right ends, names kept apart."""
    ends = sorted((values[-1], model) for model, values in lines.items())
    place, last = {}, 0.0
    for value, model in ends:
        last = max(value, last * 1.35)
        place[model] = last
    for model, values in lines.items():
        axes.plot(x, values, "o-", color=COLOURS[model], markersize=4)
        axes.annotate(
            NAMES[model], (x[-1] * 1.12, place[model]), color=COLOURS[model], va="center",
            fontsize=9, annotation_clip=False,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    axes.set_xlim(x[0] / 1.2, x[-1] * (x[-1] / x[0]) ** 0.38)
