"""How much two tasks pull on common parameters in opposite directions.

In: a loss per task and the parameters that the tasks share. Out: the cosine between the tasks'
gradients: 1 they agree, 0 they do not care, below 0 a step for one is a step against the other.

The sign of this cosine is what gradient surgery (Yu et al., NeurIPS 2020) acts on. Here it is only
measured: architectures are to be compared by the conflict that they leave in what is shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gradient_cosine(losses: Sequence[Tensor], shared: Sequence[nn.Parameter]) -> float:
    """Cosine between the gradients of two losses over the shared parameters, taken as one vector.

    The graph is kept, so that a training step can follow. A parameter that a loss does not reach
    counts as zero.

    Args:
        losses: Two scalars.
        shared: Parameters that belong to both tasks.

    Returns:
        The cosine; 0 if one gradient vanishes.

    Raises:
        ValueError: If there are not two losses, or nothing is shared.
    """
    if len(losses) != 2 or not shared:
        raise ValueError(f"need two losses and something shared, got {len(losses)}, {len(shared)}")
    first, second = (
        torch.cat([g.reshape(-1) for g in _gradients(loss, shared)]) for loss in losses
    )
    size = first.norm() * second.norm()
    return float(first @ second / size) if float(size) > 0.0 else 0.0


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def gate_distance(gates: Tensor) -> float:
    """Mean total variation between two tasks' gates f[B, 2, E]: 0 the same mixture, 1 disjoint.

    Raises:
        ValueError: If there are not two tasks.
    """
    if gates.ndim != 3 or gates.shape[1] != 2:
        raise ValueError(f"need gates [B, 2, E] of two tasks, got {tuple(gates.shape)}")
    return float(0.5 * (gates[:, 0] - gates[:, 1]).abs().sum(dim=-1).mean())
