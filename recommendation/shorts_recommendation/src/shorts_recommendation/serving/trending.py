"""Live counters, and the list of last resort that is made of them.

In: events, in the order of the stream. Out: the snapshot that the recommender reads, and the videos
that were watched through most of late (at most ``creator_cap`` of one creator), which answer when
neither the models nor an old slate can.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice

import numpy as np

from shorts_recommendation.counters import CounterSnapshot, VideoCounters
from shorts_recommendation.log import LONG_VIEW_S, SKIP_S, Catalogue
from shorts_recommendation.serving.users import WatchEvent


class LiveTrends:
    """Counters of one process. Thread-safe: events come from the stream's thread.

    Args:
        counters: After training; owned from here on.
        catalogue: Creators and durations; replaced after an upload.
        length: Of the list.
        creator_cap: Most videos of one creator in it.
    """

    def __init__(
        self, counters: VideoCounters, catalogue: Catalogue, *, length: int, creator_cap: int
    ) -> None:
        self._counters = counters
        self._length, self._creator_cap = length, creator_cap
        self._lock = threading.Lock()
        self.catalogue = catalogue
        self.snapshot = counters.snapshot
        self.videos = self._ranked(counters.snapshot)

    def add(self, events: Sequence[WatchEvent]) -> None:
        """Count events; they show when the period they fall into is over."""
        if not events:
            return
        video = np.array([e.video_idx for e in events], dtype=np.int64)
        watch_s = np.array([e.watch_s for e in events])
        duration_s = self.catalogue.duration_s[video]
        columns = [
            np.ones(len(events)),
            watch_s >= np.minimum(duration_s, LONG_VIEW_S),
            (watch_s < SKIP_S) & (watch_s < duration_s),
            [e.like for e in events],
        ]
        time_s = np.array([e.time_s for e in events], dtype=np.int64)
        with self._lock:
            self._counters.add(video, time_s, np.stack(columns, axis=1).astype(np.float32))

    def advance(self, now_s: int) -> CounterSnapshot:
        """Publish the last full period if there is a new one."""
        with self._lock:
            snapshot = self._counters.advance(now_s)
            if snapshot is not self.snapshot:
                self.videos = self._ranked(snapshot)
                self.snapshot = snapshot
        return self.snapshot

    def grow(self, catalogue: Catalogue) -> CounterSnapshot:
        """Make room for the videos of a larger catalogue; the snapshot of the same moment."""
        with self._lock:
            self.catalogue = catalogue
            self._counters.grow(len(catalogue))
            self.snapshot = self._counters.snapshot
        return self.snapshot

    def top(self, k: int, without: set[int]) -> list[int]:
        """The first k trending videos that are not among ``without``, as internal indices."""
        return list(islice((v for v in self.videos if v not in without), k))

    def _ranked(self, snapshot: CounterSnapshot) -> list[int]:
        """Videos by long views of the shortest half-life; ties by index."""
        taken: dict[int, int] = {}
        videos: list[int] = []
        for video in np.argsort(-snapshot.long_views[0], kind="stable").tolist():
            creator = int(self.catalogue.creator_idx[video])
            if taken.get(creator, 0) < self._creator_cap:
                taken[creator] = taken.get(creator, 0) + 1
                videos.append(video)
                if len(videos) == self._length:
                    break
        return videos
