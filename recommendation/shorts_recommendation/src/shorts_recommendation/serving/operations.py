"""What a serving process tells of itself beside its metrics: positions, costs of reading."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_platform.serving.store import StoreUnavailableError

if TYPE_CHECKING:
    from shorts_recommendation.serving.engine import FeedEngine


def describe(engine: FeedEngine) -> dict[str, Any]:
    """Extra fields of ``/v1/version``."""
    return {
        "version": engine.recommender.version,
        "videos": len(engine.video_idx),
        "users": engine.users.n_known,
        "store": engine.store.kind,
        "pid": os.getpid(),
        "applied_seq": engine.applied_seq,
        "published_seq": engine.publisher.published_seq,
        "consumed_seq": engine.consumer.applied_seq,
        "server_time": engine.clock.now(),
        "slates": len(engine.slates),
        "slates_to_start": engine.ahead.to_start,
        "batches": engine.computer.batcher.batches,
        "computing_s": round(engine.computer.batcher.busy_s, 3),
    }


def store_cpu_s(engine: FeedEngine) -> float:
    """Processor seconds that the store has used; NaN while it does not answer. Waits for it."""
    try:
        used = engine.store.call(lambda client: client.info("cpu"))
    except StoreUnavailableError:
        return float("nan")
    return float(used["used_cpu_sys"]) + float(used["used_cpu_user"])  # type: ignore[index]


def time_state_reads(engine: FeedEngine, n_users: int = 16, repeats: int = 200) -> dict[str, float]:
    """Microseconds for the states of n users.

    ``batch_us``: what every request pays, a batch from the arrays in process. ``mget_us`` and
    ``unpack_us``: what would come before it with states read from the store; NaN without one.
    """
    rows = np.arange(min(n_users, engine.users.n_known))
    users = [engine.users.user_of(int(row)) or 0 for row in rows]
    blobs = {f"{engine.prefix}timing:{user}": engine.users.pack(user) or b"" for user in users}
    keys, now_s = list(blobs), engine.clock.now()
    try:
        engine.store.call(lambda client: client.mset(blobs))  # type: ignore[arg-type]
        stored = _median_us(lambda: engine.store.call(lambda c: c.mget(keys)), repeats)
        engine.store.call(lambda client: client.unlink(*keys))
    except StoreUnavailableError:
        stored = float("nan")
    return {
        "batch_us": _median_us(lambda: engine.users.batch(rows, now_s), repeats),
        "mget_us": stored,
        "unpack_us": _median_us(
            lambda: [engine.users.unpacked(blob) for blob in blobs.values()], repeats
        ),
        "blob_bytes": float(len(blobs[keys[0]])),
    }


def _median_us(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e6
