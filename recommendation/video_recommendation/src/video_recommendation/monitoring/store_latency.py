"""What reading stored features costs, beside the ways that were not chosen.

In: a bundle. Out: milliseconds of each way, for the candidates of one request, on an embedded store
that serves one client. Idle and alone: what a request pays under load is the stage ``features`` of
the load test.

    mget          one MGET: a key for each item, and the user's          what we do
    hmget         one HMGET on one hash that holds all items
    packed        one GET of one value that holds all items
    packed_100k   the same with a catalogue of 100,000 items
    in_process    no store: computed from the counter in this process    the fallback
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from ml_platform.serving.store import open_store
from video_recommendation.recommender import Recommender
from video_recommendation.serving.feature_home import FeatureHome
from video_recommendation.stored_features import ITEM_ACTIVITY, computed, item_activity

BIG_CATALOGUE = 100_000
MATERIALISATIONS = 20


def read_latencies(
    recommender: Recommender, *, n_reads: int, n_items: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Milliseconds of each way, f64[n_reads], and of ``materialise`` (all rows, one minute).

    Args:
        recommender: Its counter and catalogue are used.
        n_reads: Repetitions.
        n_items: Candidates of a request.
        seed: Of their choice.
    """
    rng = np.random.default_rng(seed)
    counter, now = recommender.proposer.retriever.counter, recommender.data_end
    everything = np.arange(counter.n_items)
    chosen = rng.choice(everything, min(n_items, len(everything)), replace=False).astype(np.int32)
    user_id = int(recommender.users.user_ids[0])
    rows = item_activity(counter, everything, ITEM_ACTIVITY.tick(now))
    width = rows.shape[1]
    moments, nobody = np.full(len(chosen), now), np.zeros(1, dtype=np.int32)
    with (
        tempfile.TemporaryDirectory(prefix="store-latency-") as folder,
        open_store(None, Path(folder)) as store,
    ):
        home = FeatureHome(recommender, store, "latency:")
        minutes = iter(range(MATERIALISATIONS))
        written = _timed(
            lambda: home.materialise(counter, now + ITEM_ACTIVITY.tick_s * next(minutes)),
            MATERIALISATIONS,
        )
        later = now + ITEM_ACTIVITY.tick_s * (MATERIALISATIONS - 1)
        fields = [str(item) for item in chosen]
        store.client.hset("hash", mapping={str(i): rows[i].tobytes() for i in everything})
        store.client.set("packed", rows.tobytes())
        store.client.set("packed_100k", np.resize(rows, (BIG_CATALOGUE, width)).tobytes())

        def packed(key: str) -> np.ndarray:
            raw = cast(bytes, store.client.get(key))
            return np.frombuffer(raw, dtype=np.float32).reshape(-1, width)[chosen]

        def hash_rows() -> np.ndarray:
            raw = cast(list[bytes], store.client.hmget("hash", fields))
            return np.frombuffer(b"".join(raw), dtype=np.float32).reshape(-1, width)

        ways: dict[str, Callable[[], object]] = {
            "mget": lambda: home.read(chosen, user_id, later),
            "hmget": hash_rows,
            "packed": lambda: packed("packed"),
            "packed_100k": lambda: packed("packed_100k"),
            "in_process": lambda: computed(counter, recommender.users, chosen, nobody, moments),
        }
        found = {name: _timed(way, n_reads) for name, way in ways.items()}
    return found | {"materialise": written}


def _timed(work: Callable[[], object], n: int) -> np.ndarray:
    """f64[n], milliseconds of each call."""
    elapsed = np.empty(n)
    for position in range(n):
        begin = time.perf_counter()
        work()
        elapsed[position] = (time.perf_counter() - begin) * 1e3
    return elapsed
