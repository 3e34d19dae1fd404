"""Lab: a ranker learns from clicks on lists that another ranker ordered.

The old ranker puts fresh items first. People look at the first places and hardly at the last ones,
so fresh items get the clicks. Nobody in this world wants freshness; a model trained on the clicks
learns that everybody does. And the offline test, made of the same clicks, agrees with it.

Two fixes. Measure how often a place is examined, by swapping the first item to random places on a
small share of traffic, and count a click at place k for 1 / P(examined at k): Joachims, Swaminathan
and Schnabel, "Unbiased Learning-to-Rank with Biased Feedback", WSDM 2017. Or give the model the
place as a feature in training and the same constant place for all items at serving: Zhao et al.,
"Recommending What Video to Watch Next: A Multitask Ranking System", RecSys 2019, feed it to a
shallow tower.

In: a simulated log (``clicks``). Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom, Value
from ml_platform.evaluation.plot_style import BLACK, BLUE, ORANGE, new_figure
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.ranking_metrics import ndcg_at
from video_recommendation.commands import Run
from video_recommendation.labs.clicks import (
    FEATURES,
    OLD_RANKER,
    Clicks,
    ClickSettings,
    draw_clicks,
    examination_from_swaps,
    fit_logistic,
)

FRESHNESS = FEATURES.index("freshness")
TEST_SHARE = 0.25
"""Of the users: models are judged on people they have not learned from."""


def run(run: Run) -> LabReport:
    """The lab; it brings its own world, whatever the data of the run."""
    return measure(ClickSettings(), run.progress, seed=run.config.seed)


def measure(settings: ClickSettings, progress: Progress, *, seed: int = 0) -> LabReport:
    """Draws a log, learns from it in four ways, and judges each by the clicks and by the truth."""
    with progress.stage("an old ranker serves, people click", 1):
        log = draw_clicks(settings, seed)
    is_test = log.user < TEST_SHARE * (log.user.max() + 1)
    train, test = log.part(np.flatnonzero(~is_test)), log.part(np.flatnonzero(is_test))
    swaps = examination_from_swaps(train)
    with progress.stage("healthy, broken, fixed: four rankers", 1):
        weights = rankers(train, np.array([estimate.value for estimate in swaps]), seed)
    values = {name: true_value(test, weight) for name, weight in weights.items()}
    rows = symptoms(test, weights, values)
    main = ("healthy", "broken", "fixed")
    other = {"old_ranker": "the old ranker itself", "position_feature": "position as a feature"}
    broken = weights["broken"]
    return LabReport(
        source=Source.simulation(settings),
        protocol=(
            f"simulation: {len(train.user)} requests to learn, {len(test.user)} by other users "
            f"to judge by, lists of {settings.k}, place k examined with k^-{settings.position_bias}"
        ),
        main=Comparison(
            "Learning from the clicks on another ranker's lists",
            {
                "healthy": "healthy: true labels",
                "broken": "broken: clicks as they are",
                "fixed": "fixed: clicks / P(examined)",
            },
            tuple(row.only(main) for row in rows),
        ),
        alarm=(
            f"swap test: place {settings.k} is examined {swaps[-1].value:.2f} times as often as "
            f"place 1. Freshness weighs {broken[FRESHNESS]:+.2f} in the model trained on clicks "
            f"and {weights['fixed'][FRESHNESS]:+.2f} with them weighted (truth: 0)."
        ),
        more=(
            Comparison(
                "The old ranker, and the other fix",
                other,
                tuple(row.only(other) for row in rows),
            ),
            examination(train, swaps),
        ),
        figure=figure(train, swaps),
    )


def rankers(train: Clicks, examined: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Weights f64[F] of each ranker; ``examined`` f64[K] is as estimated from the swaps.

    Only ordinary requests are learned from. The intercept and the places' weights are the same for
    all items of a request at serving, so they do not change an order and are dropped.
    """
    rows = np.flatnonzero(train.swap < 0)
    shown, clicked = train.shown[rows], train.clicked[rows].astype(np.float64)
    n, k, f = shown.shape
    x = np.concatenate([shown.reshape(-1, f), np.ones((n * k, 1))], axis=1)
    places = np.tile(np.eye(k)[:, 1:], (n, 1))
    would_watch = np.random.default_rng((seed, 3)).random((n, k)) < train.wanted[rows, :k]
    clicks = clicked.ravel()
    return {
        "healthy": fit_logistic(x, would_watch.ravel().astype(np.float64))[:f],
        "broken": fit_logistic(x, clicks)[:f],
        "fixed": fit_logistic(x, (clicked / examined).ravel())[:f],
        "position_feature": fit_logistic(np.concatenate([x, places], axis=1), clicks)[:f],
        "old_ranker": OLD_RANKER,
    }


