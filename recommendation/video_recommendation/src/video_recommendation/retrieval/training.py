"""Training of the two-tower model on "what was watched next", with early stopping.

In: the log, the moment the model may know up to, a ``TwoTowerConfig``. Out: a trained ``TwoTower``
and its history of losses and validation recalls.

Every event before ``end`` is one training pair: the request as it stood strictly before that
second, and the item. Loss: softmax over in-batch and uniform negatives with logQ correction, the
sampling probability estimated from the stream of batches as it would be where the corpus has no
known counts (Yi et al., RecSys 2019, Algorithm 2). Other items of the same user in the batch are
not negatives: they are that user's other positives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.frequency import StreamingFrequencyEstimator
from ml_algorithms.two_tower_and_contrastive.loss import mixed_log_q, sampled_softmax_loss
from ml_platform.data.interactions import InteractionLog, Queries
from video_recommendation.config import TwoTowerConfig
from video_recommendation.data import Catalogue, Users
from video_recommendation.requests import RequestBatch, batch_of_queries
from video_recommendation.retrieval.two_tower import TwoTower, history_window

WARM_UP_STEPS = 100
SCORE_BATCH = 1024


@dataclass(frozen=True)
class Epoch:
    """What one epoch did: mean loss, validation recall (nan without validation), seconds."""

    loss: float
    validation_recall: float
    seconds: float


@dataclass(frozen=True)
class TrainingPairs:
    """All events before the cut as arrays: N pairs, histories as windows into the log."""

    queries: Queries  # one row a pair, ties share their history
    item_idx: np.ndarray  # i32[N]


def training_pairs(log: InteractionLog, end: int) -> TrainingPairs:
    """Pairs (request strictly before the second, item) of the events with t < end."""
    rows = np.flatnonzero(log.timestamp < end)
    user = log.user_idx
    starts_second = np.ones(len(log), dtype=bool)
    starts_second[1:] = (user[1:] != user[:-1]) | (log.timestamp[1:] != log.timestamp[:-1])
    first_of_second = np.maximum.accumulate(np.where(starts_second, np.arange(len(log)), 0))
    return TrainingPairs(
        Queries(
            user_idx=user[rows],
            timestamp=log.timestamp[rows],
            history_begin=log.user_ptr[user[rows]],
            history_end=first_of_second[rows],
            relevant_end=rows + 1,
        ),
        log.item_idx[rows],
    )


def build_two_tower(
    catalogue: Catalogue, users: Users, log: InteractionLog, end: int, config: TwoTowerConfig
) -> TwoTower:
    """An untrained model; items with an event before ``end`` get an id row of their own."""
    before = log.timestamp < end
    trained = np.bincount(log.item_idx[before], minlength=log.n_items) > 0
    return TwoTower(
        catalogue,
        trained=trained,
        n_occupations=users.n_occupations,
        embedding_dim=config.embedding_dim,
        history_length=config.history_length,
        pooling=config.pooling,
        item_inputs=config.item_inputs,
        n_hashed_ids=config.n_hashed_ids,
        temperature=config.temperature,
        dropout=config.dropout,
        time_origin=int(log.timestamp.min()),
    )


def train_two_tower(
    catalogue: Catalogue,
    users: Users,
    log: InteractionLog,
    end: int,
    config: TwoTowerConfig,
    *,
    seed: int,
    epochs: int | None = None,
    validate: Callable[[TwoTower], float] | None = None,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> tuple[TwoTower, list[Epoch]]:
    """Trains on events with t < end.

    Args:
        catalogue: Items.
        users: Users.
        log: The whole log; only rows before ``end`` are read as histories and targets.
        end: Unix seconds.
        config: Hyper-parameters.
        seed: Of weights, batches and negatives.
        epochs: Exactly so many epochs (a refit); None stops early by ``validate``.
        validate: Maps a model to its validation Recall@100; called after each epoch.
        on_epoch: Progress.

    Returns:
        The model with the best validation recall (or the last, without ``validate``), and the
        history of epochs.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build_two_tower(catalogue, users, log, end, config)
    pairs = training_pairs(log, end)
    n_epochs = config.max_epochs if epochs is None else epochs
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    # The rate falls over max_epochs whether or not training stops before: a refit for n epochs
    # then repeats the first n epochs of the run that chose n.
    total_steps = config.max_epochs * max(1, len(pairs.item_idx) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - 0.9 * step / total_steps)
            if step < total_steps
            else 0.1
        ),
    )
    sampler = _NegativeSampler(log.n_items, config, rng)
    history: list[Epoch] = []
    best_recall, best_state = -1.0, None
    for number in range(n_epochs):
        started = time.perf_counter()
        loss = _one_epoch(model, log, users, pairs, sampler, optimiser, schedule, config, rng)
        recall = validate(model) if validate is not None else float("nan")
        history.append(Epoch(loss, recall, time.perf_counter() - started))
        if on_epoch is not None:
            on_epoch(number, history[-1])
        if validate is None:
            continue
        if recall > best_recall:
            best_recall, best_state = recall, {k: v.clone() for k, v in model.state_dict().items()}
        elif number - _best_epoch(history) >= config.patience:
            break
    if best_state is not None:
        model.load_state_dict(best_state)
    return model.eval(), history


