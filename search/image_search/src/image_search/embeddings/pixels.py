"""The floor: a picture's own pixels as its vector.

In: pictures. Out: f32[n, S * S * C], pixels of the middle square in reading order, divided by 255.
``pixels_cosine`` gives rows of length 1: a picture and a brighter copy of it are the same.
``pixels_l2`` leaves them as they are and is compared by Euclidean distance; it is the one embedding
here whose rows do not have length 1.

On small centred pictures such as Fashion-MNIST this floor is high: in a first measurement an
embedding trained briefly on half of the classes fell below it on the others. On photographs it
knows little more than the background.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from image_search.config import EmbeddingsConfig
from image_search.embeddings.base import (
    Metric,
    NotFittedError,
    read_settings,
    unit_rows,
    write_settings,
)
from image_search.images.preparing import Images, channels_of, squares
from ml_platform.evaluation.progress import Progress


class Pixels:
    """See the module. Nothing is learnt; ``fit`` notes the size and whether there is colour."""

    def __init__(self, metric: Metric, side: int = 28, channels: int = 0) -> None:
        self.metric: Metric = metric
        self.side, self.channels = side, channels

    @property
    def name(self) -> str:
        """By the metric."""
        return "pixels_cosine" if self.metric == "cosine" else "pixels_l2"

    @property
    def dim(self) -> int:
        """S * S * C."""
        return self.side * self.side * self.channels

    @property
    def fingerprint(self) -> str:
        """Empty: reading kept vectors would take as long as making them."""
        return ""

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Notes side and channels; labels and seed change nothing."""
        self.side, self.channels = config.pixels_side, channels_of(images)
        return self

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D]."""
        if not self.channels:
            raise NotFittedError(f"{self.name} does not know yet whether pictures have colour")
        made = squares(images, self.side, self.channels).reshape(len(images), -1)
        rows = made.astype(np.float32) / np.float32(255)
        return unit_rows(rows) if self.metric == "cosine" else rows

    def save(self, folder: Path) -> None:
        """Side, channels and metric."""
        write_settings(
            folder, self.name, metric=self.metric, side=self.side, channels=self.channels
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Either of the two."""
        for name in ("pixels_cosine", "pixels_l2"):
            try:
                return cls(**read_settings(folder, name))
            except ValueError as error:
                wrong = error
        raise wrong
