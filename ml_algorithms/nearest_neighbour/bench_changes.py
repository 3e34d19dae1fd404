"""Filters and deletes: what they do to recall and speed of a graph, on word vectors.

``filtered``. An attribute that a share s of the vectors has, under three relations to the query:
*independent* (a random share), *near* (the clusters nearest to the query) and *far* (the clusters
farthest from it); the attributes are drawn, the vectors are real. Keys:
``filtered/<method>+<relation>+s=<s>/recall@10``, ``qps``, ``distances`` (of walks: computed per
query) and ``short`` (share of queries with fewer than k results).

``deletes``. A random share of the nodes is deleted. ``deletes/<way>+dead=<share>/recall@10`` (of
the living), ``qps``, and ``deletes/<way>+dead=<share>/seconds`` for the ways that change the graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ml_algorithms.nearest_neighbour.bench_config import Config, Problem, exact_kth, vector_problem
from ml_algorithms.nearest_neighbour.bench_plots import Line, panels_picture
from ml_algorithms.nearest_neighbour.bench_recall import PROTOCOL, ask_all, found_share
from ml_algorithms.nearest_neighbour.deletes import copy_of, live_copy, repair, unlink
from ml_algorithms.nearest_neighbour.exact import distances
from ml_algorithms.nearest_neighbour.filtered import (
    ADMIT,
    INSIDE,
    TWO_HOP,
    Allowed,
    Rule,
    post_filter,
    pre_filter,
    walk,
)
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW, warm_up
from ml_algorithms.nearest_neighbour.index import NO_ID, Distances, Ids, Vectors
from ml_algorithms.nearest_neighbour.kmeans import train_kmeans
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

RELATIONS = {
    "independent": "independent of the query",
    "near": "near the query",
    "far": "far from the query",
}
LABELS = {
    "pre": "pre-filter (exact)",
    "post": "post-filter",
    "admit": "walk all, admit allowed",
    "inside": "walk allowed only",
    "two_hop": "walk two hops",
}
RULES: dict[str, Rule] = {"admit": ADMIT, "inside": INSIDE, "two_hop": TWO_HOP}
Answer = tuple[Distances, Ids]


# --- filters --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What one method gave under one filter, over the queries."""

    recall: npt.NDArray[np.float64]
    qps: float
    distances: float
    short: float


def run_filtered(run: StudyRun[Config]) -> None:
    """The part."""
    config = run.config
    whole = vector_problem(run, "glove-50")
    results = run.results_of(whole)
    problem = whole.part(config.filter_base, config.filter_queries, seed=run.seed)
    warm_up(problem.metric)
    recall: dict[str, list[Line]] = {}
    speed: dict[str, list[Line]] = {}
    steps = len(RELATIONS) * len(config.selectivities)
    with threadpool_limits(1), run.progress.stage("filters", steps + 1) as step:
        index = _graph(config, problem)
        index.ef_search = config.filter_ef
        clusters = train_kmeans(problem.base, config.filter_clusters, seed=run.seed).centroids
        _compile_walks(index, problem)
        step(1)
        for relation in RELATIONS:
            table = {}
            for share in config.selectivities:
                masks = masks_of(problem, clusters, relation, share, seed=run.seed)
                table[share] = _methods(config, problem, index, masks)
                _record(results, config, problem, relation, share, table[share])
                step(1)
            recall[RELATIONS[relation]] = _lines(table, lambda one: float(one.recall.mean()))
            speed[RELATIONS[relation]] = _lines(table, lambda one: one.qps)
    note = _about_filters(config, problem)
    x_label = "share of vectors allowed"
    run.picture(
        "recall",
        panels_picture(
            "Filtered search: recall", recall, x_label=x_label, y_label="recall@10", note=note,
            log_x=True,
        ),
    )  # fmt: skip
    run.picture(
        "qps",
        panels_picture(
            "Filtered search: speed", speed, x_label=x_label, y_label="queries per second",
            note=note, log_x=True, log_y=True,
        ),
    )  # fmt: skip


def _graph(config: Config, problem: Problem) -> CompiledHNSW:
    knobs = config.graph
    return CompiledHNSW.build(
        problem.base, m=knobs.m, ef_construction=knobs.ef_construction, metric=problem.metric
    )


def _compile_walks(index: CompiledHNSW, problem: Problem) -> None:
    """Lets numba compile before anything is timed."""
    everything = np.ones(index.size, dtype=bool)
    walk(index, everything, problem.queries[:1], problem.k)


