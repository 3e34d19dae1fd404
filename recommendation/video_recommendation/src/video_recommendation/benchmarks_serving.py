"""The service under rising load: how much one worker holds, and where the time goes.

In: a bundle. Out: latency unloaded (2 requests a second), at 100 a second, and the highest rate of
a rising series at which 99% of the answers come within the limit, none failed and none degraded.
The load comes open loop from a second process on the same machine, so on two cores the client
takes its share: the figures are a lower bound.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ml_platform.evaluation.results import Results
from video_recommendation.data import SystemData
from video_recommendation.evaluation.record import record_load
from video_recommendation.serving.load_session import (
    LoadSession,
    holds,
    measure,
    request_lines,
    running_server,
)

P99_LIMIT_MS = 100.0
UNLOADED_QPS = 2.0
RATES_QPS = (25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0)
SECONDS = 15.0


def run_serving_bench(
    bundle: Path, data: SystemData, results: Results, *, quick: bool, console: Console
) -> list[LoadSession]:
    """Measures, prints, and adds ``serving/rate_<qps>/...`` and ``serving/capacity/...``."""
    seconds = 2.0 if quick else SECONDS
    rates = RATES_QPS[:2] if quick else RATES_QPS
    lines = request_lines(data.users.user_ids)
    sessions, held = [], 0.0
    with running_server(bundle) as server:
        results.add(
            "serving/start/ready_s", server.start_s, protocol="process start to /readyz 200"
        )
        for rate in (UNLOADED_QPS, *rates):
            with console.status(f"serving at {rate:g} requests a second for {seconds:g} s"):
                session = measure(server.url, lines, rate, seconds)
            sessions.append(session)
            record_load(results, "serving", f"rate_{rate:g}", session)
            if rate != UNLOADED_QPS and holds(session, P99_LIMIT_MS):
                held = rate
            elif rate > 100.0:
                break
    results.add(
        "serving/capacity/qps",
        held,
        protocol=f"highest rate tried with p99 < {P99_LIMIT_MS:g} ms, no error, none degraded; "
        "one worker",
    )
    console.print(_table(sessions))
    console.print(f"holds {held:g} requests a second at p99 < {P99_LIMIT_MS:g} ms", highlight=False)
    return sessions


def _table(sessions: list[LoadSession]) -> Table:
    table = Table(title="The service under load: one worker, open loop")
    for column in ("offered qps", "achieved", "errors", "degraded", "p50 ms", "p90 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for session in sessions:
        load = session.load
        latencies = (load.p50_ms, load.p90_ms, load.p99_ms)
        table.add_row(
            f"{load.offered_qps:g}",
            f"{load.achieved_qps:.1f}",
            f"{load.error_rate:.1%}",
            f"{session.degraded_share:.1%}",
            *("-" if value is None else f"{value:.1f}" for value in latencies),
        )
    return table
