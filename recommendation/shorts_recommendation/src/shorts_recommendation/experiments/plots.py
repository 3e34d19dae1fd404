"""Pictures of the experiments: effects by metric, the trap day by day, uploads, false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
from shorts_recommendation.experiments.false_alarms import TESTS, FalseAlarms
from shorts_recommendation.experiments.measures import BY_NAME, METRICS
from shorts_recommendation.experiments.reading import Look
from shorts_recommendation.experiments.studies import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND_COLOURS = {"proxy": BLUE, "guardrail": ORANGE, "truth": GREEN, "spread": PINK}
_TEST_NAMES = {
    "once": "once",
    "once_cuped": "once, CUPED",
    "peeking": "daily, fixed test",
    "always_valid": "daily, always valid",
}


def effects_figure(outcome: Outcome, arm: str, note: str) -> Figure:
    """Relative differences of every metric, with intervals, coloured by kind."""
    words = next(spec.words for spec in outcome.study.arms if spec.name == arm)
    control = outcome.study.arms[0].words
    title = f"{words[:1].upper()}{words[1:]} against {control}{_note(note)}"
    figure, (axes,) = new_figure(title, height=4.2)
    readings = outcome.readings[arm]
    shown = [
        metric
        for metric in METRICS
        if metric.name in readings and readings[metric.name].best.relative is not None
    ]
    for place, metric in enumerate(shown):
        best = readings[metric.name].best
        ends = [100 * (x or 0.0) for x in (best.relative, best.relative_low, best.relative_high)]
        interval_dot(axes, place, (ends[0], ends[1], ends[2]), colour=KIND_COLOURS[metric.kind])
    named_rows(axes, [metric.words for metric in shown])
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_xlabel("difference, % of the control (95% interval)")
    _kinds(axes)
    return figure


def days_figure(outcome: Outcome, arm: str, names: Sequence[str], note: str) -> Figure:
    """The always-valid interval of some metrics after each day, as % of the control."""
    figure, panels = new_figure(
        f"{outcome.study.title}, day by day{_note(note)}", panels=len(names), height=3.4
    )
    for axes, name in zip(panels, names, strict=True):
        looks = outcome.looks(arm, name)
        _days_panel(axes, looks, name)
    panels[0].set_ylabel("difference, % of control")
    return figure


def _days_panel(axes: Any, looks: Sequence[Look], name: str) -> None:
    colour = KIND_COLOURS[BY_NAME[name].kind]
    days = [one.day for one in looks]
    base = np.array([one.fixed.control for one in looks])
    mean, low, high = (
        100 * np.array([getattr(one.always_valid, end) for one in looks]) / base
        for end in ("difference", "low", "high")
    )
    axes.fill_between(days, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(days, mean, color=colour, marker="o", markersize=4)
    axes.axhline(0, color=GREY, linewidth=1)
    found = [one.day for one in looks if one.always_valid.excludes_zero]
    if found:
        axes.axvline(found[0], color="black", linewidth=1, linestyle=":")
        axes.annotate(
            f"found: day {found[0]}", (found[0], 0), xytext=(3, 6), textcoords="offset points",
            fontsize=8,
        )  # fmt: skip
    axes.set_title(BY_NAME[name].words.removesuffix(" (hidden)"), fontsize=9, loc="left")
    axes.set_xlabel("days")
    axes.xaxis.get_major_locator().set_params(integer=True)


def uploads_figure(
    markets: Mapping[str, Mapping[str, Estimate]],
    costs: Mapping[str, Estimate],
    shares: Sequence[float],
    note: str,
) -> Figure:
    """What a larger share of guaranteed places gives to uploads and creators, and takes."""
    figure, panels = new_figure(f"Places for fresh uploads{_note(note)}", panels=3, height=3.2)
    columns = (
        ("uploads_tried", "uploads tried", BLUE),
        ("creators_shown", "creators shown", PINK),
    )
    for axes, (name, words, colour) in zip(panels, columns, strict=False):
        _line(axes, shares, [measures[name] for measures in markets.values()], colour)
        axes.set_title(words, fontsize=9, loc="left")
    _line(panels[2], shares, list(costs.values()), ORANGE)
    panels[2].set_title("satisfaction an impression", fontsize=9, loc="left")
    for axes in panels:
        axes.set_xlabel("guaranteed places, %")
    return figure


def false_alarms_figure(found: Mapping[str, FalseAlarms], note: str) -> Figure:
    """Rates of four ways to read A/A tests, by metric."""
    figure, panels = new_figure(
        f"A/A tests: false alarms{_note(note)}", panels=len(found), height=2.8, share_y=True
    )
    for axes, (name, alarms) in zip(panels, found.items(), strict=True):
        for place, test in enumerate(TESTS):
            rate = alarms.rates[test]
            ends = tuple(None if x is None else 100 * x for x in (rate.low, rate.high))
            colour = ORANGE if test == "peeking" else BLUE
            interval_dot(axes, place, (100 * rate.value, ends[0], ends[1]), colour=colour)
        axes.axvline(5, color=GREY, linewidth=1, linestyle=":")
        axes.set_title(BY_NAME[name].words, fontsize=9, loc="left")
        axes.set_xlabel("% of splits")
        axes.set_xlim(left=0)
        named_rows(axes, [_TEST_NAMES[test] for test in TESTS])
    return figure


def _line(axes: Any, shares: Sequence[float], found: Sequence[Estimate], colour: str) -> None:
    x = [100 * share for share in shares]
    axes.plot(x, [one.value for one in found], color=colour, marker="o", markersize=5)
    for place, one in zip(x, found, strict=True):
        if one.low is not None:
            axes.plot([place, place], [one.low, one.high], color=colour, linewidth=2, alpha=0.55)


def _kinds(axes: Any) -> None:
    for kind, colour in KIND_COLOURS.items():
        axes.plot([], [], marker="o", linestyle="none", color=colour, label=kind)
    axes.figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=4)


def _note(note: str) -> str:
    return f" ({note})" if note else ""
