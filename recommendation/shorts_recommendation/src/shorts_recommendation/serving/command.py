"""`make bench`: the service under load, to its knee, and how far that is from the machine's limit.

In: the last bundle. Out: ``bench_serving.json`` with

    serving/cached/...            the rate asked for, with a cache that events invalidate
    serving/uncached/...          every feed through the whole funnel
    serving/sessions/...          users who watch what they were given before they ask again
    serving/cached_<rate>/...     the rising series, and serving/knee_{cached,uncached,sessions}/qps
    serving/sessions_ahead_.../.. how soon slates are made ahead; serving/cached_uploads/...
    serving/event_to_effect/...   from an event to the feed that has seen it, under load
    serving/limit/...             HTTP alone, bytes and multiplications by arithmetic, the distance
    serving_sample/...            where the threads are while the uncached path runs
    serving/store/...             one batch of states from this process and from the store

and two pictures. On two cores the client and the store take their share of both: the figures are
lower bounds of what the service does alone.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic
from shorts_recommendation.config import Config, ServingConfig
from shorts_recommendation.serving.event_to_effect import Effect, event_to_effect
from shorts_recommendation.serving.limit import Machine, measure_machine, request_costs
from shorts_recommendation.serving.load_client import get_json
from shorts_recommendation.serving.load_session import (
    WARMUP_S,
    LoadSession,
    Served,
    holds,
    measure,
    running_command,
    serving,
)
from shorts_recommendation.serving.plots import latency_over_rate, stage_profile
from shorts_recommendation.serving.record import (
    LIMIT_P50_MS,
    LIMIT_P99_MS,
    record_session,
    record_sessions,
)
from shorts_recommendation.serving.sampling import shares
from shorts_recommendation.serving.traffic import TrafficPlan
from shorts_recommendation.serving.variants import record_variants

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

CACHED_QPS = (250.0, 500.0, 750.0, 1000.0, 1250.0, 1500.0, 2000.0)
UNCACHED_QPS = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 800.0)
SESSIONS_QPS = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 800.0)
SWEEP_SECONDS = 6.0
PROBES = 600
PROBE_LOAD_QPS = 500.0
NULL_QPS = 1000.0


def main(run: Run) -> None:
    """The whole of it, on the bundle of the last run; prints a table and writes the files."""
    bundle = run.artifacts / "latest" / "bundle"
    results = run.start_results(run.load())
    folder = run.results_folder()
    with run.progress.stage("serving: both paths at their rates", 3) as step:
        sessions = record_sessions(bundle, run.config, results, step)
    quick = run.config.quick
    with run.progress.stage("serving: rising load", 3) as step:
        sweeps = record_sweeps(bundle, run.config, results, quick=quick, step=step)
    with run.progress.stage("serving: slates ahead, uploads", 2) as step:
        variants = record_variants(bundle, run.config, results, quick=quick, step=step)
    with run.progress.stage("serving: samples", 1) as step:
        record_samples(bundle, run.config, results, seconds=2.0 if quick else 8.0)
        step(1)
    with run.progress.stage("serving: event to effect", 1) as step:
        effect = record_effect(bundle, run.config, results, n=50 if quick else PROBES)
        step(1)
    with run.progress.stage("serving: the limit", 1) as step:
        record_limit(run.config, len(run.load().catalogue), results, sweeps, quick=quick)
        step(1)
    pictures = {
        "serving_latency_over_rate": latency_over_rate(
            sweeps, p50_ms=LIMIT_P50_MS, p99_ms=LIMIT_P99_MS
        ),
        "serving_stage_profile": stage_profile(
            sessions["uncached"],
            sessions["uncached"].threads
            | {k: v for k, v in sessions["uncached"].cpu_share.items() if k != "server"},
        ),
    }
    for name, figure in pictures.items():
        write_atomic(folder / "plots" / f"{name}.png", png(figure))
    results.write(folder / "bench_serving.json")
    rows = [*sessions.values(), *itertools.chain(*sweeps.values()), *variants.values()]
    run.console.print(table(rows))
    run.console.print(_effect_line(effect), highlight=False)


def record_sweeps(
    bundle: Path, config: Config, results: Results, *, quick: bool, step: Callable[[int], object]
) -> dict[str, list[LoadSession]]:
    """Rising rates for each traffic, up to the first that misses a limit; adds the knees."""
    sweeps: dict[str, list[LoadSession]] = {}
    seconds = 2.0 if quick else SWEEP_SECONDS
    paths = {"cached": CACHED_QPS, "uncached": UNCACHED_QPS, "sessions": SESSIONS_QPS}
    for path, rates in paths.items():
        with serving(bundle, config.serving) as served:
            plan = traffic_plan(config.serving, cached=path != "uncached", seed=config.seed)
            if path == "sessions":
                plan = replace(plan, session_events=config.serving.prefetch)
            rows: list[LoadSession] = []
            for rate in rates[:2] if quick else rates:
                rows.append(measure(served, plan, rate, seconds))
                record_session(results, f"{path}_{rate:g}", rows[-1], config)
                if not holds(rows[-1], LIMIT_P50_MS, LIMIT_P99_MS):
                    break
        sweeps[path] = rows
        held = [r.load.offered_qps for r in rows if holds(r, LIMIT_P50_MS, LIMIT_P99_MS)]
        results.add(
            f"serving/knee_{path}/qps",
            max(held, default=0.0),
            protocol=f"highest rate tried with p50 < {LIMIT_P50_MS:g} ms, p99 < "
            f"{LIMIT_P99_MS:g} ms, no error, none degraded; {seconds:g} s a rate, one worker",
        )
        step(1)
    return sweeps


def record_samples(bundle: Path, config: Config, results: Results, *, seconds: float) -> None:
    """Where the threads are while the uncached path runs at its rate; the twelve busiest places."""
    rate = config.serving.load_uncached_rate_qps
    with serving(bundle, config.serving) as served:
        plan = traffic_plan(config.serving, cached=False, seed=config.seed)
        load = threading.Thread(target=lambda: measure(served, plan, rate, seconds + 1.0))
        load.start()
        time.sleep(WARMUP_S)
        counts = get_json(f"{served.process.url}/v1/operations/samples?seconds={seconds:g}")
        load.join()
    for place, share in list(shares(counts).items())[:12]:
        name = re.sub(r"[^a-z0-9_.]+", "_", place.lower()).strip("_")
        results.add(
            f"serving_sample/{name}/share",
            share,
            n=sum(counts.values()),
            protocol=f"stacks every 2 ms for {seconds:g} s at {rate:g} uncached requests a second, "
            "innermost function of ours, threads that wait for work left out",
        )


def record_effect(bundle: Path, config: Config, results: Results, *, n: int) -> Effect:
    """Probes through a load of half the asked rate; adds their percentiles."""
    with serving(bundle, config.serving) as served:
        plan = traffic_plan(config.serving, cached=True, seed=config.seed)
        effect = event_to_effect(served, plan, PROBE_LOAD_QPS, n)
        store = _state_reads(served)
    text = (
        f"one client posts an event and asks until a feed has seen it, {n} times, under "
        f"{PROBE_LOAD_QPS:g} requests a second from another process, same machine, one worker"
    )
    for q in (50, 90, 99, 100):
        results.add(f"serving/event_to_effect/p{q}_ms", effect.at(q), n=n, protocol=text)
    post = float(np.percentile(effect.post_ms, 50))
    results.add("serving/event_to_effect/post_p50_ms", post, n=n, protocol=text)
    results.add("serving/event_to_effect/first_read", effect.at_first_read, n=n, protocol=text)
    for name, microseconds in store.items():
        results.add(
            f"serving/store/{name}",
            microseconds,
            protocol="states of 16 users, median of 200 reads, idle server",
        )
    return effect


def record_limit(
    config: Config,
    n_videos: int,
    results: Results,
    sweeps: dict[str, list[LoadSession]],
    *,
    quick: bool,
) -> None:
    """HTTP alone, the machine, the arithmetic, and the share of it that was reached."""
    http_us = {kind: null_cost_us(kind, quick=quick) for kind in ("bare", "shell")}
    for kind, parts in http_us.items():
        for process, microseconds in parts.items():
            results.add(
                f"serving/limit/http_{kind}_{process}_us",
                microseconds,
                protocol=f"processor time a request of a handler that does nothing, {NULL_QPS:g} a "
                "second",
            )
    machine = measure_machine()
    results.add("serving/limit/read_bytes_per_s", machine.bytes_per_s, protocol=_MACHINE)
    results.add("serving/limit/flops_per_s", machine.flops_per_s, protocol=_MACHINE)
    encoded = float(np.mean([session.encoded for session in sweeps["uncached"]]))
    least_us = _record_arithmetic(config, n_videos, machine, results, encoded)
    request_us = least_us + http_us["bare"]["server"] + http_us["bare"]["client"]
    limit_qps = 2e6 / request_us
    knee = max(
        (r.load.offered_qps for r in sweeps["uncached"] if holds(r, LIMIT_P50_MS, LIMIT_P99_MS)),
        default=0.0,
    )
    text = "two cores / (arithmetic of the funnel + HTTP of a bare server and of the client)"
    results.add("serving/limit/uncached_qps", limit_qps, protocol=text)
    results.add("serving/limit/share_reached", knee / limit_qps, protocol="knee / limit")


_MACHINE = "one thread, best of seven: sum of 256 MB of float32, product of matrices of 1024"


def _record_arithmetic(
    config: Config, n_videos: int, machine: Machine, results: Results, encoded: float
) -> float:
    """Adds what one request needs by stage; returns the microseconds in all."""
    total_us = 0.0
    for stage, cost in request_costs(config, n_videos, encoded=encoded).items():
        least_us = machine.seconds(cost) * 1e6
        total_us += least_us
        text = (
            f"arithmetic from the shapes ({stage}), scan of {n_videos} vectors in 8 bits, "
            f"{encoded:.2f} histories encoded a feed"
        )
        results.add(f"serving/limit/{stage}_bytes", cost.bytes_read, protocol=text)
        results.add(f"serving/limit/{stage}_flops", cost.flops, protocol=text)
        results.add(f"serving/limit/{stage}_us", least_us, protocol=f"{text}; {_MACHINE}")
    results.add("serving/limit/funnel_us", total_us, protocol="sum of the stages")
    return total_us


def null_cost_us(kind: str, *, quick: bool) -> dict[str, float]:
    """Processor microseconds a request of server and client, for a handler that does nothing."""
    module = (sys.executable, "-m", "shorts_recommendation.serving.null_server", kind)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_command(module, Path(scratch)) as process,
    ):
        ids = np.arange(1, 1001)
        served = Served(process, ids, ids, Path(scratch))
        rate = 100.0 if quick else NULL_QPS
        plan = TrafficPlan(event_share=0.0, unknown_share=0.0)
        session = measure(served, plan, rate, 1.0 if quick else 4.0)
    return {name: session.cpu_share[name] / rate * 1e6 for name in ("server", "client")}


def traffic_plan(config: ServingConfig, *, cached: bool, seed: int) -> TrafficPlan:
    """The configured traffic."""
    return TrafficPlan(
        config.load_event_share,
        config.load_zipf_exponent,
        config.prefetch,
        cached=cached,
        seed=seed,
    )


def table(sessions: Sequence[LoadSession]) -> Table:
    """One line a session."""
    found = Table(title="The service under load: one worker, open loop, Poisson")
    for column in (
        "offered",
        "achieved",
        "errors",
        "degraded",
        "hits",
        "p50 ms",
        "p90 ms",
        "p99 ms",
    ):
        found.add_column(column, justify="right")
    for session in sessions:
        load = session.load
        found.add_row(
            f"{load.offered_qps:g}",
            f"{load.achieved_qps:.0f}",
            f"{load.error_rate:.1%}",
            f"{session.degraded_share:.1%}",
            f"{session.hit_rate:.0%}",
            *("-" if v is None else f"{v:.1f}" for v in (load.p50_ms, load.p90_ms, load.p99_ms)),
        )
    return found


def _state_reads(served: Served) -> dict[str, float]:
    """Microseconds for the states of 16 users from this process, and from the store."""
    reads = get_json(f"{served.process.url}/v1/operations?time_reads=true")["reads"]
    return {name: float(value) for name, value in reads.items() if value is not None}


def _effect_line(effect: Effect) -> str:
    return (
        f"event to effect: p50 {effect.at(50):.1f} ms, p99 {effect.at(99):.1f} ms, "
        f"{effect.at_first_read:.1%} at the first read, n = {len(effect.total_ms)}"
    )
