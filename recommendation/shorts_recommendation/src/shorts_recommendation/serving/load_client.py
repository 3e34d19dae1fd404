"""The client's side of a load session, a process of its own: JSON in on stdin, JSON out on stdout.

In: a URL, request lines, a rate, seconds. Out: the report of `ml_platform.serving.load_test`,
latency by kind of request, who answered the feeds, their stages, and processor time by process.

Each line is sent once: the first ones warm the service up, the rest are measured. Two readings of
``/v1/operations`` frame the measured phase.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ml_platform.serving.load_test import LoadPlan, send_load, summarise

TIMEOUT_S = 5.0
MAX_CONNECTIONS = 512


def get_json(url: str) -> Any:
    """The body of a GET."""
    with urllib.request.urlopen(url, timeout=10.0) as response:
        return json.load(response)


_COUNTED = ("answered_by", "degraded", "stages_ms", "batch_size")


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
            requests=lines[:n_warm],
            rate_qps=rate_qps,
            seconds=order["warmup_s"],
            seed=seed,
            **common,
        )
        send_load(plan, keep_bodies=False)
    plan = LoadPlan(
        requests=lines[n_warm:],
        rate_qps=rate_qps,
        seconds=order["seconds"],
        seed=seed + 1,
        **common,
    )
    before, begin, own = get_json(f"{order['url']}/v1/operations"), time.time(), time.process_time()
    started, samples, connections = send_load(plan, keep_bodies=True)
    own, elapsed = time.process_time() - own, time.time() - begin
    after = get_json(f"{order['url']}/v1/operations")
    kinds = [_kind(line) for line in lines[n_warm:]]
    latency: dict[str, list[float]] = {"feed": [], "event": [], "upload": []}
    answers: list[dict[str, Any]] = []
    for kind, sample in zip(kinds, samples, strict=False):
        if sample.ok:
            latency[kind].append((sample.finished - sample.due) * 1e3)
            if kind == "feed":
                answer = json.loads(sample.body)
                if "answered_by" in answer:  # not so from a handler that does nothing
                    answers.append({key: answer[key] for key in _COUNTED})
    cpu_s = {
        "server": after["cpu_s"] - before["cpu_s"],
        "store": _number(after["store_cpu_s"]) - _number(before["store_cpu_s"]),
        "client": own,
    }
    return {
        "report": asdict(summarise(plan, samples, started, connections)),
        "latency": {kind: _quantiles(values) for kind, values in latency.items()},
        "answers": _count(answers),
        "cpu_share": {name: seconds / elapsed for name, seconds in cpu_s.items()},
        "encoded": after.get("encoded", 0) - before.get("encoded", 0),
        "threads": {
            name: (seconds - before["threads_cpu_s"].get(name, 0.0)) / elapsed
            for name, seconds in after["threads_cpu_s"].items()
        },
    }


def _kind(line: str) -> str:
    if line.startswith("GET"):
        return "feed"
    return "upload" if line.startswith("POST /v1/uploads") else "event"


def _number(value: float | None) -> float:
    """JSON has no NaN: null stands for a store that did not answer."""
    return float("nan") if value is None else value


def _count(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by: dict[str, int] = {}
    stages: dict[str, list[float]] = {}
    for answer in answers:
        by[answer["answered_by"]] = by.get(answer["answered_by"], 0) + 1
        for stage, ms in answer["stages_ms"].items():
            stages.setdefault(stage, []).append(ms)
    n = max(1, len(answers))
    batch = [answer["batch_size"] for answer in answers if answer["batch_size"]]
    return {
        "answered_by": {name: count / n for name, count in by.items()},
        "n": len(answers),
        "degraded_share": sum(a["degraded"] for a in answers) / n,
        "stages": {stage: _quantiles(values) for stage, values in stages.items()},
        "batch_mean": float(np.mean(batch)) if batch else 0.0,
    }


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "n": len(values)}


if __name__ == "__main__":
    json.dump(client(json.load(sys.stdin)), sys.stdout)
