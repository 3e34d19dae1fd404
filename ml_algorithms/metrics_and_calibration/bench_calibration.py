"""Part ``calibration``: five maps on the scores of real models, by the size of the fitting set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_algorithms.metrics_and_calibration import calibration as maps
from ml_algorithms.metrics_and_calibration.bench_config import Config, load
from ml_algorithms.metrics_and_calibration.calibration_measures import (
    brier_parts,
    brier_score,
    ece_of_the_calibrated,
)
from ml_algorithms.metrics_and_calibration.like_task import LikeTask, Window, build_like_task
from ml_platform.evaluation.classification_metrics import (
    auc,
    expected_calibration_error,
    log_loss,
    reliability_curve,
)
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    new_figure,
)
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError, StudyRun

Model = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], maps.Calibrator]

METHODS: dict[str, Fit] = {
    "temperature": maps.fit_temperature,
    "platt": maps.fit_platt,
    "beta": maps.fit_beta,
    "histogram": maps.fit_histogram,
    "isotonic": maps.fit_isotonic,
}
LOOKS = {
    "raw": ("as the model says", BLACK, "x"),
    "temperature": ("temperature", SKY, "D"),
    "platt": ("Platt", BLUE, "o"),
    "beta": ("beta", GREEN, "^"),
    "histogram": ("histogram, 15 bins", PINK, "v"),
    "isotonic": ("isotonic", ORANGE, "s"),
}
MODELS = ("boosted_trees", "naive_bayes", "logistic")
USER_RESAMPLES = 200


def fit_model(name: str, train: Window, config: Config, seed: int) -> Model:
    """A classifier by name; returns features f[N, F] -> probabilities f[N].

    Raises:
        MissingInputError: If LightGBM is not installed.
        ValueError: On an unknown name.
    """
    if name == "boosted_trees":
        return _boosted_trees(train, config, seed)
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name not in ("naive_bayes", "logistic"):
        raise ValueError(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    learner = GaussianNB() if name == "naive_bayes" else LogisticRegression(max_iter=500)
    fitted = make_pipeline(StandardScaler(), learner).fit(train.features, train.labels)
    return lambda features: np.asarray(fitted.predict_proba(features)[:, 1])


def _boosted_trees(train: Window, config: Config, seed: int) -> Model:
    try:
        import lightgbm
    except ImportError as error:
        raise MissingInputError("lightgbm is missing: install the extra 'algorithms'") from error
    knobs = {
        "objective": "binary", "num_leaves": 63, "learning_rate": 0.1, "num_threads": 1,
        "min_data_in_leaf": 5, "seed": seed, "deterministic": True, "verbose": -1,
    }  # fmt: skip
    data = lightgbm.Dataset(train.features, train.labels)
    booster = lightgbm.train(knobs, data, num_boost_round=config.trees)
    return lambda features: np.asarray(booster.predict(features, num_threads=1))


def run_calibration(run: StudyRun[Config]) -> None:
    """Measures the part."""
    config = run.config
    data = load(config)
    results = run.results_of(data)
    task = build_like_task(data)
    protocol = (
        f"{data.name}, like = rating >= 4, by time: counters from the first 50% of rows, train "
        f"20%, calibrate 15%, test 15% ({len(task.test.labels)} rows of "
        f"{len(np.unique(task.test.users))} users), {config.bins} bins of equal mass"
    )
    curves: dict[str, dict[str, list[Estimate]]] = {}
    shapes: dict[str, np.ndarray] = {}
    with run.progress.stage("models", len(MODELS)) as step:
        for name in MODELS:
            model = fit_model(name, task.train, config, run.seed)
            held, test = model(task.calibration.features), model(task.test.features)
            found = _whole(results, name, held, test, task, config, protocol)
            if name == "boosted_trees":
                shapes = found
                curves = _by_size(results, name, held, test, task, config, protocol)
            step(1)
    _down_sampling(results, task, config, run.seed, protocol)
    _null(results, task, shapes["platt"], config, run, protocol)
    _draw(run, task, shapes, curves)


def _whole(
    results: Results,
    name: str,
    held: np.ndarray,
    test: np.ndarray,
    task: LikeTask,
    config: Config,
    protocol: str,
) -> dict[str, np.ndarray]:
    """Every map fitted on the whole calibration window; the test window's probabilities."""
    labels, users = task.test.labels, task.test.users
    mapped = {"raw": test}
    for method, fit in METHODS.items():
        mapped[method] = fit(held, task.calibration.labels).probability(test)
    for method, p in mapped.items():
        key = f"{name}/{method}"
        clipped = np.clip(p, 1e-15, 1 - 1e-15)
        row_loss = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
        results.add(f"{key}/log_loss", bootstrap_mean(row_loss, users), protocol=protocol)
        results.add(f"{key}/brier", bootstrap_mean(np.square(p - labels), users), protocol=protocol)
        results.add(f"{key}/ece", _ece_by_users(labels, p, users, config), protocol=protocol)
        results.add(f"{key}/auc", auc(labels, p), n=len(labels), protocol=protocol)
        parts = brier_parts(labels, p, bins=config.bins)
        results.add(f"{key}/reliability", parts.reliability, protocol=protocol)
        results.add(f"{key}/resolution", parts.resolution, protocol=protocol)
    return mapped


