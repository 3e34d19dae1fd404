"""Prints and records what ``parity`` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ml_platform.evaluation.results import Results
from video_recommendation.data import SystemData
from video_recommendation.monitoring.parity import Outcome
from video_recommendation.monitoring.store_latency import BIG_CATALOGUE
from video_recommendation.reporting.console import LOOK
from video_recommendation.stored_features import ITEM_ACTIVITY

SHOWN_FEATURES = 6
STAGES = {
    "state": "on_time",
    "features": "on_time",
    "rank": "on_time",
    "total": "on_time",
    "features_in_process": "late_10_minutes",
}
"""Stages whose times are recorded, and the scenario in which each of them runs."""
MEANINGS = {
    "on_time": "nothing to repair",
    "late_2_minutes": "younger than the time to live: served, and different",
    "late_10_minutes": "rows refused as stale; computed in the process, counted as degraded",
    "old_input": "no guard sees it: the rows say that they are fresh. Only this comparison does",
    "default_changed": "unknown users only; under the same keys the store would have refused it",
    "time_zone": "the training rows are wrong, not the served ones",
}


def print_parity(
    console: Console,
    outcomes: Sequence[Outcome],
    refused: str,
    latencies: Mapping[str, np.ndarray],
    data: SystemData,
    *,
    quick: bool,
) -> None:
    """One table of all scenarios, one of the features of each that differs, one of latencies."""
    flags = ("[yellow]QUICK[/] " if quick else "") + (
        "[yellow]SYNTHETIC[/] " if data.synthetic else ""
    )
    console.print(f"\n{flags}served features against the offline builder, {data.name}")
    table = Table("scenario", "requests", "degraded", "stale", "features that differ", **LOOK)
    for outcome in outcomes:
        different = outcome.comparison.report.different
        table.add_row(
            outcome.scenario.title,
            str(outcome.comparison.n_requests),
            f"{outcome.replayed.degraded_share:.0%}",
            f"{outcome.stale_share:.0%}",
            f"[red]{len(different)}" if different else "[green]none, to the bit",
        )
    console.print(table)
    for outcome in outcomes:
        _print_skew(console, outcome)
    console.print(
        f"\nA reader with the changed default under the same keys is told:\n  {refused}",
        highlight=False,
    )
    _print_latencies(console, latencies)


def _print_skew(console: Console, outcome: Outcome) -> None:
    report, scenario = outcome.comparison.report, outcome.scenario
    console.print(f"\n[bold]{scenario.title}[/]: {MEANINGS[scenario.name]}", highlight=False)
    if outcome.comparison.n_set_aside:
        n = outcome.comparison.n_set_aside
        console.print(f"  {n} requests set aside: degraded before their features", highlight=False)
    if outcome.comparison.n_unmatched:
        n = outcome.comparison.n_unmatched
        console.print(f"  {n} items shown would not even be proposed when rebuilt", highlight=False)
    if not report.different:
        console.print(f"  {report.verdict()}", highlight=False)
        return
    table = Table("feature", "rows", "largest", "worst: request/item", **LOOK)
    for row in report.table()[:SHOWN_FEATURES]:
        table.add_row(*row)
    console.print(table)
    more = len(report.different) - SHOWN_FEATURES
    if more > 0:
        names = ", ".join(feature.name for feature in report.different[SHOWN_FEATURES:])
        console.print(f"  and {more} more: {names}", highlight=False)


def _print_latencies(console: Console, latencies: Mapping[str, np.ndarray]) -> None:
    table = Table("way to the features of one request", "p50 ms", "p99 ms", **LOOK)
    for name, ms in latencies.items():
        p50_ms, p99_ms = np.percentile(ms, [50, 99])
        table.add_row(name, f"{p50_ms:.3f}", f"{p99_ms:.3f}")
    console.print(table)


def write_parity(
    folder: Path,
    results: Results,
    outcomes: Sequence[Outcome],
    latencies: Mapping[str, np.ndarray],
    data: SystemData,
    *,
    items_asked: int,
) -> None:
    """``parity.json``: what the documents quote."""
    kind = "generated data" if data.synthetic else data.name
    for outcome in outcomes:
        _record(results, outcome, kind)
    by_name = {outcome.scenario.name: outcome.replayed for outcome in outcomes}
    for stage, scenario in STAGES.items():
        ms = by_name[scenario].stage_ms(stage)
        protocol = f"stage of replayed requests, one at a time; {kind}"
        for name, percentile in (("p50_ms", 50), ("p99_ms", 99)):
            value = _percentile(ms, percentile)
            results.add(f"stage/{stage}/{name}", value, protocol=protocol, n=len(ms))
    for way, ms in latencies.items():
        protocol = f"{len(ms)} calls one after another, embedded store, one client"
        for name, percentile in (("p50_ms", 50), ("p99_ms", 99)):
            value = _percentile(ms, percentile)
            results.add(f"feature_access/{way}/{name}", value, protocol=protocol, n=len(ms))
    sizes = {
        "row/value_bytes": 8 + 4 * len(ITEM_ACTIVITY.specs),
        "request/items": items_asked,
        "catalogue/items": data.log.n_items,
        "large_catalogue/items": BIG_CATALOGUE,
    }
    for name, size in sizes.items():
        results.add(f"feature_access/{name}", size, protocol="sizes of the access benchmark")
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "parity.json")


def _record(results: Results, outcome: Outcome, kind: str) -> None:
    name, report = outcome.scenario.name, outcome.comparison.report
    protocol = (
        f"{outcome.comparison.n_requests} requests of the test window served over HTTP, rebuilt "
        f"offline one by one; {kind}"
    )
    figures = {
        "requests": outcome.comparison.n_requests,
        "rows": report.n_rows,
        "features": len(report.features),
        "features_different": len(report.different),
        "set_aside": outcome.comparison.n_set_aside,
        "unmatched_items": outcome.comparison.n_unmatched,
        "degraded_share": outcome.replayed.degraded_share,
        "stale_share": outcome.stale_share,
        "missing_profile_share": outcome.missing_profiles,
    }
    for metric, value in figures.items():
        results.add(f"parity/{name}/{metric}", value, protocol=protocol, n=report.n_rows)
    for feature in report.different:
        key = f"skew_{name}/{feature.name}/share_different"
        results.add(key, feature.share_different, protocol=protocol, n=report.n_rows)


def _percentile(ms: np.ndarray, percentile: float) -> float:
    return float(np.percentile(ms, percentile))
