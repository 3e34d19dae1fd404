"""What the notebooks compute and the system itself has no use for.

Legend: Q requests, C candidates, N arrivals.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.classification_metrics import auc
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.lists import list_metrics
from video_recommendation.labs.funnel import every_nth
from video_recommendation.pipeline import make_proposer, time_ordered, with_live_counter
from video_recommendation.recommender import Proposer
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.training import (
    Epoch,
    RequestEncoder,
    item_vectors,
    train_two_tower,
)
from video_recommendation.retrieval.two_tower import TwoTower
from video_recommendation.serving.load_session import LoadSession, measure

JUDGED_QUERIES = 1500


def train_towers(
    data: SystemData, config: Config, **changes: object
) -> tuple[Proposer, list[Epoch]]:
    """Retrieval fitted on the training window, and what each epoch did.

    Args:
        data: All windows; nothing after the training window is learned from.
        config: Its ``two_tower`` part, with ``changes`` applied.
        changes: Fields of TwoTowerConfig.
    """
    settings = config.two_tower.model_copy(update=changes)
    windows = data.windows
    queries = every_nth(
        time_ordered(next_event_queries(data.log, windows.train_end, windows.validation_end)),
        JUDGED_QUERIES,
    )
    batch = batch_of_queries(data.log, queries)

    def validate(model: TwoTower) -> float:
        scores = RequestEncoder(model, data.users).encode(batch) @ item_vectors(model).T
        return float(list_metrics(scores, batch, data.log, queries)["recall@100"].mean())

    model, epochs = train_two_tower(
        data.catalogue,
        data.users,
        data.log,
        windows.train_end,
        settings,
        seed=config.seed,
        validate=validate,
    )
    proposer = make_proposer(data, config, model, windows.train_end)
    return with_live_counter(proposer, data), epochs


def auc_within_requests(watched: np.ndarray, values: np.ndarray, ptr: np.ndarray) -> float:
    """Mean AUC of ``values`` f[C] over the requests that hold both outcomes.

    Args:
        watched: bool[C].
        values: Higher should mean watched.
        ptr: i64[Q + 1].
    """
    found = [
        auc(watched[a:b], values[a:b])
        for a, b in zip(ptr[:-1], ptr[1:], strict=True)
        if 0 < watched[a:b].sum() < b - a
    ]
    return float(np.mean(found))


def waiting_ms(
    service_ms: np.ndarray, rate_qps: float, *, n: int = 20_000, seed: int = 0
) -> np.ndarray:
    """Response times f64[N] of one worker at Poisson arrivals, first come first served.

    Lindley's recursion, W' = max(0, W + S - A) (Lindley, "The theory of queues with a single
    server", 1952), over service times drawn from ``service_ms`` and exponential gaps A.

    Args:
        service_ms: Observed service times.
        rate_qps: Arrivals a second.
        n: Arrivals.
        seed: Of both draws.
    """
    rng = np.random.default_rng(seed)
    service = rng.choice(service_ms, n)
    gaps = rng.exponential(1000.0 / rate_qps, n)
    # The waits are a random walk that is reflected at zero.
    walk = np.concatenate(([0.0], np.cumsum(service[:-1] - gaps[1:])))
    return walk - np.minimum.accumulate(walk) + service


def offer_load(url: str, lines: Sequence[str], rate_qps: float, seconds: float) -> LoadSession:
    """``measure`` on a thread of its own: a kernel's thread already runs an event loop.

    Args:
        url: A running service.
        lines: Request lines.
        rate_qps: Poisson arrivals a second.
        seconds: Of the measured phase.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(measure, url, lines, rate_qps, seconds).result()
