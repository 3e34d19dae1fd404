"""The service under load: one process serves, another one asks, on the same machine.

In: a bundle's folder, a rate, and whether answers may come from the cache. Out: latency as
clients see it (open loop, Poisson arrivals, from the scheduled moment), who answered,
milliseconds by stage, processor time by process.

The client is a process of its own (`load_client`), so that this one's threads do not disturb it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.serving.load_test import LoadReport
from ml_platform.serving.server_process import (
    ServerProcess,
    free_port,
    running_server,
    server_environment,
)
from shorts_recommendation.config import ServingConfig
from shorts_recommendation.serving.load_client import get_json
from shorts_recommendation.serving.traffic import Traffic, TrafficPlan

WARMUP_S = 3.0
STARTED_WITHIN_S = 180.0


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
        encoded: Histories encoded for each feed computed: with few events it is far below 1.
        threads: Processor seconds for each second, by thread of the server; empty where unknown.
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
    encoded: float = 0.0
    threads: dict[str, float] = field(default_factory=dict)
    upload: Quantiles | None = None
    """Latency of the uploads among the requests; None without any."""


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
    bundle: Path,
    config: ServingConfig | None = None,
    *,
    workers: int = 1,
    command: Sequence[str] | None = None,
) -> Iterator[Served]:
    """Serves a bundle on a free loopback port, in a process of its own; stops it afterwards.

    Args:
        bundle: Its folder.
        config: Replaces the bundle's serving configuration.
        workers: Processes. Processor time and threads are those of one of them.
        command: Another program with the same arguments ``--port`` and ``--data-dir``.

    Raises:
        RuntimeError: if it ends or is not ready in time; with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="shorts-serving-") as scratch:
        folder = Path(scratch)
        module = (sys.executable, "-m", "shorts_recommendation.serving.run", str(bundle))
        arguments = [*(command or module), "--data-dir", str(folder / "data")]
        if workers > 1:
            arguments += ["--workers", str(workers)]
        if config is not None:
            arguments += ["--serving", config.model_dump_json()]
        with running_command(arguments, folder, ports=1 + workers) as process:
            ids = get_json(f"{process.url}/v1/operations?ids=true")
            _wait_for_first_slates(process.url)
            yield Served(
                process, np.array(ids["user_ids"]), np.array(ids["video_ids"]), folder / "data"
            )


def _wait_for_first_slates(url: str) -> None:
    """Until the service has made the slates of its start."""
    give_up_s = time.monotonic() + STARTED_WITHIN_S
    while get_json(f"{url}/v1/version").get("slates_to_start"):
        if time.monotonic() > give_up_s:
            raise RuntimeError(f"the slates of the start are not made in {STARTED_WITHIN_S:g} s")
        time.sleep(0.2)


@contextmanager
def running_command(
    command: Sequence[str], folder: Path, *, ports: int = 1
) -> Iterator[ServerProcess]:
    """Any server that takes ``--port``, on the first of free ones; its output goes to `folder`."""
    port = free_port(ports)
    arguments = [*command, "--port", str(port)]
    with running_server(arguments, port, output=folder / "server.log") as process:
        yield process


def load_session(
    bundle: Path,
    rate_qps: float,
    seconds: float,
    *,
    cached: bool,
    config: ServingConfig | None = None,
    seed: int = 0,
    session_events: int = 0,
    upload_every: int = 0,
    content_dim: int = 768,
) -> LoadSession:
    """Starts the service, lets it make the slates of its start, offers the load, stops it.

    Args:
        bundle: A bundle's folder.
        rate_qps: Poisson arrivals a second, feeds and events together.
        seconds: Length of the measured phase; three seconds of the same load come before it.
        cached: False makes every feed run the whole funnel.
        config: Of the service and of the traffic; the bundle's own by default.
        seed: Of users and arrivals.
        session_events: See `TrafficPlan`.
        upload_every: See `TrafficPlan`.
        content_dim: Of the uploads.
    """
    config = config or ServingConfig()
    plan = TrafficPlan(
        config.load_event_share,
        config.load_zipf_exponent,
        config.prefetch,
        cached=cached,
        seed=seed,
        session_events=session_events,
        upload_every=upload_every,
        content_dim=content_dim,
    )
    with serving(bundle, config) as served:
        return measure(served, plan, rate_qps, seconds)


def measure(served: Served, plan: TrafficPlan, rate_qps: float, seconds: float) -> LoadSession:
    """Offers one rate to a running service, from a process of its own."""
    served.loads.append(len(served.loads))
    name = f"load{served.loads[-1]}"
    # Another seed for each load: the same requests again would find everything warm.
    plan = replace(plan, seed=plan.seed + served.loads[-1])
    traffic = Traffic(plan, served.user_ids, served.video_ids, name=name)
    lines = traffic.lines(round(rate_qps * (WARMUP_S + seconds)))
    found = _in_a_process(served.process.url, lines, rate_qps, seconds, WARMUP_S, plan.seed)
    return _session(found)


def holds(session: LoadSession, p50_ms: float, p99_ms: float) -> bool:
    """Whether all were answered, in full, and within both limits."""
    load = session.load
    if load.p50_ms is None or load.p99_ms is None:
        return False
    in_time = load.p50_ms < p50_ms and load.p99_ms < p99_ms
    return in_time and load.error_rate == 0 and session.degraded_share == 0


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
        [sys.executable, "-m", "shorts_recommendation.serving.load_client"],
        input=json.dumps(order).encode(),
        stdout=subprocess.PIPE,
        env=server_environment(),
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
        encoded=found["encoded"] / max(1.0, by.get("computed", 0.0) * counted["n"]),
        threads=found["threads"],
        upload=Quantiles(**latency["upload"]) if latency.get("upload") else None,
    )
