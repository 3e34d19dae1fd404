"""The models that the lab on sampled metrics compares: ordinary ones, in three pairs.

In: the log before the test window. Out: scorers, f32[Q, I] of a batch of requests.

- popularity against "because you watched": the neighbours of the last film alone, 20 of them. For
  most of the catalogue the second has no opinion.
- EASE on the whole history against the same matrix on the last three events.
- co-visitation with 400 neighbours an item against 50.
"""

from __future__ import annotations

import numpy as np

from feature_engineering.counters import EventCounter
from ml_algorithms.collaborative_filtering.co_visitation import fit_co_visitation
from ml_algorithms.collaborative_filtering.scoring import ItemItemModel, score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.data.interactions import InteractionLog
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.baselines import Scorer, popularity_scores

PAIRS = {
    "last_film": ("popularity", "because_you_watched"),
    "recency": ("ease_all", "ease_last_3"),
    "neighbours": ("co_visitation_400", "co_visitation_50"),
}
"""Name of the pair -> (A, B)."""
LABELS = {
    "popularity": "popularity",
    "because_you_watched": "because you watched",
    "ease_all": "EASE, whole history",
    "ease_last_3": "EASE, last 3 events",
    "co_visitation_400": "co-visitation, 400 neighbours",
    "co_visitation_50": "co-visitation, 50 neighbours",
}


def fit_models(known: InteractionLog, data: SystemData, config: Config) -> dict[str, Scorer]:
    """All six, fitted on ``known``; popularity reads the live counter of all events so far."""
    live = EventCounter(data.log.item_idx, data.log.timestamp, n_items=data.log.n_items)
    ease = fit_ease(known.matrix(), reg=config.item_item.ease_reg)
    length, decay = config.item_item.history_length, config.item_item.history_decay
    return {
        "popularity": lambda batch: popularity_scores(live, batch, None),
        "because_you_watched": last_events(co_visitation(known, config, 20), 1, 1.0),
        "ease_all": last_events(ease, None, np.inf),
        "ease_last_3": last_events(ease, 3, 5.0),
        "co_visitation_400": last_events(co_visitation(known, config, 400), length, decay),
        "co_visitation_50": last_events(co_visitation(known, config, 50), length, decay),
    }


def co_visitation(known: InteractionLog, config: Config, neighbours: int) -> ItemItemModel:
    """The system's co-visitation with another number of neighbours."""
    settings = config.item_item
    return fit_co_visitation(
        known.user_ptr,
        known.item_idx,
        known.timestamp,
        n_items=known.n_items,
        window_s=settings.window_s,
        max_lag=settings.max_lag,
        decay_s=settings.decay_s,
        target_exponent=settings.target_exponent,
        tie_weight=1.0,
        neighbours=neighbours,
    )


def last_events(model: ItemItemModel, length: int | None, decay: float) -> Scorer:
    """Votes of the last ``length`` events, the n-th last fading as exp(-n / decay)."""
    return lambda batch: score_histories(
        model,
        batch.item_idx,
        batch.ptr,
        np.where(
            batch.steps_back < (np.inf if length is None else length),
            np.exp(-batch.steps_back / decay),
            0.0,
        ),
    )
