"""Pictures of the study. In: results with the metrics in them. Out: figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.two_tower_and_contrastive.sharded_table import all_reduce_bytes, sharded_bytes
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
from ml_platform.evaluation.results import Results

BASELINES = ("popularity", "ease", "ials")
NAMES = {
    "full_softmax": "full softmax",
    "info_nce": "InfoNCE, nothing masked",
    "in_batch": "in-batch",
    "in_batch_logq": "in-batch + logQ",
    "in_batch_logq_streaming": "in-batch + logQ, streamed q",
    "uniform": "uniform",
    "mixed": "mixed",
    "mixed_logq": "mixed + logQ",
    "mixed_logq_own_positive": "mixed + logQ, positive as is",
    "bpr": "BPR, one negative",
    "popularity": "popularity",
    "ease": "EASE",
    "ials": "iALS",
}


def recall_against_popularity(results: Results, names: Sequence[str]) -> Figure:
    """Recall@100 and mean popularity percentile of each loss and baseline, a row each."""
    figure, (left, right) = new_figure(
        "What each loss finds, and how popular it is", panels=2, height=4.6, share_y=True
    )
    for row, name in enumerate(names):
        colour = GREY if name in BASELINES else BLUE
        marker = "s" if name in BASELINES else "o"
        for axes, metric in ((left, "recall@100"), (right, "popularity@10")):
            one = results[f"losses/{name}/{metric}"]
            interval_dot(axes, row, (one.value, one.low, one.high), colour=colour, marker=marker)
    for axes in (left, right):
        named_rows(axes, [NAMES.get(name, name) for name in names])
    left.set_xlabel("Recall@100")
    right.set_xlabel("popularity percentile, top 10")
    return figure


def temperature_sweep(
    results: Results, names: Sequence[str], temperatures: Sequence[float]
) -> Figure:
    """Recall and popularity over the temperature for the swept losses."""
    figure, (left, right) = new_figure("Temperature", panels=2)
    for name, colour, marker in zip(names, (ORANGE, BLUE), ("s", "o"), strict=False):
        for axes, metric in ((left, "recall@100"), (right, "popularity@10")):
            keys = [f"temperature/{name}_t{value:g}/{metric}" for value in temperatures]
            _band(axes, results, keys, temperatures, colour, marker)
            axes.annotate(
                NAMES[name], (temperatures[0], results[keys[0]].low), xytext=(4, -12),
                textcoords="offset points", color=colour,
            )  # fmt: skip
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(temperatures, [f"{value:g}" for value in temperatures])
        axes.minorticks_off()
        axes.set_xlabel("temperature (cosines are divided by it)")
    left.set_ylabel("Recall@100")
    right.set_ylabel("popularity percentile, top 10")
    return figure


def negatives_sweep(results: Results, counts: Sequence[int], sizes: Sequence[int]) -> Figure:
    """Recall over the number of uniform negatives, and over the batch size."""
    figure, (left, right) = new_figure("How many negatives", panels=2, share_y=True)
    keys = [f"negatives/uniform_n{n}/recall@100" for n in counts]
    _band(left, results, keys, counts, GREEN, "^")
    left.set_xlabel("uniform negatives a step (batch 512)")
    left.set_ylabel("Recall@100")
    for name, colour, marker in (("in_batch", ORANGE, "s"), ("in_batch_logq", BLUE, "o")):
        keys = [f"negatives/{name}_b{size}/recall@100" for size in sizes]
        _band(right, results, keys, sizes, colour, marker)
        right.annotate(
            NAMES[name], (sizes[0], results[keys[0]].value), xytext=(6, -14),
            textcoords="offset points", color=colour,
        )  # fmt: skip
    right.set_xlabel("batch size (the same number of epochs)")
    for axes, ticks in ((left, counts), (right, sizes)):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    return figure


def hard_negatives(results: Results, names: Sequence[str]) -> Figure:
    """Recall@10 and @100 and popularity for each share and mask."""
    figure, panels = new_figure(
        "Mined negatives, 16 a row", panels=3,
        height=3.6, share_y=True,
    )  # fmt: skip
    labels = {
        "mined0.5_unmasked": "half, nothing masked",
        "mined0.5_positive_aware": "half, none above 0.95\nof the positive",
        "mined0.5_deep": "half, from deeper ranks",
    }
    metrics = ("ndcg@10", "recall@100", "popularity@10")
    for axes, metric, colour in zip(panels, metrics, (BLUE, GREEN, ORANGE), strict=True):
        for row, name in enumerate(names):
            one = results[f"hard_negatives/{name}/{metric}"]
            interval_dot(axes, row, (one.value, one.low, one.high), colour=colour)
        named_rows(
            axes, [labels.get(name, f"{float(name[5:] or 0):.0%} mined") if name not in labels
                   else labels[name] for name in names],
        )  # fmt: skip
        axes.locator_params(axis="x", nbins=3)
    panels[0].set_xlabel("NDCG@10")
    panels[1].set_xlabel("Recall@100")
    panels[2].set_xlabel("popularity percentile")
    return figure


def false_negatives(results: Results, windows: Sequence[tuple[int, int]]) -> Figure:
    """Share of each window of ranks that the user takes later."""
    figure, (axes,) = new_figure("Where the false negatives are", height=3.2)
    for row, (begin, end) in enumerate(windows):
        one = results[f"false_negatives/ranks{begin + 1}-{end}/share"]
        interval_dot(axes, row, (one.value, one.low, one.high), colour=ORANGE)
    named_rows(axes, [f"ranks {begin + 1} to {end}" for begin, end in windows])
    axes.set_xlim(left=0)
    axes.set_xlabel("share that the user takes later (95% over users)")
    return figure


def gradient_error(results: Results, names: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Bias and noise over the batch size."""
    figure, (left, right) = new_figure(
        "Distance of the sampled gradient from the full softmax's", panels=2, height=4.2
    )
    styles = {
        "in_batch": (ORANGE, "s", "-"),
        "in_batch_logq": (BLUE, "o", "-"),
        "in_batch_logq_own_positive": (BLUE, "o", ":"),
        "uniform_logq": (GREEN, "^", "-"),
        "uniform_logq_own_positive": (GREEN, "^", ":"),
        "mixed_logq": (PINK, "D", "-"),
        "mixed_logq_own_positive": (PINK, "D", ":"),
    }
    for name in names:
        colour, marker, line = styles[name]
        for axes, metric in ((left, "bias"), (right, "noise")):
            values = [results[f"gradient/{name}/{metric}@{size}"].value for size in sizes]
            axes.plot(
                sizes, values, color=colour, marker=marker, linestyle=line,
                label=name.replace("_own_positive", ", positive as is").replace("_", " "),
            )  # fmt: skip
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("batch size")
    left.set_ylabel("bias (1 = as large as the gradient)")
    right.set_ylabel("noise of one batch")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  fontsize=8, frameon=False)  # fmt: skip
    return figure


