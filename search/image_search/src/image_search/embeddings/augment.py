"""Pictures changed at random, so that a network learns what does not matter.

In: a batch f32[b, C, S, S] in [-1, 1]. Out: the same shape.

``gentle`` is for training with classes: mirrored, shifted by up to ``shift`` pixels, one square
of ``cutout`` pixels blanked (T. DeVries and G. W. Taylor, "Improved Regularization of Convolutional
Neural Networks with Cutout", 2017).

``strong`` is for two views of one picture: mirrored, a part of it enlarged, light and contrast
changed, after T. Chen, S. Kornblith, M. Norouzi, G. Hinton (SimCLR, ICML 2020, section 3).
Departures: parts keep at least half of the area, as a 28-pixel picture has little to spare; one
draw of light and contrast instead of colours, as Fashion-MNIST has none; no blur.

All draws come from the generator that is given.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

EMPTY = -1.0
"""What stands outside a picture: black."""


def gentle(batch: Tensor, shift: int, cutout: int, generator: Generator) -> Tensor:
    """Mirrored, shifted, a square blanked; see the module."""
    made = mirrored(batch, generator)
    if shift:
        made = shifted(made, shift, generator)
    return blanked(made, cutout, generator) if cutout else made


def strong(batch: Tensor, smallest: float, light: float, generator: Generator) -> Tensor:
    """A mirrored and enlarged part with other light and contrast.

    Args:
        batch: f32[b, C, S, S].
        smallest: Least share of the area that a part keeps.
        light: Contrast changes by a factor in 1 +- light, brightness by up to half of that.
        generator: Of all draws.
    """
    made = enlarged(mirrored(batch, generator), smallest, generator)
    contrast, brightness = (
        (2 * torch.rand(len(batch), 1, 1, 1, generator=generator) - 1) * light for _ in range(2)
    )
    return (made + 1) * (1 + contrast) * (1 + brightness / 2) - 1


def mirrored(batch: Tensor, generator: Generator) -> Tensor:
    """Left and right exchanged in about half of the pictures."""
    turned = torch.rand(len(batch), generator=generator) < 0.5
    return torch.where(turned[:, None, None, None], batch.flip(3), batch)


def shifted(batch: Tensor, most: int, generator: Generator) -> Tensor:
    """Moved by -most..most pixels in both directions; what comes in is empty."""
    side = batch.shape[-1]
    padded = functional.pad(batch, (most, most, most, most), value=EMPTY)
    begin = torch.randint(0, 2 * most + 1, (2, len(batch)), generator=generator)
    rows, columns = (b[:, None] + torch.arange(side) for b in begin)
    number = torch.arange(len(batch))[:, None, None]
    # Advanced indices around a slice come first: [b, S, S, C], channels last as the network wants.
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def blanked(batch: Tensor, side: int, generator: Generator) -> Tensor:
    """A square of ``side`` pixels emptied in each, its middle anywhere in the picture."""
    length = batch.shape[-1]
    middle = torch.randint(0, length, (2, len(batch), 1), generator=generator)
    # Twice the distance of a pixel from the square's middle, so that even sides are exact.
    row, column = ((2 * (torch.arange(length) - m) + (side % 2 == 0)).abs() < side for m in middle)
    return batch.masked_fill((row[:, :, None] & column[:, None, :])[:, None], EMPTY)


def enlarged(batch: Tensor, smallest: float, generator: Generator) -> Tensor:
    """A part of each, ``smallest`` to 1 of its area, stretched to the whole; shape 3:4 to 4:3."""
    n = len(batch)
    draw = torch.rand(4, n, generator=generator)
    area = smallest + (1 - smallest) * draw[0]
    ratio = torch.exp((2 * draw[1] - 1) * 0.2877)  # log(4 / 3)
    width, height = ((area * r).sqrt().clamp(max=1.0) for r in (ratio, 1 / ratio))
    left, top = (1 - width) * (2 * draw[2] - 1), (1 - height) * (2 * draw[3] - 1)
    move = torch.zeros(n, 2, 3)
    move[:, 0, 0], move[:, 0, 2], move[:, 1, 1], move[:, 1, 2] = width, left, height, top
    grid = functional.affine_grid(move, list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, align_corners=False, padding_mode="border")
