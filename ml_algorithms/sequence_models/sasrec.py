"""SASRec: a causal transformer over item ids that predicts the next one.

In: items i64[B, L], left-padded with I. Out: states f32[B, L, D]; the score of item i after
position l is ``state[b, l] . embedding[i]``. Every position is a training example at once.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III:

    x  = sqrt(D) embedding[item] + position                          (equation 1)
    x  = x + Dropout(Attention(LayerNorm(x)))                        (equations 2 to 4, 6)
    x  = x + Dropout(W2 relu(W1 LayerNorm(x) + b1) + b2)             (equations 5, 6)
    score_i = LayerNorm(x) . embedding[i]                            (equation 7, shared embedding)

Departures: queries, keys and values all read the normalised input (today's pre-norm block; the
authors' code normalises the queries only, and adds the residual to the normalised value); an output
projection joins the heads, as in every later transformer; the inner width of the feed-forward
layer is a knob (the paper's is D); GELU instead of ReLU; ``nn.Embedding`` starts at N(0, 0.02).

Legend: B batch, L positions, D width, H heads, I items.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class SASRec(nn.Module):
    """Embeddings, ``n_layers`` blocks, a last LayerNorm.

    Parameters: I D + L D + about (4 + 2 ``inner``) D^2 a layer.

    Args:
        n_items: Catalogue size I; item I is the padding.
        max_length: L, the most events read.
        width: D.
        n_layers: Blocks.
        n_heads: H, a divisor of D.
        inner: Inner width of the feed-forward layer as a multiple of D.
        dropout: On the input and on both branches of every block.
    """

    def __init__(
        self,
        n_items: int,
        max_length: int,
        *,
        width: int = 64,
        n_layers: int = 2,
        n_heads: int = 2,
        inner: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by {n_heads} heads")
        self.n_items, self.max_length = n_items, max_length
        self.item_embedding = nn.Embedding(n_items + 1, width, padding_idx=n_items)
        self.position = nn.Parameter(torch.empty(max_length, width))
        self.blocks = nn.ModuleList(Block(width, n_heads, inner, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def forward(self, items: Tensor, times: Tensor | None = None) -> Tensor:
        """States f32[B, L, D] of items i64[B, L]; ``times`` is for models that read a clock.

        Time O(layers (B L D^2 + B L^2 D)).
        """
        x = self.embed(items)
        mask = causal_mask(items, self.n_items)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def embed(self, items: Tensor) -> Tensor:
        """Scaled item embeddings plus positions counted from the newest event, f32[B, L, D]."""
        length, width = items.shape[1], self.position.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} events, but the model reads at most {self.max_length}")
        # The root keeps items and positions of one size after both start at the same small scale.
        x = self.item_embedding(items) * math.sqrt(width) + self.position[-length:]
        return self.dropout(x)

    def catalogue(self) -> Tensor:
        """Embeddings of all items without the padding, f32[I, D]."""
        return self.item_embedding.weight[: self.n_items]


class Block(nn.Module):
    """Attention, then a network applied to each position by itself; both beside a residual."""

    def __init__(self, width: int, n_heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = CausalSelfAttention(width, n_heads)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, inner * width)
        self.narrow = nn.Linear(inner * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """f32[B, L, D] to the same shape; ``mask`` bool[B, 1, L, L] of where to look."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        inner = functional.gelu(self.widen(self.feed_forward_norm(x)))
        return x + self.dropout(self.narrow(inner))


class CausalSelfAttention(nn.Module):
    """softmax(Q K' / sqrt(D / H)) V for H heads, written out (equation 2)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """f32[B, L, D] to the same shape. The [B, H, L, L] weights are the quadratic cost."""
        query, key, value = (split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, -1))
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [B, H, L, L]
        weights = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        return self.output(join_heads(weights @ value))


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """[B, L, H * d] to [B, H, L, d]."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, H, L, d] to [B, L, H * d]."""
    return x.transpose(1, 2).flatten(-2)


def causal_mask(items: Tensor, padding: int) -> Tensor:
    """bool[B, 1, L, L]: query l may see key m if m <= l and m is no padding.

    A padded query sees itself, since a softmax over nothing is NaN; nobody reads its state.
    """
    length = items.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
    real = (items != padding)[:, None, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=items.device)
    return past & (real | itself)


def initialise(model: nn.Module) -> None:
    """N(0, 0.02) for embeddings and positions, Xavier for matrices, zero for biases."""
    for name, parameter in model.named_parameters():
        if name.endswith(("embedding.weight", "position")):
            nn.init.normal_(parameter, std=0.02)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith(".bias"):  # not HSTU's tables of relative biases
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
