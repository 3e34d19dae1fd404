"""The two towers: pictures and sentences to unit vectors of one space.

In: pictures f32[B, C, S, S], or words as bags of hashed n-grams. Out: f32[B, D] of length 1. The
frame is CLIP's: A. Radford, J. W. Kim, C. Hallacy and others, "Learning Transferable Visual Models
From Natural Language Supervision", ICML 2021, section 2: two towers, a linear map each, cosine.

- image tower: the small network of ``embeddings/cnn_network.py``;
- text tower "bag": the mean of the words' vectors, then x + W2 gelu(W1 x). Order is lost: "bag on a
  shirt" is "shirt on a bag". The captions have no such pair;
- text tower "transformer": two layers of self-attention over the words, positions learned, mean
  over the words (CLIP takes the last token's output of twelve layers).

In both, a word's vector is the mean over itself and its n-grams (tokens.py).

Legend: B batch, C channels, S side, L words of the longest text, T words of all, W width, D
dimension of the space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from image_search.config import TextConfig
from image_search.embeddings.cnn_network import Network

HEADS, LAYERS = 4, 2
SMALL = 0.02
"""Standard deviation of a bucket before training: one that no word of training hit adds little."""


class TextTower(nn.Module):
    """Words to unit vectors; see the module."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.text_width
        self.table = nn.EmbeddingBag(config.buckets, width, mode="mean")
        nn.init.normal_(self.table.weight, std=SMALL)
        self.body: nn.Module = (
            Bag(width) if config.tower == "bag" else Attention(width, config.most_words)
        )
        self.head = nn.Linear(width, config.dim, bias=False)

    def word_vectors(self, features: Sequence[Sequence[int]]) -> Tensor:
        """f32[T, W] of the words' hashed numbers."""
        flat = np.fromiter((n for word in features for n in word), dtype=np.int64)
        sizes = [len(word) for word in features]
        begins = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)])
        made: Tensor = self.table(torch.from_numpy(flat), torch.from_numpy(begins))
        return made

    def forward(self, words: Tensor, there: Tensor) -> Tensor:
        """f32[B, D] of word vectors [B, L, W], where ``there`` bool[B, L] is true."""
        return functional.normalize(self.head(self.body(words, there)), dim=1)


class Bag(nn.Module):
    """The mean of the words, and what one hidden layer adds to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, words: Tensor, there: Tensor) -> Tensor:
        """f32[B, W] of [B, L, W] and bool[B, L]."""
        mean = _mean(words, there)
        made: Tensor = mean + self.outer(functional.gelu(self.inner(mean)))
        return made


class Attention(nn.Module):
    """Two layers of self-attention, then the mean over the words."""

    def __init__(self, width: int, most_words: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(most_words, width) * SMALL)
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 2 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, words: Tensor, there: Tensor) -> Tensor:
        """f32[B, W] of [B, L, W] and bool[B, L]."""
        placed = words + self.place[: words.shape[1]]
        return _mean(self.layers(placed, src_key_padding_mask=~there), there)


def _mean(words: Tensor, there: Tensor) -> Tensor:
    weight = there.to(words.dtype)[:, :, None]
    return (words * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


class ImageTower(nn.Module):
    """Pictures to unit vectors."""

    def __init__(self, channels: int, config: TextConfig) -> None:
        super().__init__()
        self.channels = channels
        self.network = Network(channels, config.width, config.dim)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> Tensor:
        """f32[B, D] of f32[B, C, S, S]."""
        rows: Tensor = self.network(pictures)
        return functional.normalize(rows.float(), dim=1)
