"""Vectors of rows of an image set, chunk by chunk, kept on disk where they are dear.

In: a fitted embedder, an image set, rows i64[n]. Out: f32[n, D]. An embedder with a fingerprint (a
pretrained network) has its vectors of these rows kept under
``default_cache_dir()/image_search/vectors``, by a key of fingerprint, content and rows: a change of
any makes them anew. A damaged file is named in the log and made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from image_search.embeddings.base import Embedder
from image_search.images.image_set import ImageSet, Selection
from ml_platform.data.sources import default_cache_dir, folder_lock
from ml_platform.evaluation.progress import Progress, Silent

logger = logging.getLogger(__name__)
CHUNK = 1024


def embed_rows(
    embedder: Embedder,
    images: ImageSet,
    rows: np.ndarray,
    *,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    what: str = "vectors",
) -> np.ndarray:
    """f32[n, D] of the pictures at ``rows``.

    Args:
        embedder: Fitted.
        images: The set.
        rows: i64[n].
        progress: Told of every picture.
        cache_dir: Root of the cache; ``default_cache_dir()`` if None.
        what: Name of the stage.
    """
    if not embedder.fingerprint:
        return _embed(embedder, images, rows, progress or Silent(), what)
    shelf = (cache_dir or default_cache_dir()) / "image_search" / "vectors"
    key = hashlib.sha256(f"{embedder.fingerprint}\n{images.sha256}\n".encode())
    key.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
    path = shelf / f"{key.hexdigest()[:24]}.npy"
    with folder_lock(shelf):
        kept = _read(path, (len(rows), embedder.dim))
        if kept is not None:
            return kept
        made = _embed(embedder, images, rows, progress or Silent(), what)
        draft = path.with_suffix(".part")
        with draft.open("wb") as stream:
            np.save(stream, made)
        os.replace(draft, path)
    return made


def _embed(
    embedder: Embedder, images: ImageSet, rows: np.ndarray, progress: Progress, what: str
) -> np.ndarray:
    out = np.empty((len(rows), embedder.dim), dtype=np.float32)
    with progress.stage(f"{embedder.name}: {what}", len(rows)) as advance:
        for begin in range(0, len(rows), CHUNK):
            chunk = rows[begin : begin + CHUNK]
            out[begin : begin + len(chunk)] = embedder.embed(_taken(images, chunk))
            advance(len(chunk))
    return out


def _taken(images: ImageSet, rows: np.ndarray) -> np.ndarray | Selection:
    whole = images.images
    return whole[rows] if isinstance(whole, np.ndarray) else Selection(whole, rows)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        kept: np.ndarray = np.load(path, allow_pickle=False)
        if kept.shape != shape or kept.dtype != np.float32:
            raise ValueError(f"{kept.dtype}{list(kept.shape)}, expected float32{list(shape)}")
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s: %s; made again", path, error)
        path.unlink()
        return None
    return kept
