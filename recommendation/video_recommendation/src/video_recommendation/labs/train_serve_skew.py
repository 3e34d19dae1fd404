"""Lab: one feature is computed differently at serving.

The ranker's ``ease_score`` lets the last events of a history vote loudest. Training reads histories
from the log, oldest first. The serving team keeps them in a Redis list filled with LPUSH, newest
first, and hands them to the same formula. Every value is a number of the right size; no code fails.
The loudest votes now come from the oldest events.

Zinkevich, "Rules of Machine Learning", Google, rules 29 and 37: log the features as served, train
on those, and measure the skew.

In: the data set of the run. Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from feature_engineering.counters import as_of
from ml_algorithms.collaborative_filtering.scoring import score_histories
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.features import SCHEMA
from video_recommendation.labs.funnel import (
    Funnel,
    FunnelSettings,
    Rows,
    build_funnel,
    fit_ranker,
)
from video_recommendation.labs.report import LabReport
from video_recommendation.progress import Progress
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.sources import DAY_S

SETTINGS = FunnelSettings(train_queries=2000, n_trees=80)
REFERENCE_STEP = 10
"""Every so manieth training row is reference enough for the drift monitor."""


@dataclass(frozen=True)
class Skew:
    """A difference between the two sides: which feature, and what serving computes for it."""

    label: str
    feature: str
    serve: Callable[[Funnel, SystemData], np.ndarray]


def column(rows: Rows, feature: str) -> np.ndarray:
    """The feature of every row, f32[C]."""
    return rows.examples.features[:, SCHEMA.names.index(feature)]


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
    return np.roll(column(funnel.test, "ease_score"), 1)


def in_minutes(funnel: Funnel, _: SystemData) -> np.ndarray:
    """The gap since the last event in minutes where training has seconds."""
    return np.log1p(np.expm1(column(funnel.test, "log_gap_s").astype(np.float64)) / 60)


def missing_is_zero(funnel: Funnel, _: SystemData) -> np.ndarray:
    """Rank 0, the best, for items that co-visitation did not propose; training says the quota."""
    rank = column(funnel.test, "co_visitation_rank")
    return np.where(rank >= funnel.proposer.retriever.config.co_visitation, 0.0, rank)


def day_old(funnel: Funnel, _: SystemData) -> np.ndarray:
    """The week's count as it was 24 hours ago: the counter's job runs once a night."""
    rows, counter = funnel.test, funnel.proposer.retriever.counter
    end = as_of(rows.now) - DAY_S
    return np.log1p(counter.between(rows.examples.item_idx, end - 7 * DAY_S, end))


BROKEN = Skew("history newest first", "ease_score", newest_first)
OTHERS = {
    "row_above": Skew("value of the row above", "ease_score", row_above),
    "minutes": Skew("minutes for seconds", "log_gap_s", in_minutes),
    "missing_zero": Skew("missing is 0, not the quota", "co_visitation_rank", missing_is_zero),
    "day_old": Skew("counter a day old", "log_count_7d", day_old),
}


def run(run: Run) -> LabReport:
    """The lab on the data of the run."""
    return measure(run.load(), run.config, run.progress)


def measure(
    data: SystemData, config: Config, progress: Progress, settings: FunnelSettings = SETTINGS
) -> LabReport:
    """Trains once; serves the same requests with each skew, and shows them to two monitors."""
    funnel = build_funnel(data, config, settings, progress)
    with progress.stage("healthy: ranker, drift reference", 2) as step:
        ranker = fit_ranker(funnel.train, config, settings)
        step(1)
        reference = training_reference(funnel.train)
    served = {"healthy": funnel.test}
    for name, skew in {"broken": BROKEN, **OTHERS}.items():
        served[name] = skewed(funnel, skew, data)
    served["fixed"] = funnel.test  # one builder for both sides: there is nothing left to differ
    found: dict[str, dict[str, object]] = {}
    return _report(data, funnel, ranker, reference, served, settings)
