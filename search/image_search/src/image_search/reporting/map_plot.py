"""A map of an embedding: t-SNE in the plane, coloured by class, with some of the pictures.

In: vectors f32[n, D] and their classes. Out: a PNG. L. van der Maaten and G. Hinton, "Visualizing
Data using t-SNE", JMLR 9, 2008: places in the plane are moved until neighbours there are neighbours
in D dimensions. Long vectors are reduced to 50 principal components first, for speed.

Read it for which classes touch, not for distances or sizes of clusters: t-SNE keeps neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    new_figure,
    png,
)

MOST = 3000
COMPONENTS = 50
PERPLEXITY = 30
BROWN, PURPLE, OLIVE = "#8C564B", "#6A3D9A", "#9A9A00"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY, BLACK, BROWN, PURPLE, OLIVE)
"""The palette of all plots and three more: both data sets have ten classes."""
MARKERS = ("o", "^", "s")
"""The next one for every ten classes."""
THUMBNAIL = 28


def tsne_picture(
    vectors: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: Path,
    seed: int,
    *,
    title: str = "Map of the embedding (t-SNE)",
    pictures: Sequence[np.ndarray] | np.ndarray | None = None,
    thumbnails: int = 24,
) -> Figure:
    """Draws the map and writes it.

    Args:
        vectors: f32[n, D]; at most MOST of them are drawn, chosen by the seed.
        labels: i[n], positions in ``names``.
        names: Of the classes.
        path: Of the PNG; its folder is made.
        seed: Of the choice, and of the map.
        title: Of the figure.
        pictures: n pictures u8[H, W, C], some of which are put where they lie.
        thumbnails: How many.

    Returns:
        The figure, for a notebook.

    Raises:
        ValueError: If there are fewer than three vectors, or labels do not fit.
    """
    if len(vectors) != len(labels) or len(vectors) < 3:
        raise ValueError(f"{len(vectors)} vectors and {len(labels)} labels; three are needed")
    rows = drawn_rows(len(vectors), seed)
    places = tsne(vectors[rows], seed)
    figure, (axes,) = new_figure(title, height=6.2)
    _draw_classes(axes, places, np.asarray(labels)[rows], names)
    if pictures is not None:
        for n in spread_places(places, thumbnails):
            _put(axes, places[n], pictures[int(rows[n])])
    figure.supxlabel(
        f"{len(rows):,} of {len(vectors):,} vectors of {vectors.shape[1]} numbers, seed {seed}. "
        "Distances and sizes between clusters mean nothing.",
        x=0.01, ha="left", fontsize=8,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
    return figure


def drawn_rows(n: int, seed: int) -> np.ndarray:
    """i64[min(n, MOST)]: which vectors are drawn, in their order."""
    if n <= MOST:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False))


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """f32[n, 2], the same for the same seed on the same machine."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = vectors.shape
    if min(n, width) > COMPONENTS:
        vectors = PCA(COMPONENTS, random_state=seed, svd_solver="randomized").fit_transform(vectors)
    perplexity = min(PERPLEXITY, (n - 1) / 3)
    planner = TSNE(2, init="pca", perplexity=perplexity, random_state=seed, n_jobs=1)
    return np.asarray(planner.fit_transform(vectors), dtype=np.float32)


def spread_places(places: np.ndarray, most: int) -> list[int]:
    """Numbers of points that lie far from each other: each is the farthest from those before it."""
    chosen = [int(np.linalg.norm(places - places.mean(axis=0), axis=1).argmin())]
    nearest = np.linalg.norm(places - places[chosen[0]], axis=1)
    while len(chosen) < min(most, len(places)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return chosen


def _draw_classes(axes: Any, places: np.ndarray, label: np.ndarray, names: Sequence[str]) -> None:
    for k, name in enumerate(names):
        points = places[label == k]
        if not len(points):
            continue
        colour = COLOURS[k % len(COLOURS)]
        marker = MARKERS[k // len(COLOURS) % len(MARKERS)]
        axes.scatter(*points.T, s=7, color=colour, marker=marker, alpha=0.55, linewidths=0)
        # The point nearest to the class's median: the median itself may lie in another class.
        middle = points[np.abs(points - np.median(points, axis=0)).sum(axis=1).argmin()]
        box = {"facecolor": "white", "edgecolor": colour, "alpha": 0.85, "pad": 1.5}
        axes.text(*middle, name, fontsize=8, color=colour, ha="center", va="center", bbox=box,
                  zorder=5)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _put(axes: Any, place: np.ndarray, picture: np.ndarray) -> None:
    grey = picture.shape[2] == 1
    small = Image.fromarray(picture[..., 0] if grey else picture)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    image = OffsetImage(np.asarray(small), cmap="gray" if grey else None, zoom=0.75)
    box = AnnotationBbox(
        image, tuple(place), pad=0.08, bboxprops={"edgecolor": "0.6", "linewidth": 0.5}, zorder=4
    )
    axes.add_artist(box)