def bytes_per_step(results: Results, dim: int) -> Figure:
    """Bytes a process sends for the table, over the size of the catalogue; two processes."""
    figure, (axes,) = new_figure("What a step sends for the table, by arithmetic", height=3.8)
    items = np.logspace(2, 8, 50)
    rows = results["distributed/arithmetic/distinct_rows"].value
    asked = results["distributed/arithmetic/asked_rows"].value
    replicated = np.array([all_reduce_bytes(n * dim, 2) for n in items])
    axes.plot(items, replicated, color=ORANGE)
    axes.annotate(
        "replicated: the whole gradient", (items[30], replicated[30]), xytext=(-8, 4),
        textcoords="offset points", ha="right", color=ORANGE,
    )  # fmt: skip
    for value, label, colour in (
        (rows, "sharded, distinct rows as measured", BLUE),
        (asked, "sharded, if no row were asked twice", SKY),
    ):
        sent = sharded_bytes(value, dim, 2)
        axes.axhline(sent, color=colour)
        axes.annotate(
            label, (items[-1], sent), xytext=(0, 4 if value == asked else -12),
            textcoords="offset points", ha="right", color=colour,
        )  # fmt: skip
    measured = results["distributed/two_sharded/table_bytes_per_step"].value
    axes.plot([results["distributed/arithmetic/crossover_items"].value], [measured],
              marker="o", color=BLACK)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"items in the table (rows of {dim} floats)")
    axes.set_ylabel("bytes sent by one of two processes")
    return figure


def _band(
    axes: object,
    results: Results,
    keys: Sequence[str],
    x: Sequence[float],
    colour: str,
    marker: str,
) -> None:
    """A line of values with its 95% interval as a band."""
    found = [results[key] for key in keys]
    axes.plot(x, [one.value for one in found], color=colour, marker=marker)  # type: ignore[attr-defined]
    axes.fill_between(  # type: ignore[attr-defined]
        x, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.15,
        linewidth=0,
    )  # fmt: skip
