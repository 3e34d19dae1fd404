"""What recall hands on: the candidates of B requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SOURCES = ("vectors", "collaborative", "tags", "trending", "fresh")
"""Source s of a candidate is bit s of ``Candidates.sources``."""


@dataclass(frozen=True)
class Candidates:
    """C candidates for each of B requests, in the order of the merge.

    Attributes:
        videos: i32[B, C], -1 padded where the catalogue is smaller.
        sources: u8[B, C], a bit for every source that named it; 0 where none did (last resort).
        similarity: f32[B, C], product of the towers' vectors.
    """

    videos: np.ndarray
    sources: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def named_by(self, source: str) -> np.ndarray:
        """bool[B, C]: which candidates this source named.

        Raises:
            ValueError: If there is no such source.
        """
        if source not in SOURCES:
            raise ValueError(f"no source {source!r}: there are {', '.join(SOURCES)}")
        return (self.sources >> SOURCES.index(source)) & 1 == 1
