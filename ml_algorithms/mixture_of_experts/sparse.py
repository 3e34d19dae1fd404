"""The sparse mixture of experts: a router picks k of E experts for each row, the rest do not run.

In: rows f[N, D]. Out: f[N, D], the routing, and which choices found a place.

Three papers, one layer:

    noisy top-k     Shazeer et al., ICLR 2017, eq. 3-5: logits + N(0,1) softplus(x W_noise), keep
                    the k largest, softmax over those k
    Switch          Fedus et al., JMLR 2022, eq. 1-2: softmax over all experts, take the largest,
                    weigh its output with that probability
    capacity        GShard, ICLR 2021, and Switch, eq. 3: an expert takes at most
                    C = ceil(factor k N / E) rows; a row that finds no place is *dropped*: the
                    layer adds nothing to it, and the residual connection carries it on

The weight is what lets the router learn: choosing is a step function without a gradient, so the
only path from the loss to the router is through the number that multiplies an expert's output.

Departures: the selection bias is added to softmax probabilities (DeepSeek-V3: to sigmoid
affinities); the batch is one group (GShard divides it); experts run on ragged groups of rows, not
in buckets padded to C, since a CPU gains nothing from padding (`counting.py` counts both).

Legend: N rows (tokens), D width, E experts, k experts per row, C capacity.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_algorithms.mixture_of_experts.experts import ExpertBank

Gating = Literal["all", "chosen"]


class Routing(NamedTuple):
    """Which experts each row chose, before capacity."""

    experts: Tensor
    """i64[N, k], best first."""
    weights: Tensor
    """f[N, k], what multiplies each chosen expert's output."""
    logits: Tensor
    """f[N, E], without noise: what the z-loss limits."""
    noisy_logits: Tensor
    """f[N, E], what was ranked; equal to ``logits`` where there is no noise."""
    noise_scale: Tensor | None
    """f[N, E], the standard deviation of the noise; None where there is none."""

    @property
    def probabilities(self) -> Tensor:
        """f[N, E]: softmax of the clean logits, what the balancing losses see."""
        return torch.softmax(self.logits, dim=-1)


class SparseOutput(NamedTuple):
    """What the layer returns."""

    output: Tensor
    """f[N, D]; zero where every choice was dropped. Add it to the input."""
    routing: Routing
    kept: Tensor
    """bool[N, k]: the choice found a place within its expert's capacity."""

    @property
    def dropped_share(self) -> Tensor:
        """Share of the N k choices that were dropped, a scalar."""
        return 1.0 - self.kept.float().mean()


class Router(nn.Module):
    """A linear router with optional noise and an optional selection bias."""

    selection_bias: Tensor

    def __init__(
        self, *, width: int, n_experts: int, k: int, gating: Gating = "all", noisy: bool = False
    ) -> None:
        """Build the router.

        Args:
            width: D.
            n_experts: E.
            k: Experts per row, 1 <= k <= E.
            gating: "all": softmax over all experts, then take k (Switch). "chosen": softmax over
                the k chosen logits (Shazeer, Mixtral); weights sum to 1.
            noisy: Whether trained noise is added to the ranking while training.

        Raises:
            ValueError: If k is out of range, or k = 1 with gating "chosen": the one weight would be
                the constant 1, and the router would get no gradient.
        """
        super().__init__()
        if not 1 <= k <= n_experts:
            raise ValueError(f"k must lie in 1..{n_experts} (the experts), got {k}")
        if k == 1 and gating == "chosen":
            raise ValueError(
                "k=1 with gating='chosen' weighs the one expert with the constant 1, so the router "
                "gets no gradient; use gating='all' (Switch)"
            )
        self.k, self.gating = k, gating
        self.linear = nn.Linear(width, n_experts, bias=False)
        self.noise = nn.Linear(width, n_experts, bias=False) if noisy else None
        if self.noise is not None:
            nn.init.zeros_(self.noise.weight)  # as Shazeer et al.: every expert starts alike
        self.register_buffer("selection_bias", torch.zeros(n_experts))

    def forward(self, x: Tensor) -> Routing:
        """Choose k experts for rows f[N, D]."""
        logits = self.linear(x)
        ranked, scale = logits, None
        if self.noise is not None and self.training:
            scale = functional.softplus(self.noise(x)) + 1e-2  # a floor: the load divides by it
            ranked = logits + torch.randn_like(logits) * scale
        # The bias decides who is chosen and never how much the chosen one counts (DeepSeek-V3).
        scores = torch.softmax(ranked, dim=-1)
        experts = torch.topk(scores + self.selection_bias, self.k).indices
        weights = scores.gather(1, experts)
        if self.gating == "chosen":  # softmax over the chosen logits is this quotient
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(experts, weights, logits, ranked, scale)


