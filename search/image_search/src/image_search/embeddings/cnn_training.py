"""Training of the small network: epochs over pictures, by one of four losses.

In: pictures u8[n, S, S, C], classes i64[n] or None. Out: a ``Network`` in evaluation mode, and what
its training took.

    supcon   classes; two pictures of a class attract each other            (contrastive.supcon)
    proxy    classes; a picture and the learned vector of its class         (contrastive.Proxies)
    simclr   no classes; two views of one picture                           (NT-Xent)
    joint    classes and views: supcon over both views, plus NT-Xent. What the classes of training
             do not distinguish is otherwise thrown away, and a new class may need it.

All pictures are seen in the first ``warm_epochs`` and the last ``plain_epochs``. Between them an
epoch takes ``hard_share`` of the pictures: two thirds are those whose latest loss is highest, one
third is drawn from the others; time is better spent on shirts than on trousers. The latest known
loss as a measure of what to see next: I. Loshchilov and F. Hutter, "Online Batch Selection for
Faster Training of Neural Networks", 2015; they draw every batch with a probability that falls with
the rank, we choose once an epoch.

One vector serves at several lengths (``contrastive.matryoshka``). Stochastic gradient descent with
Nesterov momentum; the rate rises over the first fifth and then falls to zero in straight lines. The
last ``plain_epochs`` see pictures as they are, without shifts and blanks.

The same seed gives the same weights on the same machine, with the same versions, the same precision
and the same number of threads: sums are then added in the same order. Another machine agrees to the
noise of another seed.

Departures from SupCon and SimCLR: SGD on batches of some hundred pictures instead of thousands;
supervised losses see one view, not two, as every class is in a batch some 25 times; no projection
head is thrown away for them: the vector that is trained is the vector that searches.

Legend: n pictures, b of a batch, S side, C channels, D dimension, K classes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from image_search.config import CnnConfig
from image_search.embeddings.augment import gentle, mirrored, strong
from image_search.embeddings.cnn_network import Network, as_input, precision_of
from image_search.embeddings.contrastive import Proxies, matryoshka, supcon
from ml_platform.evaluation.progress import Progress, Step

Method = Literal["supcon", "proxy", "simclr", "joint"]
MOMENTUM = 0.9
RISE = 0.2
"""Share of the steps in which the rate rises."""


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes:
        network: In evaluation mode.
        seconds: Of the training, by the clock.
        steps: Batches seen.
        precision: "bf16" or "fp32".
        threads: Of the convolutions.
        loss: Mean of the last epoch.
    """

    network: Network
    seconds: float
    steps: int
    precision: str
    threads: int
    loss: float


