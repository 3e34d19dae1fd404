"""The experts: E two-layer networks of one shape, kept in stacked tensors.

In: rows f[N, D] for one expert, or f[E, C, D] for all. Out: the same shape.

The shape is a Transformer's feed-forward block, ``relu(x A + a) B + b``, because that is what a
mixture replaces there. Stacked tensors make "the experts on this machine" a slice, which is all
that expert parallelism needs.

Legend: N rows (tokens), D width, H hidden width of one expert, E experts, C rows per expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExpertBank(nn.Module):
    """E experts of D -> H -> D. Multiply-adds per row and expert: 2 D H."""

    def __init__(self, *, n_experts: int, width: int, hidden: int) -> None:
        """Draw the weights, uniform with the scale of ``nn.Linear``.

        Args:
            n_experts: E, at least 1.
            width: D, of inputs and outputs.
            hidden: H.

        Raises:
            ValueError: If a size is below 1.
        """
        super().__init__()
        if min(n_experts, width, hidden) < 1:
            raise ValueError(
                f"experts need sizes of at least 1, got {n_experts=}, {width=}, {hidden=}"
            )
        self.n_experts, self.width, self.hidden = n_experts, width, hidden
        self.weight_in = nn.Parameter(_uniform((n_experts, width, hidden), width))
        self.bias_in = nn.Parameter(torch.zeros(n_experts, hidden))
        self.weight_out = nn.Parameter(_uniform((n_experts, hidden, width), hidden))
        self.bias_out = nn.Parameter(torch.zeros(n_experts, width))

    def forward(self, buckets: Tensor) -> Tensor:
        """Every expert on its own rows: f[E, C, D] -> f[E, C, D]."""
        hidden = torch.relu(torch.baddbmm(self.bias_in[:, None], buckets, self.weight_in))
        return torch.baddbmm(self.bias_out[:, None], hidden, self.weight_out)

    def one(self, expert: int, rows: Tensor) -> Tensor:
        """One expert on rows f[N, D]."""
        hidden = torch.relu(rows @ self.weight_in[expert] + self.bias_in[expert])
        return hidden @ self.weight_out[expert] + self.bias_out[expert]

    def grouped(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows that lie sorted by expert, ``counts[e]`` of them for expert e: f[N, D] -> f[N, D].

        Nothing is padded, so the multiply-adds are those of the rows that are there.
        """
        parts = torch.split(rows, counts)
        return torch.cat([self.one(e, part) for e, part in enumerate(parts)])


def _uniform(shape: tuple[int, int, int], fan_in: int) -> Tensor:
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound)
