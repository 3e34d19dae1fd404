"""What load sessions become in a results file: ``serving/<variant>/<metric>`` with its protocol.

``record_sessions`` is the part of `make e2e`: one rate for the cached path, one for the uncached,
and one by users who watch what they were given before they ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.serving.load_session import LoadSession, load_session

LIMIT_P50_MS, LIMIT_P99_MS = 50.0, 100.0
LATE_MS = 20.0
"""A client that sends one request in a hundred so late measures itself."""


def record_sessions(
    bundle: Path, config: Config, results: Results, step: Callable[[int], object]
) -> dict[str, LoadSession]:
    """Both paths at their configured rates, each by a service of its own.

    Args:
        bundle: A bundle's folder.
        config: Rates and seconds in ``config.serving``.
        results: Gets ``serving/cached/...``, ``serving/sessions/...``, ``serving/uncached/...``.
        step: Called with 1 after each.
    """
    serving = config.serving
    loads: dict[str, tuple[float, dict[str, Any]]] = {
        "cached": (serving.load_rate_qps, {"cached": True}),
        "sessions": (
            serving.load_sessions_rate_qps,
            {"cached": True, "session_events": serving.prefetch},
        ),
        "uncached": (serving.load_uncached_rate_qps, {"cached": False}),
    }
    sessions = {}
    for name, (rate_qps, traffic) in loads.items():
        sessions[name] = load_session(
            *(bundle, rate_qps, serving.load_seconds),
            config=serving,
            seed=config.seed,
            **traffic,
        )
        record_session(results, name, sessions[name], config)
        step(1)
    return sessions


def record_session(results: Results, variant: str, session: LoadSession, config: Config) -> None:
    """Adds what clients saw, who answered, and what each process and stage took."""
    load, text = session.load, protocol(session, config, variant)

    def add(metric: str, value: float | None, n: int | None = None) -> None:
        if value is not None:
            results.add(f"serving/{variant}/{metric}", float(value), n=n, protocol=text)

    for metric in ("offered_qps", "achieved_qps", "error_rate", "p50_ms", "p90_ms", "p99_ms"):
        add(metric, getattr(load, metric), load.n)
    add("max_ms", load.max_ms, load.n)
    add("send_lag_p99_ms", load.send_lag_p99_ms, load.n)
    for kind, quantiles in (
        ("feed", session.feed),
        ("event", session.event),
        ("upload", session.upload),
    ):
        if quantiles is not None:
            add(f"{kind}_p50_ms", quantiles.p50, quantiles.n)
            add(f"{kind}_p99_ms", quantiles.p99, quantiles.n)
    n_feeds = session.feed.n if session.feed else 0
    add("hit_rate", session.hit_rate, n_feeds)
    add("degraded_share", session.degraded_share, n_feeds)
    add("batch_mean", session.batch_mean, n_feeds)
    add("encoded_per_computed", session.encoded, n_feeds)
    for process, share in session.cpu_share.items():
        if share == share:  # the store may not have answered
            add(f"cpu_{process}_cores", share)
    for stage, quantiles in session.stages.items():
        for metric in ("p50", "p99"):
            key = f"serving_stage/{variant}_{stage}/{metric}_ms"
            results.add(key, getattr(quantiles, metric), n=quantiles.n, protocol=text)


def protocol(session: LoadSession, config: Config, variant: str) -> str:
    """How it was measured, in one line."""
    load, serving = session.load, config.serving
    cached = "uncached" not in variant
    path = "slates cached" if cached else "cache=off: every feed runs the whole funnel"
    share = f"{1 - serving.load_event_share:.0%} feeds of {serving.prefetch} and "
    share += f"{serving.load_event_share:.0%} events, each drawn on its own"
    if "sessions" in variant:
        share = f"a feed of {serving.prefetch}, its {serving.prefetch} events, the next feed"
    if "uploads" in variant:
        share += ", and an upload every second"
    offered_s = load.n / load.offered_qps
    late = ", LIMITED BY THE CLIENT" if (load.send_lag_p99_ms or 0.0) > LATE_MS else ""
    return (
        f"one worker, open loop, {load.arrivals} arrivals at {load.offered_qps:g} a second for "
        f"{offered_s:.0f} s from a second process on the same machine{late}, latency from the "
        f"scheduled arrival, {share}, users by Zipf {serving.load_zipf_exponent:g}, "
        f"embedded store, {path}; the slates of the {serving.ahead_at_start} most active users "
        "were made before it, at the start"
    )
