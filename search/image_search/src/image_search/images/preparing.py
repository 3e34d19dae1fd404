"""Pictures of any size to batches of one size, as the embeddings read them.

In: u8[n, H, W, C] or a sequence of u8[H, W, C], C = 1 or 3. Out: u8[b, S, S, C] batches. A picture
is scaled until its short side is S and cut to the middle square; what has the size already is not
touched. Cutting loses what stands at the ends of a long picture, padding would make every long
picture resemble every other by its bars.

Legend: n pictures, b of a batch, S side, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

Images = np.ndarray | Sequence[np.ndarray]


def batches(images: Images, size: int) -> Iterator[Images]:
    """The pictures in runs of at most ``size``."""
    for begin in range(0, len(images), size):
        yield images[begin : begin + size]


def channels_of(images: Images) -> int:
    """C of the first picture.

    Raises:
        ValueError: If there is no picture, or it has neither one nor three channels.
    """
    if not len(images):
        raise ValueError("no picture to learn the number of channels from")
    shape = images[0].shape
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"a picture has shape {shape}, expected [H, W, 1] or [H, W, 3]")
    return int(shape[2])


def squares(
    images: Images, side: int, channels: int, *, resize_to: int | None = None
) -> np.ndarray:
    """All pictures as one array.

    Args:
        images: n pictures.
        side: S, after cutting.
        channels: 1 makes colour grey, 3 repeats grey.
        resize_to: Short side before the middle is cut out; None: S.

    Returns:
        u8[n, S, S, channels].

    Raises:
        ValueError: If ``resize_to`` is smaller than ``side``.
    """
    resize_to = side if resize_to is None else resize_to
    if resize_to < side:
        raise ValueError(f"a square of {side} cannot be cut out of pictures of {resize_to}")
    size = (side, side, channels)
    if isinstance(images, np.ndarray) and images.shape[1:] == size and resize_to == side:
        return images
    out = np.empty((len(images), side, side, channels), dtype=np.uint8)
    for number in range(len(images)):
        out[number] = square(images[number], side, channels, resize_to)
    return out


def square(picture: np.ndarray, side: int, channels: int, resize_to: int) -> np.ndarray:
    """u8[S, S, channels] of one picture u8[H, W, C]; see ``squares``."""
    height, width = picture.shape[:2]
    if picture.shape[2] != channels or (height, width) != (side, side) or resize_to != side:
        flat = picture[..., 0] if picture.shape[2] == 1 else picture
        image = Image.fromarray(flat).convert("L" if channels == 1 else "RGB")
        scale = resize_to / min(height, width)
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        picture = np.asarray(image.crop((left, top, left + side, top + side)))
    return picture.reshape(side, side, channels)
