"""What the notebook shows: small experiments on generated data, each one call, each one picture.

In: the knobs that a slider turns. Out: a picture shown in the notebook, and the numbers behind it.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, fit
from ml_algorithms.gradient_boosted_trees.cart import best_split
from ml_algorithms.gradient_boosted_trees.histogram import accumulate, fit_bins
from ml_algorithms.gradient_boosted_trees.importance import (
    gain_importance,
    permutation_importance,
    shap_importance,
    split_importance,
)
from ml_algorithms.gradient_boosted_trees.losses import LambdaMART
from ml_algorithms.gradient_boosted_trees.tree_shap import tree_shap
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure, show

NAMES = ("price", "price_in_cents", "distance", "row_number", "is_weekend")


def wave(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One feature on [0, 6], a wave with a step, noise: f64[n, 1] and f64[n]."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 6, n))
    return x[:, None], truth(x) + 0.4 * rng.normal(size=n)


def truth(x: np.ndarray) -> np.ndarray:
    """The wave without noise."""
    return np.sin(2 * x) + (x > 4)


def boosting(n_trees: int, learning_rate: float, n_leaves: int) -> tuple[float, float]:
    """Fits the wave; draws the fit and the error after each tree; returns (train, test) RMSE."""
    (x, y), (new_x, new_y) = wave(150, 0), wave(500, 1)
    config = BoostingConfig(
        n_trees=n_trees, learning_rate=learning_rate, n_leaves=n_leaves, min_rows_in_leaf=3
    )
    model = fit(x, y, config)
    errors = np.array(
        [
            [np.sqrt(np.mean((model.predict(a, n_trees=t) - b) ** 2)) for t in range(n_trees + 1)]
            for a, b in ((x, y), (new_x, new_y))
        ]
    )
    figure, axes = new_figure(f"{n_trees} trees", panels=2, height=3.2)
    grid = np.linspace(0, 6, 600)
    axes[0].plot(x[:, 0], y, ".", color=GREY, markersize=3)
    axes[0].plot(grid, truth(grid), color=BLACK, linewidth=1, label="truth")
    axes[0].plot(grid, model.predict(grid[:, None]), color=BLUE, label="model")
    axes[0].set(xlabel="x", ylabel="y")
    axes[0].legend(frameon=False, fontsize=8)
    for line, name, colour in zip(errors, ("training", "new rows"), (ORANGE, BLUE), strict=True):
        axes[1].plot(line, color=colour, label=name)
    axes[1].axhline(0.4, color=BLACK, linewidth=0.8, linestyle=":", label="noise")
    axes[1].set(xlabel="trees", ylabel="RMSE", ylim=(0, None))
    axes[1].legend(frameon=False, fontsize=8)
    show(figure)
    return float(errors[0, -1]), float(errors[1, -1])


def bins(max_bins: int) -> tuple[float, float]:
    """Draws the gain of every exact cut and of the bins' cuts; returns the best of both."""
    x, y = wave(2000, 0)
    exact = best_split(x, y)
    chosen = fit_bins(x, max_bins=max_bins)
    cells = accumulate(chosen.transform(x), np.arange(len(y)), y, np.ones(len(y)), max_bins + 1)
    left = np.cumsum(cells[0, : int(chosen.n_bins[0])], axis=0)[:-1]
    coarse = _gain(left[:, 0], left[:, 2], y)
    fine = _gain(np.cumsum(y)[:-1], np.arange(1, len(y)), y)
    figure, (axes,) = new_figure(f"{max_bins} bins against {len(y)} exact cuts", height=3.0)
    axes.plot(x[:-1, 0], fine, color=GREY, label="every cut")
    axes.plot(chosen.edges[0], coarse, "o", color=BLUE, markersize=4, label="cuts between bins")
    axes.set(xlabel="threshold", ylabel="gain (fall of squared error)")
    axes.legend(frameon=False, fontsize=8)
    show(figure)
    return (exact.gain if exact else 0.0), float(coarse.max(initial=0.0))


def _gain(left_sum: np.ndarray, n_left: np.ndarray, y: np.ndarray) -> np.ndarray:
    total, n = y.sum(), len(y)
    gain = left_sum**2 / n_left + (total - left_sum) ** 2 / (n - n_left) - total**2 / n
    return np.asarray(gain)


