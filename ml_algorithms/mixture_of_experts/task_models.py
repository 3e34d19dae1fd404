"""Shared bottom, MMoE, PLE and single-task networks of one parameter budget, for comparison.

In: a number of features and a budget. Out: models whose towers are alike and whose total parameters
come as near to the budget as whole hidden widths allow, from below.

Legend: B batch, F features, T = 2 tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ml_algorithms.mixture_of_experts.counting import multi_task_multiply_adds, parameters
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_algorithms.mixture_of_experts.ple import PLE

Kind = Literal["single_task", "shared_bottom", "mmoe", "ple"]
KINDS: tuple[Kind, ...] = ("single_task", "shared_bottom", "mmoe", "ple")
TOWER = (16,)
EXPERTS = 8
N_TASKS = 2


class SingleTasks(nn.Module):
    """A network of its own for each task, behind the interface of one."""

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(
            MMoE(
                n_features=n_features,
                n_tasks=1,
                n_experts=1,
                expert_dims=(width,),
                tower_dims=TOWER,
            )
            for _ in range(N_TASKS)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits f[B, 2] and, since nothing is mixed, gates of ones f[B, 2, 1]."""
        logits = torch.cat([task(features).logits for task in self.tasks], dim=1)
        return logits, features.new_ones(len(features), N_TASKS, 1)


def build(kind: Kind, n_features: int, width: int) -> nn.Module:
    """A model whose experts have ``width`` outputs."""
    if kind == "single_task":
        return SingleTasks(n_features, width)
    if kind == "ple":
        return PLE(
            n_features=n_features,
            n_tasks=N_TASKS,
            own_experts=EXPERTS // 4,
            shared_experts=EXPERTS // 2,
            expert_dims=(width,),
            tower_dims=TOWER,
        )
    return MMoE(
        n_features=n_features,
        n_tasks=N_TASKS,
        n_experts=1 if kind == "shared_bottom" else EXPERTS,
        expert_dims=(width,),
        tower_dims=TOWER,
    )


def budget_width(kind: Kind, n_features: int, budget: int) -> int:
    """The largest expert width whose model keeps within the budget.

    Raises:
        ValueError: If even width 1 does not.
    """
    width = 0
    while parameters(build(kind, n_features, width + 1)) <= budget:
        width += 1
    if width == 0:
        raise ValueError(f"{kind} of {n_features} features does not fit into {budget} parameters")
    return width


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What both tasks' losses reach and could fight over: experts, not gates, not towers."""
    if isinstance(model, MMoE):
        return list(model.experts.parameters())
    if isinstance(model, PLE):
        return [p for name, p in model.named_parameters() if ".shared." in name]
    return []


def multiply_adds(model: nn.Module) -> int:
    """Per row."""
    if isinstance(model, SingleTasks):
        return sum(multi_task_multiply_adds(task) for task in model.tasks)
    return multi_task_multiply_adds(model)


def models_of(
    n_features: int, budget: int, kinds: Sequence[Kind] = KINDS
) -> dict[Kind, Callable[[], nn.Module]]:
    """Factories by name, each drawing fresh weights, all within the budget."""
    widths = {kind: budget_width(kind, n_features, budget) for kind in kinds}

    def factory(kind: Kind) -> Callable[[], nn.Module]:
        return lambda: build(kind, n_features, widths[kind])

    return {kind: factory(kind) for kind in kinds}