def masks_of(
    problem: Problem, clusters: Vectors, relation: str, share: float, *, seed: int
) -> list[Allowed]:
    """The filter of each query, bool[N], with exactly round(share N) vectors allowed (at least k).

    Raises:
        ValueError: On an unknown relation.
    """
    if relation not in RELATIONS:
        raise ValueError(f"relation is {relation!r}; choose one of {', '.join(RELATIONS)}")
    n = len(problem.base)
    wanted = max(round(share * n), problem.k)
    tie = np.random.default_rng(seed).permutation(n)  # order within a cluster, and "independent"
    home = np.argmin(distances(problem.base, clusters), axis=1)[tie]
    away = distances(problem.queries, clusters)  # [Q, C]
    if relation == "far":
        away = -away
    masks = []
    for row in away:
        order = tie
        if relation != "independent":
            rank = np.argsort(np.argsort(row)).astype(np.int16)  # of each cluster, to this query
            order = tie[np.argsort(rank[home], kind="stable")]  # int16: a radix sort
        mask = np.zeros(n, dtype=bool)
        mask[order[:wanted]] = True
        masks.append(mask)
    return masks


def _methods(
    config: Config, problem: Problem, index: CompiledHNSW, masks: list[Allowed]
) -> dict[str, Measured]:
    """Every method on the same queries and masks."""
    base, k, metric = problem.base, problem.k, problem.metric
    wide = copy_of(index)
    wide.ef_search = config.over_fetch * k
    asks: dict[str, Callable[[Vectors, Allowed], Answer]] = {
        "pre": lambda query, mask: pre_filter(base, mask, query, k, metric),
        "post": lambda query, mask: post_filter(wide, mask, query, k, over_fetch=config.over_fetch),
    }
    exact = [asks["pre"](problem.queries[row : row + 1], mask) for row, mask in enumerate(masks)]
    truth = replace(problem, known_kth=np.array([found[0][0, -1] for found in exact]))
    measured = {name: _timed(truth, ask, masks) for name, ask in asks.items()}
    for name, rule in RULES.items():
        measured[name] = _timed_walk(truth, index, rule, masks)
    return measured


def _timed(
    problem: Problem, ask: Callable[[Vectors, Allowed], Answer], masks: list[Allowed]
) -> Measured:
    """One query after another, each with its own filter."""
    ask(problem.queries[:1], masks[0])
    answers = []
    begin = time.perf_counter()
    for row, mask in enumerate(masks):
        answers.append(ask(problem.queries[row : row + 1], mask)[1][0])
    qps = len(masks) / (time.perf_counter() - begin)
    return _measured(problem, np.stack(answers), qps, 0.0)


def _timed_walk(
    problem: Problem, index: CompiledHNSW, rule: Rule, masks: list[Allowed]
) -> Measured:
    """As ``_timed``, and counts distances."""
    computed = []

    def ask(query: Vectors, mask: Allowed) -> Answer:
        distance, ids, count = walk(index, mask, query, problem.k, rule=rule)
        computed.append(int(count[0]))
        return distance, ids

    timed = _timed(problem, ask, masks)
    return replace(timed, distances=float(np.mean(computed[1:])))


def _measured(problem: Problem, ids: Ids, qps: float, computed: float) -> Measured:
    short = float((ids == NO_ID).any(axis=1).mean())
    return Measured(found_share(problem, ids), qps, computed, short)


def _about_filters(config: Config, problem: Problem) -> str:
    return (
        f"{problem.describe()}, {len(problem.queries)} queries, each with its filter; HNSW "
        f"M={config.graph.m}, ef={config.filter_ef}; post-filter fetches {config.over_fetch} k; "
        "one query at a time, one thread, one pass; filters drawn (near, far: by k-means cluster)"
    )


def _record(
    results: Results,
    config: Config,
    problem: Problem,
    relation: str,
    share: float,
    measured: dict[str, Measured],
) -> None:
    about = _about_filters(config, problem)
    for name, one in measured.items():
        key = f"filtered/{name}+{relation}+s={share:g}"
        results.add(f"{key}/recall@{problem.k}", bootstrap_mean(one.recall), protocol=about)
        results.add(f"{key}/qps", one.qps, n=len(one.recall), protocol=about)
        results.add(f"{key}/short", one.short, n=len(one.recall), protocol=about)
        if name in RULES:
            results.add(f"{key}/distances", one.distances, n=len(one.recall), protocol=about)


def _lines(
    table: dict[float, dict[str, Measured]], value: Callable[[Measured], float]
) -> list[Line]:
    shares = sorted(table)
    return [
        Line(label, shares, [value(table[share][name]) for share in shares])
        for name, label in LABELS.items()
    ]


# --- deletes --------------------------------------------------------------------------------------

