"""The plots of what the whole system does: retrieval, funnel, slices, training.

In: an ``Evaluation`` or ``Trained``. Out: one figure a function; ``plots_models`` has those about
single parts.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    interval_dot,
    named_rows,
    new_figure,
)
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.pipeline import Trained
from video_recommendation.reporting.grid import ordered
from video_recommendation.reporting.tables import BASELINES, FUNNEL_ROWS
from video_recommendation.reporting.tables_quality import SLICE_ORDER
from video_recommendation.retrieval.training import Epoch, best_epoch_count

MODEL_LOOK = {
    "recent_popularity": (GREY, "v"),
    "ease": (BLUE, "s"),
    "two_tower": (GREEN, "^"),
    "lambdarank": (ORANGE, "D"),
    "final": (BLACK, "o"),
}


def retrieval_plot(evaluation: Evaluation) -> Figure:
    """Recall@100 and HR@10 of every model with 95% intervals, best on top; the line is EASE."""
    table = evaluation.retrieval
    metrics = ("recall@100", "hr@10")
    means = {m: {name: table.mean(name, m) for name in table.rows} for m in metrics}
    names = sorted(table.rows, key=lambda name: -means["recall@100"][name].value)
    figure, panels = new_figure(
        "How much does each model find?", panels=2, height=0.9 + 0.3 * len(names), share_y=True
    )
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(means[metric]["ease"].value, color=BLUE, linewidth=1, linestyle="--")
        for place, name in enumerate(names):
            found = means[metric][name]
            colour, marker = _kind(name)
            ends = (found.value, found.low, found.high)
            interval_dot(axes, place, ends, colour=colour, marker=marker)
        axes.set_xlabel({"recall@100": "Recall@100", "hr@10": "HR@10"}[metric])
        axes.set_xlim(left=0)
        named_rows(axes, names)
    return figure


def funnel_plot(evaluation: Evaluation) -> Figure:
    """Items that each stage leaves (logarithmic), with its time."""
    replay = evaluation.replay
    stages = [("catalogue", "catalogue"), *FUNNEL_ROWS]
    names = [stage for stage, _ in stages]
    sizes = [replay.sizes[size] for _, size in stages]
    figure, (axes,) = new_figure("How the catalogue becomes a list", height=2.9)
    for place, (name, size) in enumerate(zip(names, sizes, strict=True)):
        axes.barh(place, size, color=SKY if place else GREY, height=0.62, left=0)
        spent = f", {replay.stage_ms[name]:.2f} ms" if name in replay.stage_ms else ""
        axes.text(size * 1.06, place, f"{size:,.0f} items{spent}", va="center", fontsize=9.5)
    named_rows(axes, names)
    axes.set_xscale("log")
    axes.set_xlim(max(1.0, min(sizes) / 3), max(sizes) * 5)
    axes.set_xlabel("items left, mean per request (logarithmic)")
    return figure


def slices_plot(evaluation: Evaluation) -> Figure:
    """HR@10 by slice for the models that matter."""
    slices = evaluation.slices
    models = ordered(list(next(iter(slices.values())).rows), SLICE_ORDER)
    figure, (axes,) = new_figure("For whom does it work?", height=1.2 + 0.75 * len(slices))
    step = 0.7 / max(1, len(models) - 1)
    for place, table in enumerate(slices.values()):
        for turn, model in enumerate(models):
            found = table.mean(model, "hr@10")
            colour, marker = MODEL_LOOK.get(model, (PINK, "x"))
            ends = (found.value, found.low, found.high)
            label = model if place == 0 else None
            where = place + (turn - (len(models) - 1) / 2) * step
            interval_dot(axes, where, ends, colour=colour, marker=marker, label=label)
        if place:
            axes.axhline(place - 0.5, color="0.85", linewidth=0.8)
    names = [f"{name}\n{len(table.users):,} queries" for name, table in slices.items()]
    named_rows(axes, names)
    axes.set_xlim(left=0)
    axes.set_xlabel("HR@10, 95% interval by user")
    figure.legend(loc="outside lower center", ncols=len(models), frameon=False, fontsize=9)
    return figure


def training_plot(trained: Trained) -> Figure:
    """Loss and validation recall of the two-tower model by epoch."""
    epochs = trained.epochs
    numbers = np.arange(1, len(epochs) + 1)
    figure, (left, right) = new_figure("Training the two-tower model", panels=2, height=3.0)
    left.plot(numbers, [e.loss for e in epochs], color=BLUE, marker="o", markersize=4)
    left.set_ylabel("training loss")
    right.plot(numbers, recalls(epochs), color=GREEN, marker="^", markersize=5)
    right.set_ylabel("validation Recall@100")
    chosen = best_epoch_count(epochs)
    right.axvline(chosen, color="0.5", linewidth=1, linestyle="--")
    right.annotate(
        f"chosen: {chosen}",
        (chosen, right.get_ylim()[0]),
        xytext=(-4 if chosen > len(epochs) / 2 else 4, 4),
        textcoords="offset points",
        ha="right" if chosen > len(epochs) / 2 else "left",
        fontsize=9,
        color="0.35",
    )
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.set_xticks(numbers[:: max(1, math.ceil(len(numbers) / 8))])
    return figure


def recalls(epochs: list[Epoch]) -> list[float]:
    """Validation recall of each epoch."""
    return [epoch.validation_recall for epoch in epochs]


def _kind(name: str) -> tuple[str, str]:
    """Colour and marker: baseline, own source, the merged pool, the oracle."""
    if name == "oracle":
        return PINK, "*"
    if name == "merged":
        return BLACK, "D"
    return (BLUE, "s") if name in BASELINES else (ORANGE, "o")
