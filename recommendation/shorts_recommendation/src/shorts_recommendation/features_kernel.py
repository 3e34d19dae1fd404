"""The candidates' features, compiled: plain loops over requests and candidates.

In: the arrays of a ``RequestBatch``, the ``ItemTable`` and the counters' features. Out: the columns
f32[B, C, F] of ``features.cross_feature_names``, written in place. ``features`` explains them; its
tests hold a slow twin in numpy.

Why compiled: whole-array code must lay out [B, C, L] comparisons with the history in memory before
it counts them, and 32 numbers a candidate before it multiplies them. ``nogil``: other threads go
on meanwhile.

Legend: B requests, C candidates, L events of history, T tags, V videos, K counter features.
"""

from __future__ import annotations

import numba
import numpy as np

from shorts_recommendation.reranking_kernel import cosine

N_OWN = 11
"""Columns before those of the counters."""
NEAR = 10
"""Events that "of late" means."""


@numba.njit(nogil=True, cache=True)
def _tags_of(columns: np.ndarray, profile: np.ndarray, tags: np.ndarray) -> None:
    """The profile's weight of the main tag, and its mean over all tags."""
    total, n = np.float32(0.0), 0
    for tag in tags:
        if tag >= 0:
            total += profile[tag]
            n += 1
    columns[3] = profile[tags[0]] if tags[0] >= 0 else 0.0
    columns[4] = total / max(n, 1)


@numba.njit(nogil=True, cache=True)
def _history_of(
    columns: np.ndarray,
    creator: int,
    tag: int,
    creators: np.ndarray,
    tags: np.ndarray,
    long_views: np.ndarray,
) -> None:
    """How often the history holds the candidate's creator and main tag."""
    n_events = len(creators)
    same, watched, late, late_tag = 0, np.float32(0.0), 0, 0
    for event in range(n_events):
        if creators[event] == creator:
            same += 1
            watched += long_views[event]
            late += event >= n_events - NEAR
    for event in range(max(n_events - NEAR, 0), n_events):
        late_tag += tags[event] == tag
    columns[5], columns[6] = np.log1p(same), np.log1p(watched)
    columns[7], columns[8] = late, late_tag


@numba.njit(nogil=True, cache=True)
def fill_columns(
    columns: np.ndarray,
    videos: np.ndarray,
    now_s: np.ndarray,
    language: np.ndarray,
    tag_profile: np.ndarray,
    history: np.ndarray,
    history_outcomes: np.ndarray,
    session: np.ndarray,
    taste: np.ndarray,
    log_duration: np.ndarray,
    upload_s: np.ndarray,
    video_language: np.ndarray,
    video_tags: np.ndarray,
    video_creator: np.ndarray,
    content: np.ndarray,
    counted: np.ndarray,
) -> None:
    """Writes ``columns`` f32[B, C, 11 + K].

    Args:
        columns: The target.
        videos: i32[B, C], none negative.
        now_s: i64[B].
        language: i16[B].
        tag_profile: f32[B, T].
        history: i32[B, L], -1 padded.
        history_outcomes: f32[B, L, 5].
        session: Unit rows f32[B, 32], or zero.
        taste: The same of the long term.
        log_duration: f32[V].
        upload_s: i64[V].
        video_language: i16[V].
        video_tags: i16[V, S], -1 padded.
        video_creator: i32[V].
        content: f32[V, 32].
        counted: f32[V, K].
    """
    n_events = history.shape[1]
    creators = np.empty(n_events, np.int64)
    tags = np.empty(n_events, np.int64)
    for b in range(videos.shape[0]):
        for event in range(n_events):
            video = history[b, event]
            creators[event] = video_creator[video] if video >= 0 else -1
            tags[event] = video_tags[video, 0] if video >= 0 else -2
        for c in range(videos.shape[1]):
            video, row = videos[b, c], columns[b, c]
            row[0] = log_duration[video]
            row[1] = np.log1p(max(now_s[b] - upload_s[video], 0) / 3600)
            row[2] = video_language[video] == language[b]
            _tags_of(row, tag_profile[b], video_tags[video])
            _history_of(
                *(row, video_creator[video], video_tags[video, 0]),
                *(creators, tags, history_outcomes[b, :, 1]),
            )
            row[9] = cosine(content[video], session[b])
            row[10] = cosine(content[video], taste[b])
            row[N_OWN:] = counted[video]
