"""What a request brings to the funnel: everything known of its user, for B requests at once.

Made by ``UserStates.batch`` and read by retrieval, features and rankers: one class for training,
replay and serving, so that they cannot differ. Shapes: B requests, L events of history, H recent
positives, T = 60 tag slots, S seen videos. Padding is -1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

OUTCOMES = ("watch_ratio", "long_view", "skip", "like", "share_follow")
"""Columns of ``history_outcomes``; the ratio is clipped at ``MAX_RATIO``."""
MAX_RATIO = 3.0
TAG_SLOTS = 60
SESSION_DIM = 32
USER_DIM = 128
CONTEXT_DIM = 32


@dataclass(frozen=True)
class RequestBatch:
    """B requests, each by another user or at another time.

    Attributes:
        user_idx: i32[B], -1 for a person without an account.
        now_s: i64[B].
        history: i32[B, L], oldest first, padded on the left.
        history_outcomes: f32[B, L, 5], columns of OUTCOMES.
        history_time_s: i64[B, L].
        history_position: i16[B, L], place in its session.
        recent_positive: i32[B, H], last videos with a long view, newest first.
        tag_profile: f32[B, T], decayed long views and likes less skips, by tag.
        session: f32[B, 32], the session embedding: zero at its start.
        user: f32[B, 128], session, long-term taste, tag profile, rates (state.py).
        context: f32[B, 32], hour, place in the session, last outcomes, device (state.py).
        language: i16[B].
        seen: i32[B, S], videos not to show again.
    """

    user_idx: np.ndarray
    now_s: np.ndarray
    history: np.ndarray
    history_outcomes: np.ndarray
    history_time_s: np.ndarray
    history_position: np.ndarray
    recent_positive: np.ndarray
    tag_profile: np.ndarray
    session: np.ndarray
    user: np.ndarray
    context: np.ndarray
    language: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.user_idx)

    def take(self, rows: np.ndarray | slice) -> Self:
        """The requests at these positions."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def concatenate(parts: list[RequestBatch]) -> RequestBatch:
    """Several batches as one.

    Raises:
        ValueError: If there is none.
    """
    if not parts:
        raise ValueError("no batch to join")
    return RequestBatch(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(RequestBatch)
        }
    )