def lambdas(score_of_best: float) -> np.ndarray:
    """Six results, the only excellent one at this score; draws who is pushed where."""
    grade = np.array([0.0, 1.0, 0.0, 3.0, 0.0, 1.0])
    scores = np.array([2.0, 1.5, 1.0, score_of_best, 0.0, -0.5])
    push = -LambdaMART(grade, np.array([6]), normalise=False).gradients(scores)[0]
    figure, (axes,) = new_figure("Lambdas of one query: up is towards the top", height=3.0)
    order = np.argsort(-scores, kind="stable")
    for rank, row in enumerate(order):
        colour = GREEN if push[row] > 0 else ORANGE
        axes.plot([rank + 1, rank + 1], [0, push[row]], color=colour, linewidth=5,
                  solid_capstyle="butt")  # fmt: skip
        axes.annotate(f"grade {grade[row]:.0f}", (rank + 1, push[row]), ha="center",
                      xytext=(0, 5 if push[row] > 0 else -12), textcoords="offset points",
                      fontsize=8)  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.margins(y=0.2)
    axes.set(xlabel="rank now", ylabel="push (minus lambda)")
    show(figure)
    return np.asarray(push)


def missing(value_where_missing: float) -> dict[str, float]:
    """40% of the rows lack x; returns the prediction for a missing x, natively and mean-filled."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    gone = rng.random(2000) < 0.4
    y = np.where(gone, value_where_missing, 2 * x[:, 0]) + 0.1 * rng.normal(size=2000)
    holes = np.where(gone[:, None], np.nan, x)
    filled = np.where(gone[:, None], np.nanmean(holes), x)
    config = BoostingConfig(n_trees=60)
    native, imputed = fit(holes, y, config), fit(filled, y, config)
    ordinary = np.array([[np.nanmean(holes)]])  # a row that has the mean as its real value
    return {
        "native, missing": float(native.predict(np.array([[np.nan]]))[0]),
        "native, present and average": float(native.predict(ordinary)[0]),
        "mean-filled, missing": float(imputed.predict(ordinary)[0]),
        "mean-filled, present and average": float(imputed.predict(ordinary)[0]),
    }


def shop(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sales: price twice (in euro, in cents, a little noisy), distance, a number, weekends."""
    rng = np.random.default_rng(seed)
    price, distance = rng.exponential(10, n), rng.exponential(3, n)
    weekend = rng.integers(0, 2, n)
    cents = 100 * price * np.exp(0.02 * rng.normal(size=n))
    x = np.column_stack([price, cents, distance, rng.permutation(n), weekend]).astype(float)
    sales = 20 * np.exp(-price / 10) - distance + 1.0 * weekend + 2 * rng.normal(size=n)
    return x, sales


def importances() -> dict[str, dict[str, float]]:
    """Four importances of a model of the shop; draws them; shares by kind and feature."""
    (x, y), (new_x, new_y) = shop(3000, 0), shop(3000, 1)
    model = fit(x, y, BoostingConfig(n_trees=80))
    raw = {
        "gain": gain_importance(model.forest, len(NAMES)),
        "split": split_importance(model.forest, len(NAMES)),
        "permutation": permutation_importance(
            lambda rows: -float(np.mean((model.predict(rows) - new_y) ** 2)), new_x
        ),
        "shap": shap_importance(model.forest, new_x[:300]),
    }
    shares = {kind: values / np.abs(values).sum() for kind, values in raw.items()}
    figure, axes = new_figure("Four importances of one model", panels=4, height=2.8)
    for one, (kind, share) in zip(axes, shares.items(), strict=True):
        one.barh(range(len(NAMES)), share, color=BLUE)
        one.set_title(kind, fontsize=9)
        one.set_yticks(range(len(NAMES)), NAMES if kind == "gain" else [""] * len(NAMES))
        one.invert_yaxis()
        one.set_xlabel("share", fontsize=8)
    show(figure)
    return {
        kind: dict(zip(NAMES, share.round(3).tolist(), strict=True))
        for kind, share in shares.items()
    }


def why(row: int) -> float:
    """Draws the TreeSHAP contributions of one day in the shop; returns what they sum to."""
    x, y = shop(3000, 0)
    model = fit(x, y, BoostingConfig(n_trees=80))
    values = tree_shap(model.forest, x[row : row + 1])[0]
    start = model.initial_score + values[-1]
    figure, (axes,) = new_figure(f"Day {row}: from the mean to the prediction", height=3.0)
    ends = start + np.cumsum(values[:-1])
    for place, (end, value) in enumerate(zip(ends, values[:-1], strict=True)):
        axes.barh(place, value, left=end - value, color=GREEN if value > 0 else ORANGE)
    axes.axvline(start, color=BLACK, linewidth=0.8, linestyle=":")
    axes.axvline(ends[-1], color=BLACK, linewidth=0.8)
    labels = [f"{name} = {v:.1f}" for name, v in zip(NAMES, x[row], strict=True)]
    axes.set_yticks(range(len(NAMES)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel("sales (dotted: mean, line: prediction)")
    show(figure)
    return float(ends[-1])
