"""The table and the numbers of a reliability run.

In: the reports of the experiments. Out: one rich table with a row for each fault, lines beneath it
that say what the numbers rest on, and keys ``reliability/<fault>/<metric>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml_platform.evaluation.results import Results
from video_recommendation.reliability.events import EventAudit
from video_recommendation.reliability.kill import KillReport
from video_recommendation.reliability.store import StoreReport
from video_recommendation.reliability.swaps import SwapReport
from video_recommendation.reliability.traffic import degraded_share, errors

STAGE = "reliability"
MAX_WIDTH = 100
COLUMNS = ("asked", "errors", "degraded", "events", "lost", "twice", "p99 ms", "back s")


@dataclass(frozen=True)
class Reliability:
    """What a run found.

    Attributes:
        swaps: Version swaps.
        kills: By kind of server, "light" or "full".
        faults: Of the store.
        full: Whether the trained bundle was served, where not said otherwise.
        rate_qps: Of the swaps and the store faults.
    """

    swaps: SwapReport
    kills: Mapping[str, KillReport]
    faults: tuple[StoreReport, ...]
    full: bool
    rate_qps: float

    @property
    def failures(self) -> list[str]:
        """What must not happen and did; empty for a run as it should be."""
        found = _event_failures("swaps", self.swaps.events)
        found += [f"swaps: {n} x {how}" for how, n in self.swaps.errors.items()]
        found += [f"swaps: {self.swaps.mixed} answers by two versions"] * bool(self.swaps.mixed)
        found += [f"swaps: refused {v}: {why}" for v, why in self.swaps.refused.items()]
        for kind, kill in self.kills.items():
            found += [f"kill, {kind}: {n} x {how}" for how, n in kill.errors.items()]
            counts = {"lost": kill.lost, "invisible": kill.invisible, "counted twice": kill.twice}
            found += [f"kill, {kind}: {n} events {what}" for what, n in counts.items() if n]
        for fault in self.faults:
            name = fault.fault.name
            found += [f"{name}: {n} x {how}" for how, n in fault.errors.items()]
            found += _event_failures(name, fault.events)
            if fault.complete_s is None:
                found.append(f"{name}: the state was not complete again in time")
        return found


def _event_failures(name: str, events: EventAudit) -> list[str]:
    counts = {"lost": events.lost, "invisible": events.invisible, "counted twice": events.twice}
    return [f"{name}: {n} events {what}" for what, n in counts.items() if n]


# --- terminal -------------------------------------------------------------------------------------


def print_reliability(console: Console, found: Reliability, *, note: str) -> None:
    """The table, and what stands beneath it.

    Args:
        console: Where to.
        found: The run.
        note: Where the numbers come from; "QUICK ..." for a quick run.
    """
    width = min(console.width, MAX_WIDTH)
    title = "What was done, and what clients saw"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.show_edge, table.pad_edge, table.padding = False, False, (0, 0, 0, 1)
    table.add_column("fault", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in (_swap_row(found.swaps), *_kill_rows(found), *map(_fault_row, found.faults)):
        table.add_row(*row)
    console.print(table, width=width)
    for line in (*_explanations(found), note):
        console.print(Text(line, style="bright_black"), width=width)
    for failure in found.failures:
        console.print(Text(f"FAILED  {failure}", style="bold red"))
    if not found.failures:
        console.print(Text("No request failed, no event was lost, none counts twice.", "green"))


def _swap_row(report: SwapReport) -> tuple[str, ...]:
    return (
        f"{len(report.promotions_s) + len(report.rollbacks_s)} swaps",
        f"{len(report.during):,}",
        _count(sum(report.errors.values()) + report.mixed),
        f"{degraded_share(report.during):.0%}",
        *_event_cells(report.events.acknowledged, report.events),
        _p99(report.p99_before_ms, report.p99_during_ms),
        "-",
    )


def _kill_rows(found: Reliability) -> list[tuple[str, ...]]:
    return [
        (
            f"{report.kills} x kill -9, {kind}",
            f"{report.answered:,}",
            _count(sum(report.errors.values())),
            "-",
            f"{report.acknowledged:,}",
            _count(report.lost + report.invisible),
            _count(report.twice),
            "-",
            f"{np.median(report.recovery_s):.2f}",
        )
        for kind, report in found.kills.items()
    ]


def _fault_row(report: StoreReport) -> tuple[str, ...]:
    complete = "never" if report.complete_s is None else f"{report.complete_s:.2f}"
    return (
        report.fault.label,
        f"{len(report.replies):,}",
        _count(sum(report.errors.values())),
        f"{degraded_share(report.during):.0%}",
        *_event_cells(report.events.acknowledged, report.events),
        _p99(report.p99_before_ms, report.p99_during_ms),
        complete,
    )


def _explanations(found: Reliability) -> list[str]:
    swaps = found.swaps
    promotion, rollback = np.median(swaps.promotions_s), np.median(swaps.rollbacks_s)
    lines = [
        "errors: no 2xx answer, or one made by two versions. degraded: share of fallbacks while "
        "the fault lasted. p99: before > during. lost: not in the log or not in the state. back: a "
        "killed server's start (median); a store fault's end to an event of the outage being "
        "shown.",
        f"A promotion was served after {promotion:.2f} s (median, with loading), a rollback after "
        f"{rollback:.2f} s; answers by version: "
        f"{', '.join(f'{n:,}' for n in swaps.by_version.values())}. Degraded before the first "
        f"swap: {degraded_share(swaps.before):.0%}.",
    ]
    for kind, kill in found.kills.items():
        lines.append(
            f"After {kill.kills} kills of the {kind} server its request log has {kill.torn_lines} "
            f"torn lines and lacks {kill.unlogged} answers that clients had; {kill.unasked} events "
            f"were logged although their acknowledgement never arrived. The slowest start took "
            f"{max(kill.recovery_s):.2f} s."
        )
    for fault in found.faults:
        if fault.reasons:
            reasons = ", ".join(f"{why} {n}" for why, n in sorted(fault.reasons.items()))
            lines.append(f"Degraded, {fault.fault.words}: {reasons}.")
    return lines


def _event_cells(acknowledged: int, events: EventAudit) -> tuple[str, str, str]:
    return f"{acknowledged:,}", _count(events.lost + events.invisible), _count(events.twice)


def _count(n: int) -> str:
    return f"[bold red]{n:,}[/]" if n else "0"


def _p99(before: float | None, during: float | None) -> str:
    return " > ".join("-" if value is None else f"{value:.0f}" for value in (before, during))


# --- numbers --------------------------------------------------------------------------------------


def record_reliability(results: Results, found: Reliability) -> None:
    """Adds ``reliability/<fault>/<metric>``."""
    served = "the trained bundle" if found.full else "the light recommender"
    load = (
        f"one worker serving {served}, open loop, poisson arrivals at {found.rate_qps:g} a second"
    )
    _record_swaps(results, found.swaps, load)
    for kind, kill in found.kills.items():
        _record_kills(results, kind, kill)
    for fault in found.faults:
        _record_fault(results, fault, f"{load}, one in five an event; {fault.fault.words}")


def _record_swaps(results: Results, report: SwapReport, load: str) -> None:
    n_swaps = len(report.promotions_s) + len(report.rollbacks_s)
    protocol = f"{load}, one in ten an event; {n_swaps} swaps, promotions and rollbacks in turn"
    values: dict[str, float | None] = {
        "swaps": n_swaps,
        "requests": len(report.during),
        "errors": sum(errors(report.during).values()),
        "mixed_answers": report.mixed,
        "degraded": report.degraded,
        "degraded_share_before": degraded_share(report.before),
        "degraded_share_during": degraded_share(report.during),
        "versions_answering": len(report.by_version),
        "p99_before_ms": report.p99_before_ms,
        "p99_during_ms": report.p99_during_ms,
        "promotion_p50_s": float(np.median(report.promotions_s)),
        "promotion_max_s": max(report.promotions_s),
        "rollback_p50_s": float(np.median(report.rollbacks_s)),
        "rollback_max_s": max(report.rollbacks_s),
        **_event_values(report.events),
    }
    _add(results, "swaps", values, protocol)


def _record_kills(results: Results, kind: str, report: KillReport) -> None:
    server = "the trained bundle" if kind == "full" else "the light recommender"
    protocol = (
        f"{report.kills} x kill -9 of the process that serves {server}, at a random moment under "
        "load; log and state compared with the acknowledgements after each restart, then all sent "
        "again"
    )
    values: dict[str, float | None] = {
        "kills": report.kills,
        "answered": report.answered,
        "errors": sum(report.errors.values()),
        "acknowledged": report.acknowledged,
        "lost": report.lost,
        "invisible": report.invisible,
        "twice": report.twice,
        "logged_unacknowledged": report.unasked,
        "torn_request_log_lines": report.torn_lines,
        "answers_not_in_request_log": report.unlogged,
        "recovery_p50_s": float(np.median(report.recovery_s)),
        "recovery_max_s": max(report.recovery_s),
    }
    _add(results, f"kill_{kind}", values, protocol)


def _record_fault(results: Results, report: StoreReport, protocol: str) -> None:
    values: dict[str, float | None] = {
        "requests": len(report.replies),
        "errors": sum(report.errors.values()),
        "requests_during": len(report.during),
        "degraded": report.degraded,
        "degraded_share_before": degraded_share(report.before),
        "degraded_share_during": degraded_share(report.during),
        "p99_before_ms": report.p99_before_ms,
        "p99_during_ms": report.p99_during_ms,
        "first_full_answer_s": report.first_full_s,
        "all_answers_full_s": report.all_full_s,
        "state_complete_s": report.complete_s,
        **_event_values(report.events),
    }
    for reason, n in report.reasons.items():
        values[f"degraded_{reason.replace('/', '_')}"] = n
    _add(results, f"store_{report.fault.name}", values, protocol)


def _event_values(events: EventAudit) -> dict[str, float | None]:
    return {
        "acknowledged": events.acknowledged,
        "lost": events.lost,
        "invisible": events.invisible,
        "twice": events.twice,
    }


def _add(results: Results, fault: str, values: Mapping[str, float | None], protocol: str) -> None:
    for metric, value in values.items():
        if value is not None:
            results.add(f"{STAGE}/{fault}/{metric}", float(value), protocol=protocol)
