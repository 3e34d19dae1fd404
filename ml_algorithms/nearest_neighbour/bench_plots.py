"""The pictures of the study: recall against speed, what an index costs, parity, filters, deletes.

In: measured curves. Out: matplotlib figures. The first kind is drawn as ann-benchmarks does it:
recall to the right, queries per second upwards on a log axis; up and to the right is better, and
a line joins the Pareto front of one index's settings. Ours are solid with filled markers, the
libraries dashed with open ones.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    named_rows,
    new_figure,
)

MARKERS = {BLACK: "*", GREY: "v", ORANGE: "s", SKY: "D", GREEN: "^", BLUE: "o", PINK: "P"}
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, GREY, BLACK)


@dataclass(frozen=True)
class Curve:
    """One index: recall and queries per second of each setting, and what it costs."""

    label: str
    colour: str
    ours: bool
    recall: Sequence[float]
    qps: Sequence[float]
    build_s: float
    bytes_per_vector: float

    def front(self) -> list[tuple[float, float]]:
        """Settings that no other beats in both recall and speed, by rising recall."""
        points = sorted(zip(self.recall, self.qps, strict=True), reverse=True)
        kept: list[tuple[float, float]] = []
        for recall, qps in points:
            if not kept or qps > kept[-1][1]:
                kept.append((recall, qps))
        return kept[::-1]

    def fastest(self, recall: float) -> float | None:
        """Queries per second of the fastest setting with at least this recall; None if none has."""
        reached = [q for r, q in zip(self.recall, self.qps, strict=True) if r >= recall]
        return max(reached, default=None)


def recall_picture(curves: Sequence[Curve], note: str) -> Figure:
    """Recall@k to the right, queries per second upwards."""
    figure, (axes,) = new_figure("Recall against speed: up and to the right is better", height=5.6)
    for curve in curves:
        recall, qps = zip(*curve.front(), strict=True)
        axes.plot(
            recall, qps,
            color=curve.colour, label=curve.label,
            marker=MARKERS[curve.colour], markersize=6,
            linestyle="-" if curve.ours else "--",
            markerfacecolor=curve.colour if curve.ours else "white",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("recall@10")
    axes.set_ylabel("queries per second (one thread, one at a time)")
    axes.legend(
        frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3
    )
    _beneath(figure, note)
    return figure


def cost_picture(curves: Sequence[Curve], note: str) -> Figure:
    """Build time and bytes per vector of every index."""
    figure, (left, right) = new_figure("What an index costs", panels=2, height=4.4, share_y=True)
    for row, curve in enumerate(curves):
        style = {
            "color": curve.colour,
            "marker": MARKERS[curve.colour],
            "markerfacecolor": curve.colour if curve.ours else "white",
            "linestyle": "none",
        }
        left.plot([max(curve.build_s, 1e-3)], [row], **style)
        right.plot([curve.bytes_per_vector], [row], **style)
    named_rows(left, [curve.label for curve in curves])
    left.set_xlabel("build time, s (one thread)")
    right.set_xlabel("bytes per vector")
    for axes in (left, right):
        axes.set_xscale("log")
        _plain_ticks(axes)
    right.tick_params(axis="y", length=0)
    _beneath(figure, note)
    return figure


def _plain_ticks(axes: Any) -> None:
    """A log axis with few, plainly written ticks, whether it spans one decade or four."""
    low, high = axes.get_xlim()
    steps = (1.0,) if high / low > 1e3 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _beneath(figure: Figure, note: str) -> None:
    """The protocol under a picture, wrapped."""
    figure.supxlabel(textwrap.fill(note, 118), fontsize=7, x=0.01, ha="left", color=GREY)


@dataclass(frozen=True)
class Line:
    """A line of a plain picture: x and y, in order."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def panels_picture(
    title: str,
    panels: Mapping[str, Sequence[Line]],
    *,
    x_label: str,
    y_label: str,
    note: str,
    log_x: bool = False,
    log_y: bool = False,
    dashed: frozenset[str] = frozenset(),
) -> Figure:
    """Panels side by side with the same lines in each, one legend beneath the title."""
    room = "\n\n\n"  # for the legend, between title and panels
    figure, axes = new_figure(title + room, panels=len(panels), height=4.4, share_y=True)
    for one, (name, lines) in zip(axes, panels.items(), strict=True):
        for number, line in enumerate(lines):
            colour = PALETTE[number % len(PALETTE)]
            one.plot(
                line.x, line.y,
                color=colour, label=line.label, marker=MARKERS[colour], markersize=5,
                linestyle="--" if line.label in dashed else "-",
            )  # fmt: skip
        one.set_title(name, fontsize=10)
        one.set_xlabel(x_label)
        if log_x:
            one.set_xscale("log")
            _plain_ticks(one)
        if log_y:
            one.set_yscale("log")
    axes[0].set_ylabel(y_label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.0, 0.945), ncols=3, frameon=False,
        fontsize=8,
    )  # fmt: skip
    _beneath(figure, note)
    return figure
