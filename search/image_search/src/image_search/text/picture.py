"""The page that a person looks at: prompts in the first column, their ten best pictures beside.

In: prompts, pictures searched. Out: a figure. A picture that the prompt is not true of has an
orange frame and a cross in its corner.
"""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from image_search.images.preparing import Images
from image_search.text.dual_encoder import DualEncoder
from image_search.text.evaluation import SHOWN, Searched, similarities
from image_search.text.prompts import GROUPS, Prompts
from ml_platform.evaluation.plot_style import DPI, ORANGE, WIDTH_INCHES
from ml_platform.evaluation.top_k import top_k

ROWS = 12
NAME_WIDTH = 2.6
"""Of the prompts' column, in pictures."""


def shown_prompts(prompts: Prompts) -> Prompts:
    """ROWS prompts, of each group in turn, spread over it."""
    rows: list[int] = []
    groups = [g for g in GROUPS if np.any(prompts.group == g)]
    share = -(-ROWS // max(len(groups), 1))
    for group in groups:
        places = np.flatnonzero(prompts.group == group)
        spread = np.linspace(0, len(places) - 1, share + 2)[1:-1]
        rows += places[np.unique(spread.astype(np.int64))].tolist()
    return prompts.at(np.array(rows[:ROWS], dtype=np.int64))


def prompt_page(
    encoder: DualEncoder, prompts: Prompts, searched: Searched, pictures: Images, title: str
) -> Figure:
    """One row a prompt: its words, then its ten best pictures.

    Args:
        encoder: Fitted.
        prompts: Few.
        searched: G pictures.
        pictures: The same G, as they are.
        title: Of the figure.
    """
    order, _ = top_k(similarities(encoder, prompts.sentences, searched.vectors), SHOWN)
    true = prompts.claims.true_of(searched.label, searched.table)
    rows = len(prompts)
    figure = Figure(figsize=(WIDTH_INCHES, 0.62 * rows + 0.6), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, y=0.995, ha="left", va="top", fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(
        rows, SHOWN + 1, width_ratios=[NAME_WIDTH, *[1] * SHOWN], left=0.01, right=0.995,
        bottom=0.01, top=1 - 0.5 / (0.62 * rows + 0.6), wspace=0.06, hspace=0.12,
    )  # fmt: skip
    for n, sentence in enumerate(prompts.sentences):
        name = figure.add_subplot(grid[n, 0])
        name.axis("off")
        name.text(0, 0.5, textwrap.fill(sentence, 22), fontsize=8, va="center")
        for place, row in enumerate(order[n]):
            cell = figure.add_subplot(grid[n, place + 1])
            cell.set_xticks([])
            cell.set_yticks([])
            if row < 0:
                cell.axis("off")
                continue
            _draw(cell, pictures[int(row)], right=bool(true[n, row]))
    return figure


def _draw(cell: object, picture: np.ndarray, *, right: bool) -> None:
    grey = picture.shape[2] == 1
    cell.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=255)  # type: ignore[attr-defined]
    for spine in cell.spines.values():  # type: ignore[attr-defined]
        spine.set_visible(not right)
        spine.set_color(ORANGE)
        spine.set_linewidth(2)
    if not right:
        cell.text(  # type: ignore[attr-defined]
            0.95, 0.93, "x", color=ORANGE, fontsize=9, fontweight="bold", ha="right", va="top",
            transform=cell.transAxes,  # type: ignore[attr-defined]
        )  # fmt: skip
