"""The catalogue as models read it: everything of a video that can be computed before a request.

In: a ``Catalogue``. Out: an ``ItemTable`` with the content projected to 32 dimensions and the plain
columns as arrays. Uploads are appended without touching what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.diversity_metrics import unit_rows
from shorts_recommendation.log import Catalogue
from shorts_recommendation.requests import SESSION_DIM

SAMPLE = 10_000  # rows that a projection is fitted on: its directions are stable long before
CHUNK = 16_384


@dataclass(frozen=True)
class Projection:
    """A linear map of content vectors, fitted once and kept with the bundle.

    Attributes:
        mean: f32[768].
        components: f32[768, 32], principal directions.
    """

    mean: np.ndarray
    components: np.ndarray

    def apply(self, content: np.ndarray) -> np.ndarray:
        """Unit rows f32[n, 32] of content [n, 768]."""
        parts = [
            (content[i : i + CHUNK].astype(np.float32) - self.mean) @ self.components
            for i in range(0, len(content), CHUNK)
        ]
        empty = np.zeros((0, self.components.shape[1]), dtype=np.float32)
        return unit_rows(np.concatenate(parts)).astype(np.float32) if parts else empty


def fit_projection(
    content: np.ndarray, *, seed: int, dim: int = SESSION_DIM, among: np.ndarray | None = None
) -> Projection:
    """Principal components of a sample of the content.

    Args:
        content: f[V, 768].
        seed: Of the sample.
        dim: Components.
        among: bool[V]: the videos known at training time; None for all.
    """
    known = np.arange(len(content)) if among is None else np.flatnonzero(among)
    rows = np.random.default_rng(seed).choice(known, min(SAMPLE, len(known)), replace=False)
    sample = content[np.sort(rows)].astype(np.float32)
    mean = sample.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    return Projection(mean, np.ascontiguousarray(vectors[:, ::-1][:, :dim], dtype=np.float32))


@dataclass(frozen=True)
class ItemTable:
    """Columns by ``video_idx``.

    Attributes:
        projection: Of the content.
        content: f32[V, 32], projected, unit rows.
        log_duration: f32[V].
        duration_s: f32[V].
        creator: i32[V].
        tags: i16[V, 3].
        language: i16[V].
        upload_s: i64[V].
    """

    projection: Projection
    content: np.ndarray
    log_duration: np.ndarray
    duration_s: np.ndarray
    creator: np.ndarray
    tags: np.ndarray
    language: np.ndarray
    upload_s: np.ndarray

    def __len__(self) -> int:
        return len(self.creator)


def items_known_at(catalogue: Catalogue, until_s: int, *, seed: int) -> ItemTable:
    """The table of all videos, with a projection fitted on those uploaded before ``until_s``."""
    among = catalogue.upload_s < until_s
    return make_items(catalogue, fit_projection(catalogue.content, seed=seed, among=among))


def make_items(
    catalogue: Catalogue, projection: Projection, base: ItemTable | None = None
) -> ItemTable:
    """The table of a catalogue.

    Args:
        catalogue: All videos.
        projection: Fitted at training.
        base: The table of the first videos, where the catalogue is that one plus uploads: their
            content is not projected again.
    """
    duration = catalogue.duration_s.astype(np.float32)
    known = 0 if base is None else len(base)
    content = projection.apply(catalogue.content[known:])
    return ItemTable(
        projection=projection,
        content=content if base is None else np.concatenate([base.content, content]),
        log_duration=np.log(duration),
        duration_s=duration,
        creator=catalogue.creator_idx.astype(np.int32),
        tags=catalogue.tags.astype(np.int16),
        language=catalogue.language.astype(np.int16),
        upload_s=catalogue.upload_s.astype(np.int64),
    )
