"""What a ranker says about a candidate, and what a ranker is.

In: a request's encoded history f32[B, d], its user vector f32[B, 128] and context f32[B, 32],
candidates i32[B, C] with their cross features f32[B, C, F]. Out: ``Heads``, five f32[B, C].

| head | what | unit |
|---|---|---|
| long_view | watched through, or for 18 s: the click of a feed without clicks | probability |
| watch | how long, against what is usual for videos of this length (duration.py) | quantile 0..1 |
| like | liked | probability |
| skip | swiped away within 3 s | probability |
| diversity | distance in content space to the nearest of the last five shown | 1 - cosine |

Legend: B requests, C candidates, F cross features, d width of the encoded history.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np

from shorts_recommendation.requests import RequestBatch

TASKS = ("long_view", "watch", "like", "skip", "diversity")
BINARY = ("long_view", "like", "skip")


@dataclass(frozen=True)
class Heads:
    """Calibrated predictions, f32[B, C] each (or f32[N], one per row of a log)."""

    long_view: np.ndarray
    watch: np.ndarray
    like: np.ndarray
    skip: np.ndarray
    diversity: np.ndarray

    def select(self, rows: np.ndarray | slice) -> Self:
        """The requests (or log rows) of a mask, of indices or of a slice."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def as_dict(self) -> dict[str, np.ndarray]:
        """Task -> predictions."""
        return {name: getattr(self, name) for name in TASKS}


class Ranker(Protocol):
    """Both rankers, for the request path, the experiments and the labs."""

    def encode(self, batch: RequestBatch) -> np.ndarray:
        """History -> f32[B, d]; changes only with an event, so a server keeps it between."""

    def score(
        self,
        encoded: np.ndarray,
        user: np.ndarray,
        context: np.ndarray,
        videos: np.ndarray,
        cross: np.ndarray,
    ) -> Heads:
        """Predictions for candidates i32[B, C], -1 padded; what stands at a padding is noise."""
