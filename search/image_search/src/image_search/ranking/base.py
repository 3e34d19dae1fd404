"""What a ranker is here: candidates of a batch of queries to scores.

Legend: B queries, C candidates of each (padded with row -1), F features, D dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np


class Ranker(Protocol):
    """Scores candidates; higher is better. Padded candidates may get any finite score."""

    @property
    def name(self) -> str:
        """As in tables and bundles."""

    def score(
        self, features: np.ndarray, query_vectors: np.ndarray, item_vectors: np.ndarray
    ) -> np.ndarray:
        """f32[B, C] from features f32[B, C, F], query f32[B, D] and item vectors f32[B, C, D]."""

    def save(self, folder: Path) -> None:
        """Writes everything that ``load`` needs into an existing folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what ``save`` wrote."""
