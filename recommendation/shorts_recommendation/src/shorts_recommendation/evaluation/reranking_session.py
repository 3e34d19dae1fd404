"""Sessions of re-ranked slates: how they are filled, page after page, and how people watch them.

In: ``RankedRequests``, the ranked candidates of Q requests. Out: what was shown, i32[Q, pages * k],
and what ``world.audience`` made of it. A slate's worth lies in the people who sit before it: the
audience tires of a creator and of a tag, leaves when it has had enough, and a list of ten good
videos of one kind really costs watch time there, as it does not in a metric on ten places.

Pairs of policies see the same chance: everybody is shown every place, and what comes after somebody
left is not counted. So the random numbers of one place are the same under every policy.

Legend: Q requests (one a user), C candidates, P pool, k places, D dimension of the projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import rescale
from shorts_recommendation.config import RerankingConfig
from shorts_recommendation.log import Catalogue
from shorts_recommendation.reranking import RerankItems, Slates, rerank, select_pool
from shorts_recommendation.world.audience import Audience
from shorts_recommendation.world.world import World

DPP_RIDGE = 1e-3
"""Keeps the kernel positive definite where two videos coincide in the projection."""
SECONDS_A_PLACE = 30
"""The clock between two videos of a session; nothing but slow drift depends on it."""

Fill = Callable[[RerankItems, RerankingConfig], np.ndarray]
"""Positions i32[Q, k] in the pool, -1 where it has no more, and nothing else."""


@dataclass(frozen=True)
class RankedRequests:
    """What the ranker hands to the re-ranker, one request a user.

    Attributes:
        user_idx: i32[Q], each once: a person cannot watch two sessions at a time.
        now_s: i64[Q].
        videos: i32[Q, C], -1 padded.
        value: f32[Q, C].
        fresh: bool[Q, C], uploads with exposures left.
    """

    user_idx: np.ndarray
    now_s: np.ndarray
    videos: np.ndarray
    value: np.ndarray
    fresh: np.ndarray

    def __post_init__(self) -> None:
        if len(np.unique(self.user_idx)) != len(self.user_idx):
            raise ValueError("a user appears twice: keep one request of each (one_per_user)")

    def __len__(self) -> int:
        return len(self.user_idx)

    def spread(self, most: int) -> RankedRequests:
        """At most so many requests, evenly over their order, which is that of time."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64))
        parts = (self.user_idx, self.now_s, self.videos, self.value, self.fresh)
        return RankedRequests(*(part[rows] for part in parts))


def one_per_user(user_idx: np.ndarray) -> np.ndarray:
    """Rows of the first request of each user, ascending."""
    return np.sort(np.unique(user_idx, return_index=True)[1])


def fill_session(
    requests: RankedRequests,
    catalogue: Catalogue,
    vectors: np.ndarray,
    config: RerankingConfig,
    *,
    pages: int,
    fill: Fill | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, list[Slates]]:
    """Fills ``pages`` slates in a row; nothing is shown twice, and rules look back.

    Args:
        requests: Candidates; their values stay what they are within the session.
        catalogue: Creators and tags.
        vectors: f32[V, D], unit rows: what similarity is taken from.
        config: Rules and lengths.
        pages: Slates in a row.
        fill: Another way to choose; None is ``rerank``.
        seed: Of exploration.

    Returns:
        Videos i32[Q, pages * k], -1 in empty places, and the slates (none with ``fill``).
    """
    left, rng = requests.videos.copy(), np.random.default_rng(seed)
    shown = np.zeros((len(requests), 0), dtype=np.int32)
    slates = []
    for _ in range(pages):
        items = pool_of(requests, left, shown, catalogue, vectors, config)
        if fill is None:
            slate = rerank(items, config, rng)
            slates.append(slate)
            positions = slate.positions
        else:
            positions = fill(items, config)
        videos = np.take_along_axis(items.videos, np.maximum(positions, 0), axis=1)
        videos = np.where(positions >= 0, videos, -1)
        shown = np.concatenate([shown, videos], axis=1)
        for place in range(videos.shape[1]):
            left[left == videos[:, place, None]] = -1
    return shown, slates


