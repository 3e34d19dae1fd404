"""Five ways in which serving may compute a feature slightly differently from training.

In: the ``Funnel`` and the data. Out: the feature of every test row as a mistaken server would send
it, f[C]. Each is a mistake that code review lets pass, and none raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from feature_engineering.counters import as_of
from ml_algorithms.collaborative_filtering.scoring import score_histories
from video_recommendation.data import SystemData
from video_recommendation.labs.funnel import Funnel
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.sources import DAY_S


@dataclass(frozen=True)
class Skew:
    """A difference between the two sides: which feature, and what serving computes for it."""

    label: str
    feature: str
    serve: Callable[[Funnel, SystemData], np.ndarray]


def newest_first(funnel: Funnel, data: SystemData) -> np.ndarray:
    """EASE votes with the history's order reversed."""
    rows, item_item = funnel.test, funnel.proposer.retriever.item_item
    batch = batch_of_queries(data.log, rows.queries)
    from_the_start = np.arange(len(batch.item_idx)) - batch.ptr[batch.owner]
    decay = np.exp(-from_the_start / item_item.config.ease_history_decay)
    weights = decay + item_item.config.ease_floor
    scores = score_histories(item_item.ease, batch.item_idx, batch.ptr, weights)
    return scores[rows.examples.owner, rows.examples.item_idx]


def row_above(funnel: Funnel, _: SystemData) -> np.ndarray:
    """An off-by-one in a join: each candidate gets the value of the one above it."""
    return np.roll(funnel.test.feature("ease_score"), 1)


def in_minutes(funnel: Funnel, _: SystemData) -> np.ndarray:
    """The gap since the last event in minutes where training has seconds."""
    return np.log1p(np.expm1(funnel.test.feature("log_gap_s").astype(np.float64)) / 60)


def missing_is_zero(funnel: Funnel, _: SystemData) -> np.ndarray:
    """Rank 0, the best, for items that co-visitation did not propose; training says the quota."""
    rank = funnel.test.feature("co_visitation_rank")
    return np.where(rank >= funnel.proposer.retriever.config.co_visitation, 0.0, rank)


def day_old(funnel: Funnel, _: SystemData) -> np.ndarray:
    """The week's count as it was 24 hours ago: the counter's job runs once a night."""
    rows, counter = funnel.test, funnel.proposer.retriever.counter
    end = as_of(rows.now) - DAY_S
    return np.log1p(counter.between(rows.examples.item_idx, end - 7 * DAY_S, end))


SKEWS = {
    "broken": Skew("history newest first", "ease_score", newest_first),
    "row_above": Skew("value of the row above", "ease_score", row_above),
    "minutes": Skew("minutes for seconds", "log_gap_s", in_minutes),
    "missing_zero": Skew("missing is 0, not the quota", "co_visitation_rank", missing_is_zero),
    "day_old": Skew("counter a day old", "log_count_7d", day_old),
}
