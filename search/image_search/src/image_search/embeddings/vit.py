"""What the two published vision transformers share: attention, tokens, positions, a scale.

In: pictures f32[b, 3, S, S]. Out: tokens f32[b, 1 + P, D]; the first token stands for the whole
picture. A. Dosovitskiy, L. Beyer, A. Kolesnikov and others, "An Image is Worth 16x16 Words", ICLR
2021, section 3.1: patches of p x p pixels are projected to D numbers each, a learnt class token
goes before them, learnt positions are added, and blocks of attention and of a small network, each
with a normalisation before and a residual around (equations 1 to 4), follow.

The classes of ``open_clip`` and ``dinov2`` name their parameters as the published files do, so that
a file's key says where its numbers go; what both compute is here.

Legend: b pictures, S side, p side of a patch, g = S / p patches of a side, P = g * g, D width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def attend(packed: torch.Tensor, heads: int) -> torch.Tensor:
    """Self-attention of every token to all tokens, several heads side by side.

    Args:
        packed: f32[b, n, 3 D]: queries, keys and values of n tokens, one after the other; within
            each, head by head.
        heads: D is divided by this; each head attends with D / heads numbers.

    Returns:
        f32[b, n, D]: softmax(q k' / sqrt(D / heads)) v of each head, the heads one after the other.

    Raises:
        ValueError: If the heads do not divide D.
    """
    pictures, tokens, thrice = packed.shape
    width = thrice // 3
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    split = packed.reshape(pictures, tokens, 3, heads, width // heads)
    query, key, value = split.permute(2, 0, 3, 1, 4)  # each b, heads, n, D / heads
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).reshape(pictures, tokens, width)


def tokens_of(
    patches: torch.Tensor, class_token: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The class token before the patches, positions added.

    Args:
        patches: f32[b, D, g, g], projected.
        class_token: f32[D].
        positions: f32[1 + P, D].

    Returns:
        f32[b, 1 + P, D], patches in reading order.
    """
    rows = patches.flatten(2).transpose(1, 2)
    first = class_token.expand(len(rows), 1, -1)
    return torch.cat([first, rows], dim=1) + positions


def resized_positions(positions: torch.Tensor, side: int, *, offset: float = 0.0) -> torch.Tensor:
    """Learnt positions of one grid, for another grid: the class token's stay, the others bend.

    Args:
        positions: f32[1 + g * g, D], of the grid in training.
        side: g', patches of a side now.
        offset: Added to g' before the scale is taken. DINOv2 was published with .1, against a
            rounding error of early torch; it changes the numbers a little, so theirs need it.

    Returns:
        f32[1 + g' * g', D], bicubic; ``positions`` itself where g' = g.

    Raises:
        ValueError: If the positions are not those of a square grid.
    """
    patches, width = len(positions) - 1, positions.shape[1]
    trained = round(patches**0.5)
    if trained * trained != patches:
        raise ValueError(f"{patches} positions are not a square grid")
    if trained == side:
        return positions
    grid = positions[1:].reshape(1, trained, trained, width).permute(0, 3, 1, 2)
    if offset:
        scale = (side + offset) / trained
        bent = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    else:
        bent = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    rows = bent.permute(0, 2, 3, 1).reshape(side * side, width)
    return torch.cat([positions[:1], rows])


class LayerScale(nn.Module):
    """A learnt factor for each of D numbers, before a residual is added.

    H. Touvron, M. Cord, A. Sablayrolles and others, "Going Deeper with Image Transformers", ICCV
    2021.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens, scaled."""
        return tokens * self.gamma
