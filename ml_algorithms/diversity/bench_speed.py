"""Part ``speed``: what a list from 1,000 candidates costs, naive, vectorised, incremental.

One thread, similarities ready (their product is measured apart), warm-up run first. Each variant
of a method picks the same items (the tests check it): what differs is what is computed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ml_algorithms.diversity.bench_config import Config
from ml_algorithms.diversity.calibrated import calibrated_list, genre_shares, mix
from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr
from ml_algorithms.diversity.sliding_window import sliding_spectrum, windowed_dpp
from ml_platform.evaluation.diversity_metrics import unit_rows
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, named_rows, new_figure
from ml_platform.evaluation.study import MissingInputError, StudyRun

GENRES = 18
TRADE_OFF = 0.7
NAMES = {
    "similarity": "similarities (before any)",
    "mmr_naive": "MMR, loops",
    "mmr_vectorised": "MMR, all picks each round",
    "mmr_incremental": "MMR, running maximum",
    "dpp_naive": "DPP, determinants",
    "dpp_vectorised": "DPP, solve each round",
    "dpp_incremental": "DPP, incremental Cholesky",
    "dpp_windowed": "DPP, window of 10",
    "sliding_spectrum": "sliding spectrum, window of 10",
    "calibrated": "calibrated",
}
Pick = Callable[[int], object]


def run_speed(run: StudyRun[Config]) -> None:
    """Measures the part."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingInputError(
            "threadpoolctl is missing: install the extra 'algorithms'"
        ) from error
    config = run.config
    results = run.results(dataset_name="random vectors", dataset_sha256="generated", synthetic=True)
    methods = _methods(config, run.seed)
    medians: dict[str, list[float]] = {name: [] for name in methods}
    with threadpool_limits(1), run.progress.stage("timings", len(methods)) as step:
        for name, (pick, slow) in methods.items():
            for k in config.speed_lists:
                repeats = config.slow_repeats if slow else config.fast_repeats
                taken = _milliseconds(pick, k, repeats)
                protocol = (
                    f"list of {k} from {config.speed_candidates} candidates, synthetic vectors, "
                    f"similarity ready, 1 thread, warm, {repeats} repeats"
                )
                key = f"speed/{name}"
                median = float(np.median(taken))
                results.add(f"{key}/p50_ms@{k}", median, n=repeats, protocol=protocol)
                if not slow:
                    p99 = float(np.quantile(taken, 0.99))
                    results.add(f"{key}/p99_ms@{k}", p99, n=repeats, protocol=protocol)
                medians[name].append(median)
            step(1)
    _draw(run, medians)


def naive_mmr(relevance: np.ndarray, similarity: np.ndarray, k: int) -> list[int]:
    """The definition, in loops: O(k^2 C) look-ups by the interpreter."""
    picked: list[int] = []
    for _ in range(k):
        best, highest = -1, -np.inf
        for c in range(len(relevance)):
            if c in picked:
                continue
            nearest = max((similarity[c, p] for p in picked), default=0.0)
            value = TRADE_OFF * relevance[c] - (1 - TRADE_OFF) * nearest
            if value > highest:
                best, highest = c, value
        picked.append(best)
    return picked


def vectorised_mmr(relevance: np.ndarray, similarity: np.ndarray, k: int) -> list[int]:
    """All candidates at once, but against all picks again in each round: O(k^2 C)."""
    picked: list[int] = []
    gain = TRADE_OFF * relevance
    for _ in range(k):
        value = gain
        if picked:
            value = gain - (1 - TRADE_OFF) * similarity[:, picked].max(axis=1)
            value[picked] = -np.inf
        picked.append(int(value.argmax()))
    return picked


def naive_dpp(kernel: np.ndarray, k: int) -> list[int]:
    """A determinant for every candidate in every round: O(k^4 C)."""
    picked: list[int] = []
    for _ in range(k):
        sets = np.array([[*picked, c] for c in range(len(kernel))])
        value = np.linalg.slogdet(kernel[sets[:, :, None], sets[:, None, :]])[1]
        value[picked] = -np.inf
        picked.append(int(value.argmax()))
    return picked


def vectorised_dpp(kernel: np.ndarray, k: int) -> list[int]:
    """One solve a round for all candidates, from scratch each time: O(k^3 C)."""
    return [int(item) for item in windowed_dpp(kernel, k, window=k + 1)]


def _methods(config: Config, seed: int) -> dict[str, tuple[Pick, bool]]:
    """The variants by name: what to call with k, and whether it is too slow for many repeats."""
    rng = np.random.default_rng(seed)
    n = config.speed_candidates
    vectors = unit_rows(rng.normal(size=(n, config.speed_dimensions)))
    relevance = rng.random(n)
    similarity = vectors @ vectors.T
    kernel = trade_off_kernel(relevance, similarity, trade_off=TRADE_OFF)
    shares = genre_shares(rng.random((n, GENRES)) < 0.15)
    target = mix(rng.dirichlet(np.ones(GENRES), size=1))
    window = config.window
    return {
        "similarity": (lambda k: vectors @ vectors.T, False),
        "mmr_naive": (lambda k: naive_mmr(relevance, similarity, k), True),
        "mmr_vectorised": (lambda k: vectorised_mmr(relevance, similarity, k), False),
        "mmr_incremental": (
            lambda k: mmr(relevance, similarity, k=k, trade_off=TRADE_OFF),
            False,
        ),
        "dpp_naive": (lambda k: naive_dpp(kernel, k), True),
        "dpp_vectorised": (lambda k: vectorised_dpp(kernel, k), False),
        "dpp_incremental": (lambda k: greedy_dpp(kernel, k), False),
        "dpp_windowed": (lambda k: windowed_dpp(kernel, k, window=window), False),
        "sliding_spectrum": (
            lambda k: sliding_spectrum(relevance, vectors, k=k, gamma=1.0, window=window),
            False,
        ),
        "calibrated": (
            lambda k: calibrated_list(relevance, shares, target, k=k, weight=0.5),
            False,
        ),
    }


def _milliseconds(pick: Pick, k: int, repeats: int) -> list[float]:
    pick(k)
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        pick(k)
        taken.append((time.perf_counter() - begin) * 1e3)
    return taken


def _draw(run: StudyRun[Config], medians: dict[str, list[float]]) -> None:
    lengths = run.config.speed_lists
    figure, (axes,) = new_figure(
        f"A list from {run.config.speed_candidates:,} candidates, one thread", height=5.0
    )
    colours = [BLUE, ORANGE]
    for place, (colour, k) in enumerate(zip(colours, (lengths[0], lengths[-1]), strict=True)):
        values = [taken[0 if place == 0 else -1] for taken in medians.values()]
        rows = np.arange(len(values)) + (place - 0.5) * 0.45
        marker = "o" if place == 0 else "s"
        axes.plot(values, rows, marker, color=colour, linestyle="none", label=f"list of {k}")
        for value, row in zip(values, rows, strict=True):
            axes.text(
                value * 1.18,
                row,
                f"{value:,.0f}" if value >= 10 else f"{value:.2g}",
                va="center",
                fontsize=8,
                color="0.3",
            )
    named_rows(axes, [NAMES[name] for name in medians])
    axes.set_xscale("log")
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlabel("median time (ms, log scale); dotted: one millisecond")
    axes.legend(frameon=False, loc="lower right")
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * 2)
    run.picture("times", figure)
