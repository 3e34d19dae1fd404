"""What an embedding finds, as pictures: queries on the left, their ten nearest to the right.

In: an image set, rows and ``RetrievalScores`` of one embedding. Out: a PNG. Good rows come first,
at most one of a class, then the worst, at most two of a class, so that one confusion does not fill
the page. A frame says whether a result has the query's class: green and solid if so, red and dashed
if not, with the result's class below it. Which queries are shown follows from the scores alone;
nobody chose them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from image_search.evaluation.retrieval import SHOWN, RetrievalScores
from image_search.images.image_set import ImageSet, Rows
from ml_platform.evaluation.plot_style import BLACK, DPI, GREEN, ORANGE, WIDTH_INCHES, png

GOOD, BAD = 4, 6
CELL_INCHES = WIDTH_INCHES / (SHOWN + 1.6)


def neighbour_picture(
    images: ImageSet, rows: Rows, scores: RetrievalScores, embedder_name: str, path: Path
) -> Figure:
    """Draws the grid and writes it.

    Args:
        images: The set.
        rows: Whose queries and gallery ``scores`` is about.
        scores: Of this embedding.
        embedder_name: For the title.
        path: Of the PNG; its folder is made.

    Returns:
        The figure, for a notebook.

    Raises:
        ValueError: If scores and rows are not of the same queries.
    """
    if len(scores) != len(rows.queries) or scores.n_gallery != len(rows.gallery):
        raise ValueError(
            f"scores of {len(scores)} queries in {scores.n_gallery}, rows of "
            f"{len(rows.queries)} in {len(rows.gallery)}"
        )
    good, bad = chosen_queries(scores)
    drawn = [*good, *bad]
    height = CELL_INCHES * 1.22 * len(drawn) + 0.9
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{embedder_name}: nearest of {len(rows.gallery):,}, {images.name}",
        x=0.01, y=1 - 0.08 / height, ha="left", va="top", fontsize=12, fontweight="bold",
    )  # fmt: skip
    # By hand: laying out a hundred small axes automatically takes seconds.
    figure.subplots_adjust(
        left=0.015, right=0.985, top=1 - 0.45 / height, bottom=0.45 / height,
        wspace=0.12, hspace=0.3,
    )  # fmt: skip
    axes = figure.subplots(len(drawn), SHOWN + 1, squeeze=False)
    for line, query in zip(axes, drawn, strict=True):
        _draw_row(line, images, rows, scores, query)
    share = float(scores.values["recall@1"].mean())
    figure.supxlabel(
        f"First column: the query. {len(good)} good rows, then the worst {len(bad)} of "
        f"{len(scores):,} queries. Dashed: another class. R@1 {share:.3f}.",
        x=0.01, y=0.08 / height, ha="left", va="bottom", fontsize=8,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
    return figure


def chosen_queries(
    scores: RetrievalScores, *, good: int = GOOD, bad: int = BAD
) -> tuple[list[int], list[int]]:
    """Which queries are shown: numbers of queries, good ones and bad ones, none in both.

    Good means the highest precision@10, bad the lowest; mAP@R and the query's place decide ties.
    """
    place = np.arange(len(scores))
    precision, average = scores.values[f"precision@{SHOWN}"], scores.values["map@r"]
    best = np.lexsort((place, -average, -precision))
    worst = np.lexsort((place, average, precision))
    succeeds = precision > 0.5
    first = _spread(best[succeeds[best]], scores.label, good, each=1)
    last = _spread(worst[~np.isin(worst, first)], scores.label, bad, each=2)
    return first, last


def _spread(order: np.ndarray, label: np.ndarray, most: int, *, each: int) -> list[int]:
    """The first ``most`` of the order, at most ``each`` of a class."""
    taken: list[int] = []
    used: dict[int, int] = {}
    for query in order.tolist():
        k = int(label[query])
        if len(taken) < most and used.get(k, 0) < each:
            used[k] = used.get(k, 0) + 1
            taken.append(query)
    return taken


def _draw_row(line: Any, images: ImageSet, rows: Rows, scores: RetrievalScores, query: int) -> None:
    asked = int(rows.queries[query])
    names, label = images.label_names, images.label
    _draw(line[0], images.images[asked], colour=BLACK, dashed=False, words=names[label[asked]])
    for axes, place in zip(line[1:], scores.neighbours[query].tolist(), strict=True):
        if place < 0:
            axes.axis("off")
            continue
        found = int(rows.gallery[place])
        same = bool(label[found] == label[asked])
        words = "" if same else names[label[found]]
        _draw(axes, images.images[found], colour=GREEN if same else ORANGE, dashed=not same,
              words=words)  # fmt: skip


def _draw(axes: Any, picture: np.ndarray, *, colour: str, dashed: bool, words: str) -> None:
    grey = picture.shape[2] == 1
    axes.imshow(picture[..., 0] if grey else picture, cmap="gray" if grey else None)
    height, width = picture.shape[:2]
    frame = Rectangle(
        (-0.5, -0.5), width, height, fill=False, edgecolor=colour, linewidth=2.2,
        linestyle=(0, (2, 1)) if dashed else "solid", clip_on=False,
    )  # fmt: skip
    axes.add_patch(frame)
    axes.set_axis_off()
    axes.annotate(
        words, (width / 2, height), xytext=(0, -3), textcoords="offset points", fontsize=6,
        ha="center", va="top", color=colour, annotation_clip=False,
    )  # fmt: skip
