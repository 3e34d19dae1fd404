"""Is our HNSW an HNSW? Beside FAISS at equal M, ef_construction and ef; and the readable one.

Out, on word vectors: ``hnsw_parity/{ours,faiss}+ef=<ef>/recall@10`` and ``qps``,
``hnsw_parity/ours_less_faiss+ef=<ef>/recall@10`` (paired difference), ``.../times_slower``;
``hnsw_parity/in_order+ef=<ef>/recall@10``: ours with the words inserted by falling frequency;
``hnsw_parity/nearest_links+ef=<ef>/recall@10``: ours with Algorithm 3 instead of 4; on a smaller
base ``hnsw_parity/{readable,compiled}_small+ef=<ef>/recall@10`` and ``qps``.
"""

from __future__ import annotations

import time

from threadpoolctl import threadpool_limits

from ml_algorithms.nearest_neighbour.bench_config import Config, Problem, vector_problem
from ml_algorithms.nearest_neighbour.bench_contenders import Built, build_faiss, hnsw_built
from ml_algorithms.nearest_neighbour.bench_plots import Line, panels_picture
from ml_algorithms.nearest_neighbour.bench_recall import PROTOCOL, Point, measure
from ml_algorithms.nearest_neighbour.hnsw import HNSW
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW, warm_up
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

STAGE = "hnsw_parity"


def run_parity(run: StudyRun[Config]) -> None:
    """The part."""
    config = run.config
    whole = vector_problem(run, "glove-50")
    results = run.results_of(whole)
    warm_up(whole.metric)
    with threadpool_limits(1), run.progress.stage("HNSW beside FAISS", 5) as step:
        problem = whole.part(config.parity_base, config.queries, seed=run.seed, keep_order=True)
        curves = {}
        for name, built in _pair(config, problem, results).items():
            curves[name] = _sweep(config, problem, name, built, results)
            step(1)
        _compare(problem, curves["ours"], curves["faiss"], results)
        for name, built in _variants(config, problem).items():
            curves[name] = _sweep(config, problem, name, built, results)
            step(1)
        _readable(config, whole, results, run.seed)
        step(1)
    _draw(run, problem, curves)


def _pair(config: Config, problem: Problem, results: Results) -> dict[str, Built]:
    """Ours and FAISS, with their build times recorded."""
    knobs = config.graph
    built: dict[str, Built] = {}
    for name in ("ours", "faiss"):
        begin = time.perf_counter()
        if name == "ours":
            built[name] = hnsw_built(problem, knobs)
        else:
            built[name] = build_faiss(problem, f"HNSW{knobs.m},Flat", "efSearch", knobs)
        results.add(
            f"{STAGE}/{name}/build_s",
            built[name].build_s or time.perf_counter() - begin,
            protocol=_about(config, problem) + "; one thread",
        )
    return built


def _variants(config: Config, problem: Problem) -> dict[str, Built]:
    """Ours, damaged in two ways that teach: insertion in the data's order, and Algorithm 3."""
    knobs = config.graph
    _, dimensions = problem.base.shape
    built = {}
    for name in ("in_order", "nearest_links"):
        index = CompiledHNSW(
            len(problem.base),
            dimensions,
            m=knobs.m,
            ef_construction=knobs.ef_construction,
            metric=problem.metric,
            shuffle=name != "in_order",
            diverse=name != "nearest_links",
        )
        index.add(problem.base)
        built[name] = hnsw_built(problem, knobs, index)
    return built


def _about(config: Config, problem: Problem) -> str:
    knobs = config.graph
    return f"{problem.describe()}, M={knobs.m}, ef_construction={knobs.ef_construction}"


