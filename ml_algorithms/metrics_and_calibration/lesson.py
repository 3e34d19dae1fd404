"""What the notebook draws: a miscalibrated model and its repair, noise in the ECE, sampled ranks.

In: knobs. Out: figures. All data is generated.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.metrics_and_calibration import calibration as maps
from ml_algorithms.metrics_and_calibration.calibration_measures import ece_of_the_calibrated
from ml_algorithms.metrics_and_calibration.sampled import expected_ndcg
from ml_platform.evaluation.classification_metrics import (
    expected_calibration_error,
    log_loss,
    reliability_curve,
)
from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure

FITS = {
    "none": None,
    "temperature": maps.fit_temperature,
    "platt": maps.fit_platt,
    "beta": maps.fit_beta,
    "isotonic": maps.fit_isotonic,
    "histogram": maps.fit_histogram,
}


def overconfident(n: int, factor: float, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions whose log-odds are ``factor`` times too large and shifted, and true labels."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-0.5, 1.2, n)
    labels = (rng.random(n) < maps.sigmoid(truth)).astype(np.int64)
    return maps.sigmoid(factor * truth + shift), labels


def draw_repair(
    method: str = "platt", rows: int = 1000, factor: float = 2.5, shift: float = 0.5
) -> Figure:
    """Reliability before and after a map fitted on ``rows`` rows, judged on 20,000 others.

    Raises:
        ValueError: On an unknown method.
    """
    if method not in FITS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(FITS)}")
    test, labels = overconfident(20_000, factor, shift, seed=1)
    fit = FITS[method]
    mapped = test
    if fit is not None:
        mapped = fit(*overconfident(rows, factor, shift, seed=2)).probability(test)
    figure, (axes,) = new_figure(f"{method}, fitted on {rows:,} rows", height=4.0)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for p, name, colour in ((test, "before", BLACK), (mapped, "after", ORANGE)):
        curve = reliability_curve(labels, p, bins=15)
        ece, loss = expected_calibration_error(labels, p, bins=15), log_loss(labels, p)
        label = f"{name}: ECE {ece:.3f}, log loss {loss:.3f}"
        axes.plot(curve.predicted, curve.observed, "o-", color=colour, label=label)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share of ones")
    axes.legend(frameon=False, loc="upper left")
    return figure


def draw_noise(rows: int = 500, bins: int = 15) -> Figure:
    """The ECE of a model that is right by construction, drawn many times."""
    rng = np.random.default_rng(0)
    p = maps.sigmoid(rng.normal(-0.5, 1.2, rows))
    values = [
        expected_calibration_error((rng.random(rows) < p).astype(np.int64), p, bins=bins)
        for _ in range(200)
    ]
    figure, (axes,) = new_figure(f"ECE of a perfect model: {rows} rows, {bins} bins", height=3.2)
    axes.hist(values, bins=30, color=BLUE)
    mean = ece_of_the_calibrated(p, bins=bins)
    axes.axvline(mean, color=ORANGE)
    axes.text(mean, axes.get_ylim()[1] * 0.95, f"  mean {mean:.3f}", color=ORANGE, va="top")
    axes.set_xlim(0, None)
    axes.set_xlabel("ECE")
    axes.set_ylabel("draws of the labels")
    return figure


def draw_sampled(sampled: int = 100, catalogue: int = 10_000) -> Figure:
    """What "NDCG@10" gives for each true rank, on the whole catalogue and on a sample."""
    ranks = np.unique(np.geomspace(1, catalogue, 300).astype(np.int64))
    figure, (axes,) = new_figure(f"NDCG@10 against {sampled} of {catalogue:,} items", height=3.6)
    exact = expected_ndcg(ranks, catalogue, catalogue, 10)
    axes.plot(ranks, exact, color=BLACK, label="whole catalogue")
    expected = expected_ndcg(ranks, catalogue, sampled, 10)
    axes.plot(ranks, expected, color=GREEN, label=f"{sampled} sampled negatives")
    axes.set_xscale("log")
    axes.set_xlabel("true rank of the relevant item (log scale)")
    axes.set_ylabel("credit")
    axes.legend(frameon=False)
    return figure
