"""Figures of ``rankers``. SYNTHETIC data, which every title says.

In: results. Out: matplotlib figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ml_platform.evaluation.classification_metrics import ReliabilityCurve
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    interval_dot,
    named_rows,
    new_figure,
)
from ml_platform.evaluation.results import Metric, Results

NAMES = {
    "random": "random",
    "popularity": "popularity",
    "similarity": "similarity (no ranker)",
    "trees": "trees",
    "cross_mlp": "cross MLP",
    "oracle_anyone": "truth, user unknown",
    "oracle": "truth, user known",
}
COLOURS = {
    "random": GREY,
    "popularity": GREY,
    "similarity": ORANGE,
    "trees": BLUE,
    "cross_mlp": BLUE,
    "oracle_anyone": GREEN,
    "oracle": GREEN,
}
CORRECTION_NAMES = {
    "none_raw": "none, raw click rates",
    "none": "none",
    "feature": "place as a feature",
    "ips": "inverse propensity",
    "examination": "examination model",
}


def rankers_figure(results: Results, names: Sequence[str]) -> Figure:
    """NDCG@10 and expected clicks of every order."""
    figure, panels = new_figure("Orders of the candidates, judged by a SYNTHETIC truth", panels=2)
    labels = ("NDCG@10", "clicks expected on a page of 20")
    for axes, metric, label in zip(panels, ("ndcg@10", "expected_clicks"), labels, strict=True):
        for place, name in enumerate(names):
            colour = GREY if name in ("random", "popularity") else BLUE
            colour = {"similarity": ORANGE, "oracle": GREEN, "oracle_anyone": GREEN}.get(
                name, colour
            )
            interval_dot(axes, place, _ends(results[f"rankers/{name}/{metric}"]), colour=colour)
        named_rows(axes, [NAMES[name] for name in names])
        axes.set_xlabel(label)
    panels[1].set_yticklabels([])
    return figure


def corrections_figure(results: Results, corrections: Sequence[str]) -> Figure:
    """Expected clicks of both rankers under every treatment of the places."""
    figure, (axes,) = new_figure("What ignoring the place costs (SYNTHETIC)", height=3.4)
    for kind, colour, marker, shift in (
        ("trees", BLUE, "o", -0.13),
        ("cross_mlp", ORANGE, "s", 0.13),
    ):
        for place, name in enumerate(corrections):
            key = f"corrections/{kind}.{name}/expected_clicks"
            if key in results:
                label = NAMES[kind] if name == "none" else None
                ends = _ends(results[key])
                interval_dot(axes, place + shift, ends, colour=colour, marker=marker, label=label)
    axes.axvline(
        results["rankers/similarity/expected_clicks"].value, color=GREY, linestyle="--",
        label="similarity (no ranker)",
    )  # fmt: skip
    named_rows(axes, [CORRECTION_NAMES[name] for name in corrections])
    axes.set_xlabel("clicks expected on a page of 20, test queries")
    axes.legend(frameon=False, fontsize=8)
    return figure


def ablation_figure(results: Results, groups: Sequence[str]) -> Figure:
    """What every group of features is worth to the trees."""
    figure, (axes,) = new_figure("Trees without a group of features (SYNTHETIC)", height=3.2)
    for place, group in enumerate(groups):
        metric = results[f"ablation/trees.without_{group}/ndcg@10_difference"]
        interval_dot(axes, place, _ends(metric), colour=BLUE)
    axes.axvline(0, color=GREY, linestyle="--")
    named_rows(axes, list(groups))
    axes.set_xlabel("difference of NDCG@10 to all features, test queries")
    return figure


def reliability_figure(curves: dict[str, ReliabilityCurve]) -> Figure:
    """Predicted chance of a click against clicks, on logged pages of the test days."""
    figure, (axes,) = new_figure("Predicted and observed clicks (SYNTHETIC)", height=3.8)
    top = max(float(curve.predicted.max()) for curve in curves.values())
    axes.plot([0, top], [0, top], color=GREY, linestyle="--", label="calibrated")
    for (name, curve), colour, marker in zip(
        curves.items(), (BLUE, ORANGE, GREEN), ("o", "s", "^"), strict=False
    ):
        axes.plot(curve.predicted, curve.observed, color=colour, marker=marker, label=NAMES[name])
    axes.set_xlabel("predicted chance of a click")
    axes.set_ylabel("share clicked")
    axes.legend(frameon=False)
    return figure


def _ends(metric: Metric) -> tuple[float, float | None, float | None]:
    return metric.value, metric.low, metric.high
