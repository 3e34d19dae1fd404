"""The client's side of a load, a process of its own: JSON in on stdin, JSON out on stdout.

In: a URL, calls (kind and bytes), a rate, seconds. Out: the report of ``ml_platform.serving.
load_test``, latency by kind, stages of the answers, batch sizes, processor time of both processes.
"""

from __future__ import annotations

import base64
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


def client(order: dict[str, Any]) -> dict[str, Any]:
    """Warms up, loads, reports."""
    calls = [base64.b64decode(wire) for wire in order["wires"]]
    kinds, rate_qps = order["kinds"], order["rate_qps"]
    common = {
        "url": order["url"],
        "requests": calls,
        "rate_qps": rate_qps,
        "timeout_s": TIMEOUT_S,
        "max_connections": MAX_CONNECTIONS,
        "warmup_seconds": 0.0,
    }
    if order["warmup_s"]:
        warm = LoadPlan(seconds=order["warmup_s"], seed=order["seed"], **common)
        send_load(warm, keep_bodies=False)
    plan = LoadPlan(seconds=order["seconds"], seed=order["seed"] + 1, **common)
    before, begin, own = get_json(f"{order['url']}/v1/operations"), time.time(), time.process_time()
    started, samples, connections = send_load(plan, keep_bodies=True)
    own, elapsed_s = time.process_time() - own, time.time() - begin
    after = get_json(f"{order['url']}/v1/operations")
    latency: dict[str, list[float]] = {}
    stages: dict[str, list[float]] = {}
    batches: list[float] = []
    for place, sample in enumerate(samples):
        if not sample.ok:
            continue
        kind = kinds[place % len(kinds)]
        latency.setdefault(kind, []).append((sample.finished - sample.due) * 1e3)
        answer = json.loads(sample.body)
        batches.append(answer["batch_size"])
        for stage, ms in answer["timings_ms"].items():
            stages.setdefault(f"{kind}_{stage}", []).append(ms)
    every = [ms for part in latency.values() for ms in part]
    return {
        "report": asdict(summarise(plan, samples, started, connections)),
        "all": quantiles(every),
        "latency": {kind: quantiles(values) for kind, values in latency.items()},
        "stages": {stage: quantiles(values) for stage, values in stages.items()},
        "batch_mean": float(np.mean(batches)) if batches else 0.0,
        "cpu": {
            "server": (after["cpu_s"] - before["cpu_s"]) / elapsed_s,
            "client": own / elapsed_s,
        },
    }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 and n; None without values."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "n": len(values)}


if __name__ == "__main__":
    json.dump(client(json.load(sys.stdin)), sys.stdout)
