"""Training of the ranking network with PyTorch Lightning.

In: ``Sequences`` and which of their rows train and validate. Out: the network with the weights of
the epoch that predicts the validation days best, and the losses of every epoch.

The loss is a sum over tasks, each brought to about the same size by its weight:

    binary cross-entropy   long_view 1, like 1, skip 1
    Huber, delta 0.25      watch 6 (a quantile: its squares are small)
    squared error          diversity 2
    intra-list             diversity_weight * mean over sessions of sum_{i != j} w_i w_j cos(i, j),
                           w = softmax of the predicted values within the session
    state alone            state_weight * the same task losses of logits that read only state and
                           item: what the user vector and the cross features already explain has no
                           gradient left in the first loss, and the state would learn nothing

The last term punishes a ranker that gives the top of one session to videos that look alike. It is
the expectation of the intra-list similarity of Ziegler et al., "Improving Recommendation Lists
Through Topic Diversification" (WWW 2005, section 3.3) for two places drawn from w, and is
differentiable: over unit vectors it equals |sum_i w_i c_i|^2 - sum_i w_i^2.

AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019), a warm-up over
the first 5% of the steps and a cosine down to zero. Few epochs: models with id embeddings fit the
training rows quickly and forecast worse after the first pass or two (Zhang et al., "Towards
Understanding the Overfitting Phenomenon of Deep Click-Through Rate Prediction Models", CIKM 2022),
hence the dropout of ids and the choice of the epoch by the validation days.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_platform.evaluation.progress import Progress, Step
from shorts_recommendation.ranking.heads import BINARY, TASKS
from shorts_recommendation.ranking.network import RankingNetwork
from shorts_recommendation.ranking.window_batches import WindowBatch, WindowLoader

TASK_WEIGHT = {"long_view": 1.0, "watch": 6.0, "like": 1.0, "skip": 1.0, "diversity": 2.0}
HUBER_DELTA = 0.25
WARM_UP = 0.05
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Epoch:
    """What one pass did.

    Attributes:
        number: 0-based.
        train: Mean loss over its steps, dropout on.
        validation: Task -> mean loss on the validation rows; "total" is their weighted sum.
    """

    number: int
    train: float
    validation: dict[str, float]


class RankingModule(pl.LightningModule):
    """The network with its losses and its optimiser, as Lightning wants them."""

    def __init__(
        self,
        network: RankingNetwork,
        *,
        learning_rate: float,
        weight_decay: float,
        diversity_weight: float,
        state_weight: float,
        value_weights: dict[str, float],
        n_steps: int,
        advance: Step,
    ) -> None:
        super().__init__()
        self.network, self.advance = network, advance
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.diversity_weight, self.n_steps = diversity_weight, n_steps
        self.state_weight = state_weight
        self.value_weights = torch.tensor([value_weights.get(task, 0.0) for task in TASKS])
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self._train: list[float] = []
        self._validation: list[tuple[int, Tensor]] = []

    def training_step(self, batch: WindowBatch, _: int) -> Tensor:
        """Loss of a batch."""
        state, item = window_states(self.network, batch)
        logits = self.network.logits(state, batch.user, batch.context, item, batch.cross)
        loss = (task_losses(logits, batch.labels) * _weights()).sum()
        if self.state_weight > 0:
            alone = task_losses(self.network.state_logits(state, item), batch.labels)
            loss = loss + self.state_weight * (alone * _weights()).sum()
        if self.diversity_weight > 0:
            value = head_outputs(logits) @ self.value_weights
            loss = loss + self.diversity_weight * intra_list_similarity(value, batch)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss became {loss.item()} after {len(self._train)} steps of an epoch; "
                "lower ranking.learning_rate or look for infinite features"
            )
        self._train.append(float(loss.detach()))
        return loss

    def transfer_batch_to_device(self, batch: WindowBatch, *_: Any) -> WindowBatch:
        """Everything is on the CPU already, and a frozen batch cannot be moved in place."""
        return batch

    def on_train_batch_end(self, *_: Any) -> None:
        """Tells the progress display."""
        self.advance(1)

    def validation_step(self, batch: WindowBatch, _: int) -> None:
        """Losses of a validation batch."""
        logits = window_logits(self.network, batch)
        self._validation.append((len(batch.at), task_losses(logits, batch.labels)))

    def on_validation_epoch_end(self) -> None:
        """Keeps the weights if no epoch before was better."""
        n = torch.tensor([float(size) for size, _ in self._validation])
        mean = (torch.stack([loss for _, loss in self._validation]) * n[:, None]).sum(0) / n.sum()
        losses = dict(zip(TASKS, mean.tolist(), strict=True))
        losses["total"] = float((mean * _weights()).sum())
        if all(losses["total"] < epoch.validation["total"] for epoch in self.epochs):
            state = self.network.state_dict()
            self.best = {name: value.detach().clone() for name, value in state.items()}
        self.epochs.append(Epoch(len(self.epochs), float(np.mean(self._train)), losses))
        self._train, self._validation = [], []

    def configure_optimizers(self) -> Any:
        """AdamW; embeddings, biases and norms are not decayed."""
        decayed = list(_matrices(self.network))
        ids = {id(p) for p in decayed}
        rest = [p for p in self.network.parameters() if id(p) not in ids]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_share(step, self.n_steps)
        )
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]


def train(
    network: RankingNetwork,
    loader: WindowLoader,
    validation: WindowLoader,
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    diversity_weight: float,
    state_weight: float,
    value_weights: dict[str, float],
    seed: int,
    threads: int,
    progress: Progress,
) -> list[Epoch]:
    """Trains in place and leaves the best epoch's weights; see the module's docstring.

    Raises:
        ValueError: If there is nothing to train or validate on, or the loss diverges.
        KeyboardInterrupt: If interrupted; the network is then to be thrown away.
    """
    if not len(loader) or not len(validation):
        raise ValueError(f"{len(loader)} training and {len(validation)} validation batches")
    n_steps = epochs * len(loader)
    with progress.stage("Ranker: transformer", n_steps) as advance, _quiet(seed, threads):
        module = RankingModule(
            network,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            diversity_weight=diversity_weight,
            state_weight=state_weight,
            value_weights=value_weights,
            n_steps=n_steps,
            advance=advance,
        )
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=LARGEST_GRADIENT,
        )
        trainer.fit(module, loader, validation)
        if trainer.interrupted:
            raise KeyboardInterrupt
    network.load_state_dict(module.best)
    network.eval()
    return module.epochs


def window_states(network: RankingNetwork, batch: WindowBatch) -> tuple[Tensor, Tensor]:
    """State before each predicted row and its item, f32[R, d] each."""
    vectors = network.items(batch.video, batch.content)
    items = vectors[batch.place]  # [B, W, d]
    states = network.encoder(items, batch.events)[:, :-1]  # after t events: before event t + 1
    width = items.shape[-1]
    return states.reshape(-1, width)[batch.at], items.reshape(-1, width)[batch.at]


def window_logits(network: RankingNetwork, batch: WindowBatch) -> Tensor:
    """Logits f32[R, 5] of the predicted rows, each from the state before it."""
    state, item = window_states(network, batch)
    return network.logits(state, batch.user, batch.context, item, batch.cross)


def head_outputs(logits: Tensor) -> Tensor:
    """Predictions f32[..., 5] in the units of the labels (heads.TASKS)."""
    return torch.cat([torch.sigmoid(logits[..., :-1]), 2 * torch.sigmoid(logits[..., -1:])], dim=-1)


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of each task, f32[5]; rows without a label do not count for that task."""
    outputs = head_outputs(logits)
    losses = []
    for column, task in enumerate(TASKS):
        label, output = labels[:, column], outputs[:, column]
        if task in BINARY:
            loss = functional.binary_cross_entropy_with_logits(logits[:, column], label)
        elif task == "watch":
            loss = functional.huber_loss(output, label, delta=HUBER_DELTA)
        else:
            has = torch.isfinite(label)
            loss = ((output - label)[has] ** 2).sum() / has.sum().clamp(min=1)
        losses.append(loss)
    return torch.stack(losses)


