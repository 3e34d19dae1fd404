"""Pictures of the re-ranking studies: pairs of near-duplicates, what survives, trade-offs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from image_search.reranking.alterations import OTHER, SAME
from image_search.reranking.robustness import Judged
from ml_platform.evaluation.intervals import Estimate
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, BLACK, GREY)
MARKERS = "osD^v*X"
LEAST_SHOWN = 1e-4
SERVED = "served"
"""The rule that the service has, drawn as a ring."""


def pairs_figure(
    title: str, pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], *, columns: int = 6
) -> Figure:
    """Pictures u8[H, W, C] side by side, two and two, with a word below each pair."""
    rows = max(1, -(-len(pairs) // columns))
    figure, (whole,) = new_figure(title, height=0.5 + 0.82 * rows)
    whole.axis("off")
    figure.set_layout_engine("none")
    top = 1 - 0.45 / figure.get_figheight()
    for n, (one, other, words) in enumerate(pairs):
        row, column = divmod(n, columns)
        left, low = column / columns, top - (row + 1) * top / rows
        axes = figure.add_axes(
            (left + 0.01, low + 0.2 * top / rows, 0.92 / columns, 0.78 * top / rows)
        )
        axes.axis("off")
        axes.imshow(_beside(one, other), cmap="gray", vmin=0, vmax=255)
        figure.text(left + 0.47 / columns, low + 0.06 * top / rows, words, ha="center", fontsize=7)
    return figure


def survival_figure(found: Mapping[str, Mapping[str, Estimate]], note: str) -> Figure:
    """Share of altered copies that each rule finds: a row an alteration, a mark a rule."""
    names = [*SAME, *OTHER]
    figure, (axes,) = new_figure(f"Altered copies found{note}", height=0.36 * len(names) + 1.2)
    for n, (rule, by_name) in enumerate(found.items()):
        places = np.arange(len(names)) + (n - (len(found) - 1) / 2) * 0.13
        shares = [by_name[name].value for name in names]
        if rule == SERVED:
            ring = {"markerfacecolor": "none", "markeredgecolor": BLACK, "markersize": 8}
            axes.plot(shares, places, "o", label=rule, **ring)
        else:
            kind = {"marker": MARKERS[n % 7], "color": COLOURS[n % 7], "markersize": 4.5}
            axes.plot(shares, places, linestyle="none", label=rule, **kind)
    named_rows(axes, [name.replace("_", " ") for name in names])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share found")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.09), ncols=4, fontsize=7, frameon=False
    )
    return figure


def roc_figure(judged: Judged, detectors: Sequence[str], false_alarms: float, note: str) -> Figure:
    """ROC of each detector with the share of false alarms on a logarithmic axis."""
    figure, (axes,) = new_figure(f"Altered copies against nearest neighbours{note}")
    for n, detector in enumerate(detectors):
        false, found = judged.curve(detector)
        axes.plot(
            np.maximum(false, LEAST_SHOWN),
            found,
            color=COLOURS[n],
            label=f"{detector} (AUC {judged.auc(detector):.3f})",
            drawstyle="steps-post",
        )
    axes.axvline(false_alarms, color=GREY, linewidth=1, linestyle="--")
    axes.text(false_alarms * 1.1, 0.02, "allowed", color=GREY, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("share of neighbours called the same (false alarms)")
    axes.set_ylabel("share of copies found")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def trade_off_figure(
    title: str,
    horizontal: tuple[str, Sequence[Estimate]],
    curves: Mapping[str, Sequence[Estimate]],
    names: Sequence[str],
) -> Figure:
    """A panel a quantity over one that it is traded for; a point a setting, with its name."""
    figure, panels = new_figure(title, panels=len(curves), height=3.4)
    for axes, (label, values), colour in zip(panels, curves.items(), COLOURS, strict=False):
        across = [e.value for e in horizontal[1]]
        up = [e.value for e in values]
        axes.errorbar(
            across, up, xerr=_reach(horizontal[1]), yerr=_reach(values), color=colour, marker="o",
            markersize=4, linewidth=1.2, elinewidth=0.8,
        )  # fmt: skip
        for n, name in enumerate(names):
            axes.annotate(
                name, (across[n], up[n]), textcoords="offset points", xytext=(4, 5), fontsize=7
            )
        axes.set_xlabel(horizontal[0])
        axes.set_ylabel(label)
    return figure


def _reach(values: Sequence[Estimate]) -> Any:
    """f64[2, n]: how far intervals reach below and above."""
    low = [e.value - (e.low if e.low is not None else e.value) for e in values]
    high = [(e.high if e.high is not None else e.value) - e.value for e in values]
    return np.array([low, high])


def _beside(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two pictures at one height, a white line between; grey ones u8[H, W], colour u8[H, W, 3]."""
    height = min(max(one.shape[0], other.shape[0]), 128)
    parts = [_to_height(picture, height) for picture in (one, other)]
    line = np.full((height, 2, parts[0].shape[2]), 255, dtype=np.uint8)
    joined = np.concatenate([parts[0], line, parts[1]], axis=1)
    return joined[..., 0] if joined.shape[2] == 1 else joined


def _to_height(picture: np.ndarray, height: int) -> np.ndarray:
    from PIL import Image

    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    values = np.asarray(Image.fromarray(flat).resize((width, height)))
    return values[..., None] if values.ndim == 2 else values
