"""What notebook.ipynb calls: its data, its little experiments and their pictures.

In: MovieLens-100K where it can be had, generated data otherwise (the notebook prints which). Out:
figures and small tables. Each function is one experiment, fast enough to stand behind a slider.

Legend: U users, I items, D factors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import sparse

from ml_algorithms.matrix_factorization.bench_data import (
    Split,
    dataset_of,
    lists_of,
    ndcg,
    split_of,
)
from ml_algorithms.matrix_factorization.ials import ImplicitALS, fit_ials
from ml_algorithms.matrix_factorization.svd import truncated_svd
from ml_algorithms.study_data import for_notebook
from ml_platform.evaluation.diversity_metrics import catalogue_coverage
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure

SEED = 1


@dataclass(frozen=True)
class Lesson:
    """The data of the notebook."""

    name: str
    synthetic: bool
    split: Split
    titles: list[str]

    @property
    def description(self) -> str:
        """Name and shape; says so where the data are generated."""
        (users, items), pairs = self.split.train.shape, self.split.train.nnz
        note = " (GENERATED: the shapes hold, the numbers prove nothing)" if self.synthetic else ""
        share = pairs / users / items
        return f"{self.name}{note}: {users:,} users, {items:,} items, {pairs:,} pairs, {share:.1%}"

    @property
    def popularity(self) -> np.ndarray:
        """Train interactions of each item, i64[I]."""
        return np.bincount(self.split.train.indices, minlength=self.split.train.shape[1])


def open_lesson(name: str = "movielens-100k") -> Lesson:
    """The data set, or generated data where no source has it."""
    dataset = for_notebook(dataset_of, name)
    titles = [str(title) for title in dataset.items["title"]]
    return Lesson(dataset.name, dataset.synthetic, split_of(dataset.name, SEED), titles)


def cost_of_all_cells(lesson: Lesson, factors: int) -> pd.DataFrame:
    """The sum of squared scores over all cells, cell by cell and by two Gram matrices."""
    rng = np.random.default_rng(0)
    n_users, n_items = lesson.split.train.shape
    users, items = rng.normal(size=(n_users, factors)), rng.normal(size=(n_items, factors))
    rows = []
    for name, call in (
        ("score every cell, square, add", lambda: ((users @ items.T) ** 2).sum()),
        ("two Gram matrices", lambda: ((users.T @ users) * (items.T @ items)).sum()),
    ):
        begin = time.perf_counter()
        value = float(call())
        rows.append((name, value, 1e3 * (time.perf_counter() - begin)))
    return pd.DataFrame(rows, columns=["way", "sum", "milliseconds"])


def figure_spectrum(lesson: Lesson, rank: int = 60) -> Figure:
    """Singular values of the train matrix beside those of the same matrix shuffled."""
    train = lesson.split.train
    rank = min(rank, min(train.shape) - 1)
    rng = np.random.default_rng(0)
    # The same popularity of items, with all structure between them destroyed.
    owner = rng.permutation(np.repeat(np.arange(train.shape[0]), np.diff(train.indptr)))
    shuffled = sparse.csr_matrix((train.data, (owner, train.indices)), shape=train.shape)
    figure, (axes,) = new_figure("How many directions stand out of chance?", height=3.4)
    for matrix, label, colour in (
        (train, "who watched what", BLUE),
        (shuffled, "shuffled", GREY),
    ):
        values = truncated_svd(matrix, rank).values
        axes.plot(np.arange(1, rank + 1), values, color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("singular value, largest first")
    axes.set_ylabel("value")
    axes.legend(frameon=False)
    return figure


@cache
def fitted(name: str, factors: int, unobserved_weight: float, reg: float) -> ImplicitALS:
    """The iALS model of the lesson's train part, kept for the next call with the same knobs."""
    return fit_ials(
        split_of(name, SEED).train, factors=factors, unobserved_weight=unobserved_weight, reg=reg,
        iterations=6, seed=SEED,
    )  # fmt: skip


def quality_of(
    lesson: Lesson, factors: int = 24, unobserved_weight: float = 0.25, reg: float = 0.012
) -> dict[str, float]:
    """nDCG@10, share of the catalogue shown, and how popular the listed items are."""
    model = fitted(lesson.name, factors, unobserved_weight, reg)
    lists = lists_of(model.score(model.user_factors), lesson.split.train)
    rank = lesson.popularity.argsort().argsort() / len(lesson.popularity)  # 1: most popular
    return {
        "nDCG@10": float(ndcg(lists, lesson.split).mean()),
        "coverage@10": catalogue_coverage(lists, len(rank)),
        "popularity of what is listed (1 is the top)": float(rank[lists].mean()),
    }


def figure_unobserved_weight(lesson: Lesson, weights: tuple[float, ...], factors: int) -> Figure:
    """nDCG@10 and coverage along the unobserved weight."""
    rows = [quality_of(lesson, factors, weight) for weight in weights]
    figure, (left, right) = new_figure(
        "How loudly does an empty cell say no?", panels=2, height=3.2
    )
    left.plot(weights, [row["nDCG@10"] for row in rows], color=BLUE, marker="o")
    left.set_ylabel("nDCG@10")
    right.plot(weights, [row["coverage@10"] for row in rows], color=ORANGE, marker="s")
    right.set_ylabel("share of the catalogue listed")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("unobserved weight")
        axes.set_ylim(bottom=0.0)
    return figure


def find_title(lesson: Lesson, part: str) -> int:
    """The most popular item whose title holds ``part``.

    Raises:
        ValueError: If no title does.
    """
    found = [i for i, title in enumerate(lesson.titles) if part.lower() in title.lower()]
    if not found:
        raise ValueError(f"no title holds {part!r}; titles look like {lesson.titles[:3]}")
    return int(max(found, key=lambda i: lesson.popularity[i]))


def favourites(lesson: Lesson, n: int = 3) -> list[int]:
    """A newcomer's first items: three science fiction films, or popular items of generated data."""
    if lesson.synthetic:
        return [int(i) for i in np.argsort(-lesson.popularity)[5 : 5 + n]]
    return [find_title(lesson, part) for part in ("alien (", "blade runner", "terminator, the")][:n]


def newcomer(lesson: Lesson, liked: list[int], k: int = 8) -> pd.DataFrame:
    """A user nobody has seen, in one solve: the list, and how long it took."""
    model = fitted(lesson.name, 24, 0.25, 0.012)
    row = sparse.csr_matrix(
        (np.ones(len(liked), np.float32), (np.zeros(len(liked), int), sorted(liked))),
        shape=(1, lesson.split.train.shape[1]),
    )
    begin = time.perf_counter()
    scores = model.score(model.fold_in(row))
    spent = 1e3 * (time.perf_counter() - begin)
    listed = lists_of(scores, row, k)[0]
    rows = [(lesson.titles[i], round(float(scores[0, i]), 3)) for i in listed]
    table = pd.DataFrame(rows, columns=["title", "score"])
    known = ", ".join(lesson.titles[i] for i in liked) or "nothing"
    table.attrs["caption"] = f"after {known}; {spent:.1f} ms"
    return table


def captioned(table: pd.DataFrame) -> Any:
    """The table with its caption above."""
    return table.style.set_caption(table.attrs["caption"]).hide(axis="index")
