"""How often each video was shown, watched, skipped and liked of late: time-decayed counters.

In: events with their times. Out: a ``CounterSnapshot`` on a fixed grid of time. A count decays as
2^(-age / half_life), for several half-lives at once, so that "hot in the last two hours" and "good
over a week" are both there.

*Why a grid.* Offline rows and online requests must read the same value. Both read the snapshot of
the last full period, never the counter of this very second, which a replay could not rebuild.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shorts_recommendation.log import Catalogue, ImpressionLog

COUNTED = ("impressions", "long_views", "skips", "likes")
# Smoothing of a rate: so many impressions of the catalogue's average stand before a video's own.
PRIOR_IMPRESSIONS = 10.0


@dataclass(frozen=True)
class CounterSnapshot:
    """The counters at one moment. Immutable; H half-lives, V videos.

    Attributes:
        as_of_s: Every event before this second is in, none later.
        counts: f32[4, H, V], in the order of COUNTED.
        exposures: i32[V], impressions ever, undecayed: the exposure budget of uploads.
    """

    as_of_s: int
    counts: np.ndarray
    exposures: np.ndarray

    @property
    def impressions(self) -> np.ndarray:
        """f32[H, V]."""
        return self.counts[0]

    @property
    def long_views(self) -> np.ndarray:
        """f32[H, V]."""
        return self.counts[1]

    @property
    def skips(self) -> np.ndarray:
        """f32[H, V]."""
        return self.counts[2]

    @property
    def likes(self) -> np.ndarray:
        """f32[H, V]."""
        return self.counts[3]

    @cached_property
    def features(self) -> np.ndarray:
        """f32[V, 4 H + 1], ``features_of`` every video; computed once for a snapshot."""
        return self.features_of(slice(None))

    def features_of(self, videos: np.ndarray | slice) -> np.ndarray:
        """f32[n, 4 H + 1]: log impressions and three smoothed rates by half-life, log exposures.

        Rates are (count + 10 average) / (impressions + 10): a video without impressions has the
        catalogue's average.
        """
        shown = self.counts[0][:, videos]
        columns = [np.log1p(shown)]
        for place in range(1, len(COUNTED)):
            prior = PRIOR_IMPRESSIONS * self._averages[place]
            columns.append((self.counts[place][:, videos] + prior) / (shown + PRIOR_IMPRESSIONS))
        columns.append(np.log1p(self.exposures[videos])[None])
        return np.ascontiguousarray(np.concatenate(columns).T, dtype=np.float32)

    @cached_property
    def _averages(self) -> np.ndarray:
        """f32[4, H, 1]: the catalogue's count per impression."""
        sums = self.counts.sum(axis=2, keepdims=True)
        return sums / np.maximum(sums[0], 1e-6)


def feature_names(half_lives_h: tuple[float, ...]) -> list[str]:
    """Names of the columns of ``CounterSnapshot.features``."""
    words = ("log_impressions", "long_view_rate", "skip_rate", "like_rate")
    return [f"{word}_{h:g}h" for word in words for h in half_lives_h] + ["log_exposures"]