def best_epoch_count(history: list[Epoch]) -> int:
    """Number of epochs of the best validation recall: what a refit should train for."""
    return _best_epoch(history) + 1


def _best_epoch(history: list[Epoch]) -> int:
    return int(np.argmax([epoch.validation_recall for epoch in history]))


class _NegativeSampler:
    """Uniform negatives, and log q of in-batch, uniform or mixed sampling."""

    def __init__(self, n_items: int, config: TwoTowerConfig, rng: np.random.Generator) -> None:
        self.n_items, self.config, self.rng = n_items, config, rng
        self.frequency = StreamingFrequencyEstimator(n_items, hashed=False, learning_rate=0.01)

    def uniform(self) -> Tensor | None:
        if self.config.negatives == "in_batch":
            return None
        return torch.from_numpy(self.rng.integers(0, self.n_items, self.config.n_uniform))

    def observe(self, item_idx: np.ndarray) -> None:
        self.frequency.update(item_idx)

    def log_q(self, item_idx: Tensor, batch_size: int) -> Tensor | None:
        if not self.config.log_q:
            return None
        probability = torch.from_numpy(self.frequency.probability(item_idx.numpy())).float()
        n_uniform = 0 if self.config.negatives == "in_batch" else self.config.n_uniform
        return mixed_log_q(
            probability, n_in_batch=batch_size, n_uniform=n_uniform, n_items=self.n_items
        )


def _one_epoch(
    model: TwoTower,
    log: InteractionLog,
    users: Users,
    pairs: TrainingPairs,
    sampler: _NegativeSampler,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    config: TwoTowerConfig,
    rng: np.random.Generator,
) -> float:
    """One pass over the pairs in random order; returns the mean loss."""
    model.train()
    order = rng.permutation(len(pairs.item_idx))
    size = min(config.batch_size, len(order))
    losses = []
    for begin in range(0, len(order) - size + 1, size):
        rows = order[begin : begin + size]
        batch = _last_events(log, pairs.queries.subset(rows), config.history_length)
        item_idx = pairs.item_idx[rows]
        sampler.observe(item_idx)
        loss = _loss(model, batch, users, torch.from_numpy(item_idx.astype(np.int64)), sampler)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _last_events(log: InteractionLog, queries: Queries, length: int) -> RequestBatch:
    """The requests with histories cut to what the tower reads: building them stays cheap."""
    begin = np.maximum(queries.history_begin, queries.history_end - length)
    return batch_of_queries(
        log,
        Queries(
            user_idx=queries.user_idx,
            timestamp=queries.timestamp,
            history_begin=begin,
            history_end=queries.history_end,
            relevant_end=queries.relevant_end,
        ),
    )


def _loss(
    model: TwoTower, batch: RequestBatch, users: Users, item_idx: Tensor, sampler: _NegativeSampler
) -> Tensor:
    id_dropout = sampler.config.id_dropout
    query = encode_requests(model, batch, users, id_dropout=id_dropout)
    extra = sampler.uniform()
    wanted = item_idx if extra is None else torch.cat([item_idx, extra])
    vectors = model.item_vectors(wanted, id_dropout=id_dropout)
    log_q = sampler.log_q(wanted, len(item_idx))
    n = len(item_idx)
    return sampled_softmax_loss(
        query,
        vectors[:n],
        item_idx,
        temperature=1.0 / model.inverse_temperature,
        log_q=None if log_q is None else log_q[:n],
        negative=None if extra is None else vectors[n:],
        negative_idx=extra,
        negative_log_q=None if log_q is None or extra is None else log_q[n:],
        user_idx=torch.from_numpy(batch.user_idx.astype(np.int64)),
    )


def encode_requests(
    model: TwoTower,
    batch: RequestBatch,
    users: Users,
    *,
    table: Tensor | None = None,
    id_dropout: float = 0.0,
) -> Tensor:
    """User vectors f32[Q, D] of a batch of requests."""
    items, rating, age_s = history_window(batch, model.history_length)
    return model.user_vectors(
        items,
        rating,
        age_s,
        torch.from_numpy(users.demographics(batch.user_idx)),
        torch.from_numpy(batch.now),
        table=table,
        id_dropout=id_dropout,
    )


class RequestEncoder:
    """The query side of a trained model: requests to vectors, with the item table computed once."""

    def __init__(self, model: TwoTower, users: Users) -> None:
        self.model, self.users = model.eval(), users
        with torch.inference_mode():
            self._table = model.history_inputs.table()

    @torch.inference_mode()
    def encode(self, batch: RequestBatch) -> np.ndarray:
        """User vectors f32[Q, D], in blocks of SCORE_BATCH requests."""
        blocks = [
            encode_requests(
                self.model,
                batch.slice(begin, min(begin + SCORE_BATCH, len(batch))),
                self.users,
                table=self._table,
            )
            for begin in range(0, len(batch), SCORE_BATCH)
        ]
        return torch.cat(blocks).numpy()


@torch.inference_mode()
def item_vectors(model: TwoTower) -> np.ndarray:
    """Item vectors f32[I, D] of the whole catalogue."""
    return model.eval().item_vectors().numpy()
