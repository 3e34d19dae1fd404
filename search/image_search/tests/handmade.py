"""Encoded pictures made by hand: also those that nobody should send."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(height: int = 24, width: int = 36) -> np.ndarray:
    """u8[H, W, 3] whose corners all differ: red grows to the right, green downwards."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = np.linspace(0, 250, width)[None, :]
    picture[..., 1] = np.linspace(0, 250, height)[:, None]
    picture[..., 2] = 60
    return picture


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int, *, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """A TIFF header with two tags, the second of which is the orientation."""
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    other = struct.pack(f"{order}HHIHH", 0x0100, 3, 1, 7, 0)
    wanted = struct.pack(f"{order}HHIHH", 0x0112, kind, count, orientation, 0)
    return b"Exif\x00\x00" + mark + struct.pack(f"{order}IH", 8, 2) + other + wanted + bytes(4)


def png_chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes of PNG whose header announces width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )
