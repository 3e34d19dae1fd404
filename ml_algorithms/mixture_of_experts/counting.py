"""What a mixture stores and what it computes: parameters and multiply-adds, total against active.

In: sizes, or a built model. Out: counts.

A mixture separates two numbers that are one in a dense network: *total* parameters (memory) and
*active* ones (those that a row's multiply-adds touch). Most confusion about mixtures is one of
these said for the other, so both are computed here, and the tests check them against PyTorch's own
counter and against what Mixtral's authors publish.

Multiply-adds count matrix products and the mixing; biases, softmax and activations are left out
(about 1% at these widths). One multiply-add is two floating-point operations.

Legend: D width, H hidden width of one expert, E experts, k experts per row, T tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_algorithms.mixture_of_experts.ple import PLE


class Work(NamedTuple):
    """Counts of one layer."""

    total_parameters: int
    """Stored: what memory pays."""
    active_parameters: int
    """Touched by one row: what compute pays."""
    multiply_adds: int
    """Per row, in the forward pass."""


def expert_parameters(width: int, hidden: int) -> int:
    """Weights and biases of one expert D -> H -> D."""
    return 2 * width * hidden + hidden + width


def moe_work(*, width: int, hidden: int, n_experts: int, active: float) -> Work:
    """A mixture layer in which ``active`` experts run per row (k, c, or E for the soft mixture).

    Args:
        width: D.
        hidden: H.
        n_experts: E; 1 with ``active`` 1 is a dense block, which needs no router.
        active: Experts per row; a mean, for expert choice.

    Raises:
        ValueError: If ``active`` lies outside (0, E].
    """
    if not 0 < active <= n_experts:
        raise ValueError(f"active experts must lie in (0, {n_experts}], got {active}")
    router = width * n_experts if n_experts > 1 else 0
    one = expert_parameters(width, hidden)
    return Work(
        total_parameters=n_experts * one + router,
        active_parameters=math.ceil(active * one) + router,
        multiply_adds=math.ceil(active * 2 * width * hidden) + router,
    )


def padded_multiply_adds(
    *, width: int, hidden: int, n_experts: int, places: int, n_rows: int
) -> float:
    """Per row, when every expert computes all its ``places``, full or not: how accelerators run it.

    A capacity factor above 1 is paid for here, in work on empty places.
    """
    return n_experts * places * 2 * width * hidden / n_rows + width * n_experts


def parameters(model: nn.Module) -> int:
    """All parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def multi_task_multiply_adds(model: nn.Module) -> int:
    """Per row, of a model whose linear layers all run once for each row: MMoE, PLE, shared bottom.

    That precondition is the answer to "MMoE saves compute": nothing is skipped, so the count is a
    sum over everything that is stored.
    """
    linear = sum(
        layer.in_features * layer.out_features
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    )
    return linear + _mixing(model)


def _mixing(model: nn.Module) -> int:
    """Multiply-adds of the weighted sums."""
    if isinstance(model, MMoE):
        return model.n_tasks * model.n_experts * _output_width(model.experts[0])
    if isinstance(model, PLE):
        total = 0
        for level in model.levels:
            own, shared = level.own, level.shared  # type: ignore[union-attr]
            experts = [*shared, *(expert for task in own for expert in task)]  # type: ignore[union-attr,misc,arg-type]
            per_task = len(own[0]) + len(shared)  # type: ignore[arg-type,index]
            mixtures = model.n_tasks * per_task
            if level.shared_gate is not None:
                mixtures += len(experts)
            total += mixtures * _output_width(experts[0])
        return total
    return 0


def _output_width(expert: nn.Module) -> int:
    widths = [layer.out_features for layer in expert.modules() if isinstance(layer, nn.Linear)]
    return widths[-1]


@dataclass(frozen=True)
class TransformerSize:
    """A decoder with a mixture in every layer, by its published dimensions.

    Experts are gated (SwiGLU: three matrices); attention has grouped keys and values; embeddings
    and output are separate; norms are RMSNorm, two per layer and one at the end; no biases.
    """

    n_layers: int
    width: int
    n_heads: int
    n_key_value_heads: int
    head_width: int
    expert_hidden: int
    n_experts: int
    experts_per_token: int
    vocabulary: int

    def parameters(self, experts: int) -> int:
        """With ``experts`` counted per layer: n_experts for total, experts_per_token for active."""
        queries = self.n_heads * self.head_width
        keys = self.n_key_value_heads * self.head_width
        attention = self.width * (2 * queries + 2 * keys)
        mixture = experts * 3 * self.width * self.expert_hidden + self.width * self.n_experts
        layer = attention + mixture + 2 * self.width
        return self.n_layers * layer + 2 * self.vocabulary * self.width + self.width

    @property
    def total(self) -> int:
        """Stored."""
        return self.parameters(self.n_experts)

    @property
    def active(self) -> int:
        """Touched by one token (all embeddings counted, as its authors do)."""
        return self.parameters(self.experts_per_token)


MIXTRAL_8X7B = TransformerSize(
    n_layers=32,
    width=4096,
    n_heads=32,
    n_key_value_heads=8,
    head_width=128,
    expert_hidden=14336,
    n_experts=8,
    experts_per_token=2,
    vocabulary=32000,
)
"""Jiang et al., "Mixtral of Experts", 2024, table 1."""
