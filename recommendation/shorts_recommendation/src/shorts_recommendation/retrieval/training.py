"""Training of the two towers on "what was watched through next".

In: training pairs, the catalogue, users, a ``TwoTowerConfig``. Out: a ``TrainedTower``: the module,
the sparse rows and the content's reduction, and the loss of every epoch.

Loss: softmax over in-batch and uniform negatives, with the sampling probability subtracted (logQ;
Yi et al., RecSys 2019, equation 3; mixed negatives: Yang et al., WWW Companion 2020). The
probability of an in-batch draw is the video's share of the training pairs, which is known here.
A negative that did not exist at the pair's moment is no negative: its column is masked.
Beside it, with ``rejected_weight``, a pairwise logistic loss against the next video that the same
user was shown and did not watch through: the softmax learns what is shown and watched, which is
mostly what is shown; the pair tells taste from exposure (Rendle et al., "BPR: Bayesian Personalized
Ranking from Implicit Feedback", UAI 2009, with negatives that were really seen).

What makes it fast: content is reduced once; every video of a batch is encoded once, however often
it stands in histories; id and creator rows are updated where touched (``RowTable``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.loss import mixed_log_q, sampled_softmax_loss
from shorts_recommendation.config import TwoTowerConfig
from shorts_recommendation.items import Projection, fit_projection
from shorts_recommendation.log import Catalogue, Users
from shorts_recommendation.retrieval.pairs import Pairs
from shorts_recommendation.retrieval.two_tower import (
    ItemColumns,
    RowTable,
    TwoTower,
    attribute_columns,
    unit_profile,
)

WARM_UP_STEPS = 50


@dataclass
class TrainedTower:
    """A model with its rows; what incremental training goes on from.

    Attributes:
        model: The dense part.
        ids: Rows by ``video_idx``, the last column is the bias.
        creators: Rows by ``creator_idx``.
        columns: What the towers read of the catalogue.
        projection: Of the content, fitted on videos older than the training's end.
        attributes: i64[U, 3].
        losses: Mean loss of every epoch.
        seconds: Of the training.
    """

    model: TwoTower
    ids: RowTable
    creators: RowTable
    columns: ItemColumns
    projection: Projection
    attributes: Tensor
    losses: list[float]
    seconds: float = 0.0

    def encode_inputs(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs f32[N, W] and id biases f32[N] with the rows as they are."""
        rows = self.ids.value[videos]
        creators = self.creators.value[self.columns.creator[videos]]
        return self.model.inputs(self.columns, videos, rows[:, :-1], creators), rows[:, -1]


