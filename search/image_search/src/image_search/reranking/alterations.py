"""What happens to a picture on its way through the web: the same picture, altered.

In: u8[H, W, C], C = 1 or 3. Out: u8[H', W', C]. Each alteration is what a near-duplicate detector
is asked to see through (``SAME``), or what it cannot be expected to (``OTHER``: mirrored and turned
upside down, every bit of a hash of places changes its meaning). A few strengths of each, fixed, so
that what survives is comparable between detectors and data sets.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Alteration = Callable[[np.ndarray], np.ndarray]


def jpeg(quality: int) -> Alteration:
    """Encoded as JPEG of this quality and decoded again."""

    def altered(picture: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        _image(picture).save(stream, "JPEG", quality=quality)
        return _array(Image.open(stream))

    return altered


def resized(share: float) -> Alteration:
    """Both sides times ``share``."""

    def altered(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        size = (max(1, round(width * share)), max(1, round(height * share)))
        return _array(_image(picture).resize(size, Image.Resampling.BICUBIC))

    return altered


def brighter(factor: float) -> Alteration:
    """Every value times ``factor``, cut off at 255."""
    return lambda picture: np.clip(picture * factor, 0, 255).astype(np.uint8)


def cropped(share: float) -> Alteration:
    """``share`` of each side cut away, half at either end; at least one pixel in all."""

    def altered(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        down, across = (max(1, round(size * share)) for size in (height, width))
        top, left = down // 2, across // 2
        return picture[top : height - (down - top), left : width - (across - left)]

    return altered


def rotated(degrees: float) -> Alteration:
    """Turned about its middle; what comes into view has the rim's median colour."""

    def altered(picture: np.ndarray) -> np.ndarray:
        ground = tuple(int(v) for v in np.median(_rim(picture), axis=0))
        turned = _image(picture).rotate(
            degrees, Image.Resampling.BICUBIC, fillcolor=ground if len(ground) == 3 else ground[0]
        )
        return _array(turned)

    return altered


def lettered(picture: np.ndarray) -> np.ndarray:
    """A line of text over a band at the bottom, an eighth of the height: a shop's stamp."""
    image = _image(picture)
    height = max(2, picture.shape[0] // 8)
    top = picture.shape[0] - height
    draw = ImageDraw.Draw(image)
    grey = picture.shape[2] == 1
    draw.rectangle((0, top, picture.shape[1], picture.shape[0]), fill=255 if grey else (255,) * 3)
    draw.text((1, top), "SALE -50%", fill=0 if grey else (200, 0, 0), font_size=max(4.0, height))
    return _array(image)


SAME: dict[str, Alteration] = {
    "jpeg_90": jpeg(90),
    "jpeg_50": jpeg(50),
    "jpeg_20": jpeg(20),
    "resize_50": resized(0.5),
    "resize_200": resized(2.0),
    "darker_80": brighter(0.8),
    "brighter_120": brighter(1.2),
    "crop_5": cropped(0.05),
    "crop_10": cropped(0.10),
    "rotate_2": rotated(2),
    "rotate_5": rotated(5),
    "text": lettered,
}
"""Still the same picture to a person who looks for something to buy."""
OTHER: dict[str, Alteration] = {
    "mirror": lambda picture: picture[:, ::-1],
    "flip": lambda picture: picture[::-1],
}
"""Left for right, and upside down."""


def _image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)


def _array(image: Image.Image) -> np.ndarray:
    values = np.array(image, dtype=np.uint8)
    return values[..., None] if values.ndim == 2 else values


def _rim(picture: np.ndarray) -> np.ndarray:
    """u8[n, C]: the outermost pixels."""
    sides = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    return np.concatenate(sides)
