"""How far the sampled gradient is from the full softmax's: bias and noise by Monte Carlo.

In: fixed query vectors of training pairs and a fixed item table (a trained model's). Out: for each
estimator and batch size, relative to the size of the exact gradient on the item table:

    bias  = | E[g_sampled - g_full] | / | E[g_full] |
    noise = sqrt(E |g_sampled - g_full|^2) / sqrt(E |g_full|^2)

Both gradients of a draw are of the same batch, so that the batch's own noise cancels. The square of
the mean over n draws overestimates the squared bias by the variance over n; that is subtracted, and
``floor`` says how large a bias could be seen at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.loss import (
    full_softmax_loss,
    mixed_log_q,
    sampled_softmax_loss,
)

ESTIMATORS = (
    "in_batch",
    "in_batch_logq",
    "in_batch_logq_own_positive",
    "uniform_logq",
    "uniform_logq_own_positive",
    "mixed_logq",
    "mixed_logq_own_positive",
)


@dataclass(frozen=True)
class GradientError:
    """Relative errors of one estimator at one batch size."""

    bias: float
    noise: float
    floor: float


@dataclass(frozen=True)
class Setting:
    """What does not change between draws."""

    query: Tensor
    """[N, D] of the pairs."""
    item_idx: Tensor
    """i64[N]"""
    items: Tensor
    """[I, D]"""
    probability: Tensor
    """[I], of an in-batch draw."""
    temperature: float


def gradient_errors(
    setting: Setting, *, batch: int, draws: int, seed: int
) -> dict[str, GradientError]:
    """Errors of every estimator over the same ``draws`` batches. As many uniform draws as rows."""
    generator = torch.Generator().manual_seed(seed)
    table = setting.items.clone().requires_grad_()
    mean = {name: torch.zeros_like(setting.items) for name in (*ESTIMATORS, "full")}
    square = dict.fromkeys((*ESTIMATORS, "full"), 0.0)
    for _ in range(draws):
        rows = torch.randint(len(setting.item_idx), (batch,), generator=generator)
        uniform = torch.randint(len(table), (batch,), generator=generator)
        idx = setting.item_idx[rows]
        full = _gradient(
            full_softmax_loss(setting.query[rows], table, idx, temperature=setting.temperature),
            table,
        )
        mean["full"] += full / draws
        square["full"] += float(full.square().sum()) / draws
        for name in ESTIMATORS:
            loss = _sampled(name, setting, table, setting.query[rows], idx, uniform)
            difference = _gradient(loss, table) - full
            mean[name] += difference / draws
            square[name] += float(difference.square().sum()) / draws
    exact = float(mean["full"].norm())
    errors = {}
    for name in ESTIMATORS:
        of_mean = float(mean[name].square().sum())
        chance = max(square[name] - of_mean, 0.0) / (draws - 1)
        errors[name] = GradientError(
            bias=float(np.sqrt(max(of_mean - chance, 0.0))) / exact,
            noise=float(np.sqrt(square[name] / square["full"])),
            floor=float(np.sqrt(chance)) / exact,
        )
    return errors


def _sampled(
    name: str, setting: Setting, table: Tensor, query: Tensor, idx: Tensor, uniform: Tensor
) -> Tensor:
    """The named estimator's loss of one batch."""
    n_items, n = len(table), len(idx)
    in_batch, extra = not name.startswith("uniform"), not name.startswith("in_batch")
    if name.startswith("uniform"):
        log_q = torch.full((n_items,), -float(np.log(n_items)))
    else:
        log_q = mixed_log_q(
            setting.probability, n_in_batch=n - 1, n_uniform=n if extra else 0, n_items=n_items
        )
    corrected = name != "in_batch"
    return sampled_softmax_loss(
        query, table[idx], idx,
        temperature=setting.temperature,
        log_q=log_q[idx] if corrected else None,
        negative=table[uniform] if extra else None,
        negative_idx=uniform if extra else None,
        negative_log_q=log_q[uniform] if extra else None,
        in_batch=in_batch,
        correct_positive=not name.endswith("own_positive"),
    )  # fmt: skip


def _gradient(loss: Tensor, table: Tensor) -> Tensor:
    return torch.autograd.grad(loss, table)[0]
