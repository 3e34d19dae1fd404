"""The four pictures of the experiments command, each titled with the question it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    interval_dot,
    named_rows,
    new_figure,
)
from video_recommendation.experiments.false_alarms import Analysis, Peeking
from video_recommendation.experiments.precision import GOOD_RHO, PowerCurve
from video_recommendation.experiments.rankers import Duel

PROMISED = 0.05


def false_alarms_figure(analyses: Sequence[Analysis], note: str) -> Figure:
    """False alarms of each analysis beside the promise."""
    figure, (axes,) = new_figure("A/A tests: does the test keep its 5%?", height=3.0)
    named_rows(axes, [f"{found.test}\n{found.metric}" for found in analyses])
    for place, found in enumerate(analyses):
        rate = found.rate
        broken = rate.low is not None and rate.low > PROMISED
        colour = ORANGE if broken else BLUE
        interval_dot(axes, place, (rate.value, rate.low, rate.high), colour=colour)
        axes.text(rate.value, place - 0.22, f"{rate.value:.1%}", fontsize=9, color=colour)
    axes.axvline(PROMISED, color=GREY, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.01, 1)
    axes.set_xticks([0.01, 0.05, 0.2, 1.0])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"experiments without an effect that find one. {note}".rstrip(" ."))
    return figure


def peeking_figure(found: Peeking, note: str) -> Figure:
    """The chance of a false alarm so far, by users so far."""
    figure, (axes,) = new_figure("What happens if one looks every day?", height=3.4)
    _band(axes, found.users, found.fixed, ORANGE, "fixed-size test, read daily")
    _band(axes, found.users, found.always_valid, BLUE, "always-valid test, read daily")
    axes.axhline(PROMISED, color=GREY, linestyle="--", linewidth=1)
    axes.text(
        found.users[-1], PROMISED + 0.004, "promised: 5%", fontsize=8.5, color="0.3", ha="right"
    )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("A/A tests with an alarm so far")
    axes.set_xlabel(f"users so far. {note}".rstrip(" ."))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.95))
    return figure


def power_figure(curve: PowerCurve, note: str) -> Figure:
    """Calculated lines and simulated points."""
    figure, (axes,) = new_figure("How many users does the effect need?", height=3.6)
    lines = (
        (curve.plain_line, curve.required, GREY, "calculated"),
        (curve.cuped_line, curve.required_cuped, BLUE, "calculated, CUPED"),
        (curve.good_line, curve.required_good, GREEN, f"calculated, CUPED if rho = {GOOD_RHO}"),
    )
    for line, required, colour, label in lines:
        axes.plot(curve.grid, line, color=colour, linewidth=1.6, label=f"{label}: {required:,}")
    for points, colour, marker, label in (
        (curve.plain, GREY, "o", "simulated"),
        (curve.cuped, BLUE, "s", "simulated, CUPED"),
    ):
        values, errors = _bars(points)
        axes.errorbar(
            curve.users, values, yerr=errors, color=colour, marker=marker, linestyle="none",
            markersize=5, elinewidth=1, label=label,
        )  # fmt: skip
    axes.axhline(0.8, color="0.6", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("power at 5%")
    axes.set_xlabel(f"users in both arms; in the legend: users for 80%. {note}".rstrip(" ."))
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def duels_figure(found: Sequence[Duel], note: str) -> Figure:
    """Power of interleaving and A/B test by users, a panel a pair of rankers."""
    figure, panels = new_figure(
        "Interleaving or A/B test: how many users to see the better ranker?",
        panels=len(found),
        height=3.4,
        share_y=True,
    )
    for axes, duel in zip(panels, found, strict=True):
        _points(axes, duel.users, duel.interleaving, duel.interleaving_line, BLUE, "interleaving")
        _points(axes, duel.users, duel.ab, duel.ab_line, ORANGE, "A/B test")
        axes.axhline(0.8, color="0.6", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(duel.users, [f"{n:,}" for n in duel.users], fontsize=8)
        axes.minorticks_off()
        axes.set_title(f"{duel.name_a} / {duel.name_b}", loc="left", fontsize=10)
        axes.set_xlabel("users")
    panels[0].set_ylim(0, 1.02)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].set_ylabel("power; lines calculated")
    panels[-1].legend(frameon=False, loc="lower right", fontsize=9)
    if note:
        panels[0].text(0.02, 0.02, note, transform=panels[0].transAxes, fontsize=8, color="0.3")
    return figure


def _band(axes: Any, x: np.ndarray, rates: Sequence[Estimate], colour: str, label: str) -> None:
    axes.plot(x, [rate.value for rate in rates], color=colour, linewidth=1.8, label=label)
    low, high = ([getattr(rate, end) for rate in rates] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _points(
    axes: Any,
    users: np.ndarray,
    points: Sequence[Estimate],
    line: np.ndarray,
    colour: str,
    label: str,
) -> None:
    axes.plot(users, line, color=colour, linewidth=1.4, alpha=0.7)
    values, errors = _bars(points)
    axes.errorbar(
        users, values, yerr=errors, color=colour, marker="o", linestyle="none", markersize=5,
        elinewidth=1, label=label,
    )  # fmt: skip


def _bars(points: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Values f64[P] and distances to both ends f64[2, P]."""
    table = np.array([(p.value, p.low, p.high) for p in points], dtype=np.float64)
    return table[:, 0], np.maximum(np.abs(table[:, 1:] - table[:, :1]).T, 0)
