"""Pictures of the index studies: what recall costs, how time grows, what filters break.

In: rows of the studies. Out: figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from image_search.retrieval.filter_study import Filtered
from image_search.retrieval.grid_study import FIRST, Measured
from image_search.retrieval.scaling_study import Scaled
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

LOOKS = {
    "flat": (BLACK, "*"),
    "ivf_flat": (BLUE, "o"),
    "ivf_pq": (SKY, "s"),
    "hnsw": (ORANGE, "^"),
    "int8": (GREEN, "D"),
    "binary": (PINK, "v"),
    "prefix": (GREY, "P"),
    "pca": (GREY, "X"),
}
WAYS = {
    "before": (BLACK, "*", "-", 9),
    "flat": (GREY, "P", "-", 7),
    "ivf": (BLUE, "o", "-", 6),
    "hnsw": (ORANGE, "^", "-", 4),
    "hnsw_plain": (PINK, "v", "-", 6),
    "flat_after": (GREY, "P", ":", 10),
    "ivf_after": (BLUE, "o", ":", 7),
    "hnsw_after": (ORANGE, "^", ":", 4),
}
"""Colour, marker, line, size: lines that lie on each other are told apart by size."""
LEAST = 0.5
"""Recall below is of no interest and would press the rest into a corner."""


def pareto_plot(grid: list[Measured], words: str) -> Figure:
    """Left: recall@10 against single queries a second; right: against bytes that a search scans.

    Of each family only what no other setting of it beats in both, joined by a line.
    """
    figure, (speed, size) = new_figure("What recall costs: time, memory", panels=2, height=4.6)
    for family, (colour, marker) in LOOKS.items():
        rows = [r for r in grid if look(r.build.name)[2] == family and _recall(r) >= LEAST]
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1, "alpha": 0.8}
        for axes, across in ((speed, _qps), (size, _scanned_mb)):
            best = undominated([(across(r), _recall(r)) for r in rows], larger=axes is speed)
            axes.plot(*zip(*best, strict=True) if best else ([], []), label=family, **style)
    speed.set_xscale("log")
    size.set_xscale("log")
    size.set_xticks([3, 10, 30, 60], ["3", "10", "30", "60"])
    size.minorticks_off()
    speed.set_ylabel(f"recall@{FIRST} of the exact neighbours")
    speed.set_xlabel("single queries a second, one thread")
    size.set_xlabel("MB that a search scans")
    speed.legend(frameon=False, fontsize=8, loc="lower left")
    figure.text(0.01, -0.03, words, fontsize=7, color=GREY)
    return figure


def undominated(points: list[tuple[float, float]], *, larger: bool) -> list[tuple[float, float]]:
    """Of (cost, recall), those that no other beats in both, by cost.

    Args:
        points: Any number.
        larger: Whether a larger first number is better (queries a second) or a smaller one (bytes).
    """
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (-p[0] if larger else p[0], -p[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


def _recall(row: Measured) -> float:
    return float(row.recall[FIRST].mean())


def _qps(row: Measured) -> float:
    return row.speed.qps


def _scanned_mb(row: Measured) -> float:
    return row.core_bytes / 1e6


def look(name: str) -> tuple[str, str, str]:
    """Colour, marker and family of a build, by the beginning of its name."""
    family = max((key for key in LOOKS if name.startswith(key)), key=len)
    return (*LOOKS[family], family)


def scaling_plot(scaled: list[Scaled], budget_ms: float) -> Figure:
    """99th percentile by the number of vectors, and the budget; recall beside it."""
    figure, (time, recall) = new_figure(
        "SYNTHETIC vectors: time and recall by size", panels=2, height=4.0
    )
    for name in dict.fromkeys(row.measured.build.name for row in scaled):
        rows = sorted((r for r in scaled if r.measured.build.name == name), key=lambda r: r.n)
        colour, marker, _ = look(name)
        n = [row.n for row in rows]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
        time.plot(n, [row.measured.speed.p99_ms for row in rows], **style)
        recall.plot(n, [_recall(row.measured) for row in rows], label=name, **style)
    time.axhline(budget_ms, color=BLACK, linestyle="--", linewidth=1)
    time.annotate(
        f"budget {budget_ms:g} ms", (min(row.n for row in scaled), budget_ms), (2, 4),
        textcoords="offset points", fontsize=8,
    )  # fmt: skip
    for axes in (time, recall):
        axes.set_xscale("log")
        axes.set_xlabel("vectors")
    time.set_yscale("log")
    time.set_ylabel("p99 of a single query, ms, one thread")
    recall.set_ylabel(f"recall@{FIRST}")
    recall.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def filter_plot(filtered: list[Filtered]) -> Figure:
    """By the share that passes a price band: recall, short pages, time."""
    figure, axes = new_figure("Filter before, during or after the search", panels=3, height=4.4)
    prices = [row for row in filtered if row.filter.startswith("price_")]
    for way, (colour, marker, line, marker_size) in WAYS.items():
        rows = sorted((r for r in prices if r.way == way), key=lambda r: r.passing)
        share = [r.passing for r in rows]
        columns = (
            [float(r.recall.mean()) for r in rows],
            [float(r.short.mean()) for r in rows],
            [float(np.median(r.ms)) for r in rows],
        )
        for one, values in zip(axes, columns, strict=True):
            one.plot(
                share, values, color=colour, marker=marker, linestyle=line, label=way,
                markersize=marker_size, linewidth=1.2,
            )  # fmt: skip
    names = (f"recall@{FIRST} of those that pass", "share of short pages", "median ms, one thread")
    for one, name in zip(axes, names, strict=True):
        one.set_xscale("log")
        one.set_xlabel("share that passes")
        one.set_title(name, fontsize=9)
    axes[2].set_yscale("log")
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=4,
        loc="outside lower center",
    )  # fmt: skip
    return figure
