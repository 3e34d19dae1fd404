"""Open-loop load test over raw keep-alive sockets.

In: a base URL, request lines, a rate. Out: a JSON report with percentiles of latency.

*Open loop.* Arrivals are scheduled ahead, evenly or as a Poisson process, and are sent whether or
not earlier requests were answered, as independent users do. Latency runs from the *scheduled*
time. A closed loop (N clients that wait for their answers) stops sending exactly when the server
stalls and so leaves out the requests that would have suffered: coordinated omission (Gil Tene,
"How NOT to Measure Latency", Strange Loop 2015).

*Light.* One coroutine-free asyncio protocol for each connection and a minimal HTTP/1.1 reader
(Content-Length bodies, keep-alive): on two cores the client must not steal the server's time.
`send_lag_p99_ms` reports how late the client itself was; distrust a run where it is large.

    python -m ml_platform.serving.load_test --url http://127.0.0.1:8000 --rate 100 --requests FILE

A request line is ``GET /path`` or ``POST /path {"json": ...}``; callers may give the bytes on the
wire instead. Only loopback is accepted unless ``--allow-remote`` is given: load your own server.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import gc
import ipaddress
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import numpy as np

from ml_platform.serving.http_pool import HttpPool, Sample, client_loop, encode_request

MAX_REQUESTS = 1_000_000
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class LoadPlan:
    """What to send.

    Attributes:
        url: Base URL, ``http://host:port``.
        requests: Request lines, or whole requests as bytes, used in turn.
        rate_qps: Offered arrivals a second.
        seconds: Length of the measured phase.
        warmup_seconds: Same load before it, not reported.
        poisson: Exponential gaps; even gaps otherwise.
        max_connections: Requests beyond as many in flight wait at the client (and are timed).
        timeout_s: A request not answered this long after its scheduled time is an error.
        seed: Of the gaps.
        allow_remote: Accept a host that is not loopback.
    """

    url: str
    requests: Sequence[str | bytes]
    rate_qps: float
    seconds: float
    warmup_seconds: float = 2.0
    poisson: bool = True
    max_connections: int = 256
    timeout_s: float = 10.0
    seed: int = 0
    allow_remote: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate_qps <= 1e5:
            raise ValueError(f"rate_qps must be in (0, 100000], got {self.rate_qps}")
        if not 0 < self.seconds <= MAX_SECONDS or not 0 <= self.warmup_seconds <= MAX_SECONDS:
            raise ValueError(
                f"seconds must be in (0, {MAX_SECONDS:.0f}] and warmup_seconds not negative, "
                f"got {self.seconds} and {self.warmup_seconds}"
            )
        planned = self.rate_qps * (self.seconds + self.warmup_seconds)
        if planned > MAX_REQUESTS:
            raise ValueError(f"{planned:.0f} requests planned, at most {MAX_REQUESTS} are allowed")
        if not self.requests:
            raise ValueError("no request lines: give at least one, such as 'GET /healthz'")
        if not self.allow_remote and not _is_loopback(self.address[0]):
            raise ValueError(f"{self.address[0]} is not loopback; pass allow_remote to insist")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"url must look like http://host:port, got {self.url!r}")
        return parts.hostname, parts.port or 80


@dataclass(frozen=True)
class LoadReport:
    """What came back. Latencies are of answered requests with a 2xx or 3xx status, from schedule.

    `achieved_qps` counts those too, over the time from the first scheduled arrival to the last
    answer. `errors` counts the rest by status or kind ("timeout", "connection").
    """

    arrivals: str
    offered_qps: float
    achieved_qps: float
    seconds: float
    n: int
    ok: int
    errors: dict[str, int]
    error_rate: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    send_lag_p99_ms: float | None
    connections: int


def run_load(plan: LoadPlan, *, on_answer: Callable[[bytes], object] | None = None) -> LoadReport:
    """Warm up, then offer the load; blocks until every request ended or timed out.

    Args:
        plan: What to send.
        on_answer: Given the body of each good answer, after the run, in order of arrival.

    Raises:
        ConnectionError: Nothing listens at the URL.
    """
    started, samples, connections = send_load(plan, keep_bodies=on_answer is not None)
    if on_answer is not None:
        for sample in samples:
            if sample.ok:
                on_answer(sample.body)
    return summarise(plan, samples, started, connections)


def send_load(
    plan: LoadPlan, *, keep_bodies: bool, stop: Event | None = None
) -> tuple[float, list[Sample], int]:
    """Offer the load; for those who want each request and its moment, not percentiles.

    Once `stop` is set nothing more is sent, and what is in flight is awaited.

    Returns:
        The start (`time.monotonic` seconds, as in the samples), a sample for each request in the
        order of `plan.requests`, and how many connections were opened.
    """
    address = plan.address
    payloads = [r if isinstance(r, bytes) else encode_request(r, address) for r in plan.requests]
    # The collector pauses the client for milliseconds; the run is short and makes few cycles.
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=client_loop) as runner:
            return runner.run(_run(plan, payloads, keep_bodies, stop or Event()))
    finally:
        gc.enable()


async def _run(
    plan: LoadPlan, payloads: list[bytes], keep_bodies: bool, stop: Event
) -> tuple[float, list[Sample], int]:
    pool = HttpPool(plan.address, plan.max_connections, keep_bodies=keep_bodies)
    await pool.probe()
    rng = np.random.default_rng(plan.seed)
    try:
        if plan.warmup_seconds:
            await _phase(plan, pool, payloads, _gaps(plan, plan.warmup_seconds, rng), stop)
        started, samples = await _phase(plan, pool, payloads, _gaps(plan, plan.seconds, rng), stop)
    finally:
        pool.close()
    return started, samples, pool.opened


def _gaps(plan: LoadPlan, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Arrival times in seconds from the phase's start, f64[n]."""
    n = max(1, round(plan.rate_qps * seconds))
    if not plan.poisson:
        return np.arange(n) / plan.rate_qps
    return np.cumsum(rng.exponential(1.0 / plan.rate_qps, n))


