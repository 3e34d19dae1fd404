"""What an arm does to creators and uploads: one number an arm, because the market is one.

In: the trace of an arm. Out: ``Market``. There is no interval by person here. People of an arm
share counters and budgets, so a resample of people would repeat one history of the market; what
varies is the history, and that takes runs with other seeds (``over_seeds``).

*Worth of an upload.* How much a panel of people would like it, were they shown it: the mean
expected satisfaction over the panel. Known to the simulator only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ml_platform.evaluation.diversity_metrics import gini
from ml_platform.evaluation.intervals import Estimate, student_mean
from ml_platform.operations.concentration import top_share
from shorts_recommendation.experiments.simulation import Trace
from shorts_recommendation.log import DAY_S, Catalogue
from shorts_recommendation.world.world import World

PANEL = 400
REACHED = 5
"""Impressions from which an upload counts as tried."""
LATE_DAYS = 3
"""The last days of a run, in which what was learnt about uploads can show."""


@dataclass(frozen=True)
class Market:
    """One arm, one run.

    Attributes:
        creators_shown: Share of the creators with at least one impression.
        creator_gini: Of impressions over all creators: 1 where one creator has all.
        creator_top_share: Of impressions that the ten most shown creators get.
        uploads_tried: Share of the uploads of the run, one day old or more at its end, with at
            least ``REACHED`` impressions.
        upload_worth: Mean worth of uploads of the run where they are shown in the last days.
        upload_lift: Mean worth of those of them that are one day old or more at the end, by
            impression, divided by the mean worth of all such uploads: what selection adds; 1 is
            blind. Both sides are about the same uploads.
        upload_share: Of the impressions of the last days, those of uploads of the run.
    """

    creators_shown: float
    creator_gini: float
    creator_top_share: float
    uploads_tried: float
    upload_worth: float
    upload_lift: float
    upload_share: float


def market(
    trace: Trace, catalogue: Catalogue, worth: np.ndarray, *, start_s: int, end_s: int
) -> Market:
    """Measures an arm.

    Args:
        trace: Its impressions.
        catalogue: All videos.
        worth: f32[V], see the module; read for uploads of the run only.
        start_s: Of the run.
        end_s: Of the run.
    """
    creators = catalogue.creator_idx[trace.video]
    shown = np.bincount(creators, minlength=catalogue.n_creators)
    uploads = np.flatnonzero((catalogue.upload_s >= start_s) & (catalogue.upload_s < end_s - DAY_S))
    times = np.bincount(trace.video, minlength=len(catalogue))
    late = trace.video[trace.time_s >= end_s - LATE_DAYS * DAY_S]
    of_run = catalogue.upload_s[late] >= start_s
    settled = late[np.isin(late, uploads)]
    return Market(
        creators_shown=float((shown > 0).mean()),
        creator_gini=gini(shown),
        creator_top_share=top_share(creators),
        uploads_tried=float((times[uploads] >= REACHED).mean()) if uploads.size else float("nan"),
        upload_worth=_mean(worth[late[of_run]]),
        upload_lift=_mean(worth[settled]) / _mean(worth[uploads]),
        upload_share=float(of_run.mean()) if len(late) else float("nan"),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def panel_worth(world: World, start_s: int, end_s: int, seed: int) -> np.ndarray:
    """f32[V]: mean expected satisfaction of ``PANEL`` people; 0 outside the run's uploads."""
    rng = np.random.default_rng(seed)
    panel = rng.choice(len(world.users), min(PANEL, len(world.users)), replace=False)
    uploads = np.flatnonzero(
        (world.catalogue.upload_s >= start_s) & (world.catalogue.upload_s < end_s)
    ).astype(np.int32)
    worth = np.zeros(len(world.catalogue), dtype=np.float32)
    if uploads.size:
        pairs = np.broadcast_to(uploads, (len(panel), len(uploads)))
        when = np.full(len(panel), end_s, dtype=np.int64)
        worth[uploads] = world.expected(panel, pairs, when).satisfaction.mean(axis=0)
    return worth


def over_seeds(runs: list[Market]) -> dict[str, Estimate]:
    """Mean of each measure over runs, with Student's interval where there are at least three."""
    found = {}
    for field in fields(Market):
        one = student_mean(np.array([getattr(run, field.name) for run in runs]))
        if one.n == 0:
            continue
        if one.n < 3 or one.low == one.high:
            one = Estimate(one.value, None, None, one.n)
        found[field.name] = one
    return found
