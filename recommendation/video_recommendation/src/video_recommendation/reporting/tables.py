"""The tables along the funnel: its sizes and times, retrieval, the pool, the rankers.

In: an ``Evaluation``, and what a served load measured. Out: ``Grid``. Nothing is computed here that
``evaluation`` did not measure; means and paired differences come from its ``Table``.
"""

from __future__ import annotations

from ml_platform.evaluation.intervals import bootstrap_mean
from video_recommendation.config import Config
from video_recommendation.evaluation.lists import Table
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.reporting.grid import (
    BLANK,
    Cell,
    Grid,
    difference,
    estimate,
    number,
    ordered,
    sentences,
    text,
)
from video_recommendation.retrieval.sources import SOURCES
from video_recommendation.serving.load_session import LoadSession

BASELINES = ("random", "popularity", "recent_popularity", "item_knn", "ease", "ials")
MODELS = ("co_visitation", "ease_recency", "two_tower", "merged")
RETRIEVAL_ORDER = (*BASELINES, *MODELS)
RANKING_ORDER = ("ease", "ease_recency", "two_tower", "prerank", "lambdarank", "mmoe", "final")
FUNNEL_ROWS = (
    ("retrieve", "candidates"),
    ("prerank", "ranked"),
    ("rank", "reranked"),
    ("rerank", "list"),
)
"""(stage, the size that it leaves)."""
AROUND = ("queue", "state", "explain", "total")
"""Served stages that are no step of the funnel; others (fallbacks) are put before the total."""
WHOLE_PATH = "recommend"
"""A served stage that holds the others, and so is not shown beside them."""
SPREAD_NOTE = "95% intervals by user"


def funnel_grid(evaluation: Evaluation, served: LoadSession | None, flag: str) -> Grid:
    """Items that each stage leaves, and its milliseconds offline and served."""
    replay = evaluation.replay
    head = ("stage", "items left", "offline ms")
    rows = [[text("catalogue"), _count(replay.sizes["catalogue"]), BLANK]]
    for stage, size in FUNNEL_ROWS:
        rows.append([text(stage), _count(replay.sizes[size]), number(replay.stage_ms[stage], 2)])
    if served is None:
        note = "Offline: a request's share of batches of 1,024, which is throughput, not latency."
        return Grid(_FUNNEL, head, tuple(map(tuple, rows)), sentences(flag, note))
    inside = {stage for stage, _ in FUNNEL_ROWS} | {WHOLE_PATH}
    around = ordered([stage for stage in served.stages if stage not in inside], AROUND)
    rows += [[text(stage), BLANK, BLANK] for stage in around]
    for row in rows:
        found = served.stages.get(row[0].text)
        row += [number(found.p50_ms, 2), number(found.p99_ms, 2)] if found else [BLANK, BLANK]
    note = (
        "Offline: a request's share of batches of 1,024 (throughput). Served: one request at a "
        f"time per thread, at {served.load.offered_qps:g} requests a second."
    )
    breaks = (1, 1 + len(FUNNEL_ROWS))
    heads = (*head, "served p50 ms", "p99 ms")
    return Grid(
        _FUNNEL,
        heads,
        tuple(map(tuple, rows)),
        sentences(flag, note),
        breaks,
    )


_FUNNEL = "The funnel, means per request"


def retrieval_grid(evaluation: Evaluation, flag: str) -> Grid:
    """Every source and baseline on the same queries."""
    table = evaluation.retrieval
    metrics = ("hr@10", "ndcg@10", "recall@100")
    names = [name for name in table.rows if name != "oracle"]
    names = ordered(names, RETRIEVAL_ORDER)
    names += ["oracle"] if "oracle" in table.rows else []
    rows = tuple(
        (
            text(name),
            *(estimate(table.mean(name, metric)) for metric in metrics),
            *_against(table, name, ("hr@10", "recall@100")),
        )
        for name in names
    )
    note = f"{SPREAD_NOTE}. Δ: paired difference to ease, grey where its interval includes 0."
    oracle = "oracle: the generator's true utility, the ceiling." if "oracle" in names else ""
    heads = ("model", "HR@10", "NDCG@10", "Recall@100", "Δ HR@10", "Δ R@100")
    breaks = tuple(
        place for place, name in enumerate(names) if name in ("co_visitation", "merged", "oracle")
    )
    marked = tuple(place for place, name in enumerate(names) if name == "merged")
    caption = sentences(flag, note, oracle)
    return Grid("Retrieval, full catalogue, test window", heads, rows, caption, breaks, marked)


