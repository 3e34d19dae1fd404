"""Lists made once a snapshot: what trends, and the best recent videos of every tag.

In: a ``CounterSnapshot``, the catalogue, the moment. Out: ``SnapshotLists``: for every language a
trending list with at most ``creator_cap`` videos of one creator, and for every language and tag the
best videos of that tag. A request only reads them; no request pays for a sort of the catalogue.

- trending: smoothed long-view rate times volume, both decayed with the shortest half-lives: what is
  watched through now. A video in another language than the user's counts ``foreign`` as much, the
  ratio of long-view rates that the training log shows.
- tags: smoothed long-view rate of the long half-life, times the log of its volume, for videos up to
  ``tag_days`` old: good rather than hot.

Ties (videos without impressions) are broken by one pseudo-random order of the catalogue. Shapes: V
videos, G languages, T tags, M list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from ml_platform.evaluation.top_k import tie_order
from shorts_recommendation.config import RetrievalConfig
from shorts_recommendation.counters import PRIOR_IMPRESSIONS, CounterSnapshot
from shorts_recommendation.log import DAY_S, Catalogue, ImpressionLog, Users
from shorts_recommendation.requests import TAG_SLOTS


@dataclass(frozen=True)
class SnapshotLists:
    """Lists of one snapshot, best first, -1 padded.

    Attributes:
        as_of_s: Of the snapshot.
        trending: i32[G, M].
        tags: i32[G, T, M].
        everything: i32[V], all videos that exist, most trending first: the last resort.
    """

    as_of_s: int
    trending: np.ndarray
    tags: np.ndarray
    everything: np.ndarray


def make_lists(
    snapshot: CounterSnapshot,
    catalogue: Catalogue,
    config: RetrievalConfig,
    *,
    n_languages: int,
    foreign: float,
) -> SnapshotLists:
    """Every list of a snapshot; 5 to 30 ms for 50,000 videos, once a counter period.

    Args:
        snapshot: The counters; nothing uploaded after ``as_of_s`` is in a list.
        catalogue: Videos.
        config: Lengths and the cap.
        n_languages: G.
        foreign: What a video in another language counts, 0 to 1.
    """
    exists = catalogue.upload_s <= snapshot.as_of_s
    recent = exists & (catalogue.upload_s > snapshot.as_of_s - config.tag_days * DAY_S)
    place = tie_order(len(catalogue))[1]
    hot, good = trending_score(snapshot), tag_score(snapshot)
    order = np.lexsort((place, -hot)).astype(np.int32)
    order = order[exists[order]]
    best = np.lexsort((place, -good)).astype(np.int32)
    best = best[recent[best]]
    language, creator = catalogue.language.astype(np.int64), catalogue.creator_idx.astype(np.int64)
    trending = np.full((n_languages, config.list_length), -1, dtype=np.int32)
    tags = np.full((n_languages, TAG_SLOTS, config.list_length), -1, dtype=np.int32)
    share = np.float64(foreign)
    for g in range(n_languages):
        mine = merged_by_language(order, hot, language, g, share)
        capped_list(mine, creator, catalogue.n_creators, config.creator_cap, trending[g])
        lists_by_tag(merged_by_language(best, good, language, g, share), catalogue.tags, tags[g])
    return SnapshotLists(snapshot.as_of_s, trending, tags, order)


def trending_score(snapshot: CounterSnapshot) -> np.ndarray:
    """f64[V]: decayed long-view rate times decayed volume, both shorter half-lives together."""
    short = slice(0, 2)
    # A longer half-life holds more: as shares of all impressions the two are comparable.
    shown = snapshot.impressions[short].astype(np.float64)
    watched = snapshot.long_views[short].astype(np.float64)
    volume = np.maximum(shown.sum(axis=1, keepdims=True), 1e-9)
    return np.asarray((_rate(shown, watched) * shown / volume).sum(axis=0))


def tag_score(snapshot: CounterSnapshot) -> np.ndarray:
    """f64[V]: smoothed long-view rate of the longest half-life times the log of its volume."""
    shown = snapshot.impressions[-1].astype(np.float64)
    return np.asarray(
        _rate(shown, snapshot.long_views[-1].astype(np.float64)) * np.log1p(1.0 + shown)
    )


def foreign_discount(log: ImpressionLog, users: Users, catalogue: Catalogue, until_s: int) -> float:
    """Long-view rate of impressions in another language over that in the user's, at most 1.

    1 where the log holds only one of the two kinds: then nothing is known against the other.
    """
    end = int(np.searchsorted(log.timestamp, until_s))
    same = users.language[log.user_idx[:end]] == catalogue.language[log.video_idx[:end]]
    watched = log.long_view[:end]
    if not same.any() or same.all() or not watched[same].any():
        return 1.0
    return float(min(1.0, watched[~same].mean() / watched[same].mean()))


def _rate(shown: np.ndarray, watched: np.ndarray) -> np.ndarray:
    average = watched.sum(axis=-1, keepdims=True) / np.maximum(
        shown.sum(axis=-1, keepdims=True), 1e-9
    )
    return (watched + PRIOR_IMPRESSIONS * average) / (shown + PRIOR_IMPRESSIONS)


@numba.njit(cache=True)
def merged_by_language(order, score, language, mine, foreign):  # type: ignore[no-untyped-def]
    """``order`` (descending by score) with scores of other languages times ``foreign``; i32[n]."""
    own = np.empty(len(order), np.int32)
    other = np.empty(len(order), np.int32)
    n_own, n_other = 0, 0
    for v in order:
        if language[v] == mine:
            own[n_own] = v
            n_own += 1
        else:
            other[n_other] = v
            n_other += 1
    merged = np.empty(len(order), np.int32)
    i, j = 0, 0
    for place in range(len(order)):
        if j >= n_other or (i < n_own and score[own[i]] >= foreign * score[other[j]]):
            merged[place] = own[i]
            i += 1
        else:
            merged[place] = other[j]
            j += 1
    return merged


@numba.njit(cache=True)
def capped_list(order, creator, n_creators, cap, target):  # type: ignore[no-untyped-def]
    """Fill ``target`` i32[M] from ``order`` with at most ``cap`` videos of a creator."""
    taken = np.zeros(n_creators, np.int32)
    n = 0
    for v in order:
        if n == len(target):
            return
        if taken[creator[v]] < cap:
            taken[creator[v]] += 1
            target[n] = v
            n += 1


@numba.njit(cache=True)
def lists_by_tag(order, tags, target):  # type: ignore[no-untyped-def]
    """Fill ``target`` i32[T, M]: the first M videos of ``order`` that carry each tag."""
    n = np.zeros(target.shape[0], np.int64)
    for v in order:
        for column in range(tags.shape[1]):
            tag = tags[v, column]
            if tag >= 0 and n[tag] < target.shape[1]:
                target[tag, n[tag]] = v
                n[tag] += 1
