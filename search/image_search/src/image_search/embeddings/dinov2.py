"""DINOv2's vision transformer, with the names of its published files.

In: pictures f32[b, 3, S, S], S a multiple of 14. Out: f32[b, D], the normalised class token, which
is what its authors search neighbours with. M. Oquab, T. Darcet, T. Moutakanni and others, "DINOv2:
Learning Robust Visual Features without Supervision", TMLR 2024: features learnt from pictures
alone, by agreement of a student with a slowly moving teacher about crops of one picture.

Names of parameters are those of ``dinov2_vit{s,b,l}14_pretrain.pth`` (github.com/facebookresearch/
dinov2, dinov2/models/vision_transformer.py and hubconf.py; evaluation's preparation in
dinov2/data/transforms.py). The positions were learnt on 37 x 37 patches (518 pixels) and are bent
to the 16 x 16 of 224 pixels. Files with register tokens or a SwiGLU (the giant) are not read.

Legend: b pictures, S side, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from image_search.embeddings.vit import LayerScale, attend, resized_positions, tokens_of

EPSILON = 1e-6
POSITION_OFFSET = 0.1


@dataclass(frozen=True)
class DinoSize:
    """Of one published model.

    Attributes:
        width: D.
        layers: Blocks.
        heads: Of each block.
        patch: Pixels.
        trained_side: Pixels of a side, of the grid that the positions belong to.
    """

    width: int
    layers: int
    heads: int
    patch: int = 14
    trained_side: int = 518


SIZES = {
    "vits14": DinoSize(384, 12, 6),
    "vitb14": DinoSize(768, 12, 12),
    "vitl14": DinoSize(1024, 24, 16),
}


class PatchEmbedding(nn.Module):
    """One linear map of every patch."""

    def __init__(self, size: DinoSize) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, size.width, size.patch, size.patch)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """f32[b, D, g, g]."""
        out: torch.Tensor = self.proj(pictures)
        return out


class Attention(nn.Module):
    """Self-attention whose three projections are one layer."""

    def __init__(self, size: DinoSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """f32[b, n, D] to the same."""
        out: torch.Tensor = self.proj(attend(self.qkv(tokens), self.heads))
        return out


class FeedForward(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """f32[b, n, D] to the same."""
        out: torch.Tensor = self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention and a small network: normalised before, scaled after, added to what came in."""

    def __init__(self, size: DinoSize) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=EPSILON)
        self.attn = Attention(size)
        self.ls1 = LayerScale(size.width)
        self.norm2 = nn.LayerNorm(size.width, eps=EPSILON)
        self.mlp = FeedForward(size.width)
        self.ls2 = LayerScale(size.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """f32[b, n, D] to the same."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class DinoTower(nn.Module):
    """See the module; the file's keys are this module's, with a ``mask_token`` of training.

    Attributes:
        dim: D.
        patch: Pixels.
    """

    def __init__(self, size: DinoSize) -> None:
        super().__init__()
        self.dim, self.patch = size.width, size.patch
        places = (size.trained_side // size.patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, places, size.width))
        self.patch_embed = PatchEmbedding(size)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width, eps=EPSILON)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """f32[b, 3, S, S] to f32[b, D].

        Raises:
            ValueError: If patches do not fill S.
        """
        side = pictures.shape[-1]
        if side % self.patch:
            raise ValueError(f"pictures of {side} pixels are not filled by patches of {self.patch}")
        positions = resized_positions(self.pos_embed[0], side // self.patch, offset=POSITION_OFFSET)
        tokens = tokens_of(self.patch_embed(pictures), self.cls_token[0, 0], positions)
        out: torch.Tensor = self.norm(self.blocks(tokens))[:, 0]
        return out