def ranking_grid(evaluation: Evaluation, config: Config, flag: str) -> Grid:
    """The order after each stage, and the rankers among the candidates alone."""
    table = evaluation.ranking
    names = ordered(list(table.rows), RANKING_ORDER)
    rows = []
    for name in names:
        label = f"{name} *" if name == config.ranking.ranker else name
        values = [estimate(table.mean(name, metric)) for metric in ("hr@10", "ndcg@10", "map@10")]
        among = evaluation.candidates.get(name)
        area = BLANK
        if among is not None and len(among["auc"]):
            area = estimate(bootstrap_mean(among["auc"], among["user"]))
        rows.append((text(label), *values, *_against(table, name, ("hr@10",)), area))
    note = (
        f"{SPREAD_NOTE}. Δ: paired, to ease. AUC: within a request, among the candidates ranked. "
        "* feeds the final list, which is re-ranked and obeys the rules."
    )
    heads = ("order by", "HR@10", "NDCG@10", "MAP@10", "Δ HR@10", "AUC")
    breaks = tuple(place for place, name in enumerate(names) if name in ("prerank", "final"))
    marked = tuple(place for place, name in enumerate(names) if name == "final")
    title = "Ranking, full catalogue, test window"
    return Grid(title, heads, tuple(rows), sentences(flag, note), breaks, marked)


def pool_grid(evaluation: Evaluation, config: Config, flag: str) -> Grid:
    """What each source brings to the merged pool."""
    pool = evaluation.pool
    rows = [
        (
            text(name),
            _count(getattr(config.retrieval, name)),
            number(pool[f"recall_{name}"]),
            number(pool[f"only_{name}"]),
        )
        for name in SOURCES
    ]
    rows.append((text("merged"), _count(pool["pool_size"]), number(pool["pool_recall"]), BLANK))
    note = (
        "Share of the relevant items that a source proposes within its quota, and that no other "
        "proposes; ease here is ease_recency. merged: mean pool size after overlaps."
    )
    heads = ("source", "quota", "recall", "only by it")
    last = len(rows) - 1
    return Grid("The pool", heads, tuple(rows), sentences(flag, note), (last,), (last,))


def ablations_grid(table: Table) -> Grid:
    """The two-tower ablations; ``table`` has a row "default" and its protocol says all flags."""
    names = ["default", *(name for name in table.rows if name != "default")]
    rows = tuple(
        (
            text(name),
            *(estimate(table.mean(name, metric)) for metric in ("hr@10", "ndcg@10", "recall@100")),
            BLANK
            if name == "default"
            else difference(table.difference(name, "default", "recall@100")),
        )
        for name in names
    )
    heads = ("two-tower", "HR@10", "NDCG@10", "Recall@100", "Δ R@100")
    note = f"{SPREAD_NOTE}. Δ: paired, to default, grey where its interval includes 0."
    caption = sentences(note, f"{table.protocol}.")
    return Grid("Ablations of the two-tower model", heads, rows, caption, (1,), (0,))


def knobs_line(evaluation: Evaluation) -> str:
    """What tuning on the validation window chose, in one line."""
    chosen = [
        f"{name} " + ", ".join(f"{knob} {value:g}" for knob, value in setting.items())
        for name, setting in evaluation.settings.items()
        if setting
    ]
    return "Chosen on validation: " + ("; ".join(chosen) if chosen else "nothing to choose") + "."


def load_line(served: LoadSession | None) -> str:
    """The served load in one sentence; says so when there was none."""
    if served is None:
        return "Served load: not measured in this run."
    load = served.load
    if load.p50_ms is None or load.p99_ms is None:
        return f"Served load: none of {load.n:,} requests was answered ({load.errors})."
    return (
        f"Served load: {load.offered_qps:g} requests a second offered ({load.arrivals} arrivals, "
        f"open loop), {load.achieved_qps:.1f} achieved for {load.seconds:.1f} s, "
        f"{load.n:,} requests: p50 {load.p50_ms:.1f} ms, p90 {load.p90_ms:.1f} ms, "
        f"p99 {load.p99_ms:.1f} ms, errors {load.error_rate:.2%}, "
        f"degraded {served.degraded_share:.2%}."
    )


def _against(table: Table, name: str, metrics: tuple[str, ...]) -> list[Cell]:
    if name == "ease":
        return [BLANK] * len(metrics)
    return [difference(table.difference(name, "ease", metric)) for metric in metrics]


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}")
