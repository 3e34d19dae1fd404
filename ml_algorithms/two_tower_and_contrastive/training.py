"""Training of the plain two-tower under any recipe, one process.

In: ``TrainingPairs`` and a ``Recipe`` (``objective``). Out: a ``TwoTower``, the one of the best
epoch where a validation is given.

One step: draw a batch of B pairs, embed queries, positives and what the recipe wants beside them,
take the recipe's loss, step AdamW. Everything random comes from one seed: the weights, the order of
the pairs and the drawn negatives, so that ``distributed`` can repeat a run batch by batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml_algorithms.two_tower_and_contrastive.objective import (
    Batch,
    Objective,
    Recipe,
    TrainingPairs,
)
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, build_two_tower


@dataclass
class Fit:
    """A trained model and how it got there."""

    model: TwoTower
    losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch. Not comparable between losses or batch sizes."""
    validation: list[float] = field(default_factory=list)
    temperature: float = math.nan
    """At the end; of the recipe unless learned."""


def batches(pairs: TrainingPairs, recipe: Recipe, seed: int) -> Iterator[tuple[int, Batch]]:
    """All batches of a run, (epoch, batch), in an order that depends on the seed alone."""
    rng = np.random.default_rng(seed)
    size = min(recipe.batch_size, len(pairs))
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(rng.permutation(len(pairs)))
        for begin in range(0, len(pairs) - size + 1, size):
            rows = order[begin : begin + size]
            uniform = torch.from_numpy(rng.integers(0, pairs.n_items, recipe.n_negatives))
            yield (
                epoch,
                Batch(pairs.history[rows], pairs.item_idx[rows], pairs.user_idx[rows], uniform),
            )


def train(
    pairs: TrainingPairs,
    recipe: Recipe,
    *,
    seed: int,
    validate: Callable[[TwoTower], float] | None = None,
    max_steps: int | None = None,
    sgd_rate: float | None = None,
) -> Fit:
    """Trains a model.

    Args:
        pairs: The training window.
        recipe: How.
        seed: Of weights, order and negatives.
        validate: Maps a model to a number, the higher the better; called after each epoch. The
            best epoch's weights are kept.
        max_steps: Stop after so many steps; None runs all epochs.
        sgd_rate: See ``optimiser_of``.

    Returns:
        The fit. Time per step O(B C D) for C columns of logits.

    Raises:
        ValueError: If the pairs are fewer than two or the recipe asks for more mined negatives
            than negatives.
    """
    _check(pairs, recipe)
    model = build_two_tower(
        pairs.genres, dim=recipe.dim, hidden=recipe.hidden, normalise=recipe.normalise, seed=seed
    )
    fit = Fit(model)
    objective = Objective(pairs, recipe, seed)
    parameters = [*model.parameters(), *objective.temperature_parameters()]
    optimiser = optimiser_of(parameters, recipe, sgd_rate)
    best: dict[str, Tensor] = {}
    losses: list[float] = []

    def end_epoch() -> None:
        nonlocal best
        fit.losses.append(float(np.mean(losses)))
        losses.clear()
        if validate is not None:
            fit.validation.append(validate(model))
            if fit.validation[-1] == max(fit.validation):
                best = {name: value.clone() for name, value in model.state_dict().items()}

    current = 0
    for step, (epoch, batch) in enumerate(batches(pairs, recipe, seed)):
        if epoch != current:
            end_epoch()
            current = epoch
        if step == max_steps:
            break
        loss = objective(model, batch, epoch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    if losses:
        end_epoch()
    if best:
        model.load_state_dict(best)
    with torch.no_grad():
        fit.temperature = float(objective.temperature())
    return fit


def optimiser_of(
    parameters: Iterable[nn.Parameter], recipe: Recipe, sgd_rate: float | None = None
) -> torch.optim.Optimizer:
    """AdamW as the recipe says; plain gradient steps of a given rate to compare gradients.

    AdamW divides a gradient by its own running size, so that its steps hardly notice a gradient
    that is twice too large. Two ways of computing it are equal if plain steps agree.
    """
    if sgd_rate is not None:
        return torch.optim.SGD(parameters, lr=sgd_rate)
    return torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def last_items(
    item_idx: npt.NDArray[np.integer],
    begin: npt.NDArray[np.integer],
    end: npt.NDArray[np.integer],
    *,
    length: int,
    padding: int,
) -> Tensor:
    """The last ``length`` items of each log range begin..end, i64[N, L], ``padding`` in front."""
    rows = np.asarray(end)[:, None] - length + np.arange(length)[None, :]
    inside = rows >= np.asarray(begin)[:, None]
    return torch.from_numpy(
        np.where(inside, item_idx[np.where(inside, rows, 0)], padding).astype(np.int64)
    )


def _check(pairs: TrainingPairs, recipe: Recipe) -> None:
    if len(pairs) < 2:
        raise ValueError(f"training needs at least 2 pairs, got {len(pairs)}")
    if recipe.n_mined > recipe.n_negatives:
        raise ValueError(
            f"n_mined={recipe.n_mined} of n_negatives={recipe.n_negatives}: mined ones are a part"
        )
    if recipe.n_mined and recipe.mined_ranks[1] > pairs.n_items:
        raise ValueError(f"mined_ranks {recipe.mined_ranks} beyond {pairs.n_items} items")
