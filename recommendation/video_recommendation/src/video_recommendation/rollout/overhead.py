"""What shadowing and request logging cost the users: a ratio of latencies in one run.

    python -m video_recommendation.rollout.overhead BUNDLE [--pairs 20 --seconds 4 --share 0.1]

In: a bundle. Out: p50 and p99 with both on, over both off, with a 95% interval. Latencies are the
client's, open loop, from the scheduled arrival.

One server, two states, in turn: off on, on off, off on, ... Both phases of a pair send the same
requests at the same moments of their phase, so what differs is the state and the machine's mood;
the order changes sides, so a machine that grows slower favours neither. Before every phase the
shadow has worked off what it took: its leftovers would otherwise be charged to "off".

The ratio is the geometric mean of the pairs' ratios: phases of a pair are seconds apart and share
the machine's mood, phases minutes apart do not. The interval resamples whole pairs. So many short
pairs say more than a few long ones; each phase must hold enough requests for its p99 to exist.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results
from ml_platform.serving.load_test import LoadPlan, send_load
from video_recommendation.bundle import load_bundle
from video_recommendation.reliability.server_process import ServerProcess, get_json
from video_recommendation.rollout.overhead_server import SWITCH_FILE
from video_recommendation.serving.load_session import request_lines

SERVER = "video_recommendation.rollout.overhead_server"
WARM_UP_S = 1.0
READY_S = 240.0
RESAMPLES = 2000


@dataclass(frozen=True)
class Overhead:
    """The comparison.

    Attributes:
        rate_qps, share: Requests a second; share of them that are shadowed.
        off_ms, on_ms: "p50", "p99" -> milliseconds over all phases of a state.
        ratio: "p50", "p99" -> on over off, interval over pairs.
        n_requests: Of both states.
        n_failed: Not answered well, both states.
        shadow_counts: Of the lane.
    """

    rate_qps: float
    share: float
    off_ms: dict[str, float]
    on_ms: dict[str, float]
    ratio: dict[str, Estimate]
    n_requests: int
    n_failed: int
    shadow_counts: dict[str, int]

    def table(self) -> str:
        """Lines for people."""
        lines = [
            f"shadowing {self.share:.0%} and logging all at {self.rate_qps:g} requests a second, "
            f"{self.n_requests:,} requests, {self.n_failed} failed"
        ]
        for name, ratio in self.ratio.items():
            ends = "" if ratio.low is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
            off, on = self.off_ms[name], self.on_ms[name]
            lines.append(
                f"  {name}: off {off:.2f} ms, on {on:.2f} ms, ratio {ratio.value:.3f}{ends}"
            )
        return "\n".join([*lines, f"  shadow: {self.shadow_counts}"])


def measure_overhead(
    bundle: Path,
    *,
    rate_qps: float = 100.0,
    share: float = 0.1,
    pairs: int = 20,
    seconds: float = 4.0,
    k: int = 20,
    seed: int = 0,
    step: Callable[[int], None] = lambda _: None,
) -> Overhead:
    """Measures it; alone on the machine, or it measures the neighbours.

    Args:
        bundle: Serves, and is its own shadow: a candidate of the same cost.
        rate_qps: Poisson arrivals a second.
        share: Share of the requests that are shadowed.
        pairs: Pairs of phases.
        seconds: Of each phase, after a second of warm-up.
        k: Length of the lists.
        seed: Of users and arrivals.
        step: Told of each phase.

    Raises:
        RuntimeError: The shadow does not become ready, or closed.
    """
    lines = request_lines(load_bundle(bundle).users.user_ids, k=k, seed=seed)
    arguments = [str(bundle), "--shadow", str(bundle), "--share", str(share)]
    found: dict[bool, list[np.ndarray]] = {False: [], True: []}
    n_failed = 0
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        server = ServerProcess(SERVER, arguments, Path(scratch) / "data")
        with server:
            server.start()
            _wait_for_the_shadow(server, lines)
            for pair in range(pairs):
                for on in ((False, True), (True, False))[pair % 2]:
                    _switch(server, on)
                    plan = LoadPlan(
                        url=server.url,
                        requests=lines,
                        rate_qps=rate_qps,
                        seconds=seconds,
                        warmup_seconds=WARM_UP_S,
                        seed=seed + pair,
                    )
                    _, samples, _ = send_load(plan, keep_bodies=False)
                    took = [(s.finished - s.due) * 1e3 for s in samples if s.ok]
                    n_failed += len(samples) - len(took)
                    found[on].append(np.array(took))
                    step(1)
            _switch(server, False)
            counts = _state(server)["counts"]
    return compare(found[False], found[True], rate_qps, share, n_failed, counts, seed=seed)


def compare(
    off: Sequence[np.ndarray],
    on: Sequence[np.ndarray],
    rate_qps: float,
    share: float,
    n_failed: int,
    counts: dict[str, int],
    *,
    seed: int = 0,
) -> Overhead:
    """Percentiles of both states and their ratios; one f64[n] of milliseconds for each phase."""
    rng = np.random.default_rng(seed)
    pooled = {"off": np.concatenate(off), "on": np.concatenate(on)}
    draws = rng.integers(0, len(off), (RESAMPLES, len(off)))
    several = len(off) > 1  # the spread of one pair is nothing
    ratio, percentiles = {}, {"p50": 50.0, "p99": 99.0}
    for name, q in percentiles.items():
        each = np.array(
            [
                np.log(np.percentile(watched, q) / np.percentile(calm, q))
                for calm, watched in zip(off, on, strict=True)
            ]
        )
        low, high = np.exp(np.percentile(each[draws].mean(axis=1), [2.5, 97.5])).tolist()
        ratio[name] = Estimate(
            float(np.exp(each.mean())),
            low if several else None,
            high if several else None,
            n=len(off),
        )
    off_ms, on_ms = (
        {name: float(np.percentile(pooled[state], q)) for name, q in percentiles.items()}
        for state in ("off", "on")
    )
    n_requests = sum(len(values) for values in pooled.values()) + n_failed
    return Overhead(rate_qps, share, off_ms, on_ms, ratio, n_requests, n_failed, counts)


def record_overhead(results: Results, found: Overhead) -> None:
    """Ratios and milliseconds under ``overhead/shadow_and_log``."""
    protocol = (
        f"one server, phases on and off in turn, open loop, {found.rate_qps:g} requests a second, "
        f"{found.share:.0%} shadowed, all logged; interval over pairs of phases"
    )
    for name, ratio in found.ratio.items():
        results.add(f"overhead/shadow_and_log/{name}_ratio", ratio, protocol=protocol)
        for state, ms in (("off", found.off_ms), ("on", found.on_ms)):
            results.add(f"overhead/{state}/{name}_ms", ms[name], protocol=protocol)
    results.add("overhead/shadow_and_log/failed", float(found.n_failed), protocol=protocol)
    dropped = float(found.shadow_counts.get("dropped", 0))
    results.add("overhead/shadow_and_log/dropped", dropped, protocol=protocol)


def _wait_for_the_shadow(server: ServerProcess, lines: Sequence[str]) -> None:
    """Requests until the shadow has answered some; it loads its bundle when the machine is idle."""
    (server.data_dir / SWITCH_FILE).touch()
    give_up = time.monotonic() + READY_S
    while _state(server)["counts"].get("answered", 0) < 10:
        if time.monotonic() > give_up:
            raise RuntimeError(f"the shadow is not ready after {READY_S:g} s: {_state(server)}")
        plan = LoadPlan(
            url=server.url, requests=lines, rate_qps=20.0, seconds=1.0, warmup_seconds=0.0
        )
        send_load(plan, keep_bodies=False)


def _switch(server: ServerProcess, on: bool) -> None:
    """Turns it, and waits until nothing is left of the phase before."""
    file = server.data_dir / SWITCH_FILE
    if on:
        file.touch()
    else:
        file.unlink(missing_ok=True)
    give_up = time.monotonic() + READY_S
    while (state := _state(server))["on"] != on or not state["drained"]:
        if state["closed_because"] is not None or time.monotonic() > give_up:
            raise RuntimeError(f"the shadow does not come to rest: {state}")
        time.sleep(0.1)


def _state(server: ServerProcess) -> dict[str, Any]:
    state: dict[str, Any] = get_json(f"{server.url}/v1/operations")["switched"]
    return state


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="What shadowing and logging cost.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args(arguments)
    found = measure_overhead(
        options.bundle,
        rate_qps=options.rate,
        share=options.share,
        pairs=options.pairs,
        seconds=options.seconds,
    )
    print(found.table())


if __name__ == "__main__":
    main()
