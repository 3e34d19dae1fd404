"""The service under load: one process serves, another one asks, on the same machine.

In: a bundle's folder, a rate, and whether answers may come from the cache. Out: latency as clients
see it (open loop, Poisson arrivals, from the scheduled moment), who answered, milliseconds by stage,
processor time by process.

The client is `ml_platform.serving.load_test` in a process of its own, so that this one's threads do
not disturb it; it writes what came back as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.serving.load_test import LoadPlan, LoadReport, send_load, summarise
from ml_platform.serving.server_process import (
    ServerProcess,
    free_port,
    running_server,
    server_environment,
)
from shorts_recommendation.config import ServingConfig
from shorts_recommendation.serving.traffic import Traffic, TrafficPlan

WARMUP_S = 3.0
PREFILL_QPS = 150.0
TIMEOUT_S = 5.0
MAX_CONNECTIONS = 512


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds over the answers that have them, and how many do."""

    p50: float
    p90: float
    p99: float
    n: int


@dataclass(frozen=True)
class LoadSession:
    """One rate.

    Attributes:
        load: What clients saw of all requests, feeds and events.
        feed, event: Latency of each kind, good answers only; None where there were none.
        answered_by: Share of the feeds by who answered (`settings.ANSWERS`).
        hit_rate: Share answered from the cache or the store.
        degraded_share: Of the feeds.
        stages: By stage, over the feeds that ran it. Stages of the models are of a whole batch.
        cpu_share: Processor seconds for each second, by process: server, store, client.
        batch_mean: Requests that shared a call of the models, mean over the feeds computed.
    """

    load: LoadReport
    feed: Quantiles | None
    event: Quantiles | None
    answered_by: dict[str, float]
    hit_rate: float
    degraded_share: float
    stages: dict[str, Quantiles]
    cpu_share: dict[str, float]
    batch_mean: float = 0.0


@dataclass(frozen=True)
class Served:
    """A running service and the ids that a load asks for."""

    process: ServerProcess
    user_ids: np.ndarray
    video_ids: np.ndarray
    data_dir: Path
    loads: list[int] = field(default_factory=list)  # one entry a load: names their events apart