def pool_of(
    requests: RankedRequests,
    left: np.ndarray,
    shown: np.ndarray,
    catalogue: Catalogue,
    vectors: np.ndarray,
    config: RerankingConfig,
) -> RerankItems:
    """The pool of what is ``left``, after ``shown`` (oldest first)."""
    pool = select_pool(left, requests.value, requests.fresh, config)
    videos = np.take_along_axis(left, pool, axis=1)
    recent = shown[:, ::-1][:, : config.memory]
    known, before = np.maximum(videos, 0), np.maximum(recent, 0)
    return RerankItems(
        videos=videos,
        value=np.take_along_axis(requests.value, pool, axis=1),
        vectors=vectors[known],
        creator=catalogue.creator_idx[known],
        main_tag=catalogue.tags[known, 0],
        fresh=np.take_along_axis(requests.fresh, pool, axis=1),
        recent_vectors=vectors[before],
        recent_creator=np.where(recent >= 0, catalogue.creator_idx[before], -1),
        recent_tag=np.where(recent >= 0, catalogue.tags[before, 0], -1),
    )


def dpp_fill(trade_off: float) -> Fill:
    """The greedy DPP on values brought to [0, 1]; it knows no rules and no earlier page.

    Chen et al., "Fast Greedy MAP Inference for Determinantal Point Process to Improve
    Recommendation Diversity", NeurIPS 2018. It costs a kernel of P x P a request.
    """

    def fill(items: RerankItems, config: RerankingConfig) -> np.ndarray:
        positions = np.full((len(items.videos), config.k), -1, dtype=np.int32)
        for row in range(len(positions)):
            open_ = np.flatnonzero(items.videos[row] >= 0)
            vectors = items.vectors[row, open_].astype(np.float64)
            relevance = rescale(items.value[row, open_])
            kernel = trade_off_kernel(relevance, vectors @ vectors.T, trade_off=trade_off)
            kernel[np.diag_indices(len(open_))] *= 1 + DPP_RIDGE
            picked = greedy_dpp(kernel, config.k)
            positions[row, : len(picked)] = open_[picked]
        return positions

    return fill


@dataclass(frozen=True)
class Played:
    """What people did with their sessions, the mean over audiences, f64[Q] each.

    Attributes:
        watch_s: Seconds watched until they left.
        watched: Videos seen until they left.
        skips: Share of those that were skipped.
        satisfaction: Sum over those of what was felt.
    """

    watch_s: np.ndarray
    watched: np.ndarray
    skips: np.ndarray
    satisfaction: np.ndarray


def play(
    world: World, requests: RankedRequests, lists: np.ndarray, *, audiences: int, seed: int
) -> Played:
    """Shows the lists i32[Q, L] to as many independent audiences and averages.

    Raises:
        ValueError: If a list has an empty place: its session would end for want of candidates.
    """
    if (lists < 0).any():
        row = int((lists < 0).any(axis=1).argmax())
        raise ValueError(f"the list of request {row} has an empty place; give more candidates")
    totals = np.zeros((4, len(requests)))
    for number in range(audiences):
        totals += _one_audience(world, requests, lists, seed + number)
    watch, watched, skipped, felt = totals / audiences
    return Played(watch, watched, skipped / watched, felt)


def _one_audience(
    world: World, requests: RankedRequests, lists: np.ndarray, seed: int
) -> np.ndarray:
    """Sums of seconds, videos, skips and satisfaction until each leaves, f64[4, Q]."""
    audience, users = Audience(world, seed), requests.user_idx
    audience.open_sessions(users, requests.now_s)
    there = np.ones(len(users), dtype=bool)
    sums = np.zeros((4, len(users)))
    for place in range(lists.shape[1]):
        now_s = requests.now_s + place * SECONDS_A_PLACE
        seen = audience.watch(users, lists[:, place], now_s)
        rows = np.stack([seen.watch_s, np.ones(len(users)), seen.skip, seen.satisfaction])
        sums += rows * there
        there &= ~seen.leaves
    return sums
