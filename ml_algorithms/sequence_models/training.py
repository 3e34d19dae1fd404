"""One training loop for both networks and all losses, with early stopping on a ranking metric.

In: ``Windows`` and a model with ``forward(items, times) -> states`` and ``catalogue()``. Out: the
model with the weights of its best epoch, and a ``TrainReport``.

Every position of every window is a target (Kang and McAuley 2018, section III.E). Negatives: up to
``OWN_NEGATIVES`` each position draws its own, as SASRec and gSASRec do; more are drawn once for a
sequence and shared by its positions. Sharing has the same expectation and costs a [B, M, D] gather
where the other costs [B, L, M, D], but L positions that all push the same few items away make a
noisier step, so it is for large M only. A drawn item that is the position's target is taken out;
other items of the user are not, as in gSASRec (the original SASRec excludes them).

Binary losses start at the prior (``losses.prior_logit``), which the papers do not.

Legend: B batch, L positions, M negatives, D width, I items.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ml_algorithms.sequence_models.losses import (
    beta_of,
    full_softmax_loss,
    gbce_loss,
    prior_logit,
    sampled_softmax_loss,
)
from ml_algorithms.sequence_models.sequences import Windows

OWN_NEGATIVES = 16
Loss = Literal["full_softmax", "sampled_softmax", "gbce", "bce"]


class SequenceModel(Protocol):
    """What ``SASRec`` and ``HSTU`` have in common."""

    n_items: int
    max_length: int
    item_embedding: nn.Embedding

    def __call__(self, items: Tensor, times: Tensor | None = None) -> Tensor:
        """States f32[B, L, D]."""

    def catalogue(self) -> Tensor:
        """Item embeddings f32[I, D]."""


class TrainSettings(BaseModel):
    """How one model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = "full_softmax"
    negatives: int = Field(default=128, ge=1)
    t: float = Field(default=0.75, ge=0.0, le=1.0, description="gBCE's calibration")
    shared: bool | None = Field(
        default=None, description="one set of negatives a sequence; None: above OWN_NEGATIVES"
    )
    start_at_prior: bool = Field(default=True, description="of the binary losses")
    sampler: Literal["uniform", "popularity"] = "uniform"
    log_q: bool = True
    learning_rate: float = Field(default=5e-3, gt=0, description="the highest")
    batch_size: int = Field(default=16, ge=1)
    max_epochs: int = Field(default=10, ge=1, description="the learning rate falls to 0 over them")
    patience: int = Field(default=6, ge=1, description="epochs without a better score")

    def beta(self, n_items: int) -> float:
        """Weight of the target in a binary loss; 1 for plain BCE."""
        return beta_of(self.negatives, n_items, self.t if self.loss == "gbce" else 0.0)

    def offset(self, n_items: int) -> float:
        """What is added to a score before a binary loss, hence before sigma."""
        return prior_logit(self.negatives, self.beta(n_items)) if self.start_at_prior else 0.0


@dataclass(frozen=True)
class TrainReport:
    """What happened.

    Attributes:
        epochs: Epochs run.
        best_epoch: Whose weights the model has now (1 is the first).
        best_score: Its validation score.
        losses: Mean training loss of each epoch.
        scores: Validation score of each epoch.
        seconds: Wall time, validation included.
    """

    epochs: int
    best_epoch: int
    best_score: float
    losses: list[float]
    scores: list[float]
    seconds: float


