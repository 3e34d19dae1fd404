"""Part `quality`: who ranks well, who predicts ratings well, and that these are two questions.

In: the data set of the configuration. Out: nDCG@10 and recall@10 of every tuned model over the
seeds with intervals (users resampled), differences to our iALS paired by user; RMSE of the rating
models on the same hidden ratings, and what the same models are worth as rankers.

Legend: U users, I items, T users with hidden ratings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from scipy import sparse

from ml_algorithms.matrix_factorization.als import ExplicitObjective, fit_als
from ml_algorithms.matrix_factorization.bench_config import StudyConfig
from ml_algorithms.matrix_factorization.bench_data import (
    Split,
    dataset_of,
    lists_of,
    ndcg,
    recall,
    split_of,
    tuning_split_of,
)
from ml_algorithms.matrix_factorization.bench_models import (
    NAMES,
    Settings,
    grid,
    one_thread,
    setting_text,
    side_by_side,
    tuned,
    tuned_lists,
)
from ml_algorithms.matrix_factorization.funk_svd import RatingModel, fit_biases, fit_funk_svd
from ml_algorithms.study_data import SYNTHETIC
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREY,
    ORANGE,
    interval_dot,
    named_rows,
    new_figure,
)
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

REFERENCE = "ials"
RATING_NAMES = {
    "biases": "Biases alone",
    "als_raw": "Explicit ALS on stars",
    "als_residual": "Explicit ALS on what biases leave",
    "funk_svd": "FunkSVD with biases",
}


def fit_als_raw(ratings: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """Explicit ALS as Spark has it: stars as they are, no mean, no biases."""
    model = fit_als(
        ratings, ExplicitObjective(settings["reg"]), factors=settings["factors"], seed=seed
    )
    return model.score(model.user_factors)


def fit_als_residual(ratings: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """The same on the residuals of the bias model."""
    baseline = all_pairs(fit_biases(ratings))
    residuals = ratings.copy()
    user = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    residuals.data = (ratings.data - baseline[user, ratings.indices]).astype(np.float32)
    return baseline + fit_als_raw(residuals, seed, **settings)


def all_pairs(model: RatingModel) -> np.ndarray:
    """Predictions [U, I]."""
    biases = model.mean + model.user_bias[:, None] + model.item_bias[None, :]
    return np.asarray(biases + model.user_factors @ model.item_factors.T)


RATERS: dict[str, Callable[..., np.ndarray]] = {
    "biases": lambda ratings, seed, **settings: all_pairs(fit_biases(ratings, **settings)),
    "als_raw": fit_als_raw,
    "als_residual": fit_als_residual,
    "funk_svd": lambda ratings, seed, **settings: all_pairs(
        fit_funk_svd(ratings, seed=seed, **settings)
    ),
}
RATING_GRIDS: dict[str, list[Settings]] = {
    "biases": grid(damping=(1.0, 2.0, 3.0, 5.0, 8.0, 12.0)),
    "als_raw": grid(factors=(4, 8, 16), reg=(0.05, 0.1, 0.15, 0.2)),
    "als_residual": grid(factors=(16, 32, 64), reg=(0.1, 0.15, 0.2, 0.3)),
    "funk_svd": grid(factors=(48, 96), reg=(0.1, 0.14, 0.18), epochs=(60, 100)),
}
SMALL_RATING_GRIDS: dict[str, list[Settings]] = {
    "biases": grid(damping=(3.0,)),
    "als_raw": grid(factors=(4,), reg=(0.1,)),
    "als_residual": grid(factors=(4,), reg=(0.2,)),
    "funk_svd": grid(factors=(4,), epochs=(5,)),
}


def squared_errors(predicted: np.ndarray, split: Split) -> np.ndarray:
    """Of every hidden rating, predictions clipped to the scale, f64[N]."""
    user = np.repeat(np.arange(split.test.shape[0]), np.diff(split.test.indptr))
    guess = np.clip(predicted[user, split.test.indices], 1.0, 5.0)
    return np.asarray((guess - split.test.data) ** 2, dtype=np.float64)


@cache
def tuned_rater(dataset: str, model: str) -> Settings:
    """The grid's setting of least error on the tuning split."""
    choices = (SMALL_RATING_GRIDS if dataset == SYNTHETIC else RATING_GRIDS)[model]
    split = tuning_split_of(dataset)

    def error(settings: Settings) -> float:
        predicted = RATERS[model](split.train_ratings, 0, **settings)
        return float(squared_errors(predicted, split).mean())

    return choices[int(np.argmin(side_by_side(error, choices)))]


def run_quality(run: StudyRun[StudyConfig]) -> None:
    """The whole part."""
    config, dataset = run.config, dataset_of(run.config.dataset)
    results = run.results_of(dataset)
    _rankers(run, config, results)
    _raters(run, config, results)
    run.picture("rank", _picture(results))


