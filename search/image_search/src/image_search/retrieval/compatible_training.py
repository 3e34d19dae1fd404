"""A short training of the embedding network, alone or so that it fits an old model's vectors.

In: pictures u8[n, S, S, C] and classes. Out: a function from pictures to unit vectors f32[m, D].

Backward-compatible training: Y. Shen, Y. Xiong, W. Xia, S. Soatto, "Towards Backward-Compatible
Representation Learning", CVPR 2020. To the new model's own loss comes the *influence
loss*: the old model's classifier, frozen, must classify the new model's vectors. New vectors of a
class so come to lie where old vectors of the class are, and the two can be compared.

Departures: the own loss is SupCon (embeddings/contrastive.py), which leaves no classifier behind;
in its place stand the old model's class means brought to length 1, as a cosine softmax. Only the
full length is trained, no prefixes; no cut-outs and no averaging: this is a study of compatibility,
and all models are weaker than the one that serves.

Legend: n, m pictures, S side, C channels, D dimension, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from image_search.config import CnnConfig
from image_search.embeddings.augment import mirrored
from image_search.embeddings.base import unit_rows
from image_search.embeddings.cnn_network import Network, as_input
from image_search.embeddings.contrastive import supcon
from ml_platform.evaluation.progress import Progress

Model = Callable[[np.ndarray], np.ndarray]
"""Pictures u8[m, S, S, C] to f32[m, D] of length 1."""
EMBED_BATCH = 256
MOMENTUM = 0.9


def train_model(
    pictures: np.ndarray,
    labels: np.ndarray,
    config: CnnConfig,
    *,
    epochs: int,
    batch: int,
    seed: int,
    progress: Progress,
    old_means: np.ndarray | None = None,
    influence: float = 1.0,
    what: str = "model",
) -> Model:
    """Trains from nothing by SupCon, with the influence loss where there are old class means.

    Args:
        pictures: u8[n, S, S, C].
        labels: i[n], 0..K-1.
        config: Width, dimension, rates, temperature.
        epochs: Passes over the pictures.
        batch: Of the steps; the rate falls to zero in a straight line over them.
        seed: Of weights and order.
        progress: Told of every picture.
        old_means: f32[K, D] of length 1; None: the model is independent.
        influence: Weight of the influence loss.
        what: In progress.

    Raises:
        ValueError: If old means do not fit D, or there are fewer pictures than a batch.
    """
    dim = config.dims[-1]
    if old_means is not None and old_means.shape[1] != dim:
        raise ValueError(f"old means of {old_means.shape[1]} numbers, new vectors of {dim}")
    if len(pictures) < batch:
        raise ValueError(f"{len(pictures)} pictures are less than a batch of {batch}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(pictures.shape[3], config.width, dim)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    means = None if old_means is None else torch.from_numpy(old_means)
    group = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=config.weight_decay,
    )
    steps = epochs * (len(pictures) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=steps, anneal_strategy="linear",
        cycle_momentum=False,
    )  # fmt: skip
    generator = Generator().manual_seed(seed)
    with progress.stage(f"update: {what}", steps * batch) as advance:
        for _ in range(epochs):
            order = torch.randperm(len(pictures), generator=generator)
            for begin in range(0, len(order) - batch + 1, batch):
                chosen = order[begin : begin + batch]
                seen = mirrored(as_input(pictures[chosen.numpy()]), generator)
                rows = functional.normalize(
                    network(seen.contiguous(memory_format=torch.channels_last))
                )
                loss = supcon(rows, group[chosen], config.temperature).mean()
                if means is not None:
                    loss = loss + influence * influence_loss(
                        rows, group[chosen], means, config.temperature
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                advance(batch)
    network.eval()
    return lambda pictures: embedded(network, pictures)


def influence_loss(rows: Tensor, group: Tensor, means: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the old model's classifier on new vectors, a scalar.

    Args:
        rows: f32[b, D] of length 1, by the new model.
        group: i64[b], their classes.
        means: f32[K, D], the old model's class means, frozen.
        temperature: Of the softmax.
    """
    return functional.cross_entropy(rows @ means.T / temperature, group)


def class_means(vectors: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """f32[K, D] of length 1: the mean of each class's vectors f32[n, D].

    Raises:
        ValueError: If a class has none: the old model would have no place for it.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if (counts == 0).any():
        raise ValueError(f"class {int(np.argmin(counts))} has no picture under the old model")
    sums = np.zeros((n_classes, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    return unit_rows(sums / counts[:, None])


def embedded(network: Network, pictures: np.ndarray) -> np.ndarray:
    """f32[m, D] of length 1."""
    made = []
    with torch.inference_mode():
        for begin in range(0, len(pictures), EMBED_BATCH):
            made.append(network(as_input(pictures[begin : begin + EMBED_BATCH])).numpy())
    return unit_rows(np.concatenate(made))
