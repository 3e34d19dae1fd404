"""Features of a candidate for a request, by one function for training, replay and serving.

In: a ``RequestBatch`` (what is known of the user), candidates i32[B, C] and a ``CounterSnapshot``.
Out: ``cross_features`` f32[B, C, F], columns named by ``feature_names``. Beside them a ranker reads
``batch.user`` f32[B, 128], ``batch.context`` f32[B, 32] and the item's own vectors.

``replay`` walks the log in time, user by user in step, and computes for every impression what the
service would have computed a moment before it: the state holds earlier events only, the counters
those before the last full period. No feature reads the output of a model fitted on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import StateConfig
from shorts_recommendation.counters import (
    CounterSnapshot,
    VideoCounters,
    counted_columns,
    feature_names,
)
from shorts_recommendation.features_kernel import N_OWN, fill_columns
from shorts_recommendation.items import ItemTable
from shorts_recommendation.log import Catalogue, ImpressionLog, Users
from shorts_recommendation.requests import CONTEXT_DIM, USER_DIM, RequestBatch, concatenate
from shorts_recommendation.state import Outcomes, UserStates

_OWN = (
    "log_duration",
    "log_age_h",
    "language_match",
    "main_tag_affinity",
    "mean_tag_affinity",
    "creator_shown",
    "creator_long_views",
    "creator_of_late",
    "tag_of_late",
    "session_cosine",
    "taste_cosine",
)


def cross_feature_names(config: StateConfig) -> list[str]:
    """Names of the F columns."""
    return [*_OWN, *feature_names(config.counter_half_lives_h)]


def cross_features(
    batch: RequestBatch, videos: np.ndarray, snapshot: CounterSnapshot, items: ItemTable
) -> np.ndarray:
    """Features of candidates.

    Args:
        batch: B requests.
        videos: i32[B, C]; a padded place (-1) gets the features of video 0 and must be masked.
        snapshot: The counters.
        items: The catalogue as models read it.

    Returns:
        f32[B, C, F].
    """
    columns = np.empty((*videos.shape, N_OWN + snapshot.features.shape[1]), dtype=np.float32)
    fill_columns(
        columns,
        np.maximum(videos, 0),
        batch.now_s,
        batch.language,
        batch.tag_profile,
        batch.history,
        batch.history_outcomes,
        _unit(batch.session),
        _unit(batch.user[:, 32:64]),
        items.log_duration,
        items.upload_s,
        items.language,
        items.tags,
        items.creator,
        items.content,
        snapshot.features,
    )
    return columns


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows f32[B, D] of length 1; a zero row stays."""
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return np.asarray(rows / length, dtype=np.float32)


# --- the replay of a log ---


@dataclass(frozen=True)
class TrainingRows:
    """What was known a moment before each impression; M rows, ordered by user, then time.

    Attributes:
        log_row: i64[M], the row of the log.
        step: i32[M], 0-based number of the event among the user's.
        user: f16[M, 128].
        context: f16[M, 32].
        cross: f32[M, F].
    """

    log_row: np.ndarray
    step: np.ndarray
    user: np.ndarray
    context: np.ndarray
    cross: np.ndarray

    def __len__(self) -> int:
        return len(self.log_row)


