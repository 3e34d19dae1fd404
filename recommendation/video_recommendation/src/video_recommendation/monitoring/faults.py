"""Three faults that leave every check of types and time to live green, built into a recommender.

Each function takes a sound served system and gives one that is broken in one place, the way it
breaks in practice:

- a unit change: somebody upstream now hands over minutes where seconds were agreed;
- a popularity shift: a few items get hundreds of events a day. Nothing is broken; the world moved;
- a broken upstream: events no longer reach the counters, while the job that writes the counts into
  the feature store goes on and gives each row a fresh time. No time to live can see that.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from feature_engineering.counters import EventCounter
from video_recommendation.data import SystemData
from video_recommendation.features import SCHEMA, FeatureBuilder
from video_recommendation.recommender import Recommender
from video_recommendation.requests import RequestBatch
from video_recommendation.retrieval.sources import Candidates, Retriever
from video_recommendation.stored_features import DAY_S, StoredFeatures

GAP = SCHEMA.names.index("log_gap_s")
BURST_ITEMS = 5
BURST_SHARE = 2.0
"""Events of the burst for one ordinary event."""


@dataclass(frozen=True)
class Served:
    """What answers requests: a recommender and the counter of item events it reads."""

    recommender: Recommender
    counter: EventCounter


class _GapInMinutes(FeatureBuilder):
    """Its log_gap_s is the logarithm of minutes."""

    def matrix(
        self,
        batch: RequestBatch,
        candidates: Candidates,
        retriever: Retriever,
        stored: StoredFeatures | None = None,
    ) -> np.ndarray:
        rows = super().matrix(batch, candidates, retriever, stored)
        rows[:, GAP] = np.log1p(np.expm1(rows[:, GAP]) / 60)
        return rows


def sound(recommender: Recommender, data: SystemData) -> Served:
    """The system as it is: each request's counters know all events before it."""
    log = data.log
    return Served(recommender, EventCounter(log.item_idx, log.timestamp, n_items=log.n_items))


def unit_change(served: Served) -> Served:
    """Minutes instead of seconds since the user's last event."""
    recommender = copy.copy(served.recommender)
    builder = recommender.proposer.builder
    minutes = _GapInMinutes(builder.catalogue, builder.users, builder.statistics)
    recommender.proposer = replace(recommender.proposer, builder=minutes)
    return Served(recommender, served.counter)


def burst_events(data: SystemData, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A burst on a few items of middling popularity: item_idx i32[N], timestamp i64[N], by time.

    It follows the rhythm of the ordinary events, and begins a day before the test window, so that
    the window's first requests meet it as well.
    """
    log, begin = data.log, data.windows.validation_end
    ordinary = log.timestamp[log.timestamp >= begin - DAY_S]
    n_events = int(BURST_SHARE * len(ordinary))
    by_count = np.argsort(-np.bincount(log.item_idx, minlength=log.n_items), kind="stable")
    items = rng.choice(by_count[log.n_items // 10 : log.n_items // 3], BURST_ITEMS, replace=False)
    moments = np.sort(rng.choice(ordinary, n_events))
    return rng.choice(items, n_events).astype(np.int32), moments


def popularity_shift(served: Served, item_idx: np.ndarray, timestamp: np.ndarray) -> Served:
    """The counters know the burst."""
    return Served(served.recommender, served.counter.extended(item_idx, timestamp))


def broken_upstream(served: Served, data: SystemData) -> Served:
    """Counters that stopped where the test window begins."""
    known = data.log.timestamp < data.windows.validation_end
    counter = EventCounter(
        data.log.item_idx[known], data.log.timestamp[known], n_items=data.log.n_items
    )
    return Served(served.recommender, counter)
