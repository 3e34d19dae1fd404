"""Pictures of the personalisation study. SYNTHETIC clicks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    interval_dot,
    named_rows,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from image_search.personalisation.experiment import LoopedWithIntervals

_COLOURS = {"blend": BLUE, "feature": GREEN, "shift": ORANGE}
_NAMES = {"similarity": "similarity", "impersonal": "best impersonal ranker"}


def options_figure(gains: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Gain in expected clicks of every option, by the order it starts from."""
    shown = [name for name in gains if not name.endswith("oracle")]
    figure, (axes,) = new_figure(
        "Gain in expected clicks a page (SYNTHETIC)", height=0.32 * len(shown) + 1.2
    )
    for place, name in enumerate(shown):
        gain = gains[name]["clicks"]
        colour = GREY if "placebo" in name else _COLOURS.get(_option(name), PINK)
        interval_dot(axes, place, (gain.value, gain.low, gain.high), colour=colour)
    named_rows(axes, [name.replace(".", ": ").replace("_", ", ") for name in shown])
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_xlabel("difference to no personalisation (95% interval by user)")
    return figure


def known_figure(known: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Gain by number of clicks known, a panel for each order to begin with, a line an option."""
    figure, panels = new_figure(
        "Gain by clicks known, heavy users (SYNTHETIC)", panels=len(_NAMES), height=3.6
    )
    lines: dict[str, list[tuple[int, Estimate]]] = {}
    for name, by_measure in known.items():
        option, _, clicks = name.rpartition("_")
        if clicks.isdigit():
            lines.setdefault(option, []).append((int(clicks), by_measure["clicks"]))
    for axes, (base, words) in zip(panels, _NAMES.items(), strict=True):
        for option, points in lines.items():
            if option.startswith(f"{base}."):
                _known_line(axes, option.removeprefix(f"{base}."), points)
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_title(f"from {words}", fontsize=10)
        axes.set_xlabel("clicks known")
        if axes.lines[1:]:
            axes.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel("gain in expected clicks a page")
    return figure


def _known_line(axes: Any, kind: str, points: list[tuple[int, Estimate]]) -> None:
    points = sorted(points, key=lambda point: point[0])
    colour, across = _COLOURS.get(kind, PINK), list(range(len(points)))
    words = "told the true styles" if kind.endswith("told") else kind
    values = [e.value for _, e in points]
    axes.plot(across, values, color=colour, marker="o", markersize=4, label=words)
    low = [e.value if e.low is None else e.low for _, e in points]
    high = [e.value if e.high is None else e.high for _, e in points]
    axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xticks(across, [str(n) for n, _ in points])


def loop_figure(loops: Mapping[str, LoopedWithIntervals]) -> Figure:
    """Clicks and distance by round, with and without personalisation."""
    figure, panels = new_figure("Feedback, round by round (SYNTHETIC)", panels=2, height=3.4)
    for name, one in loops.items():
        colour = GREY if name == "none" else BLUE
        parts = (one.looped.clicks, one.looped.distance)
        for axes, values in zip(panels, parts, strict=True):
            found = one.by_round(values)
            rounds = range(1, len(found) + 1)
            axes.plot(rounds, [e.value for e in found], color=colour, label=name)
            low = [e.value if e.low is None else e.low for e in found]
            high = [e.value if e.high is None else e.high for e in found]
            axes.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_xlabel("round")
    panels[0].set_ylabel("expected clicks a page")
    panels[1].set_ylabel("distance of a page's styles")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _option(name: str) -> str:
    return name.split(".")[1].split("_")[0]
