"""The loss of a batch under a recipe: what is embedded beside the pairs, and what it is scored by.

In: ``TrainingPairs`` (histories i64[N, L], the item that followed i64[N], its user), a ``Recipe``
and a ``Batch``. Out: a scalar loss. One class for all losses of the study, so that nothing but the
recipe differs between two runs; the losses themselves are in ``loss``, ``infonce`` and
``hard_negatives``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from ml_algorithms.two_tower_and_contrastive.frequency import StreamingFrequencyEstimator
from ml_algorithms.two_tower_and_contrastive.hard_negatives import (
    above_positive_mask,
    mine_hard_negatives,
    own_negatives_loss,
)
from ml_algorithms.two_tower_and_contrastive.infonce import LearnedTemperature, info_nce_loss
from ml_algorithms.two_tower_and_contrastive.loss import (
    full_softmax_loss,
    mixed_log_q,
    sampled_softmax_loss,
)
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower

Loss = Literal["full_softmax", "info_nce", "in_batch", "uniform", "mixed", "bpr", "own_negatives"]


class Recipe(BaseModel):
    """How to train: the model's size, the loss and its negatives, the optimiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = "mixed"
    log_q: Literal["none", "counts", "streaming"] = "none"
    """Where log q comes from: nowhere, the pairs' counts, or the stream (``frequency``)."""
    correct_positive: bool = True
    mask_user: bool = True
    """Other positives of the same user in the batch are no negatives."""
    n_negatives: int = Field(default=512, ge=1)
    """Uniform negatives a step, shared by all rows; each row's own ones for "own_negatives"."""
    temperature: float = Field(default=0.1, gt=0)
    learn_temperature: bool = False
    normalise: bool = True
    n_mined: int = Field(default=0, ge=0)
    """Of a row's own negatives, how many are mined from the model's ranking."""
    mined_ranks: tuple[int, int] = (0, 100)
    mask_known: bool = True
    """Mining leaves out what the user took at any time of the training window."""
    mask_share: float | None = None
    """Mining leaves out what scores above this share of the positive's score."""
    mined_from_epoch: int = Field(default=1, ge=0)
    dim: int = Field(default=32, ge=1)
    hidden: int = Field(default=64, ge=1)
    epochs: int = Field(default=6, ge=1)
    batch_size: int = Field(default=512, ge=2)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class TrainingPairs:
    """What training sees: N pairs of a history and the item that came next.

    Attributes:
        history: i64[N, L], the last items before the pair's second; ``n_items`` where there is
            none.
        item_idx: i64[N].
        user_idx: i64[N].
        genres: f32[I, G], rows that sum to 1 or 0.
    """

    history: Tensor
    item_idx: Tensor
    user_idx: Tensor
    genres: Tensor

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.genres)

    def __len__(self) -> int:
        return len(self.item_idx)

    def probability(self) -> Tensor:
        """Share of each item among the pairs, f32[I]: what one in-batch draw gives."""
        counts = torch.bincount(self.item_idx, minlength=self.n_items)
        return counts.float() / len(self)

    def known(self) -> Tensor:
        """bool[U, I]: which items a user took in the training window. U I bytes."""
        table = torch.zeros(int(self.user_idx.max()) + 1, self.n_items, dtype=torch.bool)
        table[self.user_idx, self.item_idx] = True
        return table


@dataclass(frozen=True)
class Batch:
    """One step's pairs and the uniform negatives drawn for it."""

    history: Tensor
    item_idx: Tensor
    user_idx: Tensor
    uniform: Tensor


