"""Perceptual hashes: 64 bits that stay nearly the same when the picture is nearly the same.

In: pictures, u8[n, H, W, C] or a sequence of u8[H, W, C], C = 1 or 3. Out: u64[n]; two pictures are
compared by the number of bits that differ (``distances``). Two hashes of a grey, shrunk picture:

    pHash  DCT-II of 32 x 32; the 8 x 8 lowest frequencies, each above their median or not:
           C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", diploma
           thesis, Upper Austria University of Applied Sciences 2010. Implementations differ in what
           they do with the constant term; here it stays out of the median.
    dHash  8 rows of 9 grey values; each brighter than its left neighbour or not.

Both are two matrix products for each picture: shrinking and DCT are linear, so one matrix of 8 x H
holds both. Pictures of one size are computed together.

Legend: n pictures, H, W, C height, width, channels, S side of the shrunk picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from image_search.images.preparing import Images, batches

SIDE = 32
"""S of pHash."""
LOW = 8
"""Frequencies kept on each axis: LOW^2 bits."""
BITS = LOW * LOW
DECIMALS = 3
"""Coefficients are rounded to this before they are compared: those that are 0 by the symmetry of a
picture differ from it by the rounding errors of the machine, and would give random bits."""
CHUNK = 4096
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float64)
"""Luma of ITU-R BT.601, as Pillow's "L"."""

Hasher = Callable[[Images], np.ndarray]


def phash(images: Images) -> np.ndarray:
    """u64[n]: see the module. O(H W) a picture.

    Half of the bits are set, so that distances are even but for the constant term's bit.

    Raises:
        ValueError: If a picture is neither [H, W, 1] nor [H, W, 3].
    """
    return _hashed(images, _phash_bits)


def dhash(images: Images) -> np.ndarray:
    """u64[n]: see the module.

    Raises:
        ValueError: As ``phash``.
    """
    return _hashed(images, _dhash_bits)


HASHES: dict[str, Hasher] = {"phash": phash, "dhash": dhash}


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits that differ, u8, of hashes u64 of any two shapes that broadcast."""
    return np.bitwise_count(np.bitwise_xor(one, other))


def shrunk(images: Images, side: int) -> np.ndarray:
    """f32[n, side, side]: grey averages of every picture."""
    parts = [_to_side(_grey(part), side) for part in _parts(images)]
    return np.concatenate([np.zeros((0, side, side)), *parts]).astype(np.float32)


def shrunk_colour(images: Images, side: int) -> np.ndarray:
    """f32[n, 2, side, side]: averages of red and of blue less grey; 0 for grey pictures."""
    parts = [np.zeros((0, 2, side, side))]
    for part in _parts(images):
        grey = _to_side(_grey(part), side)
        if part.shape[3] == 1:
            parts.append(np.zeros((len(part), 2, side, side)))
        else:
            colour = (_to_side(part[..., k].astype(np.float64), side) - grey for k in (0, 2))
            parts.append(np.stack(list(colour), axis=1))
    return np.concatenate(parts).astype(np.float32)


def low_frequencies(grey: np.ndarray) -> np.ndarray:
    """f64[n, LOW, LOW] lowest DCT-II coefficients (orthonormal) of f64[n, H, W] shrunk to SIDE."""
    down, across = (_shrink_dct(size) for size in grey.shape[1:])
    return np.asarray(down @ grey @ across.T)


def shrink_matrix(size: int, side: int) -> np.ndarray:
    """f64[side, size]: how much each of ``size`` pixels counts in each of ``side`` new ones.

    Shrinking averages the stretch that a new pixel covers, a pixel covered in part counting in
    part. Enlarging interpolates linearly between the middles of pixels: repeating them instead
    makes edges that a shrunk copy of the same picture does not have.

    Raises:
        ValueError: If a side is not positive.
    """
    if min(size, side) < 1:
        raise ValueError(f"sides must be at least 1 pixel, got {size} -> {side}")
    pixel = np.arange(size)
    if size < side:
        middle = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        return np.asarray(np.clip(1 - np.abs(middle[:, None] - pixel), 0, None))
    edges = np.arange(side + 1) * (size / side)
    low, high = edges[:-1, None], edges[1:, None]
    covered = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return np.asarray(covered / covered.sum(axis=1, keepdims=True))


def dct_matrix(side: int, kept: int) -> np.ndarray:
    """f64[kept, side]: the first rows of the orthonormal DCT-II.

    M[k, i] = sqrt((1 if k == 0 else 2) / side) cos(pi k (2 i + 1) / (2 side))
    """
    k, i = np.arange(kept)[:, None], np.arange(side)
    rows = np.sqrt(2 / side) * np.cos(np.pi * k * (2 * i + 1) / (2 * side))
    rows[0] /= np.sqrt(2)
    return np.asarray(rows)


@lru_cache(maxsize=1024)
def _shrink_dct(size: int) -> np.ndarray:
    return dct_matrix(SIDE, LOW) @ shrink_matrix(size, SIDE)


@lru_cache(maxsize=1024)
def _shrink(size: int, side: int) -> np.ndarray:
    return shrink_matrix(size, side)


def _phash_bits(grey: np.ndarray) -> np.ndarray:
    """bool[n, BITS] of f64[n, H, W]."""
    found = np.round(low_frequencies(grey), DECIMALS).reshape(len(grey), BITS)
    # The constant term is the mean brightness: far from the others, it would say nothing.
    middle = np.median(found[:, 1:], axis=1, keepdims=True)
    return np.asarray(found > middle)


def _dhash_bits(grey: np.ndarray) -> np.ndarray:
    """bool[n, BITS] of f64[n, H, W]."""
    height, width = grey.shape[1:]
    small = np.round(_shrink(height, LOW) @ grey @ _shrink(width, LOW + 1).T, DECIMALS)
    return np.asarray(small[:, :, 1:] > small[:, :, :-1]).reshape(len(grey), BITS)


def _hashed(images: Images, bits_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    parts = [_packed(bits_of(_grey(part))) for part in _parts(images)]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def _parts(images: Images) -> Iterator[np.ndarray]:
    """u8[m, H, W, C]: pictures of an array by the batch, of a sequence (any sizes) one by one."""
    for batch in batches(images, CHUNK):
        if isinstance(batch, np.ndarray):
            yield batch
        else:
            yield from (np.asarray(picture)[None] for picture in batch)


def _to_side(grey: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(_shrink(grey.shape[1], side) @ grey @ _shrink(grey.shape[2], side).T)


def _grey(pictures: np.ndarray) -> np.ndarray:
    """f64[n, H, W] of u8[n, H, W, C]."""
    if pictures.ndim != 4 or pictures.shape[3] not in (1, 3):
        raise ValueError(
            f"a picture has shape {pictures.shape[1:]}, expected [H, W, 1] or [H, W, 3]"
        )
    if pictures.shape[3] == 1:
        return pictures[..., 0].astype(np.float64)
    return np.asarray(pictures @ _GREY)


def _packed(bits: np.ndarray) -> np.ndarray:
    """u64[n] of bool[n, BITS], the first bit the highest."""
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
