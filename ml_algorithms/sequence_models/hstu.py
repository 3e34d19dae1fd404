"""HSTU: attention without a softmax, gated, with a clock.

In: items i64[B, L] left-padded with I, times i64[B, L+1] (the last column is the moment of the
request). Out: states f32[B, L, D], read as in ``sasrec``.

Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for
Generative Recommendations", ICML 2024, section 3. One layer replaces attention *and* feed-forward:

    U, V, Q, K = split(silu(W1 norm(X)))                       (equation 1)
    Y = silu(Q K' + position bias + time bias) V / L           (equation 2, causal)
    X = X + W2 (norm(Y) * U)                                   (equation 3)

A softmax divides each row by its sum: ten equal events and one give the same average, and events
compete for weight. With SiLU each adds its own part, negative ones too. The paper's reason is that
the amount survives; the norm after it takes the length of the sum out again, so that it survives
only in how the parts of different events stand to each other. U gates each output by what the
position itself is. The biases say how attention falls with the number of events and with the time
between; SASRec knows only absolute positions.

Left out: stochastic length and the fused kernels (speed), M-FALCON (many candidates against one
cached history, see the page), interleaved actions and the ranking task, and the paper's
cosine scores with a temperature (here dot products, so that only the layer differs from SASRec).

Legend: B batch, L positions, D width, H heads, I items, T time buckets.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_algorithms.sequence_models.sasrec import (
    causal_mask,
    initialise,
    join_heads,
    split_heads,
)

Clock = Literal["none", "history", "request"]
N_TIME_BUCKETS = 64
SECONDS_RATIO = 0.301  # of log seconds: as in the authors' code, a bucket is a third more time


class HSTU(nn.Module):
    """Embeddings with positions, ``n_layers`` of ``HSTULayer``, a last LayerNorm.

    Args:
        n_items: Catalogue size I; item I is the padding.
        max_length: L, the most events read.
        width: D.
        n_layers: Layers.
        n_heads: H, a divisor of D.
        dropout: On the input and on every layer's branch.
        clock: "none": positions only. "history": the age of an event is counted from the newest
            event read. "request": from the moment of asking, as the authors' code does; while
            training that is the time of the *target*, which serving knows too (it is now).
    """

    def __init__(
        self,
        n_items: int,
        max_length: int,
        *,
        width: int = 64,
        n_layers: int = 2,
        n_heads: int = 2,
        dropout: float = 0.2,
        clock: Clock = "history",
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by {n_heads} heads")
        self.n_items, self.max_length, self.clock = n_items, max_length, clock
        self.item_embedding = nn.Embedding(n_items + 1, width, padding_idx=n_items)
        self.position = nn.Parameter(torch.empty(max_length, width))
        self.layers = nn.ModuleList(
            HSTULayer(width, n_heads, max_length, dropout, timed=clock != "none")
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def forward(self, items: Tensor, times: Tensor | None = None) -> Tensor:
        """States f32[B, L, D] of items i64[B, L] and times i64[B, L+1]."""
        length = items.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} events, but the model reads at most {self.max_length}")
        root = self.position.shape[1] ** 0.5
        x = self.dropout(self.item_embedding(items) * root + self.position[-length:])
        mask = causal_mask(items, self.n_items)
        buckets = self._buckets(times, items)
        for layer in self.layers:
            x = layer(x, mask, buckets)
        return self.norm(x)

    def catalogue(self) -> Tensor:
        """Embeddings of all items without the padding, f32[I, D]."""
        return self.item_embedding.weight[: self.n_items]

    def _buckets(self, times: Tensor | None, items: Tensor) -> Tensor | None:
        """Bucket of the time from key m to query l, i64[B, L, L]; None without a clock."""
        if self.clock == "none":
            return None
        if times is None or times.shape != (items.shape[0], items.shape[1] + 1):
            shape = None if times is None else tuple(times.shape)
            raise ValueError(f"clock {self.clock!r} needs times [B, L + 1], got {shape}")
        now = times[:, 1:] if self.clock == "request" else times[:, :-1]
        return time_bucket(now[:, :, None] - times[:, None, :-1])


class HSTULayer(nn.Module):
    """One unit: projection, pointwise aggregated attention, gate."""

    def __init__(
        self, width: int, n_heads: int, max_length: int, dropout: float, *, timed: bool
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.attended_norm = nn.LayerNorm(width, eps=1e-6)  # sums of SiLUs over L are small
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Parameter(0.02 * torch.randn(max_length))  # by distance l - m
        self.time_bias = nn.Parameter(0.02 * torch.randn(N_TIME_BUCKETS)) if timed else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, buckets: Tensor | None) -> Tensor:
        """f32[B, L, D] to the same shape; mask bool[B, 1, L, L], buckets i64[B, L, L]."""
        u, v, q, k = functional.silu(self.uvqk(self.norm(x))).chunk(4, dim=-1)
        query, key, value = (split_heads(part, self.n_heads) for part in (q, k, v))
        logits = query @ key.transpose(-1, -2) + self._bias(x.shape[1], buckets)
        weights = functional.silu(logits) * mask / x.shape[1]  # no row sums to 1, on purpose
        attended = self.attended_norm(join_heads(weights @ value))
        return x + self.dropout(self.output(attended * u))

    def _bias(self, length: int, buckets: Tensor | None) -> Tensor:
        """Relative position bias [1, 1, L, L], plus the time bias [B, 1, L, L] with a clock."""
        place = torch.arange(length, device=self.position_bias.device)
        distance = (place[:, None] - place[None, :]).clamp_min(0)  # the future is masked anyway
        bias = self.position_bias[distance][None, None]
        if self.time_bias is None or buckets is None:
            return bias
        return bias + self.time_bias[buckets][:, None]


def time_bucket(seconds: Tensor) -> Tensor:
    """log(seconds) / 0.301, whole and within 0..T-1: a second, a minute, a day, a year apart."""
    logs = torch.log(seconds.abs().clamp_min(1).to(torch.float32)) / SECONDS_RATIO
    return logs.long().clamp_max(N_TIME_BUCKETS - 1)
