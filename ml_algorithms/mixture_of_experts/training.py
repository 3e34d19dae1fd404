"""Trains one residual block with a linear head on a regime task, and watches its router.

In: a block (dense, soft, sparse, expert choice) and a `RegimeTask`. Out: test error and the load
of the experts over training. The same optimiser, steps and rows for every block.

Legend: N rows of a batch, D width, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_algorithms.mixture_of_experts.balancing import (
    BiasBalancer,
    importance_loss,
    load_loss,
    router_z_loss,
    switch_loss,
)
from ml_algorithms.mixture_of_experts.dense import SoftMoE, SoftOutput
from ml_algorithms.mixture_of_experts.expert_choice import ExpertChoiceMoE, ExpertChoiceOutput
from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.regimes import RegimeTask
from ml_algorithms.mixture_of_experts.sparse import SparseMoE, SparseOutput, expert_load

Balance = Literal["none", "noise", "switch", "switch_z", "importance_load", "bias"]
Block = ExpertBank | SoftMoE | SparseMoE | ExpertChoiceMoE
Details = SoftOutput | SparseOutput | ExpertChoiceOutput | None


class Student(nn.Module):
    """``head(x + block(x))``: what the block does not handle, the residual carries."""

    def __init__(self, block: Block, width: int) -> None:
        super().__init__()
        self.block, self.head = block, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Details]:
        """Predictions f[N] for rows f[N, D], and what the block returned beside its output."""
        if isinstance(self.block, ExpertBank):
            added, details = self.block(x[None])[0], None
        else:
            details = self.block(x)
            added = details.output
        return self.head(x + added).squeeze(-1), details


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    Attributes:
        steps: Batches, each of fresh rows.
        batch: Rows of one.
        learning_rate: Of Adam, decayed to zero along a half cosine.
        balance: What keeps the experts busy.
        balance_weight: Of the auxiliary losses; the step of the bias.
        z_weight: Of the z-loss, with "switch_z".
        watch_every: Steps between two looks at the load.
        test_rows: For the error at the end.
    """

    steps: int = 1000
    batch: int = 512
    learning_rate: float = 1e-2
    balance: Balance = "none"
    balance_weight: float = 1e-2
    z_weight: float = 1e-3
    watch_every: int = 20
    test_rows: int = 8192


@dataclass
class Outcome:
    """What came of it."""

    error: float
    """Mean squared test error over the target's variance: 0 is perfect, 1 is the constant."""
    dropped: float
    """Share of choices dropped on the test rows."""
    load: Tensor
    """f[E] on the test rows; empty for a dense block."""
    steps: list[int] = field(default_factory=list)
    loads: list[Tensor] = field(default_factory=list)
    """f[E] at each of ``steps``, on the training batch."""
    logit_size: float = 0.0
    """Root mean square of the router's logits on the test rows."""
    rare_error: float = 0.0
    """The error on the rarer half of the regimes."""


def train(student: Student, task: RegimeTask, recipe: Recipe, *, seed: int) -> Outcome:
    """Train in place and test.

    Args:
        student: With freshly drawn weights.
        task: Draws the rows.
        recipe: How.
        seed: Of the rows and of the router's noise.

    Raises:
        ValueError: If the recipe balances a block that has no token-choice router.
    """
    if recipe.balance != "none" and not isinstance(student.block, SparseMoE):
        raise ValueError(f"balance={recipe.balance!r} needs a SparseMoE block")
    rows = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(student.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    balancer = _balancer(student, recipe)
    outcome = Outcome(error=1.0, dropped=0.0, load=torch.empty(0))
    student.train()
    for step in range(recipe.steps):
        x, y, _ = task.draw(recipe.batch, rows)
        predicted, details = student(x)
        loss = functional.mse_loss(predicted, y) + _auxiliary(details, recipe)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if isinstance(details, SparseOutput):
            if balancer is not None:
                balancer.update(details.routing)
            if step % recipe.watch_every == 0:
                outcome.steps.append(step)
                outcome.loads.append(_load(details))
    _test(student, task, recipe, rows, outcome)
    return outcome


def _balancer(student: Student, recipe: Recipe) -> BiasBalancer | None:
    if recipe.balance != "bias" or not isinstance(student.block, SparseMoE):
        return None
    return BiasBalancer(student.block.router, step=recipe.balance_weight)


def _auxiliary(details: Details, recipe: Recipe) -> Tensor:
    """The balancing term of the loss."""
    if not isinstance(details, SparseOutput):
        return torch.zeros(())
    routing = details.routing
    if recipe.balance == "switch":
        return recipe.balance_weight * switch_loss(routing)
    if recipe.balance == "switch_z":
        return recipe.balance_weight * switch_loss(routing) + recipe.z_weight * router_z_loss(
            routing
        )
    if recipe.balance == "importance_load":
        return recipe.balance_weight * (importance_loss(routing) + load_loss(routing))
    return torch.zeros(())


@torch.no_grad()
def _test(
    student: Student,
    task: RegimeTask,
    recipe: Recipe,
    rows: torch.Generator,
    outcome: Outcome,
) -> None:
    """Fill in the outcome, in batches of the training size, on which capacity depends."""
    student.eval()
    squared, regimes, targets, dropped, loads, logits = [], [], [], [], [], []
    for _ in range(max(1, recipe.test_rows // recipe.batch)):
        x, y, regime = task.draw(recipe.batch, rows)
        predicted, details = student(x)
        squared.append((predicted - y).square())
        targets.append(y)
        regimes.append(regime)
        if isinstance(details, SparseOutput):
            dropped.append(float(details.dropped_share))
            loads.append(_load(details))
            logits.append(details.routing.logits.square().mean())
    error, y, rare = torch.cat(squared), torch.cat(targets), torch.cat(regimes)
    rare = rare >= task.n_regimes // 2
    outcome.error = float(error.mean() / y.var())
    outcome.rare_error = float(error[rare].mean() / y[rare].var()) if rare.any() else outcome.error
    if loads:
        outcome.dropped = sum(dropped) / len(dropped)
        outcome.load = torch.stack(loads).mean(dim=0)
        outcome.logit_size = float(torch.stack(logits).mean().sqrt())


def _load(details: SparseOutput) -> Tensor:
    return expert_load(details.routing.experts, details.routing.logits.shape[1])