def true_value(test: Clicks, weight: np.ndarray) -> np.ndarray:
    """Expected watches f64[Q] of the list that the ranker makes of the candidates."""
    order = np.argsort(-(test.candidates @ weight), axis=1)[:, : len(test.examined)]
    return np.take_along_axis(test.wanted, order, axis=1) @ test.examined


def click_ndcg(test: Clicks, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NDCG@10 on logged clicks, for lists with a click, and their users: the usual offline test."""
    rows = np.flatnonzero(test.clicked.any(axis=1) & (test.swap < 0))
    clicked = test.clicked[rows]
    order = np.argsort(-(test.shown[rows] @ weight), axis=1)
    hits = np.take_along_axis(clicked, order, axis=1)
    return ndcg_at(hits, clicked.sum(axis=1), hits.shape[1]), test.user[rows]


def symptoms(
    test: Clicks, weights: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> tuple[Symptom, ...]:
    """The rows of the tables: first what the offline test says, then the truth."""
    offline: dict[str, Value] = {}
    for name, weight in weights.items():
        ndcg, users = click_ndcg(test, weight)
        offline[name] = bootstrap_mean(ndcg, users)
    watches = {name: bootstrap_mean(value, test.user) for name, value in values.items()}
    lost = {
        name: bootstrap_difference(value, values["healthy"], test.user)
        for name, value in values.items()
    }
    fresh = {name: float(weight[FRESHNESS]) for name, weight in weights.items()}
    return (
        Symptom("click_ndcg@10", "NDCG@10 on logged clicks", offline),
        Symptom("watches", "expected watches per list (truth)", watches),
        Symptom("watches_minus_healthy", "minus healthy", lost, "+.3f"),
        Symptom("weight_freshness", "weight of freshness (truth: 0)", fresh, "+.2f"),
    )


def examination(train: Clicks, swaps: list[Estimate]) -> Comparison:
    """P(examined) by place: truth, swaps, and the click rate of the place."""
    rate = train.clicked[train.swap < 0].mean(axis=0)
    places = {f"place_{k + 1}": f"place {k + 1}" for k in range(len(swaps))}
    return Comparison(
        "How often is a place examined, relative to the first?",
        places,
        (
            Symptom("examined", "truth", dict(zip(places, train.examined, strict=True))),
            Symptom("examined_by_swaps", "swaps", dict(zip(places, swaps, strict=True))),
            Symptom("click_rate", "its click rate", dict(zip(places, rate / rate[0], strict=True))),
        ),
        by_variant=True,
    )


def figure(train: Clicks, swaps: list[Estimate]) -> Figure:
    """The examination curve in three ways."""
    picture, (axes,) = new_figure("How often is a place examined, relative to the first?")
    place = np.arange(1, len(swaps) + 1)
    rate = train.clicked[train.swap < 0].mean(axis=0)
    axes.plot(place, train.examined, color=BLACK, label="truth")
    axes.plot(place, rate / rate[0], color=ORANGE, marker="s", label="click rate of the place")
    value = np.array([estimate.value for estimate in swaps])
    low = np.array([estimate.low for estimate in swaps], dtype=np.float64)
    high = np.array([estimate.high for estimate in swaps], dtype=np.float64)
    axes.errorbar(
        place, value, [value - low, high - value], color=BLUE, marker="o", ls="none", label="swaps"
    )
    axes.set_xlabel("place in the list")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return picture
