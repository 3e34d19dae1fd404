"""``load_images``, the one call by which every stage gets pictures.

In: ``ImagesConfig``. Out: an ``ImageSet``.

- ``fashion-mnist``: 60,000 pictures to search and 10,000 queries, 28 x 28 grey, ten kinds of
  clothes (H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv 1708.07747). The files come by
  ``ml_platform.data.vectors``. It has no validation split: ``image_set.validation_rows`` draws one.
- ``clothing``: 3,068 photographs to search, 341 to validate, 372 queries, ten kinds of clothes
  (``ml_platform.data.pictures``), decoded when they are asked for.
- ``shapes``: generated here, synthetic (``shapes``).
- ``folder``: a user's own pictures (``folder``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from image_search.config import ImagesConfig
from image_search.images.decoding import Limits, decode
from image_search.images.folder import read_folder
from image_search.images.image_set import GALLERY, QUERY, ImageSet
from image_search.images.shapes import shapes
from ml_platform.data.download import CorruptFileError
from ml_platform.data.pictures import load_pictures
from ml_platform.data.vectors import VECTORS, read_idx, vector_files
from ml_platform.evaluation.progress import Progress, Silent

FASHION_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
"""The owner's classes 0..9, "T-shirt/top" shortened so that it can stand in a key."""
_FASHION = "fashion-mnist-784"


class EncodedPictures(Sequence[np.ndarray]):
    """Encoded pictures in memory, u8[H, W, 3] each, decoded at each access."""

    def __init__(self, encoded: Sequence[bytes], limits: Limits, side: int | None) -> None:
        self.encoded, self.limits, self.side = encoded, limits, side

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return EncodedPictures(self.encoded[place], self.limits, self.side)
        return decode(self.encoded[place], self.limits, side=self.side)


def limits_of(config: ImagesConfig) -> Limits:
    """What the configuration accepts of one picture."""
    return Limits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)


def load_images(
    config: ImagesConfig, *, seed: int = 0, progress: Progress | None = None
) -> ImageSet:
    """The configured pictures.

    Args:
        config: Which, and what is accepted.
        seed: Of generated pictures.
        progress: Told of the work.

    Raises:
        DatasetUnavailableError: No source has the data set; the message lists them all.
        CorruptFileError: A verified file cannot be read.
        NotADirectoryError, EmptyFolderError: See ``read_folder``.
    """
    progress = progress or Silent()
    if config.folder is not None:
        return read_folder(
            config.folder,
            limits_of(config),
            side=config.side,
            most=config.max_files,
            progress=progress,
        )
    with progress.stage("pictures", 1) as advance:
        if config.dataset == "fashion-mnist":
            found = _fashion_mnist()
        elif config.dataset == "clothing":
            found = _clothing(config)
        else:
            found = shapes(config.shapes_per_class, seed)[0]
        advance(1)
    return found


def _fashion_mnist() -> ImageSet:
    raw = vector_files(_FASHION)
    images, label = (
        np.concatenate(
            [read_idx(raw.paths[f"{part}-{kind}-ubyte.gz"]) for part in ("train", "t10k")]
        )
        for kind in ("images-idx3", "labels-idx1")
    )
    if images.shape[1:] != (28, 28) or len(images) != len(label) or label.max() > 9:
        raise CorruptFileError(
            f"Fashion-MNIST of {images.shape} pictures, {len(label)} labels up to {label.max()}"
        )
    n_gallery = len(read_idx(raw.paths["train-labels-idx1-ubyte.gz"]))
    return ImageSet(
        name="Fashion-MNIST",
        images=images[..., None],
        label=label.astype(np.int16),
        label_names=FASHION_NAMES,
        split=np.where(np.arange(len(label)) < n_gallery, GALLERY, QUERY).astype(np.uint8),
        item_id=np.arange(len(label), dtype=np.int64),
        sha256=hashlib.sha256(images.tobytes() + label.tobytes()).hexdigest(),
        terms=VECTORS[_FASHION].licence,
        synthetic=False,
        source=raw.source,
    )


def _clothing(config: ImagesConfig) -> ImageSet:
    found = load_pictures("clothing-small")
    return ImageSet(
        name="clothing photographs",
        images=EncodedPictures(found.encoded, limits_of(config), config.side),
        label=found.label,
        label_names=found.label_names,
        split=found.split,  # train, validation, test: the same numbers
        item_id=np.arange(len(found), dtype=np.int64),
        sha256=found.sha256,
        terms=found.licence,
        synthetic=False,
        source=found.source,
    )
