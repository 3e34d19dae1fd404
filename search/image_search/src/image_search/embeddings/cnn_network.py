"""The small convolutional network that is trained here, and its quick form for serving.

In: f32[b, C, S, S] (``as_input``). Out: f32[b, D], not yet of length 1. A strided stem, two stages
of residual blocks (K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
CVPR 2016) at half and a quarter of the side, the mean over all places, one linear map.

Departures from a ResNet: two stages instead of four, as a picture of 28 pixels is 7 wide after two;
the side may be any, as the mean is taken over whatever is left.

``folded`` multiplies every normalisation into the convolution before it (B. Jacob, S. Kligys,
B. Chen and others, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018): fewer operations to
start for a single picture, and the same numbers to rounding.

Legend: b pictures, C channels, S side, W width, D dimension.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM = 32
"""Channels after the first layer, which sees one or three."""


class Convolution(nn.Module):
    """3 x 3, normalised over the batch; no bias, as the normalisation has one."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """f[b, channels, H, W] -> f[b, out, H / stride, W / stride]."""
        made: Tensor = self.norm(self.conv(x))
        return made


class Residual(nn.Module):
    """relu(x + conv(relu(conv(x)))), the block of the paper."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Convolution(channels, channels)
        self.second = Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """f[b, channels, H, W], same shape."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Network(nn.Module):
    """See the module.

    Attributes:
        features: Pictures to f[b, 2 W], what the embedding is a linear map of.
        head: The linear map.
    """

    def __init__(self, channels: int, width: int, dim: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Convolution(channels, STEM, 2),
            nn.ReLU(),
            Convolution(STEM, width),
            nn.ReLU(),
            Residual(width),
            Convolution(width, 2 * width, 2),
            nn.ReLU(),
            Residual(2 * width),
            Residual(2 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """f32[b, C, S, S] -> f[b, D]."""
        made: Tensor = self.head(self.features(x))
        return made


def as_input(squares: np.ndarray) -> Tensor:
    """f32[b, C, S, S] in [-1, 1] of pictures u8[b, S, S, C], channels last in memory."""
    pixels = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
    return pixels.float().div_(127.5).sub_(1)


def folded(network: Network) -> Network:
    """A copy for inference, its normalisations multiplied into the convolutions."""
    made = copy.deepcopy(network).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, Convolution) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def precision_of(wanted: str) -> str:
    """What convolutions compute in while a network is trained: "bf16" or "fp32".

    Args:
        wanted: One of the two, or "auto": bf16 where the processor multiplies it in hardware.
    """
    if wanted != "auto":
        return wanted
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if capable else "fp32"