def intra_list_similarity(value: Tensor, batch: WindowBatch) -> Tensor:
    """Mean over sessions of sum_{i != j} w_i w_j cos(i, j), w the softmax of the values f32[R]."""
    n = int(batch.session.max()) + 1
    weight = torch.exp(value - value.detach().max())
    total = torch.zeros(n).index_add(0, batch.session, weight)
    weight = weight / total[batch.session]
    content = batch.content[batch.place.reshape(-1)[batch.at]]
    mean = torch.zeros(n, content.shape[1]).index_add(0, batch.session, weight[:, None] * content)
    own = torch.zeros(n).index_add(0, batch.session, weight**2)  # content rows have length 1
    return ((mean**2).sum(dim=1) - own).mean()


def learning_rate_share(step: int, n_steps: int) -> float:
    """Of the peak: linear warm-up, then half a cosine down to zero."""
    warm = max(1, round(WARM_UP * n_steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, n_steps - warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _weights() -> Tensor:
    return torch.tensor([TASK_WEIGHT[task] for task in TASKS])


def _matrices(network: RankingNetwork) -> Iterator[Tensor]:
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            yield module.weight
        elif isinstance(module, torch.nn.MultiheadAttention):
            yield module.in_proj_weight


@contextmanager
def _quiet(seed: int, threads: int) -> Iterator[None]:
    """Seeded, on so many threads, without Lightning's chatter; everything is put back after."""
    before = torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