class Objective:
    """The recipe's loss of a batch: what is embedded beside the pairs, and which loss it gets."""

    def __init__(self, pairs: TrainingPairs, recipe: Recipe, seed: int) -> None:
        self.recipe, self.n_items = recipe, pairs.n_items
        self.probability = pairs.probability()
        self.stream = StreamingFrequencyEstimator(pairs.n_items, hashed=False)
        self.known = pairs.known() if recipe.n_mined and recipe.mask_known else None
        self.learned = LearnedTemperature(recipe.temperature) if recipe.learn_temperature else None
        self.generator = torch.Generator().manual_seed(seed)

    def temperature(self) -> float | Tensor:
        """Fixed, or learned and with a gradient."""
        return self.recipe.temperature if self.learned is None else self.learned()

    def temperature_parameters(self) -> list[torch.nn.Parameter]:
        """What the optimiser has to train beside the model."""
        return [] if self.learned is None else list(self.learned.parameters())

    def __call__(self, model: TwoTower, batch: Batch, epoch: int) -> Tensor:
        """The scalar loss of a batch."""
        kind = self.recipe.loss
        if kind in ("full_softmax", "own_negatives"):
            query, items = model(batch.history, torch.arange(self.n_items))
            if kind == "own_negatives":
                return self._own_negatives(query, items, batch, epoch)
            return full_softmax_loss(query, items, batch.item_idx, temperature=self.temperature())
        if kind == "bpr":
            return self._bpr(model, batch)
        if kind == "info_nce":
            query, key = model(batch.history, batch.item_idx)
            return info_nce_loss(query, key, temperature=self.temperature())
        return self._sampled(model, batch)

    def log_q(self, item_idx: Tensor, n_in_batch: int) -> Tensor | None:
        """Log-probability that one draw of this recipe's sampler gives each item [C]."""
        if self.recipe.log_q == "none":
            return None
        if self.recipe.loss == "uniform":
            return torch.full((len(item_idx),), -math.log(self.n_items))
        if self.recipe.log_q == "streaming":
            probability = torch.from_numpy(self.stream.probability(item_idx.numpy())).float()
        else:
            probability = self.probability[item_idx]
        n_uniform = self.recipe.n_negatives if self.recipe.loss == "mixed" else 0
        return mixed_log_q(
            probability, n_in_batch=n_in_batch, n_uniform=n_uniform, n_items=self.n_items
        )

    def _sampled(self, model: TwoTower, batch: Batch) -> Tensor:
        """In-batch, uniform or both."""
        recipe, n = self.recipe, len(batch.item_idx)
        if recipe.log_q == "streaming":
            self.stream.update(batch.item_idx.numpy())
        with_uniform = recipe.loss != "in_batch"
        wanted = torch.cat([batch.item_idx, batch.uniform]) if with_uniform else batch.item_idx
        query, items = model(batch.history, wanted)
        log_q = self.log_q(wanted, n)
        return sampled_softmax_loss(
            query,
            items[:n],
            batch.item_idx,
            temperature=self.temperature(),
            log_q=None if log_q is None else log_q[:n],
            negative=items[n:] if with_uniform else None,
            negative_idx=batch.uniform if with_uniform else None,
            negative_log_q=log_q[n:] if with_uniform and log_q is not None else None,
            in_batch=recipe.loss != "uniform",
            user_idx=batch.user_idx if recipe.mask_user else None,
            correct_positive=recipe.correct_positive,
        )

    def _bpr(self, model: TwoTower, batch: Batch) -> Tensor:
        """Rendle et al., UAI 2009: -log sigmoid of the gap to one uniform negative per row."""
        n = len(batch.item_idx)
        negative = torch.randint(self.n_items, (n,), generator=self.generator)
        query, items = model(batch.history, torch.cat([batch.item_idx, negative]))
        gap = (query * (items[:n] - items[n:])).sum(dim=1) / self.temperature()
        return -functional.logsigmoid(gap).mean()

    def _own_negatives(self, query: Tensor, items: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Each row's own negatives: some uniform, some mined (from ``mined_from_epoch`` on)."""
        recipe, n = self.recipe, len(batch.item_idx)
        n_mined = recipe.n_mined if epoch >= recipe.mined_from_epoch else 0
        n_uniform = recipe.n_negatives - n_mined
        negative = torch.randint(self.n_items, (n, n_uniform), generator=self.generator)
        valid = negative != batch.item_idx[:, None]
        if n_mined:
            mined, mined_valid = self._mine(query.detach(), items.detach(), batch, n_mined)
            negative, valid = torch.cat([negative, mined], 1), torch.cat([valid, mined_valid], 1)
        return own_negatives_loss(
            query, items[batch.item_idx], items[negative], valid=valid,
            temperature=self.temperature(),
        )  # fmt: skip

    def _mine(
        self, query: Tensor, items: Tensor, batch: Batch, n_mined: int
    ) -> tuple[Tensor, Tensor]:
        scores = query @ items.T  # [B, I]
        forbidden = functional.one_hot(batch.item_idx, self.n_items).bool()
        if self.known is not None:
            forbidden |= self.known[batch.user_idx]
        if self.recipe.mask_share is not None:
            positive = scores.gather(1, batch.item_idx[:, None])[:, 0]
            forbidden |= above_positive_mask(positive, scores, share=self.recipe.mask_share)
        return mine_hard_negatives(
            scores,
            n_mined,
            ranks=self.recipe.mined_ranks,
            forbidden=forbidden,
            generator=self.generator,
        )
