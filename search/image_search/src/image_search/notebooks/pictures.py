"""Notebooks 01 and those that lay pictures out: sheets of pictures, and files of a stranger.

Legend: K classes, n pictures.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from image_search.images.decoding import ImageError, Limits, decode
from image_search.images.image_set import ImageSet
from image_search.images.preparing import squares
from image_search.serving.hostile import png_of
from image_search.serving.traffic import encoded
from ml_platform.evaluation.plot_style import new_figure

SHEET_SIDE, GAP = 40, 3
"""Pixels of a picture on a sheet, and between two."""
EXIF_TURNED = b"Exif\x00\x00" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
"""Exif data with nothing but the orientation tag, 6: the camera was held upright."""


def picture_sheet(
    title: str,
    lines: Mapping[str, Sequence[np.ndarray]],
    words: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Pictures in lines, each line with its name.

    Args:
        title: Of the figure.
        lines: Name -> pictures u8[H, W, C] of any size.
        words: Name -> a word below each picture of that line.
    """
    step = SHEET_SIDE + (9 if words else 0) + GAP, SHEET_SIDE + GAP
    columns = max(len(pictures) for pictures in lines.values())
    canvas = np.full((step[0] * len(lines), step[1] * columns, 3), 255, dtype=np.uint8)
    figure, (axes,) = new_figure(title, height=0.6 + 6.0 * canvas.shape[0] / canvas.shape[1])
    for row, (name, pictures) in enumerate(lines.items()):
        for column, picture in enumerate(squares(list(pictures), SHEET_SIDE, 3)):
            top, left = row * step[0], column * step[1]
            canvas[top : top + SHEET_SIDE, left : left + SHEET_SIDE] = picture
            if words:
                middle = (left + SHEET_SIDE / 2, top + SHEET_SIDE + 5)
                axes.text(*middle, words[name][column], fontsize=6, ha="center", va="center")
    axes.imshow(canvas, interpolation="nearest")
    axes.set_yticks([row * step[0] + SHEET_SIDE / 2 for row in range(len(lines))], list(lines))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def class_likeness(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """f64[K, K]: correlation of the classes' mean grey pictures, of the pictures at i64[n]."""
    grey = squares([images.images[int(row)] for row in rows], 28, 1).reshape(len(rows), -1)
    means = [grey[images.label[rows] == k].mean(axis=0) for k in range(len(images.label_names))]
    return np.asarray(np.corrcoef(np.stack(means)))


def files_of_a_stranger(folder: Path, picture: np.ndarray) -> None:
    """Writes what people really upload into a new folder: good files, odd ones, hostile ones."""
    folder.mkdir(parents=True)
    large = np.kron(squares([picture], 28, 3)[0], np.ones((8, 8, 1), dtype=np.uint8))
    image, jpeg = Image.fromarray(large), encoded(large, "JPEG")
    image.save(folder / "plain.webp")
    image.save(folder / "turned.jpg", exif=EXIF_TURNED)
    image.convert("RGBA").save(folder / "transparent.png")
    grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(folder / "grey_of_16_bits.png")
    contents = {
        "plain.jpg": jpeg,
        "really_a_jpeg.png": jpeg,
        "cut_off.jpg": jpeg[: len(jpeg) // 2],
        "empty.png": b"",
        "page.jpg": b"<html>not found</html>",
        "line.png": encoded(np.zeros((2, 900, 3), dtype=np.uint8), "PNG"),
        "bomb.png": announced(30_000),
        "notes.txt": b"no picture, and not named like one",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def announced(side: int) -> bytes:
    """A PNG of some bytes whose header announces side x side pixels, and whose data end early."""
    return png_of(side, side, zlib.compress(bytes(5_000)))


def refusal_of(data: bytes, limits: Limits) -> tuple[str, float]:
    """Why ``decode`` refuses these bytes ("" where it does not), and milliseconds until it said."""
    begin, reason = time.perf_counter(), ""
    try:
        decode(data, limits)
    except ImageError as error:
        reason = error.reason
    return reason, 1e3 * (time.perf_counter() - begin)
