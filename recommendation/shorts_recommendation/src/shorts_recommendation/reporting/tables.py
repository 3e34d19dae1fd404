"""Tables of a run, made from its results by key: what stands there is printed, nothing else.

In: ``Results``. Out: ``Table``s, one a stage, a row a variant, a column a metric.
"""

from __future__ import annotations

from dataclasses import dataclass

from ml_platform.evaluation.results import Metric, Results


@dataclass(frozen=True)
class Layout:
    """How one stage is shown.

    Attributes:
        stage: First part of the keys.
        title: Above the table.
        metrics: Third part of the keys -> format, in the order of the columns.
        sort_by: Metric that orders the rows, best first; "" keeps the order of the keys.
    """

    stage: str
    title: str
    metrics: dict[str, str]
    sort_by: str = ""


@dataclass(frozen=True)
class Table:
    """Text cells; ``protocols`` are those of its numbers, each once."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    protocols: list[str]


LAYOUTS = (
    Layout(
        "retrieval",
        "Retrieval: the videos that were watched through, in the whole catalogue",
        {
            "recall@100": ".3f",
            "recall@1000": ".3f",
            "uniform_recall@1000": ".3f",
            "coverage": ".3f",
            "oracle_share": ".3f",
            "satisfaction": ".3f",
        },
        "recall@1000",
    ),
    Layout(
        "ranking",
        "Ranking the funnel's candidates, gain by the simulator's truth",
        {
            "truth_ndcg@10": ".3f",
            "truth_satisfaction": ".3f",
            "share_of_oracle": ".1%",
            "share_of_catalogue_oracle": ".1%",
        },
        "truth_ndcg@10",
    ),
    Layout(
        "ranking",
        "Ranking what sessions were shown, gain by what people did",
        {
            "logged_ndcg@10": ".3f",
            "auc_long_view": ".3f",
            "auc_skip": ".3f",
            "auc_like": ".3f",
            "ece_long_view": ".4f",
        },
        "logged_ndcg@10",
    ),
    Layout(
        "reranking",
        "Re-ranking: what variety costs and brings",
        {
            "ild@10": ".3f",
            "min_distance@10": ".3f",
            "tag_entropy@10": ".2f",
            "relevance@10": ".3f",
            "satisfaction@10": ".3f",
            "watch_s": ".1f",
        },
    ),
    Layout(
        "serving",
        "Serving under load, open loop",
        {
            "achieved_qps": ",.0f",
            "p50_ms": ".1f",
            "p99_ms": ".1f",
            "hit_rate": ".1%",
            "error_rate": ".2%",
            "degraded_share": ".2%",
        },
    ),
)


def tables(results: Results, *, intervals: bool = True) -> list[Table]:
    """One table for each stage that the run has; without intervals it fits a terminal."""
    found = (_table(results, layout, intervals) for layout in LAYOUTS)
    return [table for table in found if table is not None]


def _table(results: Results, layout: Layout, intervals: bool) -> Table | None:
    found: dict[str, dict[str, Metric]] = {}
    for key in results:
        stage, variant, metric = key.split("/")
        if stage == layout.stage and metric in layout.metrics and "_minus_" not in variant:
            found.setdefault(variant, {})[metric] = results[key]
    if not found:
        return None
    order = list(found)
    if layout.sort_by:
        order.sort(key=lambda v: -_value(found[v].get(layout.sort_by)))
    shown = {m: f for m, f in layout.metrics.items() if any(m in row for row in found.values())}
    rows = [
        [
            variant.replace("_", " "),
            *(_cell(found[variant].get(m), f, intervals) for m, f in shown.items()),
        ]
        for variant in order
    ]
    protocols = list(dict.fromkeys(m.protocol for row in found.values() for m in row.values()))
    columns = [layout.stage.replace("_", " "), *(m.replace("_", " ") for m in shown)]
    return Table(layout.title, columns, rows, protocols)


def _value(metric: Metric | None) -> float:
    return float("-inf") if metric is None else metric.value


def _cell(metric: Metric | None, form: str, intervals: bool) -> str:
    if metric is None:
        return "-"
    text = format(metric.value, form)
    if not intervals or metric.low is None or metric.high is None:
        return text
    return f"{text} [{metric.low:{form}}, {metric.high:{form}}]"
