"""Picture of indexes that change: recall and time by step, and what tombstones cost.

In: ``Change``s. Out: a figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from image_search.retrieval.changes_study import Change
from image_search.retrieval.grid_study import FIRST
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure

FLOOR = 0.9
"""Of the recall axes, unless something lies below: a wobble of a thousandth is none to look at."""


def changes_plot(changes: list[Change]) -> Figure:
    """Recall and time of an inverted file as a tenth comes; a graph's recall by its dead."""
    figure, (recall, time, dead) = new_figure("Indexes that change", panels=3, height=4.0)
    looks = {"ivf_random": (BLUE, "o", "at random"), "ivf_new_class": (ORANGE, "^", "a new class")}
    for scenario, (colour, marker, label) in looks.items():
        rows = [row for row in changes if row.scenario == scenario]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
        recall.plot([_recall(row) for row in rows], label=label, **style)
        time.plot([float(np.median(row.ms)) for row in rows], **style)
        names = [row.step.replace("add_", "+").replace("delete_0.1", "-10%") for row in rows]
        for axes in (recall, time):
            axes.set_xticks(range(len(names)), names, rotation=70, fontsize=7)
    cells = [_recall(row) for row in changes if row.scenario in looks]
    recall.set_ylim(min(FLOOR, *cells), 1.002)
    recall.set_title(f"IVF, a tenth comes: recall@{FIRST}", fontsize=9)
    recall.legend(frameon=False, fontsize=8, loc="lower left")
    time.set_ylim(bottom=0)
    time.set_title("IVF: median ms (of the class)", fontsize=9)
    _dead(dead, changes)
    return figure


def _recall(row: Change) -> float:
    """Of the queries that the scenario is about."""
    return float((row.recall_new if len(row.recall_new) else row.recall).mean())


def _dead(axes: Any, changes: list[Change]) -> None:
    rows = [row for row in changes if row.scenario == "hnsw_random" and row.step != "rebuilt"]
    shares = [float(row.step.removeprefix("delete_")) for row in rows]
    label = "deleted at random"
    axes.plot(shares, [_recall(row) for row in rows], color=BLUE, marker="o", label=label)
    bars = {row.step: row for row in changes if row.scenario == "hnsw_class"}
    names = {
        "delete_class": (ORANGE, "X", "a class, and asked for"),
        "rebuilt": (GREY, "s", "rebuilt"),
    }
    for step, (colour, marker, words) in names.items():
        value = _recall(bars[step])
        axes.plot([0.1], [value], color=colour, marker=marker, linestyle="none", label=words)
    axes.set_ylim(min(FLOOR, *(_recall(row) for row in changes)) - 0.02, 1.004)
    axes.set_xlabel("share of dead nodes")
    axes.set_title(f"HNSW, tombstones: recall@{FIRST}", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="center right")