WAYS = {
    "admit": "tombstones, walked over",
    "drop_after": "tombstones, dropped after",
    "unlink": "links cut",
    "repair": "links repaired",
    "rebuild": "rebuilt",
}


def run_deletes(run: StudyRun[Config]) -> None:
    """The part."""
    config = run.config
    whole = vector_problem(run, "glove-50")
    results = run.results_of(whole)
    problem = whole.part(config.delete_base, config.delete_queries, seed=run.seed)
    warm_up(problem.metric)
    recall: dict[str, dict[float, float]] = {way: {} for way in WAYS}
    speed: dict[str, dict[float, float]] = {way: {} for way in WAYS}
    with threadpool_limits(1), run.progress.stage("deletes", len(config.deleted) + 1) as step:
        index = _graph(config, problem)
        index.ef_search = config.delete_ef
        _compile_walks(index, problem)
        repair(copy_of(index), np.arange(index.size) == 0)
        step(1)
        order = np.random.default_rng(run.seed).permutation(index.size)
        for share in config.deleted:
            dead = np.zeros(index.size, dtype=bool)
            dead[order[: round(share * index.size)]] = True
            for way, (shares, qps) in _ways(config, problem, index, dead, share, results).items():
                recall[way][share], speed[way][share] = float(shares.mean()), qps
            step(1)
    note = _about_deletes(config, problem)
    for name, title, table, y_label in (
        ("recall", "Recall of the living after deletes", recall, "recall@10"),
        ("qps", "Speed after deletes", speed, "queries per second"),
    ):
        lines = [
            Line(label, list(table[way]), list(table[way].values())) for way, label in WAYS.items()
        ]
        figure = panels_picture(
            title, {"": lines}, x_label="share of vectors deleted", y_label=y_label, note=note,
            log_y=name == "qps",
        )  # fmt: skip
        run.picture(name, figure)


def _named(old: Ids, found: Ids) -> Ids:
    """Ids of the rebuilt index as those of the first; where nothing was found it stays so."""
    return np.where(found == NO_ID, NO_ID, old[found])


def _about_deletes(config: Config, problem: Problem) -> str:
    return (
        f"{problem.describe()}, {len(problem.queries)} queries; a random share deleted; HNSW "
        f"M={config.graph.m}, ef_construction={config.graph.ef_construction}, "
        f"ef={config.delete_ef}. {PROTOCOL}"
    )


def _ways(
    config: Config,
    problem: Problem,
    index: CompiledHNSW,
    dead: Allowed,
    share: float,
    results: Results,
) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
    """Recall of each query and speed, by way of deleting."""
    k, living = problem.k, ~dead
    rows = np.flatnonzero(living)
    kth = exact_kth(problem.base[rows], problem.queries, k, problem.metric)
    truth = replace(problem, known_kth=kth)
    cut, mended = copy_of(index), copy_of(index)
    seconds = {
        "unlink": _clock(lambda: unlink(cut, dead)),
        "repair": _clock(lambda: repair(mended, dead)),
    }
    begin = time.perf_counter()
    rebuilt, old = live_copy(index, dead)
    seconds["rebuild"] = time.perf_counter() - begin
    rebuilt.ef_search = config.delete_ef
    asks: dict[str, Callable[[Vectors], Ids]] = {
        "admit": lambda query: walk(index, living, query, k)[1][0],
        "drop_after": lambda query: _drop_after(index, living, query, k),
        "unlink": lambda query: cut.search(query, k)[1][0],
        "repair": lambda query: mended.search(query, k)[1][0],
        "rebuild": lambda query: _named(old, rebuilt.search(query, k)[1][0]),
    }
    about = _about_deletes(config, problem)
    measured = {}
    for way, ask in asks.items():
        everything = len(problem.queries)
        ids, qps = ask_all(ask, problem.queries, config.seconds_per_point, least=everything)
        measured[way] = (found_share(truth, ids), qps)
        key = f"deletes/{way}+dead={share:g}"
        results.add(f"{key}/recall@{k}", bootstrap_mean(measured[way][0]), protocol=about)
        results.add(f"{key}/qps", qps, n=len(ids), protocol=about)
        if way in seconds:
            results.add(f"{key}/seconds", seconds[way], protocol=f"{about}; in place, one thread")
    return measured


def _drop_after(index: CompiledHNSW, living: Allowed, query: Vectors, k: int) -> Ids:
    """All ef results of the unfiltered search, the dead dropped, the first k."""
    ids = index.search(query, max(index.ef_search, k))[1][0]
    kept = ids[(ids != NO_ID) & living[ids]][:k]
    return np.append(kept, np.full(k - len(kept), NO_ID))


def _clock(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
