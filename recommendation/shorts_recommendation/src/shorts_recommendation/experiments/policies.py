"""What an arm may be: the recommender, and simple policies to compare and to test with.

In: a ``RequestBatch`` and a ``CounterSnapshot``. Out: i32[B, k], the next videos, none seen before,
none that does not exist yet, -1 where there are no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from shorts_recommendation.counters import PRIOR_IMPRESSIONS, CounterSnapshot
from shorts_recommendation.items import ItemTable
from shorts_recommendation.requests import RequestBatch

if TYPE_CHECKING:
    from shorts_recommendation.slates import Slate
    from shorts_recommendation.world.world import World

_HOPELESS = -np.inf


class Recommends(Protocol):
    """The part of ``Recommender`` that an arm needs."""

    def recommend(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> list[Slate]:
        """One slate for each request."""

    def prepare(self, snapshot: CounterSnapshot) -> None:
        """What depends on the snapshot alone; free for the one of the last call."""

    def count_exposures(self, videos: np.ndarray) -> None:
        """What was shown since the snapshot."""


class RecommenderPolicy:
    """The funnel as it is served."""

    def __init__(self, recommender: Recommends) -> None:
        self.recommender = recommender

    def next_videos(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> np.ndarray:
        """See ``Policy``."""
        videos = np.full((len(batch), k), -1, dtype=np.int32)
        for row, slate in enumerate(self.recommender.recommend(batch, snapshot, k)):
            videos[row, : len(slate.video_idx)] = slate.video_idx
        return videos

    def count_exposures(self, videos: np.ndarray, snapshot: CounterSnapshot) -> None:
        """See ``simulation.Counts``."""
        # First the snapshot: a new one sets back what was counted on since the old one.
        self.recommender.prepare(snapshot)
        self.recommender.count_exposures(videos)


class Random:
    """Any video: the floor."""

    def __init__(self, items: ItemTable, seed: int) -> None:
        self.items, self._rng = items, np.random.default_rng(seed)

    def next_videos(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> np.ndarray:
        """See ``Policy``."""
        return best_unseen(self._rng.random((len(batch), len(self.items))), batch, self.items, k)


class Trending:
    """The most long views of late, the same for everybody."""

    def __init__(self, items: ItemTable, half_life: int = 1) -> None:
        self.items, self.half_life = items, half_life

    def next_videos(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> np.ndarray:
        """See ``Policy``."""
        hot = snapshot.long_views[self.half_life]
        return best_unseen(np.broadcast_to(hot, (len(batch), len(hot))), batch, self.items, k)


class TagMatch:
    """Trending among the tags that the person likes."""

    def __init__(self, items: ItemTable, half_life: int = 1) -> None:
        self.items, self.half_life = items, half_life

    def next_videos(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> np.ndarray:
        """See ``Policy``."""
        own = batch.language[:, None] == self.items.language
        liked = batch.tag_profile[:, self.items.tags[:, 0]]
        rate = smoothed_rate(snapshot.long_views, snapshot.impressions, self.half_life)
        return best_unseen(liked * rate * np.where(liked > 0, own, 1), batch, self.items, k)


class Truth:
    """The expectations of the world itself, which no model reaches.

    Args:
        world: What is true.
        items: The catalogue.
        head: What is maximised: ``satisfaction`` is the oracle; ``long_view`` is the perfect model
            of the wrong thing.
    """

    def __init__(self, world: World, items: ItemTable, head: str = "satisfaction") -> None:
        self.world, self.items, self.head = world, items, head

    def next_videos(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> np.ndarray:
        """See ``Policy``."""
        everything = np.arange(len(self.items), dtype=np.int32)
        pairs = np.broadcast_to(everything, (len(batch), len(everything)))
        expected = self.world.expected(batch.user_idx, pairs, batch.now_s)
        return best_unseen(getattr(expected, self.head), batch, self.items, k)


def smoothed_rate(count: np.ndarray, impressions: np.ndarray, half_life: int) -> np.ndarray:
    """f32[V]: a count per impression, drawn towards the catalogue's where impressions are few."""
    top, shown = count[half_life], impressions[half_life]
    average = top.sum() / max(float(shown.sum()), 1e-6)
    return (top + PRIOR_IMPRESSIONS * average) / (shown + PRIOR_IMPRESSIONS)


def best_unseen(score: np.ndarray, batch: RequestBatch, items: ItemTable, k: int) -> np.ndarray:
    """The k best of the whole catalogue that exist and were not seen, i32[B, k], best first.

    Args:
        score: f[B, V].
        batch: The requests.
        items: The catalogue.
        k: Videos wanted.
    """
    score = np.array(score, dtype=np.float32)
    score[items.upload_s > batch.now_s[:, None]] = _HOPELESS
    rows = np.repeat(np.arange(len(batch)), (batch.seen >= 0).sum(axis=1))
    score[rows, batch.seen[batch.seen >= 0]] = _HOPELESS
    k_there = min(k, score.shape[1])
    shuffled = np.random.default_rng(score.shape[1]).permutation(score.shape[1])
    score = score[:, shuffled]  # among equals the catalogue's order decides nothing
    best = np.argpartition(-score, k_there - 1, axis=1)[:, :k_there]
    worth = np.take_along_axis(score, best, axis=1)
    order = np.argsort(-worth, axis=1, kind="stable")
    best, worth = np.take_along_axis(best, order, axis=1), np.take_along_axis(worth, order, axis=1)
    videos = np.full((len(batch), k), -1, dtype=np.int32)
    videos[:, :k_there] = np.where(worth > _HOPELESS, shuffled[best], -1)
    return videos
