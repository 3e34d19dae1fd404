"""Where the time of a micro-batch goes, part by part, on one thread.

In: a fitted retriever, requests, a snapshot. Out: milliseconds of processor time a request for
every part of ``propose`` (medians over batches), and for what is made once a snapshot. Processor
time of the calling thread: a busy machine does not count; queues are for the load test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.sources import Retriever

PARTS = ("user_tower", "vectors", "collaborative", "fresh", "merge", "propose")


def profile(
    retriever: Retriever, batch: RequestBatch, snapshot: CounterSnapshot, *, size: int = 8
) -> dict[str, float]:
    """Milliseconds a request at ``size`` requests a call, by part; "propose" is the whole.

    ``prepare_ms`` is the once-a-snapshot work, in milliseconds a snapshot. Numerical libraries run
    on as many threads as the caller left them; FAISS on one.

    Args:
        retriever: Fitted.
        batch: At least ``size`` requests; the first calls compile and are not counted.
        snapshot: The counters.
        size: Requests a call.

    Raises:
        ValueError: If the batch is smaller than ``size``.
    """
    if len(batch) < size:
        raise ValueError(f"{len(batch)} requests cannot fill a call of {size}")
    starts = range(0, len(batch) - size + 1, size)
    parts = [batch.take(slice(start, start + size)) for start in starts]
    with faiss_threads(1):
        retriever.propose(parts[0], snapshot)
        rows = [_one(retriever, part, snapshot) for part in parts]
        found = {f"{name}_ms": float(np.median([r[name] for r in rows])) / size for name in PARTS}
        started = time.thread_time()
        retriever.resized(retriever.config).prepare(snapshot)
        found["prepare_ms"] = (time.thread_time() - started) * 1000
    return found


def _one(retriever: Retriever, batch: RequestBatch, snapshot: CounterSnapshot) -> dict[str, float]:
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.thread_time()
        found = work()
        spent[name] = (time.thread_time() - started) * 1000
        return found

    queries = timed("user_tower", lambda: retriever.user_vectors(batch))
    timed("vectors", lambda: retriever.nearest(queries))
    timed("collaborative", lambda: retriever.collaborative(batch.recent_positive))
    timed("fresh", lambda: retriever.fresh(batch, queries))
    lists = retriever.proposals(batch, queries)
    timed("merge", lambda: retriever.merged(batch, queries, lists))
    timed("propose", lambda: retriever.propose(batch, snapshot))
    return spent