def train_two_tower(
    pairs: Pairs,
    catalogue: Catalogue,
    users: Users,
    config: TwoTowerConfig,
    *,
    until_s: int,
    seed: int,
    step: Callable[[int], None] = lambda _: None,
) -> TrainedTower:
    """Trains both towers.

    Args:
        pairs: From before ``until_s``.
        catalogue: Negatives are drawn from its videos that exist before ``until_s``.
        users: Attributes.
        config: Sizes and rates.
        until_s: The moment that the model may know up to.
        seed: Of weights, batches and negatives.
        step: Progress, called with the batches done.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    started = time.perf_counter()
    tower = _new_tower(catalogue, users, config, until_s, seed)
    batches = TowerBatches(pairs, catalogue, tower, config, until_s, rng)
    optimiser = torch.optim.AdamW(tower.model.parameters(), lr=config.learning_rate)
    total = config.epochs * batches.per_epoch
    done = 0
    tower.model.train()
    for _ in range(config.epochs):
        losses = []
        for rows in batches.epoch():
            pace = min(1.0, (done + 1) / WARM_UP_STEPS) * (1 - 0.95 * done / total)
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * pace
            losses.append(batches.train(rows, optimiser, config.row_learning_rate * pace))
            done += 1
            step(1)
        tower.losses.append(float(np.mean(losses)))
    tower.model.eval()
    tower.seconds = time.perf_counter() - started
    return tower


def _new_tower(
    catalogue: Catalogue, users: Users, config: TwoTowerConfig, until_s: int, seed: int
) -> TrainedTower:
    known = catalogue.content[catalogue.upload_s < until_s]
    dim = min(config.content_dim, known.shape[1])
    projection = fit_projection(known, seed=seed, dim=dim)
    columns = ItemColumns.of(catalogue, projection.apply(catalogue.content))
    model = TwoTower(dim, config.embedding_dim, config.history_length, config.temperature)
    return TrainedTower(
        model=model,
        ids=RowTable(len(catalogue), config.embedding_dim + 1),
        creators=RowTable(catalogue.n_creators, config.embedding_dim),
        columns=columns,
        projection=projection,
        attributes=torch.from_numpy(attribute_columns(users)),
        losses=[],
    )


class TowerBatches:
    """Batches of pairs, and one training step on each; incremental training uses them too.

    ``touched`` bool[V] says whose id rows a step has read, and so changed.
    """

    def __init__(
        self,
        pairs: Pairs,
        catalogue: Catalogue,
        tower: TrainedTower,
        config: TwoTowerConfig,
        until_s: int,
        rng: np.random.Generator,
    ) -> None:
        self.pairs, self.tower, self.config, self.rng = pairs, tower, config, rng
        self.upload_s = torch.from_numpy(catalogue.upload_s.astype(np.int64))
        self.existing = np.flatnonzero(catalogue.upload_s < until_s)
        self.share = torch.zeros(len(catalogue))
        self.set_share(np.bincount(pairs.video_idx, minlength=len(catalogue)))
        self.touched = np.zeros(len(catalogue), dtype=np.bool_)
        self.size = min(config.batch_size, len(pairs))
        self.per_epoch = max(1, len(pairs) // self.size)

    def set_share(self, counts: np.ndarray) -> None:
        """Counts of positives [V] that the probability of an in-batch draw is read from."""
        self.share = torch.from_numpy((counts / max(1, counts.sum())).astype(np.float32))

    def epoch(self) -> list[np.ndarray]:
        """Rows of every batch, shuffled; what does not fill a batch waits for another epoch."""
        order = self.rng.permutation(len(self.pairs))
        return [order[i * self.size : (i + 1) * self.size] for i in range(self.per_epoch)]

    def train(
        self, rows: np.ndarray, optimiser: torch.optim.Optimizer | None, row_rate: float
    ) -> float:
        """One step on these pairs; without an optimiser only the rows of ids learn."""
        tower = self.tower
        positive = torch.from_numpy(self.pairs.video_idx[rows].astype(np.int64))
        drawn = self.rng.integers(0, len(self.existing), self.config.n_uniform)
        uniform = torch.from_numpy(self.existing[drawn])
        history = torch.from_numpy(self.pairs.history[rows].astype(np.int64))
        rejected = torch.from_numpy(self.pairs.rejected[rows].astype(np.int64))
        asked = [positive, uniform, rejected, history.flatten()]
        videos, place = torch.unique(torch.cat(asked).clamp_min(0), return_inverse=True)
        makers, maker = torch.unique(tower.columns.creator[videos], return_inverse=True)
        self.touched[videos.numpy()] = True
        ids, creators = tower.ids.leaf(videos), tower.creators.leaf(makers)
        kept = torch.from_numpy(self.rng.random(len(videos)) >= self.config.id_dropout)
        id_rows = ids * kept[:, None]
        inputs = tower.model.inputs(tower.columns, videos, id_rows[:, :-1], creators[maker])
        loss = self._loss(rows, asked, history, place, inputs, id_rows[:, -1])
        if optimiser is not None:
            optimiser.zero_grad()
        loss.backward()
        if optimiser is not None:
            optimiser.step()
        if ids.grad is not None:
            tower.ids.step(videos, ids.grad, row_rate)
        if optimiser is not None and creators.grad is not None:
            tower.creators.step(makers, creators.grad, row_rate)
        return loss.item()

    def _loss(
        self,
        rows: np.ndarray,
        asked: list[Tensor],
        history: Tensor,
        place: Tensor,
        inputs: Tensor,
        id_bias: Tensor,
    ) -> Tensor:
        model = self.tower.model
        positive, uniform, rejected = asked[:3]
        n, m = len(positive), len(uniform)
        users = self.pairs.user_idx[rows].astype(np.int64)
        events = torch.nn.functional.embedding(place[2 * n + m :].view_as(history), inputs)
        query = model.users(
            events,
            history >= 0,
            self.tower.attributes[users],
            torch.from_numpy(unit_profile(self.pairs.tag_profile[rows])),
        )
        shown = place[: 2 * n + m]
        items = model.items(inputs[shown], id_bias[shown])
        wanted = torch.cat([positive, uniform])
        log_q = mixed_log_q(
            self.share[wanted], n_in_batch=n, n_uniform=m, n_items=len(self.existing)
        )
        now = torch.from_numpy(self.pairs.timestamp[rows])
        loss = sampled_softmax_loss(
            query,
            items[:n],
            positive,
            temperature=model.temperature,
            log_q=log_q[:n],
            negative=items[n : n + m],
            negative_idx=uniform,
            negative_log_q=log_q[n:],
            user_idx=torch.from_numpy(users),
            exclude=self.upload_s[wanted][None, :] > now[:, None],
        )
        margin = (query * (items[:n] - items[n + m :])).sum(dim=1)[rejected >= 0]
        if self.config.rejected_weight and len(margin):
            pairwise = -torch.nn.functional.logsigmoid(margin / model.temperature).mean()
            loss = loss + self.config.rejected_weight * pairwise
        return loss
