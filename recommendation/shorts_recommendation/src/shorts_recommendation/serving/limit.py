"""How far from the machine's limit: arithmetic of one uncached feed, over measured bandwidths.

In: a loaded recommender. Out: bytes that one request reads and multiplications that it does, by
stage, from the shapes of the models; what this machine moves and multiplies a second on one core,
measured; the fewest microseconds that follow; and the cost of HTTP alone, measured with a handler
that does nothing.

The arithmetic counts what cannot be avoided with these models: every row of every candidate is read
once, every weight is multiplied once, nothing is cached between requests except weights that fit
into the processor's cache. Sorting, filtering and Python are not in it: they are the distance.

Shapes: L events, d width, V videos, D dimension of the vectors, C candidates, P pre-ranked, F
features, K videos of the pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shorts_recommendation.features import cross_feature_names

if TYPE_CHECKING:
    from shorts_recommendation.config import Config

BANDWIDTH_MB = 256
"""Far beyond the caches."""
MATRIX = 1024
REPEATS = 7


@dataclass(frozen=True)
class StageCost:
    """What one request needs of one stage."""

    bytes_read: float
    flops: float


@dataclass(frozen=True)
class Machine:
    """One core's limits, measured; bytes and floating-point operations a second."""

    bytes_per_s: float
    flops_per_s: float

    def seconds(self, cost: StageCost) -> float:
        """The longer of reading and computing: at best they overlap."""
        return max(cost.bytes_read / self.bytes_per_s, cost.flops / self.flops_per_s)


def measure_machine() -> Machine:
    """Sums 256 MB of float32 and multiplies matrices of 1024, best of seven, on one thread.

    Libraries must be limited to one thread before.
    """
    values = np.ones(BANDWIDTH_MB * 2**20 // 4, dtype=np.float32)
    a = np.ones((MATRIX, MATRIX), dtype=np.float32)
    read_s = _best(lambda: values.sum())
    multiply_s = _best(lambda: a @ a)
    return Machine(values.nbytes / read_s, 2 * MATRIX**3 / multiply_s)


def request_costs(
    config: Config, n_videos: int, *, vectors_read: float | None = None, encoded: float = 1.0
) -> dict[str, StageCost]:
    """What one uncached feed needs, by stage.

    Args:
        config: Sizes of the models and of the funnel.
        n_videos: V.
        vectors_read: Vectors that the index compares with, a byte a number (retrieval/scan.py);
            all V by default.
        encoded: Histories encoded for each feed: once an event, so below 1.
    """
    state, ranking, retrieval = config.state, config.ranking, config.retrieval
    d, length = ranking.d_model, state.history_length
    wide, tower = config.two_tower.embedding_dim, config.two_tower.history_length
    compared = float(n_videos if vectors_read is None else vectors_read)
    c, p, pool = retrieval.n_candidates, ranking.prerank_keep, config.reranking.pool
    features, hidden, dots, content = len(cross_feature_names(state)), 128, 8, 64
    return {
        "state": StageCost(row_bytes(config), 0),
        # One layer: four projections and a feed-forward of 4 d, and two products with L keys.
        "encode": StageCost(
            encoded * 4 * length * (d + 8),
            encoded * 2 * ranking.n_layers * length * (12 * d * d + 2 * length * d),
        ),
        "retrieve": StageCost(compared * wide + 4 * wide * tower + 8 * 10 * c, 2 * compared * wide),
        "prerank": StageCost(4 * c * 33, 2 * c * 33),
        "rank": StageCost(
            4 * p * (features + d + hidden),
            2 * p * ((features + dots) * hidden + hidden * 64 + 64 * 5 + d),
        ),
        "rerank": StageCost(
            4 * pool * content, 2 * pool * content * max(config.serving.slate_length, 1)
        ),
    }


def row_bytes(config: Config) -> float:
    """Bytes of one user's state that a request reads (state.py)."""
    state = config.state
    event = 4 + 5 * 4 + 8 + 2
    return state.history_length * event + 4.0 * state.seen_length + 4 * 20 + 4 * (32 + 32 + 60 + 9)


def _best(function: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)