@contextmanager
def serving(
    bundle: Path, config: ServingConfig | None = None, *, command: Sequence[str] | None = None
) -> Iterator[Served]:
    """Serves a bundle on a free loopback port, in a process of its own; stops it afterwards.

    Args:
        bundle: Its folder.
        config: Replaces the bundle's serving configuration.
        command: Another program with the same arguments ``--port`` and ``--data-dir``.

    Raises:
        RuntimeError: if it ends or is not ready in time; with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="shorts-serving-") as scratch:
        folder = Path(scratch)
        port = free_port()
        module = (sys.executable, "-m", "shorts_recommendation.serving.run", str(bundle))
        arguments = [*(command or module), "--port", str(port), "--data-dir", str(folder / "data")]
        if config is not None:
            arguments += ["--serving", config.model_dump_json()]
        with running_server(arguments, port, output=folder / "server.log") as process:
            ids = get_json(f"{process.url}/v1/operations?ids=true")
            yield Served(
                process, np.array(ids["user_ids"]), np.array(ids["video_ids"]), folder / "data"
            )


def load_session(
    bundle: Path,
    rate_qps: float,
    seconds: float,
    *,
    cached: bool,
    config: ServingConfig | None = None,
    seed: int = 0,
) -> LoadSession:
    """Starts the service, fills the cache, offers the load, stops it.

    Args:
        bundle: A bundle's folder.
        rate_qps: Poisson arrivals a second, feeds and events together.
        seconds: Length of the measured phase; three seconds of the same load come before it.
        cached: False makes every feed run the whole funnel.
        config: Of the service and of the traffic; the bundle's own by default.
        seed: Of users and arrivals.
    """
    config = config or ServingConfig()
    plan = TrafficPlan(
        config.load_event_share,
        config.load_zipf_exponent,
        config.prefetch,
        cached=cached,
        seed=seed,
    )
    with serving(bundle, config) as served:
        if cached:
            prefill(served, plan, config.load_prefill_users)
        return measure(served, plan, rate_qps, seconds)


def prefill(served: Served, plan: TrafficPlan, n: int) -> None:
    """The most active users ask once, slowly: a service that has run for a while."""
    lines = Traffic(plan, served.user_ids, served.video_ids).most_active(n)
    if lines:
        _in_a_process(served.process.url, lines, PREFILL_QPS, len(lines) / PREFILL_QPS, 0.0, 0)


def measure(served: Served, plan: TrafficPlan, rate_qps: float, seconds: float) -> LoadSession:
    """Offers one rate to a running service, from a process of its own."""
    served.loads.append(len(served.loads))
    name = f"load{served.loads[-1]}"
    traffic = Traffic(plan, served.user_ids, served.video_ids, name=name)
    lines = traffic.lines(round(rate_qps * (WARMUP_S + seconds)))
    found = _in_a_process(served.process.url, lines, rate_qps, seconds, WARMUP_S, plan.seed)
    return _session(found)


def sweep(
    served: Served,
    plan: TrafficPlan,
    rates_qps: Sequence[float],
    seconds: float,
    *,
    p50_ms: float,
    p99_ms: float,
) -> list[LoadSession]:
    """Rates from low to high, up to and including the first that misses a limit."""
    sessions: list[LoadSession] = []
    for rate_qps in rates_qps:
        sessions.append(measure(served, plan, rate_qps, seconds))
        if not holds(sessions[-1], p50_ms, p99_ms):
            break
    return sessions


def holds(session: LoadSession, p50_ms: float, p99_ms: float) -> bool:
    """Whether all were answered, in full, within the limits, by a client that was not late itself."""
    load = session.load
    if load.p50_ms is None or load.p99_ms is None:
        return False
    in_time = load.p50_ms < p50_ms and load.p99_ms < p99_ms
    return in_time and load.error_rate == 0 and session.degraded_share == 0


def get_json(url: str) -> Any:
    """The body of a GET."""
    with urllib.request.urlopen(url, timeout=10.0) as response:
        return json.load(response)


# --- the client's process ---------------------------------------------------------------------------


def _in_a_process(
    url: str, lines: Sequence[str], rate_qps: float, seconds: float, warmup_s: float, seed: int
) -> dict[str, Any]:
    order = {
        "url": url,
        "lines": list(lines),
        "rate_qps": rate_qps,
        "seconds": seconds,
        "warmup_s": warmup_s,
        "seed": seed,
    }
    done = subprocess.run(
        [sys.executable, "-m", "shorts_recommendation.serving.load_session"],
        input=json.dumps(order).encode(),
        stdout=subprocess.PIPE,
        env=server_environment(),
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def client(order: dict[str, Any]) -> dict[str, Any]:
    """What the client's process does: warm up, note the clocks, load, note them again."""
    lines, rate_qps, seed = order["lines"], order["rate_qps"], order["seed"]
    n_warm = round(rate_qps * order["warmup_s"])
    common = {
        "url": order["url"],
        "warmup_seconds": 0.0,
        "timeout_s": TIMEOUT_S,
        "max_connections": MAX_CONNECTIONS,
    }
    if n_warm:
        plan = LoadPlan(
            requests=lines[:n_warm], rate_qps=rate_qps, seconds=order["warmup_s"], seed=seed, **common
        )
        send_load(plan, keep_bodies=False)
    plan = LoadPlan(
        requests=lines[n_warm:], rate_qps=rate_qps, seconds=order["seconds"], seed=seed + 1, **common
    )
    before, begin, own = get_json(f"{order['url']}/v1/operations"), time.time(), time.process_time()
    started, samples, connections = send_load(plan, keep_bodies=True)
    own, elapsed = time.process_time() - own, time.time() - begin
    after = get_json(f"{order['url']}/v1/operations")
    kinds = ["event" if line.startswith("POST") else "feed" for line in plan.requests]
    latency: dict[str, list[float]] = {"feed": [], "event": []}
    answers: list[dict[str, Any]] = []
    for kind, sample in zip(kinds, samples, strict=False):
        if sample.ok:
            latency[kind].append((sample.finished - sample.due) * 1e3)
            if kind == "feed":
                answer = json.loads(sample.body)
                answers.append({key: answer[key] for key in ("answered_by", "degraded", "stages_ms")})
    cpu = {"server": after["cpu_s"] - before["cpu_s"], "store": after["store_cpu_s"] - before["store_cpu_s"], "client": own}  # noqa: E501  # fmt: skip
    return {
        "report": asdict(summarise(plan, samples, started, connections)),
        "latency": {kind: _quantiles(values) for kind, values in latency.items()},
        "answers": _count(answers),
        "cpu_share": {name: seconds / elapsed for name, seconds in cpu.items()},
    }


def _count(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by: dict[str, int] = {}
    stages: dict[str, list[float]] = {}
    for answer in answers:
        by[answer["answered_by"]] = by.get(answer["answered_by"], 0) + 1
        for stage, ms in answer["stages_ms"].items():
            stages.setdefault(stage, []).append(ms)
    n = max(1, len(answers))
    batch = stages.pop("batch", [])
    return {
        "answered_by": {name: count / n for name, count in by.items()},
        "degraded_share": sum(a["degraded"] for a in answers) / n,
        "stages": {stage: _quantiles(values) for stage, values in stages.items()},
        "batch_mean": float(np.mean(batch)) if batch else 0.0,
    }


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "n": len(values)}


def _session(found: dict[str, Any]) -> LoadSession:
    counted, latency = found["answers"], found["latency"]
    by = counted["answered_by"]
    return LoadSession(
        load=LoadReport(**found["report"]),
        feed=Quantiles(**latency["feed"]) if latency["feed"] else None,
        event=Quantiles(**latency["event"]) if latency["event"] else None,
        answered_by=by,
        hit_rate=by.get("cache", 0.0) + by.get("store", 0.0),
        degraded_share=counted["degraded_share"],
        stages={name: Quantiles(**values) for name, values in counted["stages"].items()},
        cpu_share=found["cpu_share"],
        batch_mean=counted["batch_mean"],
    )


if __name__ == "__main__":
    json.dump(client(json.load(sys.stdin)), sys.stdout)