def train_network(
    pictures: np.ndarray,
    labels: np.ndarray | None,
    method: Method,
    config: CnnConfig,
    seed: int,
    progress: Progress,
) -> Trained:
    """Trains from nothing.

    Args:
        pictures: u8[n, S, S, C].
        labels: i[n]; None only for "simclr".
        method: See the module.
        config: Sizes and rates.
        seed: Of weights, order and augmentation. torch's global generator is left as it was.
        progress: Told of every picture seen.

    Raises:
        ValueError: If a supervised method has no labels, or there are fewer pictures than two.
    """
    if labels is None and method != "simclr":
        raise ValueError(f"cnn_{method} learns from classes and the pictures have none; cnn_simclr")
    if len(pictures) < 2:
        raise ValueError(f"{len(pictures)} pictures to train on; at least 2")
    # Groups 0..K-1 of whatever classes there are, so that proxies are those that exist.
    group = (
        np.arange(len(pictures)) if labels is None else np.unique(labels, return_inverse=True)[1]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = Task(pictures.shape[3], int(group.max()) + 1, method, config)
    loop, started = Loop(task, pictures, torch.from_numpy(group), config, seed), time.perf_counter()
    with progress.stage(f"cnn_{method}: training", sum(loop.sizes)) as advance:
        for epoch in range(len(loop.sizes)):
            loop.epoch(epoch, advance)
    return Trained(
        network=task.network.eval(),
        seconds=time.perf_counter() - started,
        steps=loop.step,
        precision=loop.precision,
        threads=torch.get_num_threads(),
        loss=float(loop.latest[torch.isfinite(loop.latest)].mean()),
    )


class Task(nn.Module):
    """The network with whatever its loss needs besides."""

    def __init__(self, channels: int, n_classes: int, method: Method, config: CnnConfig) -> None:
        super().__init__()
        dim = config.dims[-1]
        self.network = Network(channels, config.width, dim)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method, self.config = method, config
        self.proxies = Proxies(n_classes, config.dims, config.scale) if method == "proxy" else None
        self.projections = (
            nn.ModuleList(_projection(d) for d in config.dims)
            if method in ("simclr", "joint") and config.projection
            else None
        )

    @property
    def two_views(self) -> bool:
        """Whether a batch holds every picture twice."""
        return self.method in ("simclr", "joint")

    def views(self, batch: Tensor, plain: bool, generator: Generator) -> Tensor:
        """What the network sees of a batch f32[b, C, S, S]: b pictures, or both views, 2 b."""
        config = self.config
        if self.two_views:
            both = [strong(batch, config.smallest_part, config.light, generator) for _ in range(2)]
            return torch.cat(both)
        if plain:
            return mirrored(batch, generator)
        return gentle(batch, config.shift, config.cutout, generator)

    def loss(self, vectors: Tensor, group: Tensor, number: Tensor) -> Tensor:
        """f32[rows] of vectors f32[rows, D], their groups and the numbers of their pictures."""
        config = self.config
        if self.method == "simclr":
            return self._views_agree(vectors, number)
        if self.method == "joint":
            classes = matryoshka(
                vectors, config.dims, lambda rows, _: supcon(rows, group, config.temperature)
            )
            return classes + config.views_weight * self._views_agree(vectors, number)
        if self.proxies is not None:
            proxies = self.proxies
            return matryoshka(
                vectors,
                config.dims,
                lambda rows, k: proxies(rows, group, k, config.label_smoothing),
            )
        return matryoshka(
            vectors, config.dims, lambda rows, _: supcon(rows, group, config.temperature)
        )

    def _views_agree(self, vectors: Tensor, number: Tensor) -> Tensor:
        t = self.config.views_temperature

        def loss(rows: Tensor, prefix: int) -> Tensor:
            if self.projections is not None:
                rows = functional.normalize(self.projections[prefix](rows))
            return supcon(rows, number, t)

        return matryoshka(vectors, self.config.dims, loss)


def _projection(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


class Loop:
    """Where a training stands: the rate, the order and the latest loss of every picture."""

    def __init__(
        self, task: Task, pictures: np.ndarray, group: Tensor, config: CnnConfig, seed: int
    ) -> None:
        self.task, self.pictures, self.group, self.config = task, pictures, group, config
        self.generator = Generator().manual_seed(seed)
        self.precision = precision_of(config.precision)
        n, epochs = len(pictures), config.view_epochs if task.two_views else config.epochs
        self.sizes = epoch_sizes(n, epochs, config)
        self.batch = batch_size(n, config)
        self.highest = config.learning_rate * self.batch / config.batch
        self.steps, self.step = sum(size // self.batch for size in self.sizes), 0
        self.latest = torch.full((n,), torch.inf)
        self.optimiser = torch.optim.SGD(
            _groups(task, config), lr=self.highest, momentum=MOMENTUM, nesterov=True
        )

    def epoch(self, number: int, advance: Step) -> None:
        """One pass over the pictures of this epoch; what does not fill a batch is left out."""
        self.task.train()
        plain = number >= len(self.sizes) - self.config.plain_epochs
        order = chosen(self.latest, self.sizes[number], self.generator)
        for begin in range(0, len(order) - self.batch + 1, self.batch):
            self._learn(order[begin : begin + self.batch], plain)
            advance(self.batch)

    def _learn(self, which: Tensor, plain: bool) -> None:
        """One step on the pictures at ``which`` i64[b]."""
        for part in self.optimiser.param_groups:
            part["lr"] = self.highest * rate(self.step / self.steps)
        batch = as_input(self.pictures[which.numpy()])
        seen = self.task.views(batch, plain, self.generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            vectors = self.task.network(seen.contiguous(memory_format=torch.channels_last))
        views = len(seen) // len(batch)
        loss = self.task.loss(vectors.float(), self.group[which].repeat(views), which.repeat(views))
        self.optimiser.zero_grad()
        loss.mean().backward()
        self.optimiser.step()
        self.latest[which] = loss.detach().view(views, -1).mean(dim=0)
        self.step += 1


def batch_size(n: int, config: CnnConfig) -> int:
    """b: as configured, but at most an eighth of the pictures, so that a small set has steps."""
    return min(config.batch, max(2, n // 8))


def epoch_sizes(n: int, epochs: int, config: CnnConfig) -> list[int]:
    """Pictures of each epoch: all in the first and the plain ones, ``hard_share`` between them."""
    hard = range(config.warm_epochs, epochs - config.plain_epochs)
    fewer = max(math.ceil(n * config.hard_share), min(n, batch_size(n, config)))
    return [fewer if epoch in hard else n for epoch in range(epochs)]


def chosen(latest: Tensor, size: int, generator: Generator) -> Tensor:
    """i64[size], in random order: two thirds those of the highest latest loss, the rest drawn."""
    if size == len(latest):
        return torch.randperm(size, generator=generator)
    hardest = 2 * size // 3
    ordered = latest.argsort(descending=True, stable=True)
    rest = ordered[hardest:][torch.randperm(len(latest) - hardest, generator=generator)]
    both = torch.cat([ordered[:hardest], rest[: size - hardest]])
    return both[torch.randperm(size, generator=generator)]


def _groups(task: nn.Module, config: CnnConfig) -> list[dict[str, object]]:
    """Weights decay, the normalisations' scales and shifts do not."""
    parameters = list(task.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def rate(done: float) -> float:
    """Share of the highest rate after this share of the steps."""
    return done / RISE if done < RISE else (1 - done) / (1 - RISE)
