"""The picture tower of CLIP as open_clip publishes it, with the names of its files.

In: pictures f32[b, 3, S, S]. Out: f32[b, O], in the space that the text tower shares. A. Radford,
J. W. Kim, C. Hallacy and others, "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021, section 2.4: a vision transformer with one more normalisation before the
blocks, and a linear projection of the class token after them.

Names of parameters are those below ``visual.`` in the published files (github.com/mlfoundations/
open_clip, src/open_clip/transformer.py; sizes in src/open_clip/model_configs). Only what those
sizes need is here: no other pooling, no dropout of patches, no layer scale. The text tower of a
file is not read.

OpenAI's weights, and the first ones of open_clip, were trained with x * sigmoid(1.702 x) in place
of the usual GELU. Nothing in a file says so: it is in the model's name, which ends in
``-quickgelu``.

Legend: b pictures, S side, D width, O output.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from image_search.embeddings.vit import attend, resized_positions, tokens_of


@dataclass(frozen=True)
class OpenClipSize:
    """Of one published model.

    Attributes:
        side: S in pixels.
        patch: p in pixels.
        width: D.
        layers: Blocks.
        heads: Of each block.
        output: O.
        quick_gelu: See the module.
    """

    side: int
    patch: int
    width: int
    layers: int
    heads: int
    output: int
    quick_gelu: bool = False


SIZES = {
    "ViT-B-32": OpenClipSize(224, 32, 768, 12, 12, 512),
    "ViT-B-32-quickgelu": OpenClipSize(224, 32, 768, 12, 12, 512, quick_gelu=True),
    "ViT-B-16": OpenClipSize(224, 16, 768, 12, 12, 512),
    "ViT-B-16-quickgelu": OpenClipSize(224, 16, 768, 12, 12, 512, quick_gelu=True),
    "ViT-L-14": OpenClipSize(224, 14, 1024, 24, 16, 768),
}


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Element by element."""
        return x * torch.sigmoid(1.702 * x)


class PackedAttention(nn.Module):
    """Self-attention whose three projections are one matrix, as torch names them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """f32[b, n, D] to the same."""
        packed = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        mixed: torch.Tensor = self.out_proj(attend(packed, self.heads))
        return mixed


class Block(nn.Module):
    """Attention and a small network, each normalised before and added to what came in."""

    def __init__(self, size: OpenClipSize) -> None:
        super().__init__()
        width = size.width
        self.ln_1 = nn.LayerNorm(width)
        self.attn = PackedAttention(width, size.heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGelu() if size.quick_gelu else nn.GELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """f32[b, n, D] to the same."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        return tokens + self.mlp(self.ln_2(tokens))


class Blocks(nn.Module):
    """Only here because the files call the blocks ``transformer.resblocks.N``."""

    def __init__(self, size: OpenClipSize) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """f32[b, n, D] to the same."""
        out: torch.Tensor = self.resblocks(tokens)
        return out


class OpenClipTower(nn.Module):
    """See the module; the file's keys are this module's behind ``visual.``.

    Attributes:
        dim: O.
        side: S.
    """

    def __init__(self, size: OpenClipSize) -> None:
        super().__init__()
        self.dim, self.side, self.patch = size.output, size.side, size.patch
        places, scale = (size.side // size.patch) ** 2 + 1, size.width**-0.5
        self.conv1 = nn.Conv2d(3, size.width, size.patch, size.patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(size.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(places, size.width))
        self.ln_pre = nn.LayerNorm(size.width)
        self.transformer = Blocks(size)
        self.ln_post = nn.LayerNorm(size.width)
        self.proj = nn.Parameter(scale * torch.randn(size.width, size.output))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """f32[b, 3, S', S'] to f32[b, O]; positions are bent where S' is not S."""
        positions = resized_positions(self.positional_embedding, pictures.shape[-1] // self.patch)
        tokens = tokens_of(self.conv1(pictures), self.class_embedding, positions)
        seen: torch.Tensor = self.ln_post(self.transformer(self.ln_pre(tokens))[:, 0])
        return seen @ self.proj
