"""The dense (soft) mixture of experts: every expert answers, a gate weighs the answers.

In: rows f[N, D]. Out: f[N, D] and the gates f[N, E].

Jacobs, Jordan, Nowlan, Hinton, "Adaptive Mixtures of Local Experts", Neural Computation 1991. Two
losses, and the difference is the paper's point:

    cooperative   |d - sum_i p_i o_i|^2                the sum is judged: experts repair each other
    competitive   -log sum_i p_i exp(-|d - o_i|^2 / 2)  (eq. 1.3) each is judged alone: who is
                                                       nearest gets most of the gradient

Under the cooperative loss the error of one expert changes the target of all others. Under the
competitive one an expert that already does better on a row is taught more on such rows, so experts
become local. Later mixtures (MMoE, sparse layers) train the cooperative form through a downstream
loss and get locality from hard selection instead.

Departure: experts are the two-layer networks of `experts.py`, and the mixture is a layer.

Legend: N rows, D width, H hidden width, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ml_algorithms.mixture_of_experts.experts import ExpertBank


class SoftOutput(NamedTuple):
    """What the soft mixture returns."""

    output: Tensor
    """f[N, D], the weighted sum; add it to the input for a residual block."""
    gates: Tensor
    """f[N, E], rows sum to 1."""


class SoftMoE(nn.Module):
    """All E experts for each row: E times the multiply-adds of one expert."""

    def __init__(self, *, width: int, hidden: int, n_experts: int) -> None:
        """Build E experts D -> H -> D and a linear gate.

        Raises:
            ValueError: If a size is below 1.
        """
        super().__init__()
        self.experts = ExpertBank(n_experts=n_experts, width=width, hidden=hidden)
        self.router = nn.Linear(width, n_experts, bias=False)

    def forward(self, x: Tensor) -> SoftOutput:
        """Mix the experts for rows f[N, D]."""
        gates = torch.softmax(self.router(x), dim=-1)  # [N, E]
        answers = self.expert_outputs(x)  # [E, N, D]
        return SoftOutput(torch.einsum("ne,end->nd", gates, answers), gates)

    def expert_outputs(self, x: Tensor) -> Tensor:
        """Every expert's answer to every row: f[E, N, D]."""
        answers: Tensor = self.experts(x.expand(self.experts.n_experts, -1, -1))
        return answers


def cooperative_loss(answers: Tensor, gates: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error of the mixture.

    Args:
        answers: f[E, N, D].
        gates: f[N, E].
        targets: f[N, D].
    """
    mixed = torch.einsum("ne,end->nd", gates, answers)
    return 0.5 * (targets - mixed).square().sum(dim=-1).mean()


def competitive_loss(answers: Tensor, gates: Tensor, targets: Tensor) -> Tensor:
    """Mean of ``-log sum_i p_i exp(-|d - o_i|^2 / 2)`` (Jacobs et al., eq. 1.3).

    A mixture of unit Gaussians' negative log-likelihood, less its constant. Computed by
    log-sum-exp, since far from all experts every exponential underflows.

    Args:
        answers: f[E, N, D].
        gates: f[N, E], strictly positive.
        targets: f[N, D].
    """
    distance = 0.5 * (targets - answers).square().sum(dim=-1)  # [E, N]
    return -torch.logsumexp(gates.log().T - distance, dim=0).mean()
