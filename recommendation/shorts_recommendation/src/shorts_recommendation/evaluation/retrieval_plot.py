"""Pictures of recall: bars with intervals by row, and which sources find the same videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, named_rows, new_figure
from ml_platform.evaluation.results import Results
from shorts_recommendation.retrieval.candidates import SOURCES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = (*SOURCES, "merged", "recent_popularity", "random", "oracle")
PANELS = (
    ("recall@1000", "logged:\nrecall@1000"),
    ("uniform_recall@1000", "uniform slots:\nrecall@1000"),
    ("oracle_share", "true: oracle's\n100 found"),
    ("satisfaction", "true: mean\nsatisfaction"),
)


def recall_figure(results: Results, note: str) -> Figure:
    """Four bars a row, with 95% intervals; baselines in grey."""
    figure, axes = new_figure(
        f"Recall: the logged, the uniform and the true view ({note})",
        panels=len(PANELS),
        height=3.9,
        share_y=True,
    )
    for axis, (metric, title) in zip(axes, PANELS, strict=True):
        for place, row in enumerate(ROWS):
            found = results[f"retrieval/{row}/{metric}"]
            axis.barh(place, found.value, color=_colour(row), height=0.62)
            if found.low is not None and found.high is not None:
                axis.plot([found.low, found.high], [place, place], color="black", linewidth=1.4)
            ends = found.high if found.high is not None else found.value
            axis.text(ends, place, f" {found.value:.2f}", va="center", fontsize=7.5)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlim(0, 1.18 * axis.get_xlim()[1])
        axis.tick_params(axis="x", labelsize=8)
    named_rows(axes[0], [row.replace("_", " ") for row in ROWS])
    for axis in axes[1:]:
        axis.tick_params(axis="y", length=0, labelleft=False)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
    return figure


def overlap_figure(overlap: np.ndarray, note: str) -> Figure:
    """A heat map: of the hits of the source at the left, how many has the one below too."""
    figure, axes = new_figure(f"Hits that two sources share ({note})", height=4.2)
    axis = axes[0]
    axis.grid(visible=False)
    axis.imshow(overlap, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(SOURCES)):
        for j in range(len(SOURCES)):
            value = overlap[i, j]
            text = "no hits" if np.isnan(value) else f"{value:.2f}"
            colour = "white" if value > 0.6 else "black"
            axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(SOURCES)), SOURCES, fontsize=8)
    axis.set_yticks(range(len(SOURCES)), SOURCES, fontsize=9)
    axis.set_xlabel("has it too")
    axis.set_ylabel("hits of")
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
    return figure


def _colour(row: str) -> str:
    if row == "merged":
        return ORANGE
    if row == "oracle":
        return GREEN
    return GREY if row in ("recent_popularity", "random") else BLUE
