"""Pictures that more than one lab draws."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREEN,
    ORANGE,
    interval_dot,
    named_rows,
    new_figure,
)

STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"))


def dots(title: str, x_label: str, rows: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """One row per variant, in it one dot with its interval per series; equal series share a style.

    Args:
        title: The question that the picture answers.
        x_label: What is measured, and which interval.
        rows: variant -> series -> estimate; at most three series.
    """
    picture, (axes,) = new_figure(title, height=1.4 + 0.4 * len(rows))
    series = list(next(iter(rows.values())))
    for place, estimates in enumerate(rows.values()):
        for number, (name, estimate) in enumerate(estimates.items()):
            colour, marker = STYLES[number]
            shift = 0.22 * (number - (len(series) - 1) / 2)
            ends = (estimate.value, estimate.low, estimate.high)
            label = name if place == 0 else None
            interval_dot(axes, place + shift, ends, colour=colour, marker=marker, label=label)
    named_rows(axes, list(rows))
    axes.set_xlabel(x_label)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    return picture
