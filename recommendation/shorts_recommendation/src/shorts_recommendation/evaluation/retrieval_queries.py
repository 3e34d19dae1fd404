"""The queries of the recall tables: first requests of sessions, and what was watched in them.

In: the data, two moments. Out: ``Queries``: Q requests as they stood a moment before the session's
first video, and for each the videos that the user then watched through.

The logging policy chose what could be watched: a video that it did not show cannot be relevant. So
recall of it is biased towards what that policy likes (what trends, the user's tags). ``weight``
takes that bias out again (uniform_recall.py). Left out of the relevant: a video seen before (no
source may propose it) and one uploaded during the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import Config
from shorts_recommendation.counters import CounterSnapshot, VideoCounters, counted_columns
from shorts_recommendation.data import ShortsData
from shorts_recommendation.features import requests_at
from shorts_recommendation.items import ItemTable
from shorts_recommendation.log import Catalogue, ImpressionLog
from shorts_recommendation.requests import RequestBatch


@dataclass(frozen=True)
class Queries:
    """Q requests in time order, each with at least one relevant video.

    Attributes:
        batch: The requests.
        ptr: i64[Q + 1], into ``relevant``.
        relevant: i32[R], videos watched through in the session.
        weight: f64[R], probability that a uniform slot chose it, given that it was shown.
    """

    batch: RequestBatch
    ptr: np.ndarray
    relevant: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def n_relevant(self) -> np.ndarray:
        """i64[Q]."""
        return np.diff(self.ptr)

    def take(self, rows: np.ndarray) -> Queries:
        """The queries at these positions."""
        counts = self.n_relevant[rows]
        places = np.concatenate([np.arange(self.ptr[r], self.ptr[r + 1]) for r in rows])
        places = places.astype(np.int64)
        ptr = np.concatenate([[0], np.cumsum(counts)])
        return Queries(self.batch.take(rows), ptr, self.relevant[places], self.weight[places])


def session_queries(
    data: ShortsData, items: ItemTable, config: Config, since_s: int, until_s: int, *, most: int
) -> Queries:
    """Sessions that begin in [``since_s``, ``until_s``), at most ``most``, drawn by the seed.

    Raises:
        ValueError: If no session in the window has a long view that counts.
    """
    log = data.log
    order = np.lexsort((np.arange(len(log)), log.session_id))
    starts = np.flatnonzero(np.r_[True, np.diff(log.session_id[order]) != 0])
    first = order[starts]
    inside = (log.timestamp[first] >= since_s) & (log.timestamp[first] < until_s)
    chosen = np.flatnonzero(inside)
    rng = np.random.default_rng(config.seed)
    # A third more than wanted: sessions without a relevant video fall away.
    chosen = rng.permutation(chosen)[: most + most // 2]
    chosen = chosen[np.argsort(log.timestamp[first[chosen]], kind="stable")]
    if not len(chosen):
        raise ValueError(f"no session begins between {since_s} and {until_s}")
    ends = np.r_[starts[1:], len(order)]
    batch = requests_at(data.users, items, log, config.state, first[chosen])
    relevant = [
        _relevant(log, data.catalogue, order[starts[c] : ends[c]], batch.seen[q])
        for q, c in enumerate(chosen)
    ]
    rows = np.flatnonzero([len(wanted) > 0 for wanted in relevant])
    if len(rows) > most:
        rows = np.sort(rng.permutation(rows)[:most])
    if not len(rows):
        raise ValueError(f"no session with a long view between {since_s} and {until_s}")
    kept = [relevant[row] for row in rows]
    ptr = np.concatenate([[0], np.cumsum([len(wanted) for wanted in kept])])
    shown = np.concatenate(kept)
    weight = uniform_weight(log, data.catalogue, shown, config.world.uniform_share)
    return Queries(batch.take(rows), ptr, log.video_idx[shown].astype(np.int32), weight)


def uniform_weight(
    log: ImpressionLog, catalogue: Catalogue, rows: np.ndarray, share: float
) -> np.ndarray:
    """f64[N]: probability that a uniform slot chose each impression, given that it was shown.

        P(uniform | v) = share / (videos that exist) / propensity(v)

    What a user had seen is drawn anew, so the logged propensity is larger by one factor for all
    videos of that moment: the weight is too small by it, the same for every video. It is at most 1.

    Args:
        log: With the propensity of the whole mixture.
        catalogue: Upload times.
        rows: i64[N].
        share: Of the slots that are filled uniformly.
    """
    existing = np.searchsorted(np.sort(catalogue.upload_s), log.timestamp[rows], side="right")
    uniform = share / np.maximum(existing, 1)
    return np.minimum(uniform / log.propensity[rows].astype(np.float64), 1.0)


def snapshots_of(
    log: ImpressionLog, n_videos: int, config: Config, now_s: np.ndarray
) -> Iterator[tuple[CounterSnapshot, np.ndarray]]:
    """The counters' snapshot of every period that a request falls into, with the requests' places.

    Args:
        log: In time order.
        n_videos: V.
        config: Of the counters.
        now_s: i64[Q], ascending.
    """
    state = config.state
    counters = VideoCounters(
        n_videos, state.counter_half_lives_h, state.counter_period_s, int(log.timestamp[0])
    )
    counted, done = counted_columns(log), 0
    grid = now_s // state.counter_period_s
    for period in np.unique(grid):
        as_of_s = int(period) * state.counter_period_s
        end = int(np.searchsorted(log.timestamp, as_of_s))
        part = slice(done, end)
        counters.add(log.video_idx[part], log.timestamp[part], counted[part])
        done = end
        yield counters.advance(as_of_s), np.flatnonzero(grid == period)


def _relevant(
    log: ImpressionLog, catalogue: Catalogue, rows: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """Rows of the session's long views that count, ascending by video; a video once."""
    watched = rows[log.long_view[rows]]
    videos, first = np.unique(log.video_idx[watched], return_index=True)
    counts = (catalogue.upload_s[videos] <= log.timestamp[rows].min()) & ~np.isin(videos, seen)
    return np.asarray(watched[first[counts]])
