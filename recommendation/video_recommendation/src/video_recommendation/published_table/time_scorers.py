"""Models of what was rated close in time; they read the timestamps of the train rows.

In: ``TrainPart``. Out: f32[U, I].

A random split leaves, for each hidden rating, the ratings that the user gave seconds before and
after it. MovieLens users rated page after page of one site's lists, so two items often rated
within seconds were shown together, and a hidden item is likely one that others rated beside the
user's visible ones. That is legal here (timestamps of train rows are train data) and it is a fact
about this split and this site, not about tastes: rows with these models are marked in the table.

All rest on a Gram matrix in which a pair counts less the further apart the user rated it:

    G_ij = sum over users who rated both of w(seconds between, ratings between)

in place of the count of users who rated both; kNN, RP3beta and EASE then go on as usual.

Legend: U users, I items, n a user's ratings.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from video_recommendation.published_table.scorers import (
    ease_of_gram,
    item_cosine,
    strongest_votes,
)
from video_recommendation.published_table.train_part import TrainPart

SECONDS_PER_DAY = 86_400.0
Weight = Callable[[np.ndarray, np.ndarray], np.ndarray]
PairGaps = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def time_scores(part: TrainPart) -> dict[str, np.ndarray]:
    """All scorers of this file by name; one call, since they share the pair gaps."""
    gaps = pair_gaps(part)
    scores: dict[str, np.ndarray] = {}
    for seconds in (20.0, 60.0, 600.0, 3600.0):
        gram = near_gram(part, gaps, _fading(seconds=seconds))
        near = item_cosine(part, gram, shrink=10.0)
        scores[f"near_knn_{seconds:.0f}s"] = part.rated @ near
        if seconds == 60.0:
            scores["near_strongest_item"] = strongest_votes(near, part, 1)
        if seconds >= 600.0:
            scores[f"near_ease_{seconds:.0f}s"] = part.rated @ ease_of_gram(gram, reg=400.0)
    for ratings in (2.0, 5.0):
        gram = near_gram(part, gaps, _fading(seconds=3600.0, ratings=ratings))
        scores[f"near_knn_{ratings:.0f}r"] = part.rated @ item_cosine(part, gram, shrink=10.0)
    gram = near_gram(part, gaps, _fading(ratings=10.0))
    scores["near_ease_10r"] = part.rated @ ease_of_gram(gram, reg=100.0)
    gram = near_gram(part, gaps, _fading(ratings=5.0))
    scores["near_rp3beta"] = part.rated @ _walk_of_gram(gram, part.popularity)
    gram = near_gram(part, gaps, lambda dt, dr: (dt <= 1.0).astype(np.float32))
    scores["same_page_knn"] = part.rated @ item_cosine(part, gram, shrink=10.0)
    scores["same_page_share"] = _same_page_share(part, gaps)
    for days in (2.0, 10.0, 40.0):
        scores[f"in_season_{days:.0f}d"] = in_season(part, days)
    return scores


def _fading(*, seconds: float = np.inf, ratings: float = np.inf) -> Weight:
    """exp(-gap / scale) in seconds, in ratings between, or in both."""
    return lambda dt, dr: np.exp(-dt / seconds - dr / ratings)


def pair_gaps(part: TrainPart) -> PairGaps:
    """For each user: items i[n], seconds f64[n, n] and ratings f64[n, n] between each two."""
    gaps = []
    for rated, timestamp in zip(part.rated, part.timestamp, strict=True):
        items = np.flatnonzero(rated)
        at = timestamp[items]
        in_order = np.sort(at)
        # Tied rows share the middle of their places: the order within a second is unknown.
        place = (np.searchsorted(in_order, at) + np.searchsorted(in_order, at, "right") - 1) / 2
        gaps.append((items, np.abs(at[:, None] - at), np.abs(place[:, None] - place)))
    return gaps


def near_gram(part: TrainPart, gaps: PairGaps, weight: Weight) -> np.ndarray:
    """Sum over users of weight(seconds, ratings) for each pair of items they rated, f32[I, I]."""
    gram = np.zeros((part.shape[1], part.shape[1]), np.float32)
    for items, seconds, ratings in gaps:
        gram[np.ix_(items, items)] += weight(seconds, ratings).astype(np.float32)
    return gram


def in_season(part: TrainPart, days: float) -> np.ndarray:
    """Log of how much more the item is rated around the days on which the user was active.

    Ratings of the item weighted by exp(-days apart / ``days``), over what its share of all ratings
    would give on those days; five pseudo-counts on both sides.
    """
    users, items = np.nonzero(part.rated)
    at = part.timestamp[users, items]
    day = ((at - at.min()) / SECONDS_PER_DAY).astype(np.int64)
    n_days = int(day.max()) + 1
    item_days = np.zeros((part.shape[1], n_days), np.float32)
    user_days = np.zeros((part.shape[0], n_days), np.float32)
    np.add.at(item_days, (items, day), 1.0)
    np.add.at(user_days, (users, day), 1.0)
    user_days /= part.activity[:, None]
    apart = np.abs(np.arange(n_days)[:, None] - np.arange(n_days))
    around = user_days @ np.exp(-apart / days).astype(np.float32)
    share = part.popularity / part.popularity.sum()
    expected = np.outer(around @ item_days.sum(axis=0), share)
    return np.log((around @ item_days.T + 5.0) / (expected + 5.0))


def _same_page_share(part: TrainPart, gaps: PairGaps) -> np.ndarray:
    """Of the users who rated both, the share who did so within five ratings; mean of top five."""
    close = near_gram(part, gaps, lambda dt, dr: (dr <= 5.0).astype(np.float32))
    share = close / (part.rated.T @ part.rated + 5.0)
    np.fill_diagonal(share, 0.0)
    return strongest_votes(share, part, 5) / np.minimum(part.activity, 5.0)[:, None]


def _walk_of_gram(gram: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """A flattened random walk over near pairs, with a popularity discount, f32[I, I]."""
    count = np.maximum(popularity, 1.0)
    walk = (gram / count[:, None]) ** 0.8 / np.sqrt(count)
    np.fill_diagonal(walk, 0.0)
    return walk