class SparseMoE(nn.Module):
    """Sparse mixture: 2 k D H + D E multiply-adds per row, however many experts there are."""

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        n_experts: int,
        k: int,
        gating: Gating = "all",
        noisy: bool = False,
        capacity_factor: float | None = None,
    ) -> None:
        """Build router and experts.

        Args:
            width: D.
            hidden: H, of one expert.
            n_experts: E.
            k: Experts per row.
            gating: See `Router`.
            noisy: See `Router`.
            capacity_factor: Places per expert as a multiple of the even share k N / E; None: no
                limit, nothing is dropped.

        Raises:
            ValueError: If a size is out of range or the factor is not positive.
        """
        super().__init__()
        if capacity_factor is not None and capacity_factor <= 0.0:
            raise ValueError(f"capacity_factor must be positive or None, got {capacity_factor}")
        self.router = Router(width=width, n_experts=n_experts, k=k, gating=gating, noisy=noisy)
        self.experts = ExpertBank(n_experts=n_experts, width=width, hidden=hidden)
        self.capacity_factor = capacity_factor

    def forward(self, x: Tensor) -> SparseOutput:
        """Route rows f[N, D] and mix the chosen experts' outputs."""
        routing: Routing = self.router(x)
        kept = self._kept(routing.experts)
        order = DispatchOrder.of(routing.experts, kept, self.experts.n_experts)
        answers = self.experts.grouped(x[order.rows], order.counts)
        return SparseOutput(order.combine(answers, routing.weights, x), routing, kept)

    def _kept(self, experts: Tensor) -> Tensor:
        if self.capacity_factor is None:
            return torch.ones_like(experts, dtype=torch.bool)
        places = capacity(
            experts.shape[0], self.experts.n_experts, experts.shape[1], self.capacity_factor
        )
        return within_capacity(experts, self.experts.n_experts, places)


class DispatchOrder(NamedTuple):
    """The kept choices, sorted by expert: what is sent where, and how it comes back."""

    rows: Tensor
    """i64[M]: the row behind each kept choice."""
    choices: Tensor
    """i64[M]: which of the row's k choices it was."""
    counts: list[int]
    """Rows for each of the E experts; sums to M."""

    @classmethod
    def of(cls, experts: Tensor, kept: Tensor, n_experts: int) -> DispatchOrder:
        """Sort the kept choices of ``experts`` i64[N, k] by expert, stable in the row."""
        rows, choices = kept.nonzero(as_tuple=True)
        chosen = experts[rows, choices]
        order = torch.argsort(chosen, stable=True)
        counts = torch.bincount(chosen, minlength=n_experts).tolist()
        return cls(rows[order], choices[order], counts)

    def combine(self, answers: Tensor, weights: Tensor, x: Tensor) -> Tensor:
        """Weigh answers f[M, D] and add each to its row: f[N, D], zero where nothing came back."""
        weighted = answers * weights[self.rows, self.choices][:, None]
        return torch.zeros_like(x).index_add(0, self.rows, weighted)


def capacity(n_rows: int, n_experts: int, k: int, factor: float) -> int:
    """Places per expert, ``ceil(factor k N / E)``, at least 1.

    Raises:
        ValueError: If the factor is not positive.
    """
    if factor <= 0.0:
        raise ValueError(f"the capacity factor must be positive, got {factor}")
    # 1e-9 keeps 1.1 * 10 (11.000000000000002 in binary) from costing a twelfth place.
    return max(1, math.ceil(factor * k * n_rows / n_experts - 1e-9))


def within_capacity(experts: Tensor, n_experts: int, places: int) -> Tensor:
    """Which choices find a place, in order of arrival: bool[N, k].

    All first choices are seated before any second choice (GShard, Algorithm 1), and among equals
    the earlier row wins: that is why a row's fate depends on its batch.

    Args:
        experts: i64[N, k].
        n_experts: E.
        places: C.
    """
    arrivals = functional.one_hot(experts.T.reshape(-1), n_experts)  # [k N, E], choice-major
    position = ((arrivals.cumsum(dim=0) - 1) * arrivals).sum(dim=1)
    return (position < places).view(experts.shape[1], -1).T


def expert_load(experts: Tensor, n_experts: int) -> Tensor:
    """Share of all choices that went to each expert, f[E]; sums to 1."""
    return torch.bincount(experts.reshape(-1), minlength=n_experts) / experts.numel()
