"""How all plots of the report look: one palette, plain axes, figures without global state.

Kinds differ by colour (Okabe and Ito's palette, distinct to colour-blind readers) and by marker,
and names stand beside what they name. Drawn by Agg, so no display is needed.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLACK, BLUE, ORANGE, GREEN, PINK, SKY = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
)
GREY = "#7F7F7F"
DPI = 120
WIDTH_INCHES = 7.2


def new_figure(
    title: str, *, panels: int = 1, height: float = 3.8, share_y: bool = False
) -> tuple[Figure, list[Any]]:
    """A figure of its own (no pyplot) with ``panels`` axes side by side."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = list(figure.subplots(1, panels, sharey=share_y, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(visible=True, color="0.9", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def named_rows(axes: Any, names: list[str], *, space: float = 0.6) -> None:
    """Row names on the y axis, the first on top, without grid lines between."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 1 + space, -space)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def interval_dot(
    axes: Any,
    place: float,
    ends: tuple[float, float | None, float | None],
    *,
    colour: str,
    marker: str = "o",
    label: str | None = None,
) -> None:
    """A horizontal interval (value, low, high) with its value as a marker."""
    value, low, high = ends
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.55)
    axes.plot(
        [value], [place], marker=marker, markersize=6, color=colour, linestyle="none", label=label
    )


def png(figure: Figure) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def show(thing: object) -> None:
    """Displays a figure (or a table) in a notebook's cell, the same in every editor and export."""
    from IPython.display import Image, display

    display(Image(png(thing)) if isinstance(thing, Figure) else thing)  # type: ignore[no-untyped-call]
