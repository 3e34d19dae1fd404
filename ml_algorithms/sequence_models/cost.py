"""What one request costs: multiplications and bytes of attention, by formula.

In: the shape of a model and of a request. Out: counts; a multiply-add is one. The study measures
the time beside them. The question behind it: what is kept between two requests of one user?

- nothing: every request encodes the whole history, O(L (D^2 + L D)) a layer;
- keys and values of the history (a KV cache): one new event costs O(D^2 + L D) a layer, and the
  cache holds 2 L D numbers a layer. It is valid while the history only grows at its end: the window
  must not slide, and positions must not be counted from the newest event;
- M-FALCON (Zhai et al., ICML 2024): m candidates as m last positions that see the history and
  themselves but not each other, in microbatches over one cached history.

Legend: L events, D width, N layers, M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_F32 = 4


@dataclass(frozen=True)
class Shape:
    """Of a network: L, D, N, heads, and D x D matrices in one layer."""

    length: int
    width: int
    n_layers: int
    n_heads: int
    matrices: int
    """D x D products at each position and layer: 4 + 2 ``inner`` for SASRec, 5 for HSTU."""


def full_encoding(shape: Shape) -> int:
    """Multiply-adds of a whole history: projections, and half of two L x L products."""
    projections = shape.length * shape.matrices * shape.width**2
    attention = shape.length * (shape.length + 1) // 2 * 2 * shape.width
    return shape.n_layers * (projections + attention)


def one_more_event(shape: Shape) -> int:
    """Multiply-adds of one new event against cached keys and values of L - 1 others."""
    attention = 2 * shape.length * shape.width
    return shape.n_layers * (shape.matrices * shape.width**2 + attention)


def candidates_apart(shape: Shape, n_candidates: int) -> int:
    """M candidates, each as the last event of its own pass over the history."""
    return n_candidates * full_encoding(shape)


def candidates_together(shape: Shape, n_candidates: int) -> int:
    """M candidates against one cached history, which is encoded once (M-FALCON)."""
    return full_encoding(shape) + n_candidates * one_more_event(shape)


def attention_bytes(shape: Shape) -> int:
    """f32 weights [H, L, L] of one layer, when they are written to memory."""
    return shape.n_heads * shape.length**2 * BYTES_F32


def cache_bytes(shape: Shape) -> int:
    """f32 keys and values of one user in all layers."""
    return 2 * shape.n_layers * shape.length * shape.width * BYTES_F32
