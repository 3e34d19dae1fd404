"""What the simulated people see in a picture: a space of its own, that no embedding here equals.

In: pictures of an image set. Out: ``Content``: vectors f32[N, V] whose inner product is the visual
relevance of one picture to another, and styles f32[N, S]. Three parts, side by side:

- class: pictures of one class are alike (weight CLASS_WEIGHT);
- form: histograms of oriented gradients at 16 x 16 pixels, centred, and seen through a random
  subspace of FORM_DIM directions (FORM_WEIGHT times their cosine);
- light: brightness, contrast, texture, symmetry, fill and colour, standardised (LIGHT_WEIGHT times
  their cosine).

An embedding that finds classes finds the first part; the others are mixed and cut so that neither
HOG nor pixels, which stand among the embeddings, read them off. A style is a fixed random mixture
of form and light with noise: what is called taste can be learnt from pictures, not perfectly.

Legend: N pictures, V, S dimensions, M side (16).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.embeddings.base import unit_rows
from image_search.embeddings.hog import hog
from image_search.images.image_set import ImageSet, Selection
from image_search.images.preparing import squares
from ml_platform.evaluation.progress import Progress

SIDE = 16
CELL = 4
FORM_DIM = 24
CLASS_WEIGHT, FORM_WEIGHT, LIGHT_WEIGHT = 0.45, 0.35, 0.2
STYLE_NOISE = 0.35
CHUNK = 2048


@dataclass(frozen=True)
class Content:
    """By row of the image set.

    Attributes:
        visual: f32[N, V]; an inner product is a relevance, at most 1.
        style: f32[N, S], rows of length 1.
        coarse: f32[N, M * M], rows of length 1: grey pixels, what the old policy sees.
    """

    visual: np.ndarray
    style: np.ndarray
    coarse: np.ndarray


def picture_content(images: ImageSet, style_dim: int, seed: int, progress: Progress) -> Content:
    """Looks at every picture once; classes count where they are known."""
    rng = np.random.default_rng((seed, 2))
    forms, lights, coarse = _look(images, progress)
    turn = np.linalg.qr(rng.standard_normal((forms.shape[1], FORM_DIM)))[0]
    form = unit_rows((forms - forms.mean(axis=0)) @ turn.astype(np.float32))
    spread = lights.std(axis=0)
    light = (lights - lights.mean(axis=0)) / np.where(spread > 0, spread, 1)
    light = unit_rows(np.clip(light, -3, 3))
    mixed = np.concatenate([form, light], axis=1)
    mixture = rng.standard_normal((mixed.shape[1], style_dim)).astype(np.float32)
    noise = rng.standard_normal((len(mixed), style_dim)) / np.sqrt(style_dim)
    style = unit_rows(unit_rows(mixed @ mixture) + STYLE_NOISE * noise)
    parts = ((_one_hot(images), CLASS_WEIGHT), (form, FORM_WEIGHT), (light, LIGHT_WEIGHT))
    visual = np.concatenate([part * np.float32(np.sqrt(weight)) for part, weight in parts], axis=1)
    return Content(visual.astype(np.float32), style, coarse)


def _look(images: ImageSet, progress: Progress) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients f32[N, .], lights f32[N, 7] and coarse grey pixels f32[N, M * M]."""
    forms, lights, coarse = [], [], []
    with progress.stage("clicks: what people see", len(images)) as advance:
        for begin in range(0, len(images), CHUNK):
            rows = np.arange(begin, min(begin + CHUNK, len(images)))
            small = _small(images, rows)
            grey = small.mean(axis=3)
            forms.append(hog(small, cell=CELL).reshape(len(rows), -1))
            lights.append(_lights(small, grey))
            coarse.append(unit_rows(grey.reshape(len(rows), -1)))
            advance(len(rows))
    return np.concatenate(forms), np.concatenate(lights), np.concatenate(coarse)


def _small(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """f32[n, M, M, C] of the pictures at ``rows``."""
    whole = images.images
    if not isinstance(whole, np.ndarray):
        return squares(Selection(whole, rows), SIDE, 3).astype(np.float32)
    return squares(whole[rows], SIDE, whole.shape[3]).astype(np.float32)


def _lights(small: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """f32[n, 7]: brightness, contrast, texture, asymmetry, fill, redness, blueness."""
    down, across = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=2))
    ground = np.median(grey[:, 0, :], axis=1)[:, None, None]
    columns = [
        grey.mean((1, 2)),
        grey.std((1, 2)),
        down.mean((1, 2)) + across.mean((1, 2)),
        np.abs(grey - grey[:, :, ::-1]).mean((1, 2)),
        (np.abs(grey - ground) > 40).mean((1, 2)),
        (small[..., 0] - grey).mean((1, 2)),
        (small[..., -1] - grey).mean((1, 2)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _one_hot(images: ImageSet) -> np.ndarray:
    """f32[N, C]; a row of zeros where nobody knows the class."""
    known = images.label[:, None] == np.arange(len(images.label_names))
    return known.astype(np.float32)