async def _phase(
    plan: LoadPlan, pool: HttpPool, payloads: list[bytes], arrivals: np.ndarray, stop: Event
) -> tuple[float, list[Sample]]:
    started = time.monotonic() + 0.01
    samples = []
    for i, offset in enumerate(arrivals.tolist()):
        due = started + offset
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        elif i % 64 == 0:
            await asyncio.sleep(0)  # behind schedule: let answers in
        if stop.is_set():
            break
        sample = Sample(due)
        samples.append(sample)
        pool.send(payloads[i % len(payloads)], sample)
    give_up = (samples[-1].due if samples else started) + plan.timeout_s
    while not all(s.done for s in samples) and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
    pool.abandon()
    for sample in samples:
        sample.finish("timeout", time.monotonic())
        if sample.finished - sample.due > plan.timeout_s:
            sample.outcome = "timeout"  # answered, but later than anyone waits
    return started, samples


def summarise(
    plan: LoadPlan, samples: Sequence[Sample], started: float, connections: int
) -> LoadReport:
    """Percentiles (linear interpolation) and counts of a phase."""
    good = [s for s in samples if s.ok]
    errors = collections.Counter(s.outcome for s in samples if not s.ok)
    latency_ms = np.array([(s.finished - s.due) * 1e3 for s in good])
    lag_ms = [(s.sent - s.due) * 1e3 for s in samples if s.sent]
    elapsed_s = max((s.finished for s in samples), default=started) - started

    def at(values: Sequence[float] | np.ndarray, q: float) -> float | None:
        return round(float(np.percentile(values, q)), 3) if len(values) else None

    return LoadReport(
        arrivals="poisson" if plan.poisson else "constant",
        offered_qps=plan.rate_qps,
        achieved_qps=round(len(good) / elapsed_s, 2) if elapsed_s > 0 else 0.0,
        seconds=round(elapsed_s, 3),
        n=len(samples),
        ok=len(good),
        errors=dict(errors),
        error_rate=round(1 - len(good) / len(samples), 6) if samples else 0.0,
        mean_ms=round(float(latency_ms.mean()), 3) if good else None,
        p50_ms=at(latency_ms, 50),
        p90_ms=at(latency_ms, 90),
        p99_ms=at(latency_ms, 99),
        max_ms=at(latency_ms, 100),
        send_lag_p99_ms=at(lag_ms, 99),
        connections=connections,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints the report as JSON. Returns 1 when any request failed."""
    parser = argparse.ArgumentParser(description="Open-loop load test; prints a JSON report.")
    parser.add_argument("--url", required=True, help="http://host:port")
    parser.add_argument("--rate", type=float, required=True, help="arrivals a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warmup-seconds", type=float, default=2.0)
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
    parser.add_argument("--requests", type=Path, help="file of request lines; - for stdin")
    parser.add_argument("--request", action="append", default=[], help="one request line")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--timeout-s", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-remote", action="store_true", help="accept a non-loopback host")
    options = parser.parse_args(arguments)
    try:
        plan = LoadPlan(
            url=options.url,
            requests=options.request + _read_lines(options.requests),
            rate_qps=options.rate,
            seconds=options.seconds,
            warmup_seconds=options.warmup_seconds,
            poisson=options.arrivals == "poisson",
            max_connections=options.connections,
            timeout_s=options.timeout_s,
            seed=options.seed,
            allow_remote=options.allow_remote,
        )
        report = run_load(plan)
    except (ValueError, OSError) as error:
        print(f"load_test: {error}", file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(report), indent=2))
    return 1 if report.errors else 0


def _read_lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    text = sys.stdin.read() if str(path) == "-" else path.read_text()
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


if __name__ == "__main__":
    sys.exit(main())