def fit(
    model: nn.Module,
    windows: Windows,
    settings: TrainSettings,
    validate: Callable[[], float],
    *,
    seed: int = 0,
) -> TrainReport:
    """Adam over a falling learning rate; the weights of the best validation are put back.

    Args:
        model: A ``SequenceModel``; trained in place.
        windows: Training rectangles, L at most the model's.
        settings: Loss and knobs.
        validate: Called with the model in evaluation mode; higher is better.
        seed: Of the order of batches, of the negatives and of dropout. The model's start is the
            caller's (``torch.manual_seed`` before it is made).
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    sampler = NegativeSampler(windows, settings, seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98))
    n_steps = settings.max_epochs * -(-len(windows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: triangle(step, n_steps))
    best, best_epoch, best_score = copy.deepcopy(model.state_dict()), 0, -np.inf
    losses: list[float] = []
    scores: list[float] = []
    for epoch in range(1, settings.max_epochs + 1):
        losses.append(_one_epoch(model, windows, settings, sampler, optimiser, schedule))
        model.eval()
        scores.append(validate())
        if scores[-1] > best_score:
            best, best_epoch, best_score = copy.deepcopy(model.state_dict()), epoch, scores[-1]
        elif len(scores) - 1 - int(np.argmax(scores)) >= settings.patience:
            break
    model.load_state_dict(best)
    model.eval()
    seconds = time.perf_counter() - started
    return TrainReport(len(losses), best_epoch, float(best_score), losses, scores, seconds)


def _one_epoch(
    model: nn.Module,
    windows: Windows,
    settings: TrainSettings,
    sampler: NegativeSampler,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """All windows once in random order; the mean loss over batches."""
    model.train()
    order = sampler.rng.permutation(len(windows))
    total, n_batches = 0.0, 0
    for begin in range(0, len(order), settings.batch_size):
        rows = order[begin : begin + settings.batch_size]
        items, times = torch.from_numpy(windows.items[rows]), torch.from_numpy(windows.times[rows])
        loss = batch_loss(model, items, times, settings, sampler)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        total, n_batches = total + float(loss.detach()), n_batches + 1
    return total / n_batches


def triangle(step: int, n_steps: int) -> float:
    """Share of the highest learning rate: up over the first tenth, then down in a line to 0.

    A short schedule that ends at 0 reaches in ten epochs what a constant rate needs thirty for.
    """
    warm = max(n_steps // 10, 1)
    return min((step + 1) / warm, max(n_steps - step, 0) / max(n_steps - warm, 1))


def batch_loss(
    model: nn.Module,
    items: Tensor,
    times: Tensor,
    settings: TrainSettings,
    sampler: NegativeSampler,
) -> Tensor:
    """The loss of all targets of B windows: items and times i64[B, L+1]."""
    states = model(items[:, :-1], times)  # [B, L, D]
    target, real = items[:, 1:], items[:, :-1] < sampler.n_items
    if settings.loss == "full_softmax":
        return full_softmax_loss(states[real], model.catalogue(), target[real])  # type: ignore[operator]
    drawn = sampler.draw(target)  # [B, L or 1, M]
    embedding: nn.Embedding = model.item_embedding  # type: ignore[assignment]
    positive = (states * embedding(target)).sum(dim=-1)[real]
    if sampler.shared:
        negative = states @ embedding(drawn[:, 0]).transpose(1, 2)  # [B, L, M]
    else:
        negative = (embedding(drawn) @ states[..., None]).squeeze(-1)
    negative = negative.masked_fill(drawn == target[..., None], float("-inf"))[real]
    if settings.loss == "sampled_softmax":
        log_q = sampler.log_q[drawn].expand(*target.shape, -1)[real] if settings.log_q else None
        return sampled_softmax_loss(positive, negative, log_q)
    offset = settings.offset(sampler.n_items)
    return gbce_loss(positive + offset, negative + offset, beta=settings.beta(sampler.n_items))


class NegativeSampler:
    """Draws items, uniformly or in proportion to how often they are targets.

    Attributes:
        n_items: I.
        log_q: Log-probability of one draw f32[I].
        rng: Also orders the batches.
    """

    def __init__(self, windows: Windows, settings: TrainSettings, seed: int) -> None:
        self.n_items, self.n_negatives = windows.n_items, settings.negatives
        shared = settings.shared
        self.shared = self.n_negatives > OWN_NEGATIVES if shared is None else shared
        self.rng = np.random.default_rng(seed)
        weights = np.ones(windows.n_items)
        if settings.sampler == "popularity":
            targets = windows.items[:, 1:]
            # Plus one: an item that is never a target would otherwise never be pushed down.
            weights += np.bincount(targets[targets < windows.n_items], minlength=windows.n_items)
        self.cumulative = np.cumsum(weights / weights.sum())
        self.log_q = torch.from_numpy(np.log(weights / weights.sum()).astype(np.float32))

    def draw(self, target: Tensor) -> Tensor:
        """Items i64[B, L, M], or i64[B, 1, M] where the sequence's positions share them."""
        batch, length = target.shape
        draws = self.rng.random((batch, 1 if self.shared else length, self.n_negatives))
        drawn = np.searchsorted(self.cumulative, draws, side="right")
        return torch.from_numpy(np.minimum(drawn, self.n_items - 1))