def _sweep(
    config: Config, problem: Problem, name: str, built: Built, results: Results
) -> dict[int, Point]:
    """Recall and speed of one index at every ef."""
    about = _about(config, problem)
    points = {}
    for ef in config.graph.efs:
        # All queries, however slow the machine: differences in recall are paired by query.
        everything = len(problem.queries)
        point = measure(built, ef, problem, config.seconds_per_point, least=everything)
        key = f"{STAGE}/{name}+ef={ef}"
        results.add(
            f"{key}/recall@{problem.k}",
            bootstrap_mean(point.recall),
            protocol=f"{about}; one graph, queries resampled",
        )
        results.add(f"{key}/qps", point.qps, n=len(point.recall), protocol=f"{about}; {PROTOCOL}")
        points[ef] = point
    return points


def _compare(
    problem: Problem, ours: dict[int, Point], faiss: dict[int, Point], results: Results
) -> None:
    """The paired difference in recall, and how many times slower, at each ef."""
    for ef, mine in ours.items():
        key = f"{STAGE}/ours_less_faiss+ef={ef}"
        results.add(
            f"{key}/recall@{problem.k}",
            bootstrap_difference(mine.recall, faiss[ef].recall),
            protocol="recall of ours less recall of FAISS HNSW, equal knobs, paired by query",
        )
        results.add(
            f"{key}/times_slower",
            faiss[ef].qps / mine.qps,
            protocol=f"qps of FAISS HNSW over qps of ours, equal knobs; {PROTOCOL}",
        )


def _readable(config: Config, whole: Problem, results: Results, seed: int) -> None:
    """The readable index beside the compiled one on a small base, where it can be built."""
    small = whole.part(config.readable_base, config.readable_queries, seed=seed)
    knobs = config.graph
    begin = time.perf_counter()
    index = HNSW.build(
        small.base, m=knobs.m, ef_construction=knobs.ef_construction, metric=small.metric
    )
    about = _about(config, small)
    results.add(f"{STAGE}/readable_small/build_s", time.perf_counter() - begin, protocol=about)

    def tune(value: int) -> None:
        index.ef_search = value

    readable = Built(tune, lambda query: index.search(query, small.k)[1][0], 0.0)
    short = config.model_copy(update={"graph": knobs.model_copy(update={"efs": knobs.efs[1:3]})})
    begin = time.perf_counter()
    compiled = hnsw_built(small, knobs)
    results.add(f"{STAGE}/compiled_small/build_s", time.perf_counter() - begin, protocol=about)
    slow = _sweep(short, small, "readable_small", readable, results)
    fast = _sweep(short, small, "compiled_small", compiled, results)
    for ef, point in slow.items():
        results.add(
            f"{STAGE}/compiled_small+ef={ef}/times_faster",
            fast[ef].qps / point.qps,
            protocol=f"qps of the compiled over qps of the readable HNSW, {about}",
        )


def _draw(run: StudyRun[Config], problem: Problem, curves: dict[str, dict[int, Point]]) -> None:
    labels = {
        "ours": "ours",
        "faiss": "FAISS HNSW",
        "in_order": "ours, inserted by word frequency",
        "nearest_links": "ours, nearest links (Algorithm 3)",
    }
    efs = run.config.graph.efs
    recall = [
        Line(label, efs, [float(curves[name][ef].recall.mean()) for ef in efs])
        for name, label in labels.items()
    ]
    speed = [
        Line(label, efs, [curves[name][ef].qps for ef in efs]) for name, label in labels.items()
    ]
    note = f"{_about(run.config, problem)}. {PROTOCOL}."
    run.picture(
        "recall",
        panels_picture(
            "Recall by ef at equal knobs", {"": recall},
            x_label="ef (width of the search in layer 0)", y_label="recall@10", note=note,
            log_x=True, dashed=frozenset(["FAISS HNSW"]),
        ),
    )  # fmt: skip
    run.picture(
        "speed",
        panels_picture(
            "Speed by ef at equal knobs", {"": speed},
            x_label="ef (width of the search in layer 0)", y_label="queries per second", note=note,
            log_x=True, log_y=True, dashed=frozenset(["FAISS HNSW"]),
        ),
    )  # fmt: skip
