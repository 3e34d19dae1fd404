"""What the notebook draws: a pool in the plane, a mix of two genres, a feed of eighteen.

In: knobs. Out: figures. All data is generated; nothing here measures quality.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ml_algorithms.diversity.calibrated import calibrated_list, miscalibration
from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr
from ml_algorithms.diversity.sliding_window import sliding_spectrum, windowed_dpp
from ml_platform.evaluation.diversity_metrics import intra_list_distance, unit_rows
from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, new_figure

CENTRES = np.array([[0.0, 0.0], [2.6, 0.4], [1.2, 2.2], [-0.2, 2.6]])
SIZES = (22, 9, 6, 3)  # the pool is full of what the user likes most


def pool(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places of 40 items in the plane [C, 2] in four clusters, and their relevance [C]."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(4), SIZES)
    places = CENTRES[cluster] + 0.28 * rng.normal(size=(len(cluster), 2))
    relevance = np.clip(0.95 - 0.18 * cluster + 0.08 * rng.normal(size=len(cluster)), 0, 1)
    return places, relevance


def similarity(places: np.ndarray) -> np.ndarray:
    """A Gaussian of the distance: positive definite, 1 on the diagonal. [C, C]."""
    squared = np.square(places[:, None] - places[None, :]).sum(axis=2)
    return np.asarray(np.exp(-squared / 0.8))


def choose(method: str, trade_off: float, k: int) -> np.ndarray:
    """A list from the pool by "relevance", "mmr" or "dpp".

    Raises:
        ValueError: On another method.
    """
    places, relevance = pool()
    if method == "relevance":
        return np.argsort(-relevance, kind="stable")[:k]
    if method == "mmr":
        return mmr(relevance, similarity(places), k=k, trade_off=trade_off)
    if method == "dpp":
        kernel = trade_off_kernel(relevance, similarity(places), trade_off=min(trade_off, 0.99))
        return greedy_dpp(kernel, k)
    raise ValueError(f"unknown method {method!r}: relevance, mmr or dpp")


def draw_choice(method: str = "mmr", trade_off: float = 0.6, k: int = 8) -> Figure:
    """The pool, the picks numbered in their order, and what the list is worth."""
    places, relevance = pool()
    picked = choose(method, trade_off, k)
    figure, (axes,) = new_figure(f"{method}: {k} of {len(places)} items", height=4.2)
    axes.scatter(*places.T, s=25 + 140 * relevance, color=GREY, alpha=0.35, linewidth=0)
    axes.scatter(*places[picked].T, s=25 + 140 * relevance[picked], color=BLUE)
    for order, item in enumerate(picked, start=1):
        axes.annotate(str(order), places[item], xytext=(6, 6), textcoords="offset points")
    apart = 1.0 - similarity(places)[np.ix_(picked, picked)]
    pairs = apart[np.triu_indices(len(picked), 1)]
    axes.set_xlabel(
        f"size: relevance (mean of the list {relevance[picked].mean():.2f}); "
        f"distance: mean {pairs.mean():.2f}, smallest {pairs.min():.2f}"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def draw_mix(weight: float = 0.9, drama_in_history: float = 0.7, k: int = 10) -> Figure:
    """Ten places for a user of two genres, all dramas scoring higher than all comedies."""
    shares = np.repeat(np.eye(2), 30, axis=0)
    relevance = np.concatenate([np.linspace(1.0, 0.7, 30), np.linspace(0.5, 0.2, 30)])
    target = np.array([drama_in_history, 1.0 - drama_in_history])
    picked = calibrated_list(relevance, shares, target, k=k, weight=weight)
    actual = shares[picked].mean(axis=0)
    kl = miscalibration(target, actual)
    figure, (axes,) = new_figure(f"Weight {weight:.2f}: KL {kl:.3f} nats", height=2.6)
    for row, (mix, name) in enumerate(((target, "history"), (actual, "list"))):
        axes.barh(row, mix[0], color=BLUE)
        axes.barh(row, mix[1], left=mix[0], color=ORANGE)
        axes.text(mix[0] / 2, row, f"drama {mix[0]:.0%}", ha="center", va="center", color="white")
        axes.text(1.01, row, f"comedy {mix[1]:.0%}", va="center", color=ORANGE)
        axes.text(-0.01, row, name, ha="right", va="center")
    axes.set_yticks([])
    axes.set_xlim(0, 1.2)
    axes.set_xlabel(f"share; mean relevance of the list {relevance[picked].mean():.2f}")
    return figure


def feed(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """300 items with one to three of eighteen genres: unit vectors [C, 18] and relevance [C]."""
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, 19)
    genres = np.zeros((300, 18))
    for row in genres:
        row[
            rng.choice(18, size=rng.integers(1, 4), replace=False, p=popularity / popularity.sum())
        ] = 1
    return unit_rows(genres), np.sort(rng.random(300))[::-1]


def draw_feed(window: int = 6, k: int = 60) -> Figure:
    """The distance within every screen of five along a long feed, with and without a window."""
    vectors, relevance = feed()
    kernel = trade_off_kernel(relevance, vectors @ vectors.T, trade_off=0.7)
    lists = {
        ("relevance alone", GREY): np.arange(k),
        ("DPP over all", ORANGE): greedy_dpp(kernel, k),
        (f"DPP, window of {window}", BLUE): windowed_dpp(kernel, k, window=window),
        (f"sliding spectrum, window of {window}", GREEN): sliding_spectrum(
            relevance, vectors, k=k, gamma=0.6, window=window
        ),
    }
    figure, (axes,) = new_figure("A feed over eighteen genres", height=3.8)
    for (name, colour), picked in lists.items():
        screens = np.lib.stride_tricks.sliding_window_view(picked, 5).astype(np.int32)
        axes.plot(
            np.arange(5, len(picked) + 1),
            intra_list_distance(vectors, screens),
            color=colour,
            label=f"{name}: {len(picked)} items",
        )
    axes.set_xlabel("position in the feed")
    axes.set_ylabel("distance within the last five")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
