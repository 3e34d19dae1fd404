"""The plots of single parts: re-ranking trade-off, calibration, feature importance, index.

In: an ``Evaluation``. Out: one figure a function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    named_rows,
    new_figure,
)
from video_recommendation.config import Config
from video_recommendation.evaluation.reranking import SweepPoint
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.reporting.tables_quality import is_configured, mean_of_finite

METHOD_LOOK = {"mmr": (BLUE, "o", "MMR"), "dpp": (ORANGE, "s", "DPP")}
READING_LOOK = {"raw": (GREY, "x"), "platt": (BLUE, "s"), "isotonic": (ORANGE, "o")}
INDEX_LOOK = {"flat": (BLACK, "o"), "ivf": (BLUE, "s"), "hnsw": (ORANGE, "^"), "pq": (GREEN, "D")}
SHOWN_FEATURES = 12


def trade_off_plot(evaluation: Evaluation, config: Config) -> Figure:
    """NDCG@10 against intra-list distance in both spaces, along the trade-off of each method."""
    figure, panels = new_figure("What does diversity cost?", panels=2, height=3.9, share_y=True)
    plain = evaluation.sweep[0]
    ndcg = bootstrap_mean(plain.values["ndcg@10"], evaluation.sweep_users).value
    spaces = (("ild_genre@10", "genre space"), ("ild_embedding@10", "item-tower space"))
    for axes, (metric, space) in zip(panels, spaces, strict=True):
        axes.axhline(ndcg, color="0.6", linewidth=1, linestyle="--")
        for method, (colour, marker, name) in METHOD_LOOK.items():
            line = [point for point in evaluation.sweep if point.method == method]
            xy = np.array([_place(p, metric, evaluation) for p in (plain, *line)])
            look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
            axes.plot(xy[:, 0], xy[:, 1], linewidth=1.5, label=name, **look)
            for point, (x, y) in zip(line, xy[1:], strict=True):
                if is_configured(point, config):
                    axes.plot(x, y, marker="o", markersize=13, color="0.2", fillstyle="none")
            _name_ends(axes, line, xy[1:], colour, above=method == "dpp")
        x, y = _place(plain, metric, evaluation)
        axes.plot(x, y, marker="D", markersize=7, color=BLACK, label="no re-ranking")
        axes.set_xlabel(f"intra-list distance@10, {space}")
    panels[0].set_ylabel("NDCG@10")
    panels[0].legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def reliability_plot(evaluation: Evaluation) -> Figure:
    """Predicted against observed share of watches, both logarithmic."""
    figure, (axes,) = new_figure("Can the score be read as a probability?", height=4.2)
    points = []
    for name, calibration in evaluation.calibration.items():
        predicted, observed, _ = calibration.curve
        drawn = (predicted > 0) & (observed > 0)
        colour, marker = READING_LOOK.get(name, (GREEN, "D"))
        label = f"{name}, ECE {calibration.ece:.4f}"
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "label": label}
        axes.plot(predicted[drawn], observed[drawn], linewidth=1.3, **look)
        points += [*predicted[drawn], *observed[drawn]]
    low, high = min(points) / 1.5, min(1.0, max(points) * 1.5)
    axes.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--")
    axes.text(high, high, "calibrated ", ha="right", va="bottom", fontsize=9, color="0.35")
    for set_scale in (axes.set_xscale, axes.set_yscale):
        set_scale("log")
    _percent(axes)
    axes.set_xlabel("predicted probability of a watch (mean of a bin)")
    axes.set_ylabel("observed share")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def importance_plot(evaluation: Evaluation) -> Figure:
    """The features that matter most by mean |SHAP|, with their share of split gain."""
    names = list(evaluation.shap)[:SHOWN_FEATURES]
    figure, (left, right) = new_figure(
        "What does the ranker look at?", panels=2, height=1.0 + 0.27 * len(names), share_y=True
    )
    left.barh(range(len(names)), [evaluation.shap[n] for n in names], color=BLUE, height=0.62)
    left.set_xlabel("mean |SHAP| (change of the score)")
    gain = [evaluation.gain.get(name, 0.0) for name in names]
    right.barh(range(len(names)), gain, color=SKY, height=0.62)
    right.set_xlabel("share of split gain")
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    for axes in (left, right):
        named_rows(axes, names)
    return figure


def index_plot(evaluation: Evaluation) -> Figure:
    """Recall against latency of the index kinds; the line reaches from the median to p99."""
    size = evaluation.index[0].n_vectors
    figure, (axes,) = new_figure(f"Which index at {size:,} items?", height=3.2)
    for m in evaluation.index:
        colour, marker = INDEX_LOOK.get(m.kind, (GREY, "x"))
        axes.plot([m.p50_ms, m.p99_ms], [m.recall] * 2, color=colour, linewidth=2, alpha=0.5)
        axes.plot(m.p50_ms, m.recall, color=colour, marker=marker, markersize=7)
        axes.annotate(
            f"{m.kind}, {m.bytes_per_vector:.0f} bytes",
            (m.p99_ms, m.recall),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
        )
    lowest = min(m.recall for m in evaluation.index)
    axes.set_ylim(lowest - 0.25 * (1.02 - lowest) - 0.01, 1.02)
    axes.set_xscale("log")
    slowest = max(m.p99_ms for m in evaluation.index)
    axes.set_xlim(min(m.p50_ms for m in evaluation.index) * 0.85, slowest * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("latency of one query, ms: median to p99 (logarithmic)")
    axes.set_ylabel("recall@100")
    return figure


def _place(point: SweepPoint, metric: str, evaluation: Evaluation) -> tuple[float, float]:
    x = mean_of_finite(point.values[metric], evaluation.sweep_users).value
    return x, float(point.values["ndcg@10"].mean())


def _name_ends(
    axes: Any, line: list[SweepPoint], xy: np.ndarray, colour: str, *, above: bool
) -> None:
    """The trade-off beside some points, so that the direction of the curve is plain."""
    for point, (x, y) in zip(line, xy, strict=True):
        if point.trade_off in (0.7, 0.5, 0.3):
            axes.annotate(
                f"{point.trade_off:g}",
                (x, y),
                xytext=(5, 4) if above else (-5, -11),
                textcoords="offset points",
                ha="left" if above else "right",
                fontsize=8,
                color=colour,
            )


def _percent(axes: Any) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("0.", ".")))
        axis.set_minor_locator(NullLocator())
