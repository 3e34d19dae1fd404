"""What the service tells those who watch it: shadow traffic, the canary, drift monitors.

An observer is called after the response is built, on the event loop. It must put what it needs
aside and return at once. One that raises is counted and logged, and the response goes out all the
same: watching may fail, serving may not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from video_recommendation.serving.models import Answer
from video_recommendation.serving.protocol import RecommendedItem, UserState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedRequest:
    """One answered request for recommendations; ids of items are internal to ``version``.

    Attributes:
        request_id: As in the response.
        user_id: External id.
        k: Items asked for.
        surface: Where the list is shown.
        exclude: i32, items that the request left out.
        now: Server time, Unix seconds.
        state: The history that the version saw.
        version: The version that answered.
        slot: "production" or "candidate".
        items: What was shown, best first.
        degraded: A stage did not do its work.
        candidate_failed: A candidate was asked first and could not answer.
        total_ms: From arrival to the finished list.
    """

    request_id: str
    user_id: int
    k: int
    surface: str
    exclude: np.ndarray
    now: int
    state: UserState
    version: str
    slot: str
    items: Sequence[RecommendedItem]
    degraded: bool
    candidate_failed: bool
    total_ms: float

    @property
    def features(self) -> np.ndarray | None:
        """f32[K, F] of the items shown; None where the ranker did not run."""
        rows = [item.features for item in self.items]
        if not rows or any(row is None for row in rows):
            return None
        return np.stack([row for row in rows if row is not None])


@dataclass(frozen=True)
class AcceptedEvent:
    """One event that is durable now; ids are external."""

    event_id: str
    user_id: int
    item_id: int
    event_type: str
    rating: float | None
    timestamp: int


class RequestObserver(Protocol):
    """Watches what is served. Both methods return at once and keep no caller waiting."""

    def request_served(self, served: ServedRequest) -> None:
        """A list was made."""

    def event_accepted(self, event: AcceptedEvent) -> None:
        """An event was made durable; a repeated one is not told again."""


def served_request(
    answer: Answer, *, request_id: str, user_id: int, k: int, surface: str
) -> ServedRequest:
    """What observers are told about an answer."""
    return ServedRequest(
        request_id=request_id,
        user_id=user_id,
        k=k,
        surface=surface,
        exclude=answer.exclude,
        now=answer.now,
        state=answer.state,
        version=answer.model.version,
        slot=answer.slot,
        items=answer.listed,
        degraded=bool(answer.stages.degradations),
        candidate_failed=answer.candidate_failed,
        total_ms=answer.stages.stages_ms["total"],
    )
