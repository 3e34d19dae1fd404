"""Recall against speed: the three parts on real embeddings, in the manner of ann-benchmarks.

In: a ``Problem`` and its contenders. Out, for each contender, ``<stage>/<name>/build_s`` and
``bytes_per_vector``; for each value of its knob ``<stage>/<name>+<knob>=<value>/recall@10`` and
``qps``; and ``<stage>/<name>/qps@recall0.90`` and ``0.95``: the fastest point that reaches it.

How (M. Aumueller, E. Bernhardsson and A. Faithfull, "ANN-Benchmarks", Information Systems 2020):
every query is asked by itself from Python, on one thread; a returned vector counts as found if it
is no farther than the true k-th neighbour, so that ties do not punish.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ml_algorithms.nearest_neighbour.bench_config import (
    Config,
    IndexConfig,
    Problem,
    movielens_problem,
    vector_problem,
)
from ml_algorithms.nearest_neighbour.bench_contenders import Built, Contender, contenders
from ml_algorithms.nearest_neighbour.bench_plots import Curve, cost_picture, recall_picture
from ml_algorithms.nearest_neighbour.index import NO_ID, Ids, Vectors
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.ranking_metrics import recall_at
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

WARM_UP_QUERIES = 20
LEAST_QUERIES = 100
PASSES = 3
TARGETS = (0.90, 0.95, 0.99)
PROTOCOL = (
    "all queries one at a time from Python, one thread, "
    f"{WARM_UP_QUERIES} queries of warm-up, qps = queries / seconds, the median of up to "
    f"{PASSES} passes"
)


@dataclass(frozen=True)
class Point:
    """One setting measured: recall of each query f64[q], queries per second."""

    recall: npt.NDArray[np.float64]
    qps: float


def found_share(problem: Problem, ids: Ids) -> npt.NDArray[np.float64]:
    """Recall@k of the first queries, f64[q], from ids i64[q, k]; ties with the k-th count."""
    queries = problem.queries[: len(ids)]
    got = problem.base[np.where(ids == NO_ID, 0, ids)]  # [q, k, D]
    if problem.metric == "ip":
        distance = -np.einsum("qkd,qd->qk", got, queries)
    else:
        distance = np.einsum("qkd,qkd->qk", got - queries[:, None], got - queries[:, None])
    border = problem.kth_distance[: len(ids), None]
    slack = 1e-4 * np.maximum(np.abs(border), 1e-3)  # the exact distances come from another formula
    hits = (distance <= border + slack) & (ids != NO_ID)
    return recall_at(hits, np.full(len(ids), problem.k), problem.k)


def ask_all(
    ask: Callable[[Vectors], Ids],
    queries: Vectors,
    budget_s: float,
    *,
    least: int = LEAST_QUERIES,
) -> tuple[Ids, float]:
    """Asks one query after another: ids i64[q, k], and queries per second.

    When ``budget_s`` is spent the rest is left out, but at least ``least`` are asked; further
    passes are made while there is time, and the median is taken.
    """
    for row in range(min(WARM_UP_QUERIES, len(queries))):
        ask(queries[row : row + 1])
    answers: list[Ids] = []
    begin = time.perf_counter()
    for row in range(len(queries)):
        answers.append(ask(queries[row : row + 1]))
        if row + 1 >= least and time.perf_counter() - begin > budget_s:
            break
    seconds = [time.perf_counter() - begin]
    while len(seconds) < PASSES and sum(seconds) + seconds[0] < budget_s:
        begin = time.perf_counter()
        for row in range(len(answers)):
            ask(queries[row : row + 1])
        seconds.append(time.perf_counter() - begin)
    return np.stack(answers), len(answers) / float(np.median(seconds))


def measure(
    built: Built, value: int, problem: Problem, budget_s: float, *, least: int = LEAST_QUERIES
) -> Point:
    """Recall and speed at one value of the knob."""
    built.tune(value)
    ids, qps = ask_all(built.ask, problem.queries, budget_s, least=least)
    return Point(found_share(problem, ids), qps)


def run_glove(run: StudyRun[Config]) -> None:
    """400,000 word vectors by cosine."""
    _compare(run, vector_problem(run, "glove-50"), "glove", run.config.glove)


def run_fashion_mnist(run: StudyRun[Config]) -> None:
    """60,000 pictures of 784 pixels by Euclidean distance."""
    problem = vector_problem(run, "fashion-mnist-784")
    _compare(run, problem, "fashion_mnist", run.config.fashion_mnist)


def run_movielens(run: StudyRun[Config]) -> None:
    """1,682 item factors by inner product: so few that the exact scan is hard to beat."""
    _compare(run, movielens_problem(run), "movielens", run.config.movielens)


def _compare(run: StudyRun[Config], problem: Problem, stage: str, knobs: IndexConfig) -> None:
    results = run.results_of(problem)
    curves = []
    field = contenders(problem, knobs)
    with threadpool_limits(1), run.progress.stage(f"{stage}: indexes", len(field)) as step:
        for contender in field:
            curves.append(_curve(run.config, problem, stage, contender, results, knobs.refine))
            step(1)
    note = f"{problem.describe()}. {PROTOCOL}."
    run.picture("recall_qps", recall_picture(curves, note))
    run.picture("cost", cost_picture(curves, note))


def _curve(
    config: Config,
    problem: Problem,
    stage: str,
    contender: Contender,
    results: Results,
    refine: int,
) -> Curve:
    """Builds one contender, sweeps its knob, records all."""
    begin = time.perf_counter()
    built = contender.build()
    build_s = built.build_s or time.perf_counter() - begin
    points = {
        value: measure(built, value, problem, config.seconds_per_point, least=len(problem.queries))
        for value in contender.values
    }
    key = f"{stage}/{contender.name}"
    about = problem.describe()
    results.add(f"{key}/build_s", build_s, protocol=f"{about}, one thread, in memory")
    saved = f"{about}; size of the index as saved, vectors included where it keeps them"
    results.add(f"{key}/bytes_per_vector", built.bytes_per_vector, protocol=saved)
    for value, point in points.items():
        setting = f"{key}+{contender.knob}={value}" if value else key
        results.add(
            f"{setting}/recall@{problem.k}",
            bootstrap_mean(point.recall),
            protocol=f"{about}; found = no farther than the exact k-th; queries resampled",
        )
        how = f"{about}; {PROTOCOL}; re-ranking, where there is any, of {refine * problem.k}"
        results.add(f"{setting}/qps", point.qps, n=len(point.recall), protocol=how)
    curve = Curve(
        contender.label,
        contender.colour,
        contender.ours,
        [float(point.recall.mean()) for point in points.values()],
        [point.qps for point in points.values()],
        build_s,
        built.bytes_per_vector,
    )
    for target in TARGETS:
        if (best := curve.fastest(target)) is not None:
            about_target = f"{about}; fastest measured setting with recall >= {target}; {PROTOCOL}"
            results.add(f"{key}/qps@recall{target:.2f}", best, protocol=about_target)
    return curve
