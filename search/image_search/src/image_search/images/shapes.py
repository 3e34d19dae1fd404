"""Generated pictures of coloured shapes: for tests and for a run that takes seconds.

In: how many, a seed. Out: an ``ImageSet`` of u8[N, 32, 32, 3], and the colour that each shape was
painted in, which captions are tested against. Five classes by shape; colour, place, size, angle,
background and noise are drawn without regard to the class, so that colour is no help to find it.
Ours, synthetic: a result on it says that code works and nothing about photographs.

Legend: N images, M pixels of a picture's side (32).
"""

from __future__ import annotations

import hashlib

import numpy as np

from image_search.images.image_set import GALLERY, QUERY, VALIDATION, ImageSet

SIDE = 32
SHAPES = ("circle", "cross", "ring", "square", "triangle")
PAINTS = {
    "red": (200, 30, 40),
    "orange": (240, 140, 30),
    "yellow": (235, 220, 50),
    "green": (40, 160, 60),
    "blue": (40, 80, 200),
    "purple": (130, 50, 170),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
}
NOISE = 6.0


def shapes(per_class: int, seed: int) -> tuple[ImageSet, np.ndarray]:
    """Makes the set: ``per_class`` of each shape to search, a quarter to validate and query.

    Args:
        per_class: Gallery pictures of each shape, at least 4.
        seed: Of everything that is drawn.

    Returns:
        The set, and i64[N], each picture's position in PAINTS.

    Raises:
        ValueError: If fewer than four pictures of a class are asked for.
    """
    if per_class < 4:
        raise ValueError(f"shapes need at least 4 pictures a class, got {per_class}")
    parts = ((GALLERY, per_class), (VALIDATION, per_class // 4), (QUERY, per_class // 4))
    split = np.concatenate([np.full(n * len(SHAPES), part) for part, n in parts])
    label = np.concatenate([np.tile(np.arange(len(SHAPES)), n) for _, n in parts])
    rng = np.random.default_rng(seed)
    paint = rng.integers(len(PAINTS), size=len(label))
    images = np.stack([_picture(SHAPES[k], p, rng) for k, p in zip(label, paint, strict=True)])
    made = ImageSet(
        name="generated shapes",
        images=images,
        label=label.astype(np.int16),
        label_names=SHAPES,
        split=split.astype(np.uint8),
        item_id=np.arange(len(label), dtype=np.int64),
        sha256=hashlib.sha256(images.tobytes() + label.tobytes()).hexdigest(),
        terms="Generated here; no terms.",
        synthetic=True,
    )
    return made, paint


def _picture(shape: str, paint: int, rng: np.random.Generator) -> np.ndarray:
    """u8[M, M, 3]: one shape on a light ground."""
    mask = _mask(shape, rng)
    ground = rng.uniform(215, 250)
    colour = np.array(list(PAINTS.values())[paint], dtype=np.float64)
    picture = np.where(mask[..., None], colour, ground) + rng.normal(0, NOISE, (SIDE, SIDE, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _mask(shape: str, rng: np.random.Generator) -> np.ndarray:
    """bool[M, M]: where the shape is, turned, shifted and scaled at random."""
    radius = rng.uniform(8, 12)
    middle = SIDE / 2 + rng.uniform(-3, 3, size=2)
    angle = rng.uniform(-0.35, 0.35)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - middle[:, None, None]
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    distance = np.hypot(u, v)
    if shape == "circle":
        return distance <= 1
    if shape == "ring":
        return (distance <= 1) & (distance >= 0.6)
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.85
    if shape == "triangle":
        return (v <= 0.7) & (v >= 1.9 * abs(u) - 1)
    return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1)
