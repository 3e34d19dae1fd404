"""Features of photographs for a head to be trained on, kept from one run to the next.

In: pictures. Out: f32[n, V * 1280]: for each view the mean features of the frozen
EfficientNet-lite0, divided by their sum, and of that the square roots, so that every view has
length 1. R. Arandjelovic and A. Zisserman, "Three Things Everyone Should Know to Improve Object
Retrieval", CVPR 2012, do so with SIFT. Features are means of what a ReLU let through,
never negative, and a few large ones would otherwise decide.

The views:

- ``crop``: the middle square, as the network was trained;
- ``whole``: the whole picture. The network is convolutional and takes any size; a photograph of a
  dress that is taller than wide loses its hem to the middle square.

A network that stays frozen gives the same features whenever it sees the same picture, and a picture
costs some 60 ms of processor. So a head keeps what it was fitted on, a file a picture under
``default_cache_dir()/image_search/features``, named by the pixels. Only fitting turns that on: a
service that has loaded its head writes nothing of what people send.

Legend: n pictures, V views.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from image_search.embeddings.efficientnet import (
    DIM,
    MEAN,
    SHORT_SIDE,
    SIDE,
    SPREAD,
    load_network,
)
from image_search.images.preparing import Images, square

if TYPE_CHECKING:
    import torch

PhotoView = Literal["crop", "whole"]
STRIDE = 32
"""Of the network: a side that is no multiple of it loses pixels to padding."""
LONGEST = 2 * SIDE
"""Of a whole picture; what is longer is squeezed."""
logger = logging.getLogger(__name__)


class FrozenFeatures:
    """Pictures to features; see the module.

    Attributes:
        views: Which, in the order of the output.
        shelf: Folder of what is kept; None: nothing is.
    """

    def __init__(
        self, views: Sequence[PhotoView], batch_size: int, shelf: Path | None = None
    ) -> None:
        self.views, self.batch_size = tuple(views), batch_size
        self._network, self.weights_sha256 = load_network()
        self.shelf = shelf

    @property
    def dim(self) -> int:
        """V * 1280."""
        return len(self.views) * DIM

    @property
    def fingerprint(self) -> str:
        """By the weights, the views and their preparation."""
        return (
            f"frozen {self.weights_sha256} {' '.join(self.views)} {SHORT_SIDE} {SIDE} {LONGEST} "
            f"{STRIDE} {MEAN} {SPREAD} bicubic root"
        )

    def of(self, images: Images) -> np.ndarray:
        """f32[n, V * 1280] of n pictures."""
        out = np.empty((len(images), self.dim), dtype=np.float32)
        for begin in range(0, len(images), self.batch_size):
            end = min(begin + self.batch_size, len(images))
            self._batch([images[n] for n in range(begin, end)], out[begin:end])
        return out

    def _batch(self, pictures: list[np.ndarray], out: np.ndarray) -> None:
        """Fills ``out`` from the shelf, and computes what is not there."""
        files = [self._file(picture) for picture in pictures]
        missing = []
        for n, file in enumerate(files):
            kept = None if file is None else _read(file, self.dim)
            if kept is None:
                missing.append(n)
            else:
                out[n] = kept
        if missing:
            out[missing] = self._computed([pictures[n] for n in missing])
        for n in missing:
            if (file := files[n]) is not None:
                _write(file, out[n])

    def _computed(self, pictures: list[np.ndarray]) -> np.ndarray:
        import torch

        out = np.empty((len(pictures), len(self.views), DIM), dtype=np.float32)
        with torch.inference_mode():
            for place, view in enumerate(self.views):
                tensors = [_tensor(seen_as(picture, view)) for picture in pictures]
                for size in {tensor.shape for tensor in tensors}:
                    same = [n for n, tensor in enumerate(tensors) if tensor.shape == size]
                    batch = torch.stack([tensors[n] for n in same])
                    features = self._network.extract_features(batch).mean(dim=(2, 3))
                    out[same, place] = features.numpy()
        return rooted(out).reshape(len(pictures), -1)

    def _file(self, picture: np.ndarray) -> Path | None:
        if self.shelf is None:
            return None
        key = hashlib.sha256(f"{self.fingerprint}\n{picture.shape}\n".encode())
        key.update(np.ascontiguousarray(picture).tobytes())
        name = key.hexdigest()[:40]
        return self.shelf / name[:2] / f"{name}.npy"


def rooted(features: np.ndarray) -> np.ndarray:
    """f32[..., D] of length 1: the root of each number's share of its row's sum; zeros stay."""
    positive = np.maximum(features, 0)
    total = positive.sum(axis=-1, keepdims=True)
    shares = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    return np.sqrt(shares)


def seen_as(picture: np.ndarray, view: PhotoView) -> np.ndarray:
    """u8[H', W', 3] of one picture u8[H, W, C], as the network sees it in this view."""
    if view == "crop":
        return square(picture, SIDE, 3, SHORT_SIDE)
    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    sides = [
        min(LONGEST, max(1, round(side * scale / STRIDE)) * STRIDE) for side in (width, height)
    ]
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    image = Image.fromarray(flat).convert("RGB")
    return np.asarray(image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC))


def _tensor(seen: np.ndarray) -> torch.Tensor:
    import torch

    values = (seen.astype(np.float32) - np.float32(MEAN)) / np.float32(SPREAD)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _read(file: Path, dim: int) -> np.ndarray | None:
    try:
        kept: np.ndarray = np.load(file, allow_pickle=False)
        if kept.shape != (dim,) or kept.dtype != np.float32:
            raise ValueError(f"{kept.dtype}{list(kept.shape)}, expected float32[{dim}]")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s: %s; made again", file, error)
        return None
    return kept


def _write(file: Path, row: np.ndarray) -> None:
    """Whole or not at all: another process may read while this one writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.part")
    with draft.open("wb") as stream:
        np.save(stream, row)
    os.replace(draft, file)
