"""The tables that every stage reads: catalogue, users, and the impression log.

Plain arrays, one entry per row, in memory; ``world`` writes the same as parquet. Shapes: V videos,
U users, N impressions. Times are Unix seconds.

An *impression* is one video on one screen; everything that happened to it stands in its row.

- ``long_view``: watched to the end, or for at least ``LONG_VIEW_S`` seconds. The short-video
  counterpart of a click: nothing is clicked where everything plays by itself.
- ``skip``: swiped away within ``SKIP_S`` seconds and before the end.
- ``watch_s`` counts replays: ``watch_s / duration_s`` may exceed 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

LONG_VIEW_S = 18.0
SKIP_S = 3.0
DAY_S = 86_400
N_TAGS_PER_VIDEO = 3
STRATEGIES = ("trending", "tags", "fresh", "uniform")
"""What the logging policy mixes; ``ImpressionLog.strategy`` holds the position here."""


@dataclass(frozen=True)
class Catalogue:
    """The videos. Row v is ``video_idx`` v.

    Attributes:
        video_ids: i64[V], external.
        creator_idx: i32[V].
        tags: i16[V, 3], main tag first, -1 where there are fewer.
        language: i16[V].
        duration_s: f32[V].
        upload_s: i64[V]; a video exists from then on.
        content: f32 or f16 [V, 768], unit length: what a content encoder would say.
    """

    video_ids: np.ndarray
    creator_idx: np.ndarray
    tags: np.ndarray
    language: np.ndarray
    duration_s: np.ndarray
    upload_s: np.ndarray
    content: np.ndarray

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def n_creators(self) -> int:
        """Creators, with or without a video."""
        return int(self.creator_idx.max()) + 1

    @property
    def n_tags(self) -> int:
        """Tags in use."""
        return int(self.tags.max()) + 1


@dataclass(frozen=True)
class Users:
    """What is known of users beside their events. Row u is ``user_idx`` u.

    Attributes:
        user_ids: i64[U], external.
        language: i16[U].
        age_group: i16[U], 0..4.
        device: i16[U], 0..2.
    """

    user_ids: np.ndarray
    language: np.ndarray
    age_group: np.ndarray
    device: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclass(frozen=True)
class ImpressionLog:
    """Impressions in time order.

    Attributes:
        user_idx, video_idx: i32[N].
        timestamp: i64[N], when the video came on screen, ascending.
        session_id: i64[N].
        position: i16[N], 0-based within the session.
        watch_s: f32[N].
        long_view, skip, like, share, follow: bool[N].
        propensity: f32[N], probability with which the logging policy chose this video here.
        strategy: i8[N], position in STRATEGIES.
    """

    user_idx: np.ndarray
    video_idx: np.ndarray
    timestamp: np.ndarray
    session_id: np.ndarray
    position: np.ndarray
    watch_s: np.ndarray
    long_view: np.ndarray
    skip: np.ndarray
    like: np.ndarray
    share: np.ndarray
    follow: np.ndarray
    propensity: np.ndarray
    strategy: np.ndarray

    def __len__(self) -> int:
        return len(self.user_idx)

    def select(self, rows: np.ndarray | slice) -> Self:
        """The rows of a mask, of indices or of a slice."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class Windows:
    """Train < validation < test; each ends where the next begins (Unix seconds)."""

    start: int
    train_end: int
    validation_end: int
    end: int
