"""Multi-gate mixture of experts: tasks share experts and each mixes them in its own way.

In: features f[B, F]. Out: one logit per task [B, T], and the gates [B, T, E] that mixed the
experts.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018 (equations 6 to 8):

    f_t(x) = sum over e of  gate_t(x)_e * expert_e(x),   gate_t(x) = softmax(W_t x),   logit_t =
    tower_t(f_t(x))

All experts run for every row: this is a way to share, not a way to save computation (that is the
sparse top-k mixture of large language models). With one expert it is the shared-bottom network
exactly.

Departure: an optional dropout on the gates while training, with renormalisation, against a gate
that settles on one expert early and starves the others of gradient.

Legend: B batch, F features, E experts, T tasks, H expert output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class MMoEOutput(NamedTuple):
    """What a forward pass returns."""

    logits: Tensor
    """f[B, T], before the sigmoid."""
    gates: Tensor
    """f[B, T, E], rows sum to 1: how much each task used each expert."""


class MMoE(nn.Module):
    """Multi-gate mixture of experts with one tower per task.

    Time per row: E experts once (shared by the tasks), then T gates of F x E and T towers.
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_tasks: int,
        n_experts: int = 4,
        expert_dims: Sequence[int] = (64, 32),
        tower_dims: Sequence[int] = (16,),
        dropout: float = 0.0,
        gate_dropout: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            n_features: Input width F.
            n_tasks: Tasks T.
            n_experts: Experts E, at least 1.
            expert_dims: Layer widths of each expert; the last is H.
            tower_dims: Hidden widths of each tower before its single logit; may be empty.
            dropout: After every hidden activation.
            gate_dropout: Share of gates dropped while training (the rest is renormalised).

        Raises:
            ValueError: If a size is below 1 or ``expert_dims`` is empty.
        """
        super().__init__()
        if min(n_features, n_tasks, n_experts) < 1 or not expert_dims:
            raise ValueError(
                f"need at least one feature, task, expert and expert layer, got {n_features=}, "
                f"{n_tasks=}, {n_experts=}, expert_dims={tuple(expert_dims)}"
            )
        if not 0.0 <= gate_dropout < 1.0:
            raise ValueError(f"gate_dropout must lie in [0, 1), got {gate_dropout}")
        self.n_tasks, self.n_experts, self.gate_dropout = n_tasks, n_experts, gate_dropout
        self.experts = nn.ModuleList(
            multilayer(n_features, expert_dims, dropout) for _ in range(n_experts)
        )
        self.gates = nn.Linear(n_features, n_tasks * n_experts)
        self.towers = nn.ModuleList(
            nn.Sequential(
                multilayer(expert_dims[-1], tower_dims, dropout),
                nn.Linear(tower_dims[-1] if tower_dims else expert_dims[-1], 1),
            )
            for _ in range(n_tasks)
        )

    def forward(self, features: Tensor) -> MMoEOutput:
        """Score a batch f[B, F]."""
        expert_out = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, E, H]
        gates = self._gates(features)  # [B, T, E]
        mixed = gates @ expert_out  # [B, T, H]
        logits = [tower(mixed[:, task]) for task, tower in enumerate(self.towers)]
        return MMoEOutput(torch.cat(logits, dim=1), gates)

    def _gates(self, features: Tensor) -> Tensor:
        scores = self.gates(features).view(-1, self.n_tasks, self.n_experts)
        gates = torch.softmax(scores, dim=-1)
        if self.training and self.gate_dropout > 0.0:
            kept = torch.rand_like(gates) >= self.gate_dropout
            # A row that lost all its gates keeps them all: an empty mixture would zero the tower's
            # input.
            kept |= ~kept.any(dim=-1, keepdim=True)
            gates = gates * kept
            gates = gates / gates.sum(dim=-1, keepdim=True)
        return gates


def multilayer(n_inputs: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear + ReLU (+ dropout) for each width; the identity when ``widths`` is empty."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(n_inputs, width), nn.ReLU()]
        if dropout > 0.0:
            layers.append(nn.Dropout(dropout))
        n_inputs = width
    return nn.Sequential(*layers)


class GateUtilisation(NamedTuple):
    """How the tasks use the experts, averaged over rows."""

    share: Tensor
    """f[T, E]: mean gate; a row sums to 1. An expert near 0 for every task is dead weight."""
    effective_experts: Tensor
    """f[T]: exp of the mean gate entropy over rows: 1 is one expert per row, E is an even mix."""


def gate_utilisation(gates: Tensor) -> GateUtilisation:
    """Summarise gates f[B, T, E] of a batch.

    Raises:
        ValueError: If the batch is empty.
    """
    if gates.shape[0] == 0:
        raise ValueError("gate utilisation of an empty batch is undefined")
    entropy = -torch.xlogy(gates, gates).sum(dim=-1)  # [B, T]
    return GateUtilisation(gates.mean(dim=0), entropy.mean(dim=0).exp())
