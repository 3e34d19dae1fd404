"""The study's quantisation part: what the same bytes buy under PQ, OPQ and score-aware codes.

In: two problems of real vectors, one of item factors. Out: ``quantisation.json``, two pictures.

- ``codes_<problem>/pq_m<M>/*``, ``opq_m<M>/*``: share of the variance lost, recall@10 of a scan by
  codes, recall@10 after the best 100 by code are compared exactly.
- ``aware_<problem>/eta<e>/*``: recall@10 of 4-bit codes trained with weight e on the parallel
  error; ``gain`` is the paired difference to e = 1, which is plain PQ by the same code.

All scans are exhaustive (no lists), so that nothing but the codes decides. A scan by codes equals a
scan of the decoded vectors (a test holds ADC to that), which is how it is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ml_algorithms.nearest_neighbour.anisotropic import encode_anisotropic, train_anisotropic
from ml_algorithms.nearest_neighbour.bench_config import (
    Config,
    Problem,
    movielens_problem,
    vector_problem,
)
from ml_algorithms.nearest_neighbour.bench_recall import found_share
from ml_algorithms.nearest_neighbour.exact import FlatIndex, rerank
from ml_algorithms.nearest_neighbour.index import Vectors
from ml_algorithms.nearest_neighbour.product_quantization import (
    ProductQuantizer,
    reconstruction_error,
    rotate,
    train_opq,
)
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

Recall = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """What one setting reached: for the pictures."""

    problem: str
    kind: str
    at: float
    recall: float
    low: float
    high: float


def run_quantisation(run: StudyRun[Config]) -> None:
    """Both comparisons."""
    config = run.config.quantisation
    glove = vector_problem(run, "glove-50")
    results = run.results_of(glove)
    glove = _part(glove, config.base, config.queries)
    pictures = _part(vector_problem(run, "fashion-mnist-784"), config.base, config.queries)
    items = movielens_problem(run)
    with threadpool_limits(1):
        codes = [
            *_compare_codes(run, results, "glove", glove, config.glove_parts),
            *_compare_codes(run, results, "fashion_mnist", pictures, config.fashion_mnist_parts),
        ]
        aware = [
            *_compare_awareness(run, results, "glove", glove),
            *_compare_awareness(run, results, "movielens", items),
        ]
    run.picture("codes", _codes_picture(codes))
    run.picture("aware", _aware_picture(aware))


def _part(problem: Problem, rows: int, queries: int) -> Problem:
    return problem.part(min(rows, len(problem.base)), min(queries, len(problem.queries)))


def _scan(problem: Problem, decoded: Vectors, shortlist: int) -> tuple[Recall, Recall]:
    """Recall@k f64[Q] of a scan of decoded vectors, and after the shortlist is compared exactly."""
    _, ids = FlatIndex(decoded, problem.metric).search(problem.queries, shortlist)
    _, refined = rerank(problem.queries, ids, problem.base, problem.k, problem.metric)
    return found_share(problem, ids[:, : problem.k]), found_share(problem, refined)


def _compare_codes(
    run: StudyRun[Config], results: Results, name: str, problem: Problem, all_parts: Sequence[int]
) -> list[Point]:
    """PQ against OPQ at each number of bytes."""
    config = run.config.quantisation
    points = []
    spread = float(problem.base.var(axis=0, dtype=np.float64).sum())
    protocol = f"{problem.describe()}, scan of all by 8-bit codes; 95%: bootstrap over queries"
    with run.progress.stage(f"PQ and OPQ, {name}", 2 * len(all_parts)) as step:
        for parts in all_parts:
            for kind in ("pq", "opq"):
                decoded = _decoded(problem.base, parts, kind, run)
                direct, refined = _scan(problem, decoded, config.shortlist)
                stem = f"codes_{name}/{kind}_m{parts}"
                lost = reconstruction_error(problem.base, decoded) / spread
                results.add(f"{stem}/variance_lost", lost, protocol=protocol)
                results.add(f"{stem}/code_bytes", parts, protocol=protocol)
                estimate = bootstrap_mean(direct)
                results.add(f"{stem}/recall@{problem.k}", estimate, protocol=protocol)
                again = f"{protocol}; the best {config.shortlist} compared exactly"
                refined_key = f"{stem}/recall@{problem.k}_refined"
                results.add(refined_key, bootstrap_mean(refined), protocol=again)
                ends = estimate.low or estimate.value, estimate.high or estimate.value
                points.append(Point(name, kind, parts, estimate.value, *ends))
                step(1)
    return points


def _decoded(base: Vectors, parts: int, kind: str, run: StudyRun[Config]) -> Vectors:
    """What is left of the vectors after PQ or OPQ, in the space they came from."""
    config = run.config.quantisation
    sample = base[: config.training]  # the base is in random order
    if kind == "pq":
        quantizer = ProductQuantizer.train(sample, parts=parts, seed=run.seed)
        return quantizer.decode(quantizer.encode(base))
    rotation, quantizer, _ = train_opq(sample, parts=parts, rounds=config.opq_rounds, seed=run.seed)
    return quantizer.decode(quantizer.encode(rotate(base, rotation))) @ rotation.T


def _compare_awareness(
    run: StudyRun[Config], results: Results, name: str, problem: Problem
) -> list[Point]:
    """Score-aware codes by weight of the parallel error, at equal bytes."""
    config = run.config.quantisation
    parts = problem.base.shape[1] // config.dimensions_per_part
    protocol = (
        f"{problem.describe()}, scan of all by 4-bit codes, {parts / 2:g} bytes, mean of "
        f"{config.seeds} trainings; 95%: bootstrap over queries"
    )
    exact = FlatIndex(problem.base, problem.metric).search(problem.queries, 1)
    points: list[Point] = []
    plain: Recall | None = None
    with run.progress.stage(f"score-aware codes, {name}", len(config.etas) * config.seeds) as step:
        for eta in config.etas:
            recalls, errors = [], []
            for seed in range(config.seeds):
                decoded = _aware(problem, parts, eta, run, seed)
                recalls.append(_scan(problem, decoded, config.shortlist)[0])
                errors.append(_score_error(problem, decoded, exact[1][:, 0], exact[0][:, 0]))
                step(1)
            recall = np.mean(recalls, axis=0)
            plain = recall if plain is None else plain
            stem = f"aware_{name}/eta{eta:g}"
            estimate = bootstrap_mean(recall)
            results.add(f"{stem}/recall@{problem.k}", estimate, protocol=protocol)
            gain = bootstrap_difference(recall, plain)
            results.add(f"{stem}/gain", gain, protocol=f"{protocol}; paired with eta 1")
            error = float(np.mean(errors))
            results.add(f"{stem}/top_score_error", error, protocol=protocol)
            ends = estimate.low or estimate.value, estimate.high or estimate.value
            points.append(Point(name, "aware", eta, estimate.value, *ends))
    return points


def _aware(problem: Problem, parts: int, eta: float, run: StudyRun[Config], seed: int) -> Vectors:
    """Vectors decoded from codes of the score-aware loss."""
    config = run.config.quantisation
    quantizer, _ = train_anisotropic(
        problem.base[: config.training],
        parts=parts,
        bits=4,
        eta=eta,
        rounds=config.aware_rounds,
        seed=run.seed + 100 * seed,
    )
    return quantizer.decode(encode_anisotropic(quantizer, problem.base, eta))


def _score_error(
    problem: Problem, decoded: Vectors, best: npt.NDArray[np.int64], truth: Vectors
) -> float:
    """Mean |estimated - true| / |true| of each query's best inner product."""
    estimated = -np.einsum("qd,qd->q", problem.queries, decoded[best])
    return float(np.mean(np.abs(estimated - truth) / np.abs(truth)))


