"""Small encoded pictures of the catalogue's items, as a page shows them.

In: pictures of an image set. Out: one file of encoded pictures behind each other and the places
where each begins. Small pictures (Fashion-MNIST) stay as they are, as PNG; photographs become JPEG
of at most ``SIDE`` pixels on the longer side. The file is mapped, so that a server holds only what
is looked at.

Legend: N pictures.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from ml_platform.evaluation.progress import Progress

SIDE = 256
SMALL = 64
"""Up to this side a picture is kept without loss."""
JPEG_QUALITY = 85


def encode_thumbnail(picture: np.ndarray) -> bytes:
    """PNG or JPEG bytes of a picture u8[H, W, 1 or 3]."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    buffer = io.BytesIO()
    if max(image.size) <= SMALL:
        image.save(buffer, "PNG", compress_level=1)  # twice as quick to write, little larger
    else:
        image.thumbnail((SIDE, SIDE))
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def media_type(encoded: bytes) -> str:
    """Of what ``encode_thumbnail`` wrote."""
    return "image/png" if encoded.startswith(b"\x89PNG") else "image/jpeg"


class Thumbnails:
    """Encoded pictures by row.

    Args:
        content: u8[bytes], all of them behind each other.
        begins: i64[N + 1], where each begins; the last is the end.
    """

    def __init__(self, content: np.ndarray, begins: np.ndarray) -> None:
        if not len(begins) or begins[-1] != len(content):
            raise ValueError(f"{len(content)} bytes of thumbnails, but they end at {begins[-1:]}")
        self._content, self._begins = content, begins

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __getitem__(self, row: int) -> bytes:
        """The encoded picture of a row.

        Raises:
            IndexError: If there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"no thumbnail {row}; there are {len(self)}")
        return self._content[self._begins[row] : self._begins[row + 1]].tobytes()

    @classmethod
    def of(cls, images: Sequence[np.ndarray] | np.ndarray, progress: Progress) -> Self:
        """Encodes every picture."""
        encoded = []
        with progress.stage("thumbnails", len(images)) as advance:
            for number in range(len(images)):
                encoded.append(encode_thumbnail(images[number]))
                advance(1)
        begins = np.concatenate([[0], np.cumsum([len(one) for one in encoded], dtype=np.int64)])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), begins)

    def save(self, folder: Path) -> None:
        """Writes two files into an existing folder."""
        np.save(folder / "content.npy", self._content)
        np.save(folder / "begins.npy", self._begins)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what ``save`` wrote; the content is mapped, not read."""
        return cls(
            np.load(folder / "content.npy", mmap_mode="r"),
            np.load(folder / "begins.npy"),
        )