def _ece_by_users(labels: np.ndarray, p: np.ndarray, users: np.ndarray, config: Config) -> Estimate:
    """ECE with an interval from whole users drawn anew: it is no mean over rows."""
    value = expected_calibration_error(labels, p, bins=config.bins)
    order = np.argsort(users, kind="stable")
    _, starts = np.unique(users[order], return_index=True)
    rows_of = np.split(order, starts[1:])
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(USER_RESAMPLES):
        rows = np.concatenate([rows_of[u] for u in rng.integers(len(rows_of), size=len(rows_of))])
        drawn.append(expected_calibration_error(labels[rows], p[rows], bins=config.bins))
    # A resample repeats rows, which adds noise to an error that noise makes larger: the interval is
    # shifted back so that it is centred on the estimate ("basic" around the resamples' mean).
    shift = value - float(np.mean(drawn))
    low, high = np.quantile(drawn, [0.025, 0.975]) + shift
    return Estimate(value, max(float(low), 0.0), float(high), len(labels))


def _by_size(
    results: Results,
    name: str,
    held: np.ndarray,
    test: np.ndarray,
    task: LikeTask,
    config: Config,
    protocol: str,
) -> dict[str, dict[str, list[Estimate]]]:
    """Maps fitted on random parts of the calibration window; means over draws."""
    sizes = [n for n in config.calibration_sizes if n < len(held)]
    curves: dict[str, dict[str, list[Estimate]]] = {
        method: {"log_loss": [], "ece": []} for method in METHODS
    }
    labels = task.test.labels
    for n in sizes:
        values: dict[tuple[str, str], list[float]] = {}
        for seed in range(config.calibration_seeds):
            rows = np.random.default_rng([seed, n]).choice(len(held), size=n, replace=False)
            for method, fit in METHODS.items():
                p = fit(held[rows], task.calibration.labels[rows]).probability(test)
                values.setdefault((method, "log_loss"), []).append(log_loss(labels, p))
                ece = expected_calibration_error(labels, p, bins=config.bins)
                values.setdefault((method, "ece"), []).append(ece)
        for (method, metric), found in values.items():
            estimate = bootstrap_mean(np.array(found))
            note = (
                f"{protocol}; fitted on {n} rows, mean of {len(found)} draws of these rows; the "
                "interval is over the draws of the fitting rows, the test rows stay the same"
            )
            results.add(f"{name}_{n}/{method}/{metric}", estimate, protocol=note)
            curves[method][metric].append(estimate)
    return curves


