"""Keeping the experts busy: four remedies against a router that sends everything to a few.

In: a `Routing`. Out: a scalar to add to the loss, or a bias to add to the selection.

    importance, load   Shazeer et al., ICLR 2017, eq. 6-7 and appendix A: squared coefficient of
                       variation of the summed gates, and of a smooth count of rows per expert
    Switch loss        Fedus et al., JMLR 2022, eq. 4: E sum_e f_e P_e, with f the share of rows
                       and P the mean probability
    z-loss             Zoph et al., "ST-MoE", 2022, eq. 5: mean of logsumexp(logits)^2; not for
                       balance but against logits that grow until low precision breaks
    selection bias     Wang et al., "Auxiliary-Loss-Free Load Balancing", 2024; DeepSeek-V3: a bias
                       per expert that changes the choice only, moved by a fixed step after each
                       batch. No gradient is bent towards balance

Why a collapse happens at all: the chosen expert is trained, hence better, hence chosen. Nothing in
the task's loss objects to experts that are never used.

Legend: N rows, E experts, k choices per row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ml_algorithms.mixture_of_experts.sparse import Router, Routing, expert_load


def squared_variation(values: Tensor) -> Tensor:
    """Squared coefficient of variation, ``var / mean^2``, with the population variance.

    Raises:
        ValueError: If there is nothing to vary (no values).
    """
    if values.numel() == 0:
        raise ValueError("the coefficient of variation of no values is undefined")
    return values.var(unbiased=False) / (values.mean().square() + 1e-10)


def importance_loss(routing: Routing) -> Tensor:
    """Variation of the experts' summed weights; 0 if all weigh alike (Shazeer, eq. 6-7).

    Equal importance is not equal load: one expert may have a few rows with large weights and
    another many with small ones. Hence the load loss beside it.
    """
    gates = torch.zeros_like(routing.logits).scatter(1, routing.experts, routing.weights)
    return squared_variation(gates.sum(dim=0))


def load_loss(routing: Routing) -> Tensor:
    """Variation of a smooth number of rows per expert (Shazeer, appendix A, eq. 8-10).

    A count has no gradient. The probability, over a fresh draw of expert e's own noise, that e is
    among the k best has one:  P(x, e) = Phi((clean_e - k-th largest of the others) / scale_e).

    Raises:
        ValueError: If the routing had no noise, which the probability is over, or k = E.
    """
    if routing.noise_scale is None:
        raise ValueError("the load loss needs a noisy router in training mode (noisy=True)")
    k, n_experts = routing.experts.shape[1], routing.logits.shape[1]
    if k == n_experts:
        raise ValueError(f"with k = E = {k} every expert is always chosen; there is no load")
    best = torch.topk(routing.noisy_logits, k + 1).values  # [N, k + 1]
    chosen = torch.zeros_like(routing.logits, dtype=torch.bool).scatter(1, routing.experts, True)
    # Without itself, a chosen expert must beat the (k+1)-th of all; another one the k-th.
    threshold = torch.where(chosen, best[:, k : k + 1], best[:, k - 1 : k])
    deviations = (routing.logits - threshold) / routing.noise_scale
    return squared_variation(torch.special.ndtr(deviations).sum(dim=0))


def switch_loss(routing: Routing) -> Tensor:
    """E sum_e f_e P_e; 1 under an even load, E when one expert takes all (Switch, eq. 4).

    f (the share of choices) is a constant to the gradient; P carries it, so the loss pushes
    probability away from each expert in proportion to how many rows it got.
    """
    n_experts = routing.logits.shape[1]
    share = expert_load(routing.experts, n_experts).to(routing.logits.dtype)
    return n_experts * (share * routing.probabilities.mean(dim=0)).sum()


def router_z_loss(routing: Routing) -> Tensor:
    """Mean squared log-sum-exp of the clean logits (ST-MoE, eq. 5).

    Softmax ignores a constant added to all logits; float16 and bfloat16 do not. This is what ties
    the logits to where numbers are dense.
    """
    return torch.logsumexp(routing.logits, dim=-1).square().mean()


class BiasBalancer:
    """DeepSeek's bias: after each batch, up by ``step`` where an expert was short of rows.

    The bias is no parameter and gets no gradient. It acts on the ranking alone, so the loss of the
    task stays the only thing that shapes the weights.
    """

    def __init__(self, router: Router, *, step: float = 1e-3) -> None:
        """Balance ``router`` (its ``selection_bias``) by ``step`` per batch.

        Raises:
            ValueError: If the step is not positive.
        """
        if step <= 0.0:
            raise ValueError(f"the step must be positive, got {step}")
        self.router, self.step = router, step

    @torch.no_grad()
    def update(self, routing: Routing) -> None:
        """Move every expert's bias by one step towards an even load."""
        n_experts = routing.logits.shape[1]
        load = expert_load(routing.experts, n_experts)
        self.router.selection_bias += self.step * torch.sign(1.0 / n_experts - load)


def effective_experts(load: Tensor) -> Tensor:
    """Exponential of the load's entropy, between 1 (one takes all) and E (even).

    Args:
        load: f[E], non-negative, not all zero; scaled to sum to 1.

    Raises:
        ValueError: If the load is all zero.
    """
    if not bool((load > 0).any()):
        raise ValueError("no expert has any load")
    share = load / load.sum()
    return torch.exp(-torch.xlogy(share, share).sum())
