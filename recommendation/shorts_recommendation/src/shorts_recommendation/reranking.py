"""From a ranked pool to the next videos: one after the other, each seen alone and in full.

In: ``RerankItems``, the best P candidates of B requests with what the session has shown already.
Out: ``Slates``, k positions a request in the order of play.

A page shows ten items at once, and the eye chooses. Here nothing is chosen: the tenth video is seen
by whoever has not left at the ninth, and what tires is what came *just before*. So the rules look
back along the sequence, across the border of the prefetched slate.

1. Maximal marginal relevance (Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking
   for Reordering Documents and Producing Summaries", SIGIR 1998): the next video is the one with
   the largest ``weight * relevance - (1 - weight) * max cosine to what was shown``. The value is
   brought to [0, 1] within the pool, else the weight would mean something else for every user.
   Departure: what the session showed before counts as shown.
2. Creator fatigue: relevance is multiplied by ``1 - fatigue * decay^d`` for every earlier video of
   the same creator with d videos in between.
3. Tag cap: at most so many videos of one main tag in any ten in a row.
4. Fresh slots: set places go to the best upload that has exposures left (``with_budget``), unless
   enough stand before that place on merit.
5. Exploration: with a set probability a place is drawn uniformly from what rules 3 and 4 allow.
   The propensity, given what stands before, is logged for every place: an off-policy estimate needs
   it, and nothing can compute it later.

Where no candidate satisfies all rules they give way in a set order (``RELAXED``), and each time is
counted. With rules 2 to 5 off and nothing shown before, a slate is exactly what
``ml_algorithms.diversity.mmr`` picks.

The seen filter is not here: retrieval never proposes a seen video.

Legend: B requests, C candidates, P pool, R videos shown before, k places, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import RerankingConfig
from shorts_recommendation.reranking_kernel import (
    CAP_RELAXED,
    DIVERSITY,
    EXPLORATION,
    FRESH,
    FRESH_RELAXED,
    RELEVANCE,
    fill_slates,
)

REASONS = {
    RELEVANCE: "relevance",
    DIVERSITY: "diversity",
    FRESH: "fresh",
    EXPLORATION: "exploration",
}
"""Why a video stands where it stands; ``diversity``: one of higher value was passed over."""
RELAXED = {FRESH_RELAXED: "fresh_slot", CAP_RELAXED: "tag_cap"}
"""Bits of ``Slates.relaxed``, in the order in which rules give way."""


@dataclass(frozen=True)
class RerankItems:
    """The pools of B requests and what their sessions have shown.

    Attributes:
        videos: i32[B, P], -1 where a pool is shorter; the ranker's order decides ties.
        value: f32[B, P], any scale.
        vectors: f32[B, P, D], unit length.
        creator: i32[B, P].
        main_tag: i16[B, P], -1 for none, which no cap counts.
        fresh: bool[B, P], an upload with exposures left.
        recent_vectors: f32[B, R, D], newest first.
        recent_creator: i32[B, R], -1 where the session is shorter.
        recent_tag: i16[B, R].
    """

    videos: np.ndarray
    value: np.ndarray
    vectors: np.ndarray
    creator: np.ndarray
    main_tag: np.ndarray
    fresh: np.ndarray
    recent_vectors: np.ndarray
    recent_creator: np.ndarray
    recent_tag: np.ndarray

    def check(self) -> None:
        """Raises ValueError where shapes disagree or a candidate's value is not finite."""
        shape, dim = self.videos.shape, self.vectors.shape[-1]
        for name in ("value", "creator", "main_tag", "fresh"):
            if getattr(self, name).shape != shape:
                found = getattr(self, name).shape
                raise ValueError(f"{name} has shape {found}, videos {shape}")
        recent = self.recent_creator.shape
        if self.vectors.shape != (*shape, dim) or self.recent_vectors.shape != (*recent, dim):
            raise ValueError(
                f"vectors {self.vectors.shape} and {self.recent_vectors.shape} do not fit "
                f"{shape} candidates and {recent} shown videos"
            )
        if self.recent_tag.shape != recent or recent[0] != shape[0]:
            raise ValueError(f"recent_tag {self.recent_tag.shape} does not fit {recent}")
        bad = ~np.isfinite(self.value) & (self.videos >= 0)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"the value of video {self.videos[row, column]} is {self.value[row, column]}: "
                "pad with video -1 what must not be shown"
            )


@dataclass(frozen=True)
class Slates:
    """What is shown, in order.

    Attributes:
        positions: i32[B, k], columns of the pool; -1 where it had no more.
        reasons: i8[B, k], keys of REASONS, -1 beside an empty place.
        relaxed: u8[B, k], bits of RELAXED: the rules that gave way for this place.
        propensity: f32[B, k], probability of this video at this place given those before it; 1
            without exploration, 0 beside an empty place.
    """

    positions: np.ndarray
    reasons: np.ndarray
    relaxed: np.ndarray
    propensity: np.ndarray

    def videos(self, items: RerankItems) -> np.ndarray:
        """The slates as video_idx i32[B, k], -1 in empty places."""
        chosen = np.take_along_axis(items.videos, np.maximum(self.positions, 0), axis=1)
        return np.where(self.positions >= 0, chosen, -1).astype(np.int32)

    def times_relaxed(self) -> dict[str, int]:
        """How often each rule gave way, over all places."""
        return {name: int(((self.relaxed & bit) > 0).sum()) for bit, name in RELAXED.items()}


