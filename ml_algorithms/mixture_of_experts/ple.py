"""Progressive layered extraction: experts that are common to the tasks, and experts of one task.

In: features f[B, F]. Out: one logit per task f[B, T], and the gates of the last level.

Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020. One level is customised gate
control (CGC, section 4.1, eq. 1-4): task t mixes its *own* experts and the *shared* ones by its own
gate. Another task's experts are out of its reach, which is the whole difference from MMoE: there,
tasks that disagree still meet in every expert. Between levels (section 4.2, eq. 5-7) a shared gate
mixes all experts into the input of the next level's shared experts.

With no own experts a one-level PLE is MMoE exactly; with no shared ones it is separate models. Both
are tests.

Legend: B batch, F features, T tasks, S shared experts, P experts per task, H expert output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ml_algorithms.mixture_of_experts.mmoe import multilayer


class PLEOutput(NamedTuple):
    """What a forward pass returns."""

    logits: Tensor
    """f[B, T], before the sigmoid."""
    gates: Tensor
    """f[B, T, P + S] of the last level: own experts first, then the shared ones."""


class ExtractionLevel(nn.Module):
    """One CGC level: an input per task and a shared one, the same going out."""

    def __init__(
        self,
        *,
        n_inputs: int,
        n_tasks: int,
        own_experts: int,
        shared_experts: int,
        expert_dims: Sequence[int],
        dropout: float,
        last: bool,
    ) -> None:
        """Build the level; the last one has no shared gate, since nothing reads it."""
        super().__init__()
        self.own = nn.ModuleList(
            nn.ModuleList(multilayer(n_inputs, expert_dims, dropout) for _ in range(own_experts))
            for _ in range(n_tasks)
        )
        self.shared = nn.ModuleList(
            multilayer(n_inputs, expert_dims, dropout) for _ in range(shared_experts)
        )
        self.task_gates = nn.ModuleList(
            nn.Linear(n_inputs, own_experts + shared_experts) for _ in range(n_tasks)
        )
        every = n_tasks * own_experts + shared_experts
        self.shared_gate = None if last else nn.Linear(n_inputs, every)

    def forward(
        self, inputs: Sequence[Tensor], shared_input: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Mixtures per task, the shared mixture (its input on the last level), gates f[B, T, .]."""
        own = [
            [expert(x) for expert in experts.children()]
            for x, experts in zip(inputs, self.own, strict=True)
        ]
        shared = [expert(shared_input) for expert in self.shared]
        mixed, gates = [], []
        for x, answers, gate in zip(inputs, own, self.task_gates, strict=True):
            weights = torch.softmax(gate(x), dim=-1)
            mixed.append(_mix(weights, [*answers, *shared]))
            gates.append(weights)
        if self.shared_gate is not None:
            weights = torch.softmax(self.shared_gate(shared_input), dim=-1)
            everyone = [answer for answers in own for answer in answers] + shared
            shared_input = _mix(weights, everyone)
        return mixed, shared_input, torch.stack(gates, dim=1)


class PLE(nn.Module):
    """Stacked extraction levels and a tower per task.

    Time per row: every expert of every level once, L (T P + S) experts for L levels.
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_tasks: int,
        own_experts: int = 1,
        shared_experts: int = 2,
        n_levels: int = 1,
        expert_dims: Sequence[int] = (64, 32),
        tower_dims: Sequence[int] = (16,),
        dropout: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            n_features: F.
            n_tasks: T.
            own_experts: P, per task and level; 0 makes a level MMoE's.
            shared_experts: S, per level; 0 separates the tasks.
            n_levels: 1 is CGC; the paper's PLE has 2 and more.
            expert_dims: Layer widths of each expert; the last is H.
            tower_dims: Hidden widths of each tower.
            dropout: After every hidden activation.

        Raises:
            ValueError: If a size is out of range, or no task would have an expert.
        """
        super().__init__()
        if min(n_features, n_tasks, n_levels) < 1 or not expert_dims:
            raise ValueError(
                f"need at least one feature, task, level and expert layer, got {n_features=}, "
                f"{n_tasks=}, {n_levels=}, expert_dims={tuple(expert_dims)}"
            )
        if min(own_experts, shared_experts) < 0 or own_experts + shared_experts < 1:
            raise ValueError(f"no experts: {own_experts=}, {shared_experts=}; one must be positive")
        if n_levels > 1 and shared_experts == 0:
            raise ValueError("several levels pass on a shared mixture: shared_experts must be > 0")
        self.levels = nn.ModuleList(
            ExtractionLevel(
                n_inputs=n_features if level == 0 else expert_dims[-1],
                n_tasks=n_tasks,
                own_experts=own_experts,
                shared_experts=shared_experts,
                expert_dims=expert_dims,
                dropout=dropout,
                last=level == n_levels - 1,
            )
            for level in range(n_levels)
        )
        self.n_tasks = n_tasks
        self.towers = nn.ModuleList(
            nn.Sequential(
                multilayer(expert_dims[-1], tower_dims, dropout),
                nn.Linear(tower_dims[-1] if tower_dims else expert_dims[-1], 1),
            )
            for _ in range(n_tasks)
        )

    def forward(self, features: Tensor) -> PLEOutput:
        """Score a batch f[B, F]."""
        inputs, shared = [features] * self.n_tasks, features
        gates = features.new_zeros(0)
        for level in self.levels:
            inputs, shared, gates = level(inputs, shared)
        logits = [tower(x) for tower, x in zip(self.towers, inputs, strict=True)]
        return PLEOutput(torch.cat(logits, dim=1), gates)


def _mix(weights: Tensor, answers: Sequence[Tensor]) -> Tensor:
    """Weighted sum of answers f[B, H] with weights f[B, n]."""
    return torch.einsum("bn,nbh->bh", weights, torch.stack(list(answers)))
