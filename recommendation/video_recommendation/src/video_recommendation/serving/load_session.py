"""The service under load, for `make e2e` and `make bench`: a second process serves, this one asks.

In: a bundle's folder and a rate. Out: latencies as clients see them (open loop, from the scheduled
arrival), milliseconds by stage as the responses state them, and how many answers were degraded.

Requests are those of real users in random order, each uncached, and one in ten of an unknown one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_platform.serving import server_process
from ml_platform.serving.load_test import LoadPlan, LoadReport, run_load
from ml_platform.serving.server_process import ServerProcess, free_port

UNKNOWN_SHARE = 0.1
UNLOADED_QPS = 2.0


@dataclass(frozen=True)
class StageLatency:
    """Milliseconds of one stage over the answers that ran it, and how many did."""

    p50_ms: float
    p99_ms: float
    n: int


@dataclass(frozen=True)
class LoadSession:
    """One rate.

    Attributes:
        load: What clients saw.
        stages: By stage name; "queue" is the wait for a thread, "total" all of the server's time.
        degraded_share: Of the answers.
    """

    load: LoadReport
    stages: dict[str, StageLatency]
    degraded_share: float


@contextmanager
def running_server(folder: Path, *, log_path: Path | None = None) -> Iterator[ServerProcess]:
    """Serves the bundle on a free loopback port, in a process of its own; stops it afterwards.

    Args:
        folder: The bundle.
        log_path: Where the server's output goes; thrown away with its data by default.

    Raises:
        RuntimeError: if it ends or is not ready in time; with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="video-recommendation-") as scratch:
        port = free_port()
        command = [
            *(sys.executable, "-m", "video_recommendation.serving.run", str(folder)),
            *("--port", str(port), "--data-dir", str(Path(scratch) / "data")),
        ]
        output = log_path or Path(scratch) / "server.log"
        with server_process.running_server(command, port, output=output) as server:
            yield server


def load_session(
    folder: Path,
    rate_qps: float,
    seconds: float,
    *,
    user_ids: Sequence[int] | np.ndarray,
    k: int = 20,
    seed: int = 0,
) -> LoadSession:
    """Starts the service, offers the load, stops it.

    Args:
        folder: The bundle.
        rate_qps: Poisson arrivals a second.
        seconds: Length of the measured phase; two seconds of warm-up come before it.
        user_ids: External ids of users to ask for.
        k: Length of the lists.
        seed: Of users and arrivals.
    """
    with running_server(folder) as server:
        lines = request_lines(user_ids, k=k, seed=seed)
        return measure(server.url, lines, rate_qps, seconds, seed=seed)


def sweep(
    url: str, lines: Sequence[str], rates_qps: Sequence[float], seconds: float, *, p99_ms: float
) -> list[LoadSession]:
    """Rates from low to high, up to and including the first that misses the limit.

    Args:
        url: A running service.
        lines: Request lines.
        rates_qps: Ascending.
        seconds: Of each rate.
        p99_ms: The limit; any failed or degraded answer misses it too.
    """
    sessions = []
    for rate_qps in rates_qps:
        sessions.append(measure(url, lines, rate_qps, seconds))
        if not holds(sessions[-1], p99_ms):
            break
    return sessions


def holds(session: LoadSession, p99_ms: float) -> bool:
    """Whether all were answered, in full, and 99% of them within the limit."""
    load = session.load
    in_time = load.p99_ms is not None and load.p99_ms < p99_ms
    return in_time and load.error_rate == 0 and session.degraded_share == 0


def measure(
    url: str, lines: Sequence[str], rate_qps: float, seconds: float, *, seed: int = 0
) -> LoadSession:
    """Offers one rate to a running service."""
    bodies: list[bytes] = []
    plan = LoadPlan(
        url=url, requests=lines, rate_qps=rate_qps, seconds=seconds, seed=seed, timeout_s=5.0
    )
    report = run_load(plan, on_answer=bodies.append)
    answers = [json.loads(body) for body in bodies]
    by_stage: dict[str, list[float]] = {}
    for answer in answers:
        for stage, ms in answer["stages_ms"].items():
            by_stage.setdefault(stage, []).append(ms)
    stages = {stage: _latency(values) for stage, values in by_stage.items()}
    degraded = sum(answer["degraded"] for answer in answers)
    return LoadSession(report, stages, degraded / max(1, len(answers)))


def request_lines(
    user_ids: Sequence[int] | np.ndarray, *, k: int = 20, n: int = 2000, seed: int = 0
) -> list[str]:
    """N request lines for random users, some of them unknown."""
    rng = np.random.default_rng(seed)
    known = rng.choice(np.asarray(user_ids), n)
    unknown = rng.random(n) < UNKNOWN_SHARE
    wanted = np.where(unknown, int(np.max(user_ids)) + 1 + np.arange(n), known)
    return [f"GET /v1/recommendations?user_id={user_id}&k={k}" for user_id in wanted]


def _latency(values: list[float]) -> StageLatency:
    p50_ms, p99_ms = np.percentile(values, [50, 99])
    return StageLatency(float(p50_ms), float(p99_ms), len(values))