def _down_sampling(
    results: Results, task: LikeTask, config: Config, seed: int, protocol: str
) -> None:
    """Negatives thinned for training; the closed form against fitted maps."""
    rng = np.random.default_rng(seed)
    labels = task.train.labels
    keep = (labels == 1) | (rng.random(len(labels)) < config.kept_negatives)
    thinned = Window(task.train.features[keep], labels[keep], task.train.users[keep])
    model = fit_model("logistic", thinned, config, seed)
    held, test = model(task.calibration.features), model(task.test.features)
    found = {
        "raw": test,
        "closed_form": maps.undo_down_sampling(test, config.kept_negatives),
        "platt": maps.fit_platt(held, task.calibration.labels).probability(test),
        "all_rows": fit_model("logistic", task.train, config, seed)(task.test.features),
    }
    note = f"{protocol}; logistic regression, negatives kept with {config.kept_negatives:g}"
    for name, p in found.items():
        key = f"down_sampled/{name}"
        ece = _ece_by_users(task.test.labels, p, task.test.users, config)
        results.add(f"{key}/ece", ece, protocol=note)
        results.add(f"{key}/log_loss", log_loss(task.test.labels, p), protocol=note)
        results.add(f"{key}/brier", brier_score(task.test.labels, p), protocol=note)
        results.add(f"{key}/mean", float(p.mean()), protocol=note)
    results.add("down_sampled/truth/mean", float(task.test.labels.mean()), protocol=note)


def _null(
    results: Results,
    task: LikeTask,
    p: np.ndarray,
    config: Config,
    run: StudyRun[Config],
    protocol: str,
) -> None:
    """The ECE of a model that is right by construction, by rows and bins."""
    rng = np.random.default_rng(0)
    figure, (axes,) = new_figure("ECE of predictions that are exactly right", height=3.4)
    sizes = [n for n in (100, 300, 1000, 3000, 10_000) if n < len(p)]
    for bins, colour in ((5, BLUE), (config.bins, ORANGE), (50, GREEN)):
        values = []
        for n in sizes:
            rows = rng.choice(len(p), size=n, replace=False)
            value = ece_of_the_calibrated(p[rows], bins=bins, draws=config.null_draws)
            results.add(
                f"calibrated_by_construction/bins_{bins}/ece@{n}",
                value,
                n=n,
                protocol=f"labels drawn from the predictions, {config.null_draws} draws",
            )
            values.append(value)
        axes.plot(sizes, values, "o-", color=colour)
        axes.text(sizes[0] * 0.93, values[0], f"{bins} bins", color=colour, ha="right", va="center")
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 2.2, None)
    axes.set_xlabel("rows (log scale)")
    axes.set_ylabel("mean ECE")
    axes.set_ylim(0, None)
    run.picture("null", figure)
    value = ece_of_the_calibrated(p, bins=config.bins, draws=config.null_draws)
    results.add("calibrated_by_construction/test_window/ece", value, n=len(p), protocol=protocol)


def _draw(
    run: StudyRun[Config],
    task: LikeTask,
    shapes: dict[str, np.ndarray],
    curves: dict[str, dict[str, list[Estimate]]],
) -> None:
    figure, (left, right) = new_figure("Boosted trees, calibrated", panels=2, height=4.4)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for method in ("raw", "platt", "isotonic"):
        label, colour, marker = LOOKS[method]
        curve = reliability_curve(task.test.labels, shapes[method], bins=run.config.bins)
        left.plot(curve.predicted, curve.observed, marker=marker, color=colour, markersize=4)
    left.set_xlabel("predicted probability")
    left.set_ylabel("share of likes")
    left.set_title("reliability on the test window", fontsize=10)
    sizes = [n for n in run.config.calibration_sizes if n < len(task.calibration.labels)]
    right.axhline(log_loss(task.test.labels, shapes["raw"]), color=BLACK, linewidth=1)
    left.plot([], [], marker="x", color=BLACK, label=LOOKS["raw"][0])
    for method, found in curves.items():
        label, colour, marker = LOOKS[method]
        y = [one.value for one in found["log_loss"]]
        right.plot(sizes, y, marker=marker, color=colour, markersize=4)
        left.plot([], [], marker=marker, color=colour, label=label)
    # One certain error of a histogram costs 34.5 nats: its curve may leave the picture.
    top = max(log_loss(task.test.labels, shapes["raw"]), curves["platt"]["log_loss"][0].value)
    bottom = min(one.value for one in curves["platt"]["log_loss"])
    right.set_ylim(bottom - 0.15 * (top - bottom), top + 0.5 * (top - bottom))
    right.set_xscale("log")
    right.set_xlabel("rows to fit the map on (log scale)")
    right.set_title("log loss on the test window (nats)", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    run.picture("methods", figure)