def rerank(
    items: RerankItems,
    config: RerankingConfig,
    rng: np.random.Generator,
    *,
    length: int | None = None,
) -> Slates:
    """Fills one slate a request.

    Args:
        items: Pools and sessions; the newest ``config.memory`` shown videos are read.
        config: Weight and rules; fresh slots are counted in every ``config.k`` places.
        rng: Draws what is explored; not used when ``exploration`` is 0.
        length: Places to fill, ``config.k`` where not given. A service computes more than it
            answers; the guaranteed places of the answer must not depend on how much more.

    Raises:
        ValueError: As ``RerankItems.check``.
    """
    items.check()
    shape = (len(items.videos), length or config.k)
    slates = Slates(
        positions=np.full(shape, -1, dtype=np.int32),
        reasons=np.full(shape, -1, dtype=np.int8),
        relaxed=np.zeros(shape, dtype=np.uint8),
        propensity=np.zeros(shape, dtype=np.float32),
    )
    uniform = rng.random((*shape, 2)) if config.exploration > 0 else np.zeros((*shape, 2))
    recent = slice(config.memory)
    fill_slates(
        _typed(items.videos, np.int32),
        _typed(items.value, np.float32),
        _typed(items.vectors, np.float32),
        _typed(items.creator, np.int32),
        _typed(items.main_tag, np.int16),
        _typed(items.fresh, np.bool_),
        _typed(items.recent_vectors[:, recent], np.float32),
        _typed(items.recent_creator[:, recent], np.int32),
        _typed(items.recent_tag[:, recent], np.int16),
        uniform,
        fresh_due(shape[1], config.fresh_slots, config.k),
        (
            float(config.relevance_weight),
            float(config.fatigue),
            float(config.fatigue_decay),
            int(config.tag_cap),
            float(config.exploration),
        ),
        slates.positions,
        slates.reasons,
        slates.relaxed,
        slates.propensity,
    )
    return slates


def fresh_due(length: int, slots: int, period: int | None = None) -> np.ndarray:
    """At a fresh slot, how many fresh videos should stand before it; -1 elsewhere. i64[length].

    Slots stand in the middle of equal parts of every ``period`` places: never first, where a miss
    costs most, and not last, which few reach. A slate that is cut shorter, or computed longer,
    has them at the same places.

    Args:
        length: Places of the slate.
        slots: In every ``period`` places.
        period: ``length`` where not given.
    """
    period = period or length
    due = np.full(length, -1, dtype=np.int64)
    for begin in range(0, length, period):
        for slot in range(slots):
            place = begin + (2 * slot + 1) * period // (2 * slots)
            if place < length:
                due[place] = begin // period * slots + slot
    return due


def select_pool(
    videos: np.ndarray, value: np.ndarray, fresh: np.ndarray, config: RerankingConfig
) -> np.ndarray:
    """The columns that the re-ranker sees: the best by value, some of them kept for fresh uploads.

    Args:
        videos: i32[B, C], -1 padded.
        value: f32[B, C].
        fresh: bool[B, C], with exposures left.
        config: ``pool`` and ``fresh_reserve``.

    Returns:
        i64[B, min(pool, C)], best first. Rows with fewer candidates end in columns whose video is
        -1. The reserve counts fresh videos that are in the pool on merit; it displaces the worst.
    """
    n_columns = videos.shape[1]
    size = min(config.pool, n_columns)
    sortable = np.where(videos >= 0, value, -np.inf)
    order = np.argsort(-sortable, axis=1, kind="stable")
    is_fresh = np.take_along_axis(fresh & (videos >= 0), order, axis=1)
    reserved = is_fresh & (np.cumsum(is_fresh, axis=1) <= config.fresh_reserve)
    # The best fresh ones are in, whatever their place; the rest of the pool fills up by place.
    others = size - reserved.sum(axis=1, keepdims=True)
    kept = reserved | (~reserved & (np.cumsum(~reserved, axis=1) <= others))
    return order[kept].reshape(len(videos), size)


def with_budget(
    upload_s: np.ndarray,
    exposures: np.ndarray,
    now_s: np.ndarray | int,
    *,
    fresh_hours: int,
    fresh_exposures: int,
) -> np.ndarray:
    """Whether an upload is young and has been shown fewer times than every upload is owed.

    Any shapes that broadcast. The budget is soft: exposures are counted with the delay of the
    counters, and requests within that delay may overspend it.
    """
    young = (upload_s <= now_s) & (upload_s > now_s - fresh_hours * 3600)
    return young & (exposures < fresh_exposures)


def warm_up(config: RerankingConfig) -> None:
    """Loads the kernel, or compiles it (seconds, once a machine): no request waits for it."""
    pool, dim = 2, config.projected_dim
    rerank(
        RerankItems(
            videos=np.zeros((1, pool), dtype=np.int32),
            value=np.zeros((1, pool), dtype=np.float32),
            vectors=np.zeros((1, pool, dim), dtype=np.float32),
            creator=np.zeros((1, pool), dtype=np.int32),
            main_tag=np.zeros((1, pool), dtype=np.int16),
            fresh=np.zeros((1, pool), dtype=np.bool_),
            recent_vectors=np.zeros((1, 0, dim), dtype=np.float32),
            recent_creator=np.zeros((1, 0), dtype=np.int32),
            recent_tag=np.zeros((1, 0), dtype=np.int16),
        ),
        config,
        np.random.default_rng(0),
    )


def _typed(array: np.ndarray, kind: type) -> np.ndarray:
    """Contiguous and of one type: another would compile the kernel again within a request."""
    return np.ascontiguousarray(array, dtype=kind)
