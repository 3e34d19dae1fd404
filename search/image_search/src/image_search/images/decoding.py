"""Encoded bytes to an RGB array, or a clear refusal: the one door for pictures from outside.

In: the bytes of a JPEG, PNG or WebP file. Out: u8[H, W, 3], upright, on white where it was
transparent. What a stranger sends is refused as early as it can be known:

1. size in bytes, before anything is read;
2. the kind of file, by its first bytes and never by its name; only that kind's decoder is tried;
3. pixels, from the header and before they are decoded: a file of some kilobytes may announce
   gigabytes of pixels (a decompression bomb);
4. pixels that cannot be decoded to the end: a picture that is cut off is refused, not filled up.

JPEGs may be decoded at half, quarter or eighth size straight from their coefficients (``side``),
which bounds memory and time for photographs of a telephone; sides then differ from those of a full
decoding by less than a pixel of the result, and grey values a little.

Orientation is tag 0x0112 of the Exif data (CIPA DC-008, "Exchangeable image file format"),
read here in a few lines instead of by Pillow: of all the tags this is the only one that matters,
and hostile Exif data is best not parsed. Colour profiles are ignored, of animations the first frame
counts.

Legend: H, W height and width.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

# Pillow warns of pictures with more pixels than its own limit of 89 million, of odd palettes, of
# Exif data and of second pictures that make no sense. A stranger's file decides when, so each
# warning would be a line that a stranger writes into the service's output. None of them says what
# we do not know: our limit is the lower one and refuses the picture a line later, before a pixel
# is decoded (``_check_pixels``); the rest is not read, or is decoded in full, or refused. By
# module, because most are plain UserWarnings. Set once, here: filters belong to the process and
# pictures are decoded on several threads, so a filter around each call would race.
warnings.filterwarnings("ignore", module=r"PIL(\..*)?$")

Reason = Literal["empty", "too_many_bytes", "kind", "too_many_pixels", "broken"]

_ORIENTATION_TAG, _SHORT = 0x0112, 3
_MOST_TAGS = 512
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by the value of the tag."""

# What Pillow's decoders are known to raise on damaged files (UnidentifiedImageError is an OSError).
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageError(ValueError):
    """A picture is refused; ``reason`` is for counting, the message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Limits:
    """What is accepted from outside.

    Attributes:
        max_bytes: Of the encoded file.
        max_pixels: Of the picture as its header announces it.
        max_ratio: Of the longer side to the shorter: lines of one pixel are no pictures.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 40_000_000
    max_ratio: float = 100.0

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_pixels) < 1 or self.max_ratio < 1:
            raise ValueError(f"limits must be positive, the ratio at least 1; got {self}")


def sniff(data: bytes) -> str | None:
    """Pillow's name of the kind of file, "JPEG", "PNG" or "WEBP", by its first bytes; else None."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def decode(data: bytes, limits: Limits | None = None, *, side: int | None = None) -> np.ndarray:
    """Decodes one picture.

    Args:
        data: The encoded file.
        limits: What is accepted; None for the defaults.
        side: Shrink to at most this many pixels on the longer side; None keeps the size.

    Returns:
        u8[H, W, 3].

    Raises:
        ImageError: With the reason, the value that broke the limit and the limit.
        ValueError: If ``side`` is not positive.
    """
    limits = limits or Limits()
    if side is not None and side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
    kind = _checked_kind(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_pixels(image.size, limits)
            orientation = _orientation(image.info.get("exif", b""))
            if side is not None and kind == "JPEG":
                image.draft(None, (2 * side, 2 * side))  # twice, so that resampling has something
            return _as_rgb(image, orientation, side)
    except ImageError:
        raise
    except _BOMB_ERRORS as error:
        message = f"more pixels than the limit of {limits.max_pixels:,}: {error}"
        raise ImageError("too_many_pixels", message) from error
    except _DECODER_ERRORS as error:
        raise ImageError("broken", f"a {kind} file that cannot be decoded: {error}") from error


def _checked_kind(data: bytes, limits: Limits) -> str:
    if not data:
        raise ImageError("empty", "no bytes: the file is empty")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "too_many_bytes", f"{len(data):,} bytes, the limit is {limits.max_bytes:,}"
        )
    kind = sniff(data)
    if kind is None:
        raise ImageError(
            "kind", f"begins with {data[:8].hex(' ')}: no JPEG, PNG or WebP, whatever its name"
        )
    return kind


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("broken", f"a picture of {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{width:,} x {height:,} pixels, the limit is {limits.max_pixels:,} in all",
        )
    if max(size) > limits.max_ratio * min(size):
        raise ImageError(
            "too_many_pixels",
            f"{width:,} x {height:,} pixels: one side is more than {limits.max_ratio:g} times "
            "the other",
        )


def _as_rgb(image: Image.Image, orientation: int, side: int | None) -> np.ndarray:
    image.load()
    colour = _in_colour(image)
    if side is not None and max(colour.size) > side:
        colour.thumbnail((side, side), Image.Resampling.LANCZOS)
    if colour.mode == "RGBA":
        ground = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        colour = Image.alpha_composite(ground, colour).convert("RGB")
    if orientation in _TURNS:
        colour = colour.transpose(_TURNS[orientation])
    return np.array(colour, dtype=np.uint8)


def _in_colour(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where parts may be transparent; 16-bit grey brought to 8 bits."""
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255 instead of scaling
        grey = np.clip(np.asarray(image, dtype=np.int32) >> 8, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def _orientation(exif: object) -> int:
    """The value 1..8 of the orientation tag; 1 where there is none or the data makes no sense."""
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (n_tags,) = struct.unpack_from(f"{order}H", tiff, start)
    for number in range(min(n_tags, _MOST_TAGS)):
        place = start + 2 + 12 * number
        if place + 12 > len(tiff):
            return 1
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, place)
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    return 1
