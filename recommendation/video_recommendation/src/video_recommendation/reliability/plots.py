"""What clients saw over time while the store was at fault: latency, and the share of fallbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ml_platform.evaluation.plot_style import BLUE, DPI, GREY, ORANGE, WIDTH_INCHES
from video_recommendation.reliability.store import StoreReport

PLOT = "reliability_store.png"
ROW_INCHES = 1.15
BIN_S = 0.5
SHADE = "#F3DFD1"


def store_timelines(reports: Sequence[StoreReport], caption: str) -> Figure:
    """One row for each fault: every answer's latency on the left, the degraded share on the right.

    Args:
        reports: In the order of the rows.
        caption: Where the numbers come from.
    """
    figure = Figure(
        figsize=(WIDTH_INCHES, ROW_INCHES * len(reports) + 1.0), dpi=DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    title = "What do clients see while the store is at fault?"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    grid = figure.subplots(len(reports), 2, sharey="col", squeeze=False)
    for (latency, share), report in zip(grid, reports, strict=True):
        _latency(latency, report)
        _degraded_share(share, report)
        for axes in (latency, share):
            _frame(axes, report)
    grid[0, 0].legend(loc="upper left", fontsize=7, frameon=False, ncols=2, borderaxespad=0.1)
    for axes, name in zip(grid[-1], ("latency, ms", "degraded share"), strict=True):
        axes.set_xlabel(f"{name}; seconds from the fault's beginning", fontsize=8)
    figure.supxlabel(f"shaded: until the state was complete again. {caption}", fontsize=7)
    return figure


def _latency(axes: Any, report: StoreReport) -> None:
    for degraded, colour, name in ((False, BLUE, "full"), (True, ORANGE, "degraded")):
        some = [r for r in report.reads if r.ok and r.degraded == degraded]
        axes.plot(
            [reply.due - report.began for reply in some],
            [reply.latency_ms for reply in some],
            linestyle="none",
            marker="o" if not degraded else "^",
            markersize=2,
            color=colour,
            label=name,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    words = report.fault.words
    axes.set_title(words, loc="left", fontsize=8, pad=2)


def _degraded_share(axes: Any, report: StoreReport) -> None:
    at = np.array([reply.due - report.began for reply in report.reads])
    degraded = np.array([reply.degraded for reply in report.reads], dtype=np.float64)
    edges = np.arange(np.floor(at.min() / BIN_S), np.ceil(at.max() / BIN_S) + 1) * BIN_S
    n, _ = np.histogram(at, edges)
    bad, _ = np.histogram(at, edges, weights=degraded)
    share = np.divide(bad, n, out=np.zeros(len(n)), where=n > 0)
    axes.stairs(share, edges, color=ORANGE, fill=True, alpha=0.7)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])


def _frame(axes: Any, report: StoreReport) -> None:
    until = report.ended - report.began + (report.complete_s or 0.0)
    axes.axvspan(0, until, color=SHADE, zorder=0)
    axes.axvline(report.ended - report.began, color=GREY, linewidth=0.8, linestyle="--")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_axisbelow(True)