class VideoCounters:
    """Counters that take events and publish snapshots on the grid.

    Args:
        n_videos: V; ``grow`` makes room for uploads.
        half_lives_h: H half-lives in hours.
        period_s: The grid.
        start_s: Time of the first, empty snapshot.

    Raises:
        ValueError: On a half-life or period that is not positive.
    """

    def __init__(
        self, n_videos: int, half_lives_h: tuple[float, ...], period_s: int, start_s: int
    ) -> None:
        if period_s <= 0 or min(half_lives_h, default=0.0) <= 0:
            raise ValueError(f"half-lives {half_lives_h} and period {period_s} must be positive")
        self._half_lives_s = np.array(half_lives_h, dtype=np.float64) * 3600
        self.period_s = period_s
        self.snapshot = CounterSnapshot(
            start_s - start_s % period_s,
            np.zeros((len(COUNTED), len(half_lives_h), n_videos), dtype=np.float32),
            np.zeros(n_videos, dtype=np.int32),
        )
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, video_idx: np.ndarray, timestamp: np.ndarray, counted: np.ndarray) -> None:
        """Take events; they show in the first snapshot whose ``as_of_s`` is later than they are.

        Args:
            video_idx: i32[E].
            timestamp: i64[E]. An event that comes late, from before the current snapshot, counts
                in the next one at its decayed weight.
            counted: f32 or bool [E, 4], columns of COUNTED (the first is 1 for an impression).
        """
        if len(video_idx):
            self._pending.append(
                (np.asarray(video_idx), np.asarray(timestamp), np.asarray(counted, np.float32))
            )

    def advance(self, now_s: int) -> CounterSnapshot:
        """Publish the snapshot of the last full period before ``now_s``; returns it."""
        as_of_s = int(now_s) - int(now_s) % self.period_s
        if as_of_s <= self.snapshot.as_of_s:
            return self.snapshot
        age_s = as_of_s - self.snapshot.as_of_s
        fade = np.exp2(-age_s / self._half_lives_s).astype(np.float32)
        counts = self.snapshot.counts * fade[None, :, None]
        exposures = self.snapshot.exposures.copy()
        if self._pending:
            # Together: a service adds one event at a time, and a call for each costs more than all.
            video, timestamp, counted = (
                np.concatenate(c) for c in zip(*self._pending, strict=True)
            )
            due = timestamp < as_of_s
            self._add(counts, exposures, video[due], as_of_s - timestamp[due], counted[due])
            rest = ~due
            self._pending = [(video[rest], timestamp[rest], counted[rest])] if rest.any() else []
        self.snapshot = CounterSnapshot(as_of_s, counts, exposures)
        return self.snapshot

    def copy(self) -> VideoCounters:
        """Counters of the same past with a future of their own."""
        twin = object.__new__(VideoCounters)
        twin.__dict__.update(self.__dict__)
        twin._pending = list(self._pending)  # its arrays and the snapshot never change
        return twin

    def grow(self, n_videos: int) -> None:
        """Make room for uploads: video indices up to ``n_videos`` - 1."""
        old = self.snapshot
        more = n_videos - len(old.exposures)
        if more > 0:
            self.snapshot = CounterSnapshot(
                old.as_of_s,
                np.pad(old.counts, ((0, 0), (0, 0), (0, more))),
                np.pad(old.exposures, (0, more)),
            )

    def _add(
        self,
        counts: np.ndarray,
        exposures: np.ndarray,
        video: np.ndarray,
        age_s: np.ndarray,
        counted: np.ndarray,
    ) -> None:
        weight = np.exp2(-age_s[None] / self._half_lives_s[:, None]).astype(np.float32)  # [H, E]
        for c in range(len(COUNTED)):
            for h in range(len(weight)):
                np.add.at(counts[c, h], video, weight[h] * counted[:, c])
        np.add.at(exposures, video, (counted[:, 0] > 0).astype(np.int32))


def counted_columns(log: ImpressionLog) -> np.ndarray:
    """The log's rows as ``VideoCounters.add`` wants them, f32[N, 4]."""
    ones = np.ones(len(log), dtype=np.float32)
    return np.stack([ones, log.long_view, log.skip, log.like], axis=1).astype(np.float32)


def counters_until(
    catalogue: Catalogue,
    log: ImpressionLog,
    until_s: int,
    *,
    half_lives_h: tuple[float, ...],
    period_s: int,
) -> VideoCounters:
    """Counters that hold every event before ``until_s``, at the last full period before it."""
    start_s = int(log.timestamp[0]) if len(log) else until_s
    counters = VideoCounters(len(catalogue), half_lives_h, period_s, min(start_s, until_s))
    end = int(np.searchsorted(log.timestamp, until_s))
    rows = log.select(slice(0, end))
    counters.add(rows.video_idx, rows.timestamp, counted_columns(rows))
    counters.advance(until_s)
    return counters
