"""Expert choice: each expert picks its rows, so that the load is even by construction.

In: rows f[N, D]. Out: f[N, D] and who picked whom.

Zhou et al., "Mixture-of-Experts with Expert Choice Routing", NeurIPS 2022, section 3.2:
S = softmax over experts of x W; every expert takes the C = N c / E rows with its largest S, c
being the mean number of experts per row. The load needs no loss and nothing overflows. Instead a
row may get no expert, or several.

Two things that it costs. Which rows an expert takes depends on the other rows of the batch: a
sequence model that picks over positions lets a token's fate depend on tokens after it, which at
generation time do not exist yet. And an answer changes with the company it is computed in, as it
does for token choice under capacity.

Departure: no cap on experts per row (the paper's section 3.3 adds one by linear programming).

Legend: N rows, D width, H hidden width, E experts, C rows per expert.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.sparse import capacity


class ExpertChoiceOutput(NamedTuple):
    """What the layer returns."""

    output: Tensor
    """f[N, D]; zero for a row that nobody picked. Add it to the input."""
    picked: Tensor
    """i64[E, C], the rows of each expert, its best first."""
    weights: Tensor
    """f[E, C], what multiplied them."""

    def experts_per_row(self) -> Tensor:
        """i64[N]: how many experts picked each row."""
        return torch.bincount(self.picked.reshape(-1), minlength=self.output.shape[0])


class ExpertChoiceMoE(nn.Module):
    """Experts pick rows; 2 c D H + D E multiply-adds per row on average."""

    def __init__(
        self, *, width: int, hidden: int, n_experts: int, experts_per_row: float = 1.0
    ) -> None:
        """Build router and experts.

        Args:
            width: D.
            hidden: H, of one expert.
            n_experts: E.
            experts_per_row: c, the mean; an expert takes ceil(c N / E) rows.

        Raises:
            ValueError: If a size is below 1, or c lies outside (0, E].
        """
        super().__init__()
        if not 0.0 < experts_per_row <= n_experts:
            raise ValueError(f"experts_per_row must lie in (0, {n_experts}], got {experts_per_row}")
        self.router = nn.Linear(width, n_experts, bias=False)
        self.experts = ExpertBank(n_experts=n_experts, width=width, hidden=hidden)
        self.experts_per_row = experts_per_row

    def forward(self, x: Tensor) -> ExpertChoiceOutput:
        """Let every expert pick among rows f[N, D]."""
        n_rows, n_experts = x.shape[0], self.experts.n_experts
        scores = torch.softmax(self.router(x), dim=-1)  # [N, E], over experts
        places = min(n_rows, capacity(n_rows, n_experts, 1, self.experts_per_row))
        weights, picked = torch.topk(scores.T, places)  # [E, C]
        answers = self.experts(x[picked]) * weights[:, :, None]  # [E, C, D]
        output = torch.zeros_like(x).index_add(0, picked.reshape(-1), answers.flatten(0, 1))
        return ExpertChoiceOutput(output, picked, weights)
