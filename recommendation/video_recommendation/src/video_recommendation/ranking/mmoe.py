"""The multi-task ranker: MMoE with a watch head and a like head (torch).

In: ``Examples``. Out: P(watch) and P(like | watch) per candidate, and their combination

    score = P(watch)^a * P(like | watch)^b,   a = watch_weight, b = like_weight.

A product of powers and not a sum: it is invariant to the scale of either head, and b says directly
how many per cent of watch probability one gives up for one per cent of like probability (the X and
Shorts style weighted sum needs every head calibrated to the same unit first).

Why ESMM-style heads: a rating exists only for what was watched. A plain like head trained on the
watched rows and used on all candidates is biased by that selection; P(like) = P(watch) P(like |
watch) is trained on all rows (Ma et al., "Entire Space Multi-Task Model", SIGIR 2018). The experts
and gates are Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", KDD 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml_algorithms.mixture_of_experts.esmm import entire_space_loss, joint_probabilities
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from video_recommendation.config import RankingConfig
from video_recommendation.features import SCHEMA
from video_recommendation.ranking.examples import Examples

BATCH_ROWS = 4096
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-5
EXPERT_DIMS = (64, 32)
TOWER_DIMS = (16,)
CLIP = 5.0
"""Standard deviations: a feature beyond is as good as a missing one, and the net stays calm."""


@dataclass(frozen=True)
class MMoERanker:
    """A trained network with the standardisation of its inputs."""

    network: MMoE
    mean: np.ndarray
    scale: np.ndarray
    watch_weight: float
    like_weight: float

    def probabilities(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(watch) and P(like | watch), f32[C] each, of features f32[C, F].

        P(watch) is over the sampled negatives of training; calibrate before using its level.
        """
        with torch.inference_mode():
            logits = self.network(_standardise(features, self.mean, self.scale)).logits
            joint = joint_probabilities(logits[:, 0], logits[:, 1])
        return joint.watch.numpy(), joint.like_given_watch.numpy()

    def score(self, features: np.ndarray) -> np.ndarray:
        """log(P(watch)^a P(like | watch)^b), f32[C]."""
        watch, like = self.probabilities(features)
        tiny = np.float32(1e-12)
        return self.watch_weight * np.log(watch + tiny) + self.like_weight * np.log(like + tiny)


def fit_mmoe(
    train: Examples,
    config: RankingConfig,
    *,
    seed: int,
    epochs: int,
    on_epoch: Callable[[int, float, MMoERanker], None] | None = None,
) -> MMoERanker:
    """Trains for ``epochs`` passes over all positives and a sample of the negatives.

    Args:
        train: Rows with labels.
        config: Knobs; negatives are thinned to ``mmoe_negatives`` per query, drawn anew each epoch.
        seed: Of weights, thinning and batches.
        epochs: Passes.
        on_epoch: Called with the epoch's number, its mean loss and the ranker so far.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    mean = train.features.mean(axis=0)
    scale = np.maximum(train.features.std(axis=0), 1e-6)
    network = MMoE(
        n_features=len(SCHEMA),
        n_tasks=2,
        n_experts=config.mmoe_experts,
        expert_dims=EXPERT_DIMS,
        tower_dims=TOWER_DIMS,
        dropout=0.1,
    )
    ranker = MMoERanker(network, mean, scale, config.watch_weight, config.like_weight)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, epochs))
    liked = train.grade(config.like_threshold) == 2
    for number in range(epochs):
        network.train()
        losses = []
        for rows in _batches(train, config.mmoe_negatives, rng):
            logits = network(_standardise(train.features[rows], mean, scale)).logits
            loss = entire_space_loss(
                logits[:, 0],
                logits[:, 1],
                _flags(train.watched[rows]),
                _flags(liked[rows]),
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        schedule.step()
        network.eval()
        if on_epoch is not None:
            on_epoch(number, float(np.mean(losses)), ranker)
    return ranker


def _batches(train: Examples, n_negatives: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled batches of all positive rows and about ``n_negatives`` negatives per query."""
    share = np.minimum(1.0, n_negatives / np.maximum(train.group, 1))[train.owner]
    kept = np.flatnonzero(train.watched | (rng.random(len(share)) < share))
    rng.shuffle(kept)
    return np.array_split(kept, max(1, round(len(kept) / BATCH_ROWS)))


def _standardise(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
    return torch.from_numpy(np.clip((features - mean) / scale, -CLIP, CLIP).astype(np.float32))


def _flags(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
