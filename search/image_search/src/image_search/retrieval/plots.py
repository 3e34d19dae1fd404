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


def pareto_plot(grid: list[Measured], test: list[Measured], words: str) -> Figure:
    """Left: recall@10 against single queries a second; right: against bytes that a search scans."""
    figure, (speed, size) = new_figure("What recall costs: time, memory", panels=2, height=4.6)
    seen: set[str] = set()
    for name in dict.fromkeys(row.build.name for row in grid):
        rows = sorted((r for r in grid if r.build.name == name), key=lambda r: r.width)
        rows = [r for r in rows if r.recall[FIRST].mean() >= LEAST]
        colour, marker, family = look(name)
        label = None if family in seen or not rows else family
        recall = [float(r.recall[FIRST].mean()) for r in rows]
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1, "alpha": 0.8}
        speed.plot([r.speed.qps for r in rows], recall, label=label, **style)
        if rows:
            seen.add(family)
            best = max(rows, key=lambda r: float(r.recall[FIRST].mean()))
            size.plot([best.core_bytes / 1e6], [float(best.recall[FIRST].mean())], **style)
    speed.set_xscale("log")
    size.set_xscale("log")
    speed.set_ylabel(f"recall@{FIRST} of the exact neighbours")
    speed.set_xlabel("single queries a second, one thread")
    size.set_xlabel("MB that a search scans (best width)")
    speed.legend(frameon=False, fontsize=8, loc="lower left")
    figure.text(0.01, -0.03, words, fontsize=7, color=GREY)
    return figure


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
        rows = [row for row in scaled if row.measured.build.name == name]
        colour, marker, _ = look(name)
        n = [row.n for row in rows]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
        time.plot(n, [row.measured.speed.p99_ms for row in rows], label=name, **style)
        recall.plot(n, [float(row.measured.recall[FIRST].mean()) for row in rows], **style)
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
    time.legend(frameon=False, fontsize=8)
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
