"""Picture of indexes that change: recall by step, and what tombstones cost.

In: ``Change``s. Out: a figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from image_search.retrieval.changes_study import Change
from image_search.retrieval.grid_study import FIRST
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure


def changes_plot(changes: list[Change]) -> Figure:
    """Left: recall of an inverted file as a tenth comes; right: a graph's walk by its dead."""
    figure, (cells, dead) = new_figure("Indexes that change without being rebuilt", panels=2)
    _cells(cells, changes)
    _dead(dead, [row for row in changes if row.scenario == "hnsw_random"])
    return figure


def _cells(axes: Any, changes: list[Change]) -> None:
    looks = {
        "ivf_random": (BLUE, "o", "drawn at random"),
        "ivf_new_class": (ORANGE, "^", "a class"),
    }
    steps: list[str] = []
    for scenario, (colour, marker, label) in looks.items():
        rows = [row for row in changes if row.scenario == scenario]
        steps = [row.step for row in rows]
        place = range(len(rows))
        every = [float(row.recall.mean()) for row in rows]
        axes.plot(place, every, color=colour, marker=marker, markersize=4, label=f"{label}: all")
        new = [float(row.recall_new.mean()) if len(row.recall_new) else np.nan for row in rows]
        if not np.isnan(new).all():
            axes.plot(
                place, new, color=colour, linestyle=":", marker=marker, markersize=4,
                label=f"{label}: its own queries",
            )  # fmt: skip
    names = [step.replace("add_", "+").replace("delete_0.1", "-10%") for step in steps]
    axes.set_xticks(range(len(names)), names, rotation=60, fontsize=8)
    axes.set_ylabel(f"recall@{FIRST} of the exact neighbours")
    axes.set_title("IVF: a tenth comes in ten batches", fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _dead(axes: Any, rows: list[Change]) -> None:
    shares = [float(row.step.removeprefix("delete_")) for row in rows if row.step != "rebuilt"]
    walked = [row for row in rows if row.step != "rebuilt"]
    axes.plot(
        shares, [float(np.median(row.ms)) for row in walked], color=BLUE, marker="o", label="ms"
    )
    rebuilt = [row for row in rows if row.step == "rebuilt"]
    for row in rebuilt:
        axes.axhline(float(np.median(row.ms)), color=GREY, linestyle="--", linewidth=1)
        axes.annotate("rebuilt", (0, float(np.median(row.ms))), (2, 3), textcoords="offset points",
                      fontsize=8)  # fmt: skip
    axes.set_xlabel("share of dead nodes")
    axes.set_ylabel("median ms of a walk, one thread")
    axes.set_ylim(bottom=0)
    axes.set_title("HNSW: tombstones", fontsize=9)
    beside = axes.twinx()
    beside.plot(shares, [float(row.recall.mean()) for row in walked], color=ORANGE, marker="^")
    beside.set_ylabel(f"recall@{FIRST}", color=ORANGE)
    beside.spines["top"].set_visible(False)
