"""Traits: what can be seen of a picture, computed from its pixels.

In: pictures u8[N, H, W, C] or a sequence. Out: ``Traits``, arrays over the pictures. No data set
here has captions or attributes, so these stand in for them:

- ground: the median of the picture's rim; the object is what differs from it by more than
  GROUND_DISTANCE, or the middle of the picture where next to nothing does;
- colour: the name that most of the object's pixels have, by hue, saturation and value (fixed
  borders, below); none for grey pictures;
- brightness: the object's mean grey value in three steps;
- pattern: whether grey values change from pixel to pixel by more than PATTERN_CHANGE in the median
  over the inside of the object (its rim would make everything a pattern); a border by eye;
- outline: the object's width over its height in three steps.

These are rules of thumb: on photographs with a busy ground the colour may be the ground's. On
generated shapes, whose paint is known, the colour is tested.

Legend: N pictures, H, W, C height, width, channels, S side of the shrunk picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from image_search.images.preparing import Images, square

COLOURS = (
    "black", "white", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink",
)  # fmt: skip
NO_COLOUR = -1
BRIGHTNESS = ("dark", "medium", "light")
PATTERN = ("plain", "patterned")
OUTLINE = ("narrow", "even", "wide")
COLUMNS = (COLOURS, BRIGHTNESS, PATTERN, OUTLINE)
"""The values of ``Traits.table``'s columns."""
SAYS_NOTHING = ("medium", "even")
"""Values that nobody would name."""

SIDE = 32
RIM = 2
GROUND_DISTANCE = 40.0
LEAST_OBJECT = 0.04
PATTERN_CHANGE = 28.0
LEAST_INSIDE = 20
_HUES = (
    (15, "red"), (40, "orange"), (68, "yellow"), (170, "green"), (262, "blue"), (300, "purple"),
    (345, "pink"), (361, "red"),
)  # fmt: skip
"""Upper borders in degrees."""


@dataclass(frozen=True)
class Traits:
    """What can be seen, one value a picture.

    Attributes:
        colour: i8[N], position in COLOURS, NO_COLOUR for grey pictures.
        brightness: i8[N], position in BRIGHTNESS.
        pattern: i8[N], position in PATTERN.
        outline: i8[N], position in OUTLINE.
    """

    colour: np.ndarray
    brightness: np.ndarray
    pattern: np.ndarray
    outline: np.ndarray

    @property
    def table(self) -> np.ndarray:
        """i8[N, 4]: colour, brightness, pattern, outline, as positions in COLUMNS."""
        return np.stack([self.colour, self.brightness, self.pattern, self.outline], axis=1)

    def at(self, rows: np.ndarray) -> Traits:
        """Those of the pictures ``rows`` i64[n]."""
        return Traits(*self.table[rows].T)

    def words(self, number: int) -> list[str]:
        """The words of picture ``number``, those that say nothing (medium, even) left out."""
        brightness = BRIGHTNESS[self.brightness[number]]
        outline = OUTLINE[self.outline[number]]
        found = [word for word in (brightness, outline) if word not in SAYS_NOTHING]
        found.append(PATTERN[self.pattern[number]])
        if self.colour[number] != NO_COLOUR:
            found.append(COLOURS[self.colour[number]])
        return found


def traits_of(images: Images) -> Traits:
    """Computes the traits of every picture, one by one. O(N S^2) after decoding."""
    rows = []
    for number in range(len(images)):
        picture = images[number]
        rows.append(_traits(square(picture, SIDE, picture.shape[2], SIDE)))
    table = np.array(rows, dtype=np.int8).reshape(len(rows), 4)
    return Traits(*table.T)


def _traits(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Positions of colour, brightness, pattern, outline of one picture u8[S, S, C]."""
    values = picture.astype(np.float32)
    there = _object(values)
    grey = values.mean(axis=2)
    rows, columns = np.nonzero(there)
    ratio = (np.ptp(columns) + 1) / (np.ptp(rows) + 1)
    return (
        _colour(picture[there]) if picture.shape[2] == 3 else NO_COLOUR,
        int(np.digitize(grey[there].mean(), (85, 170))),
        int(_change(grey, there) > PATTERN_CHANGE),
        int(np.digitize(ratio, (0.7, 1.3))),
    )


def _object(values: np.ndarray) -> np.ndarray:
    """bool[S, S]: what differs from the rim; the middle where next to nothing does."""
    rim = np.ones(values.shape[:2], dtype=bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    ground = np.median(values[rim], axis=0)
    there = np.linalg.norm(values - ground, axis=2) > GROUND_DISTANCE
    if there.mean() < LEAST_OBJECT:
        quarter = len(values) // 4
        there = np.zeros_like(rim)
        there[quarter:-quarter, quarter:-quarter] = True
    return there


def _change(grey: np.ndarray, there: np.ndarray) -> float:
    """Median over the inside of the object of a pixel's difference to its two next neighbours."""
    inside = ndimage.binary_erosion(there, iterations=2)
    if inside.sum() < LEAST_INSIDE:
        inside = there
    down = np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    across = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    return float(np.median((down + across)[inside]))


def _colour(pixels: np.ndarray) -> int:
    """Position in COLOURS of the name that most pixels u8[n, 3] have."""
    names = colour_names(pixels)
    return int(np.bincount(names, minlength=len(COLOURS)).argmax())


def colour_names(pixels: np.ndarray) -> np.ndarray:
    """i64[n]: position in COLOURS of each pixel u8[n, 3], by hue, saturation and value."""
    part = pixels.astype(np.float32) / 255
    value, low = part.max(axis=1), part.min(axis=1)
    spread = value - low
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    hue = _hue(part, value, spread)
    by_hue = np.array([COLOURS.index(name) for _, name in _HUES])
    found = by_hue[np.searchsorted([border for border, _ in _HUES], hue, side="right")]
    warm = (hue >= 15) & (hue < 45)
    found = np.where(warm & (value < 0.65), COLOURS.index("brown"), found)
    pale = saturation < 0.18
    found = np.where(pale, COLOURS.index("grey"), found)
    found = np.where(pale & (value > 0.8), COLOURS.index("white"), found)
    return np.where(value < 0.22, COLOURS.index("black"), found)


def _hue(part: np.ndarray, value: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Degrees [0, 360) on the colour circle; 0 for grey."""
    red, green, blue = part.T
    safe = np.where(spread > 0, spread, 1)
    sextant = np.select(
        [value == red, value == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    return np.where(spread > 0, 60 * sextant, 0)