def replay(
    catalogue: Catalogue,
    users: Users,
    items: ItemTable,
    log: ImpressionLog,
    config: StateConfig,
    *,
    only_users: np.ndarray | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[TrainingRows, UserStates]:
    """Features of every impression, point in time, and the states after the last one.

    Args:
        catalogue: Whose rows the log names.
        users: As well.
        items: The catalogue as models read it.
        log: In time order.
        config: Of the states.
        only_users: bool[U]: rows of these users only; states and counters still see everybody.
        on_progress: Called with the number of rows done.
    """
    everyone = np.argsort(log.user_idx, kind="stable")
    place = _place_in_group(log.user_idx[everyone])
    kept = np.ones(len(log), dtype=np.bool_) if only_users is None else only_users[log.user_idx]
    order = everyone[kept[everyone]]
    rows = TrainingRows(
        log_row=order,
        step=place[kept[everyone]],
        user=np.empty((len(order), USER_DIM), dtype=np.float16),
        context=np.empty((len(order), CONTEXT_DIM), dtype=np.float16),
        cross=np.empty((len(order), len(cross_feature_names(config))), dtype=np.float32),
    )
    target = np.full(len(log), -1, dtype=np.int64)
    target[order] = np.arange(len(order))
    states = UserStates(users, items, config)
    blank = _blank_snapshot(len(catalogue), config)
    by_place = everyone[np.argsort(place, kind="stable")]
    ends = np.searchsorted(np.sort(place), np.arange(int(place.max(initial=-1)) + 2))
    for first, end in zip(ends[:-1], ends[1:], strict=True):
        taken = by_place[first:end]
        asked = taken[kept[taken]]
        if len(asked):
            at = target[asked]
            batch = states.batch(log.user_idx[asked], log.timestamp[asked])
            rows.user[at], rows.context[at] = batch.user, batch.context
            videos = log.video_idx[asked][:, None]
            rows.cross[at] = cross_features(batch, videos, blank, items)[:, 0]
        outcomes = Outcomes.of_log(log, taken)
        states.apply(log.user_idx[taken], log.video_idx[taken], outcomes, log.timestamp[taken])
        on_progress(len(taken))
    _fill_counters(rows, catalogue, log, config)
    return rows, states


def requests_at(
    users: Users, items: ItemTable, log: ImpressionLog, config: StateConfig, rows: np.ndarray
) -> RequestBatch:
    """What was known a moment before these rows of the log, as one batch in their order.

    Args:
        users: Of the log.
        items: The catalogue as models read it.
        log: In time order.
        config: Of the states.
        rows: i64[Q], any rows; several may be of one user.
    """
    asked = np.zeros(len(log), dtype=np.bool_)
    asked[rows] = True
    who = np.zeros(len(users), dtype=np.bool_)
    who[log.user_idx[rows]] = True
    keep = np.flatnonzero(who[log.user_idx[: int(rows.max(initial=-1)) + 1]])
    order = keep[np.argsort(log.user_idx[keep], kind="stable")]
    step = _place_in_group(log.user_idx[order])
    states = UserStates(users, items, config)
    parts, found = [], []
    for number in range(int(step.max(initial=-1)) + 1):
        taken = order[step == number]
        wanted = taken[asked[taken]]
        if len(wanted):
            parts.append(states.batch(log.user_idx[wanted], log.timestamp[wanted]))
            found.append(wanted)
        outcomes = Outcomes.of_log(log, taken)
        states.apply(log.user_idx[taken], log.video_idx[taken], outcomes, log.timestamp[taken])
    where = np.empty(len(log), dtype=np.int64)
    where[np.concatenate(found)] = np.arange(sum(map(len, found)))
    return concatenate(parts).take(where[rows])


def _place_in_group(group: np.ndarray) -> np.ndarray:
    """i32[M]: 0, 1, 2, ... within each run of equal values."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else group
    lengths = np.diff(np.r_[starts, len(group)])
    return (np.arange(len(group)) - np.repeat(starts, lengths)).astype(np.int32)


def _blank_snapshot(n_videos: int, config: StateConfig) -> CounterSnapshot:
    shape = (4, len(config.counter_half_lives_h), n_videos)
    return CounterSnapshot(0, np.zeros(shape, np.float32), np.zeros(n_videos, np.int32))


def _fill_counters(
    rows: TrainingRows, catalogue: Catalogue, log: ImpressionLog, config: StateConfig
) -> None:
    """The counter columns, period by period: counters are the same for all users."""
    if not len(log):
        return
    period = config.counter_period_s
    counters = VideoCounters(
        len(catalogue), config.counter_half_lives_h, period, int(log.timestamp[0])
    )
    target = np.full(len(log), -1, dtype=np.int64)
    target[rows.log_row] = np.arange(len(rows))
    counted = counted_columns(log)
    grid = log.timestamp // period
    starts = np.flatnonzero(np.r_[True, grid[1:] != grid[:-1]])
    for first, end in zip(starts, np.r_[starts[1:], len(log)], strict=True):
        snapshot = counters.advance(int(log.timestamp[first]))
        part = slice(first, end)
        wanted = target[part]
        has = wanted >= 0
        rows.cross[wanted[has], N_OWN:] = snapshot.features_of(log.video_idx[part][has])
        counters.add(log.video_idx[part], log.timestamp[part], counted[part])
