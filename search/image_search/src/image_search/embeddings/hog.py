"""Histograms of oriented gradients: the strongest description of a picture that nobody trains.

In: pictures. Out: f32[n, D] of length 1, D = blocks x B^2 x O. After N. Dalal and B. Triggs,
"Histograms of Oriented Gradients for Human Detection", CVPR 2005, section 6:

- gradients by the centred mask [-1, 0, 1], without smoothing, of the channel in which they are
  largest (6.2);
- each pixel votes with its magnitude for one of O = 9 orientations over 180 degrees in its cell
  (6.3);
- B x B = 2 x 2 cells make a block, blocks overlap by all but one cell, and each is normalised by
  L2-Hys: length 1, values above .2 cut off, length 1 again (6.4).

Departures: a vote goes to one orientation and one cell instead of being shared between neighbours,
there is no Gaussian window over a block and no square root before the gradients. That is what the
library we compare with does too, so that the two agree to rounding; the paper shares votes to avoid
aliasing, which our pictures of 28 pixels might miss (not measured). In addition the whole vector
gets length 1.

Legend: n pictures, S side, O orientations, B cells of a block's side.
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
from image_search.images.preparing import Images, batches, channels_of, squares
from ml_platform.evaluation.progress import Progress

CLIP = 0.2
EPSILON = 1e-5
BATCH = 1024
"""Pictures at once: about 20 MB of gradients at 28 pixels."""


def hog(pictures: np.ndarray, *, cell: int, block: int = 2, orientations: int = 9) -> np.ndarray:
    """Descriptors of pictures of one size.

    Args:
        pictures: u8 or f[n, H, W, C].
        cell: Pixels of a cell's side; what does not fill a cell at the right and below is left out.
        block: Cells of a block's side.
        orientations: O.

    Returns:
        f32[n, blocks down, blocks across, block, block, O].

    Raises:
        ValueError: If the pictures hold less than one block.
    """
    n, height, width, _ = pictures.shape
    down, across = height // cell, width // cell
    if min(down, across) < block:
        raise ValueError(f"{height} x {width} pixels hold no block of {block} cells of {cell}")
    magnitude, angle = _gradients(pictures.astype(np.float32))
    histogram = _cells(magnitude, angle, cell, orientations)
    windows = np.lib.stride_tricks.sliding_window_view(histogram, (block, block), axis=(1, 2))
    blocks = np.moveaxis(windows, 3, -1).reshape(n, down - block + 1, across - block + 1, -1)
    normal = _normalised(np.minimum(_normalised(blocks), CLIP))
    return normal.reshape(*blocks.shape[:3], block, block, orientations).astype(np.float32)


def _gradients(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude f32[n, H, W] and angle in degrees [0, 180) of the strongest channel's gradient."""
    rows, columns = np.zeros_like(pictures), np.zeros_like(pictures)
    rows[:, 1:-1] = pictures[:, 2:] - pictures[:, :-2]
    columns[:, :, 1:-1] = pictures[:, :, 2:] - pictures[:, :, :-2]
    magnitude = np.hypot(rows, columns)
    strongest = magnitude.argmax(axis=3)[..., None]
    row, column, largest = (
        np.take_along_axis(part, strongest, axis=3)[..., 0] for part in (rows, columns, magnitude)
    )
    return largest, np.rad2deg(np.arctan2(row, column)) % 180


def _cells(magnitude: np.ndarray, angle: np.ndarray, cell: int, orientations: int) -> np.ndarray:
    """The mean magnitude of each orientation in each cell. f64[n, down, across, O]."""
    n, height, width = magnitude.shape
    down, across = height // cell, width // cell
    kept = (slice(None), slice(down * cell), slice(across * cell))
    which = (angle[kept] * (orientations / 180)).astype(np.int64) % orientations
    picture, row, column = np.ogrid[:n, : down * cell, : across * cell]
    place = ((picture * down + row // cell) * across + column // cell) * orientations + which
    size = n * down * across * orientations
    votes = np.bincount(place.ravel(), weights=magnitude[kept].ravel(), minlength=size)
    return votes.reshape(n, down, across, orientations) / cell**2


def _normalised(blocks: np.ndarray) -> np.ndarray:
    return blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + EPSILON**2)


class Hog:
    """See the module. Nothing is learnt; ``fit`` notes sizes and whether there is colour."""

    name = "hog"
    metric: Metric = "cosine"

    def __init__(
        self,
        side: int = 28,
        cell: int = 4,
        block: int = 2,
        orientations: int = 9,
        channels: int = 0,
    ) -> None:
        self.side, self.cell, self.block = side, cell, block
        self.orientations, self.channels = orientations, channels

    @property
    def dim(self) -> int:
        """Blocks times cells of a block times orientations."""
        blocks = self.side // self.cell - self.block + 1
        return (blocks * self.block) ** 2 * self.orientations

    @property
    def fingerprint(self) -> str:
        """Empty: made faster than read."""
        return ""

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Notes the sizes; labels and seed change nothing."""
        self.side, self.cell, self.block = config.hog_side, config.hog_cell, config.hog_block
        self.orientations, self.channels = config.hog_orientations, channels_of(images)
        return self

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D]."""
        if not self.channels:
            raise NotFittedError("hog does not know yet whether pictures have colour")
        out = np.empty((len(images), self.dim), dtype=np.float32)
        begin = 0
        for batch in batches(images, BATCH):
            made = hog(
                squares(batch, self.side, self.channels),
                cell=self.cell,
                block=self.block,
                orientations=self.orientations,
            )
            out[begin : begin + len(batch)] = unit_rows(made.reshape(len(batch), -1))
            begin += len(batch)
        return out

    def save(self, folder: Path) -> None:
        """All sizes."""
        names = ("side", "cell", "block", "orientations", "channels")
        write_settings(folder, self.name, **{name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved."""
        return cls(**read_settings(folder, cls.name))
