"""What comes out of the funnel: ranked candidates and slates.

In: what the ranker and the re-ranker say, as arrays over B requests. Out: one ``Slate`` a request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shorts_recommendation.ranking.heads import Heads
from shorts_recommendation.reranking import REASONS, RerankItems, Slates


@dataclass(frozen=True)
class Ranked:
    """What the ranker saw of B requests, P videos each; the order is the pre-ranker's.

    Attributes:
        videos: i32[B, P], -1 padded.
        value: f32[B, P], -inf beside a padding.
        heads: f32[B, P] each.
        sources: u8[B, P], bits of SOURCES.
    """

    videos: np.ndarray
    value: np.ndarray
    heads: Heads
    sources: np.ndarray


@dataclass(frozen=True)
class Slate:
    """The next videos of one request, in the order of play.

    Attributes:
        video_idx: i32[k], shorter where the catalogue has no more.
        value: f32[k].
        sources: u8[k], bits of SOURCES.
        reasons: k names of why a video stands at its place.
        propensity: f32[k], probability of this video at this place, given those before.
        stage_ms: Milliseconds by stage of the call that made it, shared by its batch.
    """

    video_idx: np.ndarray
    value: np.ndarray
    sources: np.ndarray
    reasons: Sequence[str]
    propensity: np.ndarray
    stage_ms: dict[str, float]


class StageClock:
    """Milliseconds of stages, one after the other."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage; the next one begins."""
        now = time.perf_counter()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now


def as_slates(
    items: RerankItems, slates: Slates, pool: np.ndarray, ranked: Ranked, stage_ms: dict[str, float]
) -> list[Slate]:
    """One slate a request.

    Args:
        items: The pools.
        slates: Positions in them.
        pool: i64[B, P'], the pools' columns in ``ranked``.
        ranked: Values and sources.
        stage_ms: Of the call.
    """
    videos = slates.videos(items)
    position = np.maximum(slates.positions, 0)
    worth = np.take_along_axis(items.value, position, axis=1)
    sources = np.take_along_axis(np.take_along_axis(ranked.sources, pool, axis=1), position, axis=1)
    found = []
    for row, there in enumerate(videos >= 0):
        n = int(there.sum())  # empty places stand at the end
        reasons = [REASONS[int(code)] for code in slates.reasons[row, :n]]
        found.append(
            Slate(
                videos[row, :n],
                worth[row, :n],
                sources[row, :n],
                reasons,
                slates.propensity[row, :n],
                stage_ms,
            )
        )
    return found