def _codes_picture(points: list[Point]) -> Any:
    """Recall by bytes, a panel for each problem."""
    names = list(dict.fromkeys(point.problem for point in points))
    figure, panels = new_figure("Recall@10 of a scan by codes, PQ and OPQ", panels=len(names))
    for axes, name in zip(panels, names, strict=True):
        for kind, colour, marker, up in (("pq", ORANGE, "s", -6), ("opq", BLUE, "o", 6)):
            chosen = [point for point in points if (point.problem, point.kind) == (name, kind)]
            _line(axes, chosen, colour, marker)
            last = chosen[-1]
            axes.annotate(
                kind.upper(), (last.at, last.recall), xytext=(6, up), textcoords="offset points",
                color=colour, va="center",
            )  # fmt: skip
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("bytes per vector")
        axes.set_xlim(0, max(point.at for point in points if point.problem == name) * 1.25)
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("recall@10")
    return figure


def _aware_picture(points: list[Point]) -> Any:
    """Recall by eta, a panel for each problem; eta 1 is plain PQ."""
    names = list(dict.fromkeys(point.problem for point in points))
    figure, panels = new_figure("Recall@10 by weight of the parallel error", panels=len(names))
    for axes, name in zip(panels, names, strict=True):
        chosen = [point for point in points if point.problem == name]
        axes.axhline(chosen[0].recall, color=GREY, linestyle=":")
        axes.text(
            chosen[-1].at, chosen[0].recall, "plain PQ", color=GREY, va="bottom", ha="right",
            fontsize=8,
        )  # fmt: skip
        _line(axes, chosen, BLUE, "o")
        axes.set_xscale("log", base=2)
        axes.set_xticks([point.at for point in chosen], [f"{point.at:g}" for point in chosen])
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("eta")
    panels[0].set_ylabel("recall@10, equal bytes")
    return figure


def _line(axes: Any, points: list[Point], colour: str, marker: str) -> None:
    """A line with its 95% band."""
    at = [point.at for point in points]
    axes.plot(at, [point.recall for point in points], color=colour, marker=marker)
    axes.fill_between(
        at, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.15
    )
