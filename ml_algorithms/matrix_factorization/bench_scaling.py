"""Part `scaling`: seconds of one iteration against interactions and against factors.

In: generated interactions (uniform users, Zipf items), so that both axes can be chosen; they say
nothing about quality. Out: seconds of one iteration of our iALS, of the implicit library's ALS with
exact solves and with its default conjugate gradients, and of one BPR epoch; each in one thread.
Spark's share of this question is in part `spark`, where the results are compared too.

Legend: N interactions, U users, I items, D factors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ml_algorithms.matrix_factorization.bench_config import StudyConfig
from ml_algorithms.matrix_factorization.bench_models import one_thread
from ml_algorithms.matrix_factorization.bpr import fit_bpr
from ml_algorithms.matrix_factorization.ials import fit_ials
from ml_platform.evaluation.plot_style import BLUE, GREEN, ORANGE, PINK, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

LINES = {
    "ials": ("iALS, ours (exact)", BLUE, "o"),
    "implicit_exact": ("implicit, exact", ORANGE, "s"),
    "implicit_cg": ("implicit, 3 CG steps", GREEN, "^"),
    "bpr": ("BPR epoch, ours", PINK, "D"),
}
TIMED_ITERATIONS = 2


def zipf_interactions(users: int, items: int, nnz: int, seed: int) -> sparse.csr_matrix:
    """About ``nnz`` distinct pairs, items drawn by Zipf's law; exactly so many are kept."""
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, items + 1) ** 0.6
    pairs = np.zeros(0, dtype=np.int64)
    while len(pairs) < nnz:
        user = rng.integers(users, size=nnz)
        item = rng.choice(items, size=nnz, p=weight / weight.sum())
        pairs = np.union1d(pairs, user * items + item)
    pairs = rng.choice(pairs, nnz, replace=False)
    ones = np.ones(nnz, dtype=np.float32)
    return sparse.csr_matrix((ones, (pairs // items, pairs % items)), shape=(users, items))


def run_scaling(run: StudyRun[StudyConfig]) -> None:
    """The whole part."""
    config = run.config
    results = run.results(
        dataset_name="zipf_interactions", dataset_sha256="generated", synthetic=True
    )
    nnz_held, factors_held = config.scaling_point
    total = len(config.scaling_nnz) + len(config.scaling_factors)
    with run.progress.stage("iterations", total) as step:
        for nnz in config.scaling_nnz:
            _measure(results, config, "by_nnz", nnz, nnz, factors_held)
            step(1)
        for factors in config.scaling_factors:
            _measure(results, config, "by_factors", factors, nnz_held, factors)
            step(1)
    run.picture("seconds", _picture(results, config))


def seconds_of(line: str, matrix: sparse.csr_matrix, factors: int, repeats: int) -> float:
    """Median seconds of one iteration, in one thread."""
    calls: dict[str, Callable[[], Any]] = {
        "ials": lambda: fit_ials(
            matrix, factors=factors, unobserved_weight=0.2, reg=0.01, iterations=TIMED_ITERATIONS
        ),
        "implicit_exact": lambda: _implicit(matrix, factors, use_cg=False),
        "implicit_cg": lambda: _implicit(matrix, factors, use_cg=True),
        "bpr": lambda: fit_bpr(matrix, factors=factors, epochs=TIMED_ITERATIONS),
    }
    spent = []
    with one_thread():
        if line == "bpr":
            calls[line]()  # compiles the loop
        for _ in range(repeats):
            begin = time.perf_counter()
            calls[line]()
            spent.append((time.perf_counter() - begin) / TIMED_ITERATIONS)
    return float(np.median(spent))


def _implicit(matrix: sparse.csr_matrix, factors: int, *, use_cg: bool) -> None:
    from implicit.cpu.als import AlternatingLeastSquares

    AlternatingLeastSquares(
        factors=factors, regularization=1.0, alpha=5.0, iterations=TIMED_ITERATIONS,
        use_cg=use_cg, num_threads=1, random_state=0,
    ).fit(matrix, show_progress=False)  # fmt: skip


def _measure(
    results: Results, config: StudyConfig, axis: str, at: int, nnz: int, factors: int
) -> None:
    matrix = zipf_interactions(config.scaling_users, config.scaling_items, nnz, seed=0)
    for line in LINES:
        results.add(
            f"{axis}/{line}/seconds_at_{at}",
            seconds_of(line, matrix, factors, config.scaling_repeats),
            protocol=f"SYNTHETIC: {config.scaling_users:,} users, {config.scaling_items:,} items, "
            f"{nnz:,} pairs, {factors} factors; a fit of {TIMED_ITERATIONS} iterations divided by "
            f"them; 1 thread, median of {config.scaling_repeats}",
            n=config.scaling_repeats,
        )


def _picture(results: Results, config: StudyConfig) -> Any:
    figure, (left, right) = new_figure("Seconds of one iteration, one thread", panels=2)
    axes_of: tuple[tuple[Any, str, Sequence[int], str], ...] = (
        (left, "by_nnz", config.scaling_nnz, f"interactions ({config.scaling_point[1]} factors)"),
        (
            right, "by_factors", config.scaling_factors,
            f"factors ({config.scaling_point[0]:,} interactions)",
        ),
    )  # fmt: skip
    for axes, axis, places, label in axes_of:
        for line, (name, colour, marker) in LINES.items():
            values = [results[f"{axis}/{line}/seconds_at_{at}"].value for at in places]
            axes.plot(places, values, color=colour, marker=marker, markersize=4, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(places, [f"{at // 1000}k" if at >= 10_000 else str(at) for at in places])
        axes.minorticks_off()
        axes.set_xlabel(label)
    left.set_ylabel("seconds")
    left.legend(frameon=False, fontsize=8)
    return figure
