"""Fresh uploads: a pool with an exposure budget, chosen by content and by chance.

In: a ``CounterSnapshot``, user vectors. Out: for every request the fresh uploads that suit it best,
some of them by luck. A video is in the pool while it is younger than ``fresh_hours`` and was shown
fewer than ``fresh_exposures`` times; after that it stands on its own. Without such a source nothing
that was never shown is ever shown (Wang et al., "Fresh Content Needs More Attention: Multi-funnel
Fresh Content Recommendation", KDD 2023).

The score is the two-tower product plus noise that shrinks as the budget is spent:

    score = u . v + exploration * (1 - exposures / budget) * noise(user, video, period)

The noise is a hash, not a stream: offline and online, and two processes, draw the same. Between two
snapshots ``spend`` counts what is shown, so that one period cannot overrun the budget by much.

Shapes: B requests, P videos in the pool, D dimensions, M list length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from shorts_recommendation.config import RetrievalConfig
from shorts_recommendation.counters import CounterSnapshot
from shorts_recommendation.log import Catalogue


@dataclass
class FreshPool:
    """The uploads that still have a budget.

    Attributes:
        as_of_s: Of the snapshot that it was made from.
        videos: i32[P].
        vectors: f32[P, D].
        shown: f32[P], exposures so far, counted on by ``spend``.
        budget: Exposures of every upload.
        exploration: Weight of chance, in units of the product.
    """

    as_of_s: int
    videos: np.ndarray
    vectors: np.ndarray
    shown: np.ndarray
    budget: int
    exploration: float

    def spend(self, videos: np.ndarray) -> None:
        """Count an exposure of each of these videos (repeats count), pool members only."""
        if not len(self.videos):
            return
        place = np.minimum(np.searchsorted(self.videos, videos), len(self.videos) - 1)
        mine = self.videos[place] == videos
        np.add.at(self.shown, place[mine], 1.0)

    def propose(self, user_idx: np.ndarray, user_vectors: np.ndarray, length: int) -> np.ndarray:
        """Fresh uploads i32[B, M], best first, -1 padded."""
        target = np.full((len(user_vectors), length), -1, dtype=np.int32)
        if len(self.videos):
            scores = user_vectors @ self.vectors.T
            left = np.clip(1.0 - self.shown / self.budget, 0.0, 1.0).astype(np.float32)
            _choose(scores, left, self.videos, user_idx, self.as_of_s, self.exploration, target)
        return target


def make_pool(
    snapshot: CounterSnapshot,
    catalogue: Catalogue,
    vectors: np.ndarray,
    config: RetrievalConfig,
) -> FreshPool:
    """The pool of a snapshot.

    Args:
        snapshot: Exposures so far.
        catalogue: Upload times.
        vectors: f32[V, D].
        config: Hours, exposures, exploration.
    """
    age_s = snapshot.as_of_s - catalogue.upload_s
    young = (age_s >= 0) & (age_s < config.fresh_hours * 3600)
    videos = np.flatnonzero(young & (snapshot.exposures < config.fresh_exposures))
    return FreshPool(
        as_of_s=snapshot.as_of_s,
        videos=videos.astype(np.int32),
        vectors=np.ascontiguousarray(vectors[videos]),
        shown=snapshot.exposures[videos].astype(np.float32),
        budget=config.fresh_exposures,
        exploration=config.fresh_exploration,
    )


@numba.njit(cache=True, nogil=True)
def _noise(user, video, period):  # type: ignore[no-untyped-def]
    """A standard logistic-like number from a hash of three integers (splitmix64's finaliser)."""
    x = np.uint64(user) * np.uint64(0x9E3779B97F4A7C15)
    x ^= np.uint64(video) * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= np.uint64(period) * np.uint64(0x165667B19E3779F9)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.float32(x >> np.uint64(40)) / np.float32(1 << 24) - np.float32(0.5)


@numba.njit(cache=True, nogil=True)
def _choose(  # type: ignore[no-untyped-def]
    scores, left, videos, user_idx, period, exploration, target
):
    """The best of every row of ``scores`` f32[B, P] into ``target`` i32[B, M].

    A heap of M would do; P is a few thousand, and counting into steps between the extremes is
    linear and has no branches to guess.
    """
    bins = 1024
    counts = np.empty(bins + 1, np.int32)
    for b in range(len(scores)):
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for p in range(len(videos)):
            if left[p] <= 0:
                continue
            scores[b, p] += exploration * left[p] * _noise(user_idx[b], videos[p], period)
            low, high = min(low, scores[b, p]), max(high, scores[b, p])
        counts[:] = 0
        step = (bins - 1) / max(high - low, np.float32(1e-9))
        for p in range(len(videos)):
            if left[p] > 0:
                counts[bins - int((scores[b, p] - low) * step)] += 1
        for bin_ in range(1, bins + 1):
            counts[bin_] += counts[bin_ - 1]
        for p in range(len(videos) - 1, -1, -1):
            if left[p] > 0:
                slot = bins - int((scores[b, p] - low) * step)
                counts[slot] -= 1
                if counts[slot] < target.shape[1]:
                    target[b, counts[slot]] = videos[p]
