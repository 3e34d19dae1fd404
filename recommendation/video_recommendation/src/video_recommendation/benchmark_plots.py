"""The three pictures of the index benchmark, each titled with the question it answers.

In: the rows. Out: PNG files. Kinds differ by colour (Okabe and Ito's palette, distinct to
colour-blind readers), marker and name beside the line; nothing rests on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import write_atomic
from video_recommendation.benchmark_indexes import CurvePoint, IndexRow

COLOURS = {"flat": "#000000", "ivf": "#0072B2", "hnsw": "#D55E00", "pq": "#009E73"}
MARKERS = {"flat": "o", "ivf": "s", "hnsw": "^", "pq": "D"}
NAMES = {"flat": "Flat (exact)", "ivf": "IVF", "hnsw": "HNSW", "pq": "IVF-PQ"}
FILES = ("index_latency_by_size.png", "index_recall_latency.png", "index_bytes_per_vector.png")
SIZE_INCHES = (7.2, 4.4)
DPI = 110


def plot_index_benchmark(
    rows: Sequence[IndexRow], folder: Path, *, target_recall: float, origin: str
) -> list[Path]:
    """Draws all three into ``folder``; returns the paths in the order of ``FILES``.

    Args:
        rows: From ``benchmark_index_sizes``.
        folder: Made if missing; files there are replaced whole.
        target_recall: Below it a latency does not count as comparable, and is drawn hollow.
        origin: Whence the vectors; stands small beneath each picture.
    """
    figures = (
        latency_by_size(rows, target_recall),
        recall_latency(rows, target_recall),
        bytes_per_vector(rows),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in zip(FILES, figures, strict=True):
        figure.text(0.01, 0.012, origin, fontsize=7, color="0.4", wrap=True)
        write_atomic(folder / name, png(figure))
    return [folder / name for name in FILES]


def latency_by_size(rows: Sequence[IndexRow], target_recall: float) -> Figure:
    """Median latency against N, both logarithmic."""
    figure, axes = _figure("From what catalogue size does an approximate index pay?")
    sizes = sorted({row.n_vectors for row in rows})
    ends = {}
    for kind in COLOURS:
        line = [row for row in rows if row.kind == kind]
        if not line:
            continue
        x, y = [row.n_vectors for row in line], [row.p50_ms for row in line]
        axes.plot(x, y, color=COLOURS[kind], linewidth=1.6)
        for row in line:
            _mark(axes, kind, row.n_vectors, row.p50_ms, filled=row.reaches_target)
        ends[kind] = y[-1]
    axes.set_xscale("log")
    axes.set_yscale("log")
    _name_lines(axes, ends, x=max(sizes))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(sizes) * 0.8, max(sizes) * 4)
    axes.set_xlabel("items in the catalogue")
    axes.set_ylabel("median latency of one query, ms")
    _plain_numbers(axes.yaxis)
    _note(axes, f"one thread; hollow: recall@100 stays below {target_recall:.2f}")
    return figure


def recall_latency(rows: Sequence[IndexRow], target_recall: float) -> Figure:
    """Recall against latency along the search's knob, at the one size with curves."""
    curves = {row.kind: row.curve for row in rows if row.curve}
    size = next((row.n_vectors for row in rows if row.curve), 0)
    figure, axes = _figure(f"What does recall cost at {size:,} items?")
    axes.axhline(target_recall, color="0.6", linewidth=1, linestyle="--")
    for kind, curve in curves.items():
        x, y = [p.p50_ms for p in curve], [p.recall for p in curve]
        axes.plot(
            x,
            y,
            color=COLOURS[kind],
            marker=MARKERS[kind],
            markersize=5,
            linewidth=1.4,
            label=f"{NAMES[kind]}{_effort_range(kind, curve)}",
        )
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.set_ylim(0, 1.04)
    axes.set_xlabel("median latency of one query, ms")
    axes.set_ylabel("recall@100 against exact search")
    if curves:
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    left = axes.get_xlim()[0]
    axes.text(left, target_recall + 0.01, f"  {target_recall:.2f}", fontsize=8, color="0.4")
    return figure


def bytes_per_vector(rows: Sequence[IndexRow]) -> Figure:
    """Bytes of the index per vector at the largest size, with the recall they buy."""
    size = max(row.n_vectors for row in rows)
    largest = sorted(
        (row for row in rows if row.n_vectors == size), key=lambda r: r.bytes_per_vector
    )
    figure, axes = _figure(f"How much memory does an item cost at {size:,} items?")
    for place, row in enumerate(largest):
        axes.barh(place, row.bytes_per_vector, color=COLOURS[row.kind], height=0.6)
        text = f" {row.bytes_per_vector:.0f} bytes, recall {row.recall.value:.2f}"
        axes.text(row.bytes_per_vector, place, text, va="center", fontsize=9)
    axes.set_yticks(range(len(largest)), [NAMES[row.kind] for row in largest])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.35 * max(row.bytes_per_vector for row in largest))
    axes.set_xlabel("bytes of the serialised index per vector")
    axes.grid(axis="y", visible=False)
    return figure


def _figure(title: str) -> tuple[Figure, Any]:
    """A figure of its own (no pyplot, no global state) with the house's plain axes."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.14, right=0.97, top=0.89, bottom=0.19)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _mark(axes: Any, kind: str, x: float, y: float, *, filled: bool) -> None:
    face = COLOURS[kind] if filled else "white"
    axes.plot(x, y, marker=MARKERS[kind], markersize=7, color=COLOURS[kind], markerfacecolor=face)


def _name_lines(axes: Any, ends: dict[str, float], *, x: float) -> None:
    """Names beside the lines' ends, moved apart where they would touch (log axis)."""
    low, high = axes.get_ylim()
    gap = (high / low) ** 0.06
    floor = 0.0
    for kind, y in sorted(ends.items(), key=lambda pair: pair[1]):
        place = max(y, floor)
        axes.text(x * 1.2, place, NAMES[kind], color=COLOURS[kind], va="center", fontsize=10)
        floor = place * gap


def _note(axes: Any, text: str) -> None:
    axes.text(0.01, 0.97, text, transform=axes.transAxes, va="top", fontsize=8.5, color="0.3")


def _plain_numbers(axis: Any) -> None:
    """0.1 for 10^-1; between the decades only where the axis has hardly a decade."""
    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if high < 20 * low else "")
    )


def _effort_range(kind: str, curve: Sequence[CurvePoint]) -> str:
    if kind == "flat":
        return ""
    name = "efSearch" if kind == "hnsw" else "n_probe"
    return f", {name} {curve[0].effort} to {curve[-1].effort}"
