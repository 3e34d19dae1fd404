"""Small logs, catalogues and requests written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_engineering.encoding import hashed_words
from ml_platform.data.interactions import InteractionLog
from video_recommendation.data import TITLE_BUCKETS, TITLE_WORDS, Catalogue, Users
from video_recommendation.requests import RequestBatch

Event = tuple[int, int, float, int]  # user, item, rating, second


def make_log(events: Sequence[Event], *, n_users: int, n_items: int) -> InteractionLog:
    """The log of these events; of one user's events in one second, in the order given."""
    rows = sorted(events, key=lambda event: (event[0], event[3]))
    user = np.array([row[0] for row in rows], dtype=np.int64)
    return InteractionLog(
        user_ptr=np.concatenate(([0], np.cumsum(np.bincount(user, minlength=n_users)))),
        item_idx=np.array([row[1] for row in rows], dtype=np.int32),
        rating=np.array([row[2] for row in rows], dtype=np.float32),
        timestamp=np.array([row[3] for row in rows], dtype=np.int64),
        user_ids=np.arange(n_users) + 100,
        item_ids=np.arange(n_items) + 10,
    )


def make_catalogue(
    genres: Sequence[tuple[str, ...]], years: Sequence[int] | None = None
) -> Catalogue:
    """One item for each entry of ``genres``, titled "Film 0", "Film 1", ..."""
    names = tuple(sorted({name for own in genres for name in own}))
    flags = np.array([[name in own for name in names] for own in genres], dtype=np.float32)
    titles = tuple(f"Film {number}" for number in range(len(genres)))
    return Catalogue(
        item_ids=np.arange(len(genres)) + 10,
        titles=titles,
        years=np.array([1990] * len(genres) if years is None else years, dtype=np.int16),
        genre_names=names,
        genre_flags=flags,
        title_words=hashed_words(titles, n_buckets=TITLE_BUCKETS, max_words=TITLE_WORDS),
    )


def make_users(n_users: int) -> Users:
    """User u is of age group u % 6, gender u % 3, occupation 0."""
    user = np.arange(n_users)
    return Users(user + 100, user % 6, user % 3, np.zeros(n_users, dtype=np.int64), 1)


def make_batch(
    histories: Sequence[Sequence[tuple[int, float, int]]],
    now: Sequence[int],
    user_idx: Sequence[int] | None = None,
) -> RequestBatch:
    """Requests with these histories of (item, rating, second), oldest first."""
    flat = [event for history in histories for event in history]
    return RequestBatch(
        user_idx=np.array(user_idx or [-1] * len(now), dtype=np.int32),
        now=np.array(now, dtype=np.int64),
        ptr=np.concatenate(([0], np.cumsum([len(h) for h in histories]))).astype(np.int64),
        item_idx=np.array([event[0] for event in flat], dtype=np.int32),
        rating=np.array([event[1] for event in flat], dtype=np.float32),
        timestamp=np.array([event[2] for event in flat], dtype=np.int64),
    )