def _protocol(config: StudyConfig) -> str:
    return (
        "a random 25% of each user's ratings hidden, all ratings relevant, full catalogue less "
        f"train items, {len(config.seeds)} seeds pooled, users resampled for the interval"
    )


def _rankers(run: StudyRun[StudyConfig], config: StudyConfig, results: Results) -> None:
    splits = [split_of(config.dataset, seed) for seed in config.seeds]
    users = np.concatenate([split.users for split in splits])
    pooled: dict[str, np.ndarray] = {}
    with run.progress.stage("tune and fit", len(NAMES)) as step:
        for model in NAMES:
            settings = tuned(config.dataset, model)  # before the threads, that both would tune
            lists = [
                one[:, :10]
                for one in side_by_side(partial(tuned_lists, config.dataset, model), config.seeds)
            ]
            per_seed = [ndcg(one, split) for one, split in zip(lists, splits, strict=True)]
            pooled[model] = np.concatenate(per_seed)
            found = [recall(one, split) for one, split in zip(lists, splits, strict=True)]
            text = f"{_protocol(config)}; {setting_text(settings)}"
            results.add(
                f"quality/{model}/ndcg@10", bootstrap_mean(pooled[model], users), protocol=text
            )
            results.add(
                f"quality/{model}/recall@10",
                bootstrap_mean(np.concatenate(found), users),
                protocol=text,
            )
            spread = float(np.std([one.mean() for one in per_seed], ddof=min(1, len(per_seed) - 1)))
            results.add(
                f"quality/{model}/ndcg@10_sd", spread, protocol=f"{text}; sd over seeds",
                n=len(config.seeds),
            )  # fmt: skip
            step(1)
    for model in NAMES:
        if model != REFERENCE:
            results.add(
                f"quality/{model}/ndcg@10_over_ials",
                bootstrap_difference(pooled[model], pooled[REFERENCE], users),
                protocol=f"{_protocol(config)}; difference paired by user",
            )


def _raters(run: StudyRun[StudyConfig], config: StudyConfig, results: Results) -> None:
    splits = {seed: split_of(config.dataset, seed) for seed in config.seeds}
    errors: dict[str, np.ndarray] = {}
    owner = np.concatenate(
        [np.repeat(np.arange(s.test.shape[0]), np.diff(s.test.indptr)) for s in splits.values()]
    )
    with run.progress.stage("predict ratings", len(RATERS)) as step:
        for model, fit in RATERS.items():
            settings = tuned_rater(config.dataset, model)
            text = f"{_protocol(config)}; stars, clipped to 1..5; {setting_text(settings)}"
            per_seed, ranked = [], []
            for seed, split in splits.items():
                with one_thread():
                    predicted = fit(split.train_ratings, seed, **settings)
                per_seed.append(squared_errors(predicted, split))
                ranked.append(ndcg(lists_of(predicted, split.train), split))
            errors[model] = np.concatenate(per_seed)
            mean = bootstrap_mean(errors[model], owner)
            results.add(f"ratings/{model}/mse", mean, protocol=text)
            results.add(
                f"ratings/{model}/rmse", float(np.sqrt(mean.value)), protocol=text, n=mean.n
            )
            users = np.concatenate([split.users for split in splits.values()])
            results.add(
                f"ratings/{model}/ndcg@10",
                bootstrap_mean(np.concatenate(ranked), users),
                protocol=f"{text}; items ranked by predicted stars",
            )
            step(1)
    for model in RATERS:
        if model != "biases":
            results.add(
                f"ratings/{model}/mse_over_biases",
                bootstrap_difference(errors[model], errors["biases"], owner),
                protocol=f"{_protocol(config)}; difference of squared errors, paired by rating",
            )


def _picture(results: Results) -> Any:
    """Rankers and raters on one axis of nDCG@10."""
    rows = [(NAMES[m], f"quality/{m}/ndcg@10", BLUE) for m in NAMES]
    rows += [(RATING_NAMES[m], f"ratings/{m}/ndcg@10", ORANGE) for m in RATING_NAMES]
    rows.sort(key=lambda row: -results[row[1]].value)
    figure, (axes,) = new_figure("Models of clicks rank; models of stars do not", height=4.6)
    named_rows(axes, [name for name, _, _ in rows])
    for place, (name, key, colour) in enumerate(rows):
        metric = results[key]
        shown = GREY if name == NAMES["popularity"] else colour
        marker = "s" if colour == ORANGE else "o"
        interval_dot(
            axes, place, (metric.value, metric.low, metric.high), colour=shown, marker=marker
        )
    axes.set_xlim(left=0.0)
    axes.set_xlabel("nDCG@10, 95% interval; squares are fitted on stars")
    return figure
