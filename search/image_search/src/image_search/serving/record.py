"""What load sessions become in a results file: ``serving/<variant>/<metric>`` with its protocol."""

from __future__ import annotations

from image_search.serving.load_session import LoadSession
from ml_platform.evaluation.results import Results

LIMIT_P99_MS = 100.0
LATE_MS = 20.0
"""A client that sends one request in a hundred so late measures itself."""


def record_session(results: Results, variant: str, session: LoadSession, words: str) -> None:
    """Adds what clients saw, and what each process and stage took.

    Args:
        results: Gets ``serving/<variant>/...`` and ``serving_stage/<variant>.<kind>_<stage>/...``.
        variant: Name of the load.
        session: The measurement.
        words: What was sent, and how the service was set.
    """
    load, text = session.load, protocol(session, words)

    def add(metric: str, value: float | None, n: int | None = None) -> None:
        if value is not None:
            results.add(f"serving/{variant}/{metric}", float(value), n=n, protocol=text)

    for metric in ("offered_qps", "achieved_qps", "error_rate", "max_ms", "send_lag_p99_ms"):
        add(metric, getattr(load, metric), load.n)
    if session.latency is not None:
        for metric in ("p50", "p95", "p99"):
            add(f"{metric}_ms", getattr(session.latency, metric), session.latency.n)
    for kind, found in session.by_kind.items():
        for metric in ("p50", "p95", "p99"):
            add(f"{kind}_{metric}_ms", getattr(found, metric), found.n)
    add("batch_mean", session.batch_mean, load.ok)
    add("peak_rss_mib", session.peak_rss_bytes / 2**20)
    for process, cores in session.cpu.items():
        add(f"cpu_{process}_cores", cores)
    for stage, found in session.stages.items():
        for metric in ("p50", "p99"):
            key = f"serving_stage/{variant}.{stage}/{metric}_ms"
            results.add(key, getattr(found, metric), n=found.n, protocol=text)


def protocol(session: LoadSession, words: str) -> str:
    """How it was measured, in one line."""
    load = session.load
    late = ", LIMITED BY THE CLIENT" if (load.send_lag_p99_ms or 0.0) > LATE_MS else ""
    seconds = load.n / load.offered_qps
    return (
        f"one process, open loop, {load.arrivals} arrivals at {load.offered_qps:g} a second for "
        f"{seconds:.0f} s from a second process on the same machine{late}, latency from the "
        f"scheduled arrival, {words}"
    )
