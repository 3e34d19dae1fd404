"""A two-tower over image, audio and id, trained on "which other video did this user watch?".

In: a ``Split``. Out: a ``Scorer``. The model is ``ml_algorithms.two_tower_and_contrastive``'s: a
user is the mean of the rows of what they watched, a video is its row plus a linear map of its
content, both through a residual layer, both of length 1. The catalogue has some thousand videos, so
the softmax is exact and needs neither sampling nor logQ (``full_softmax_loss``).

One example per train pair of an ordinary account with at least two: that video is the positive, the
account's other videos are the history. Heavy accounts are left out: they would be 70% of the
examples and say nothing (docs/deep_dives/real_micro_videos.md).

Legend: V videos, N examples, L longest history, B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from ml_algorithms.two_tower_and_contrastive.loss import full_softmax_loss
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, build_two_tower
from shorts_recommendation.micro_video.protocol import Scorer
from shorts_recommendation.micro_video.settings import MicroVideoConfig
from shorts_recommendation.micro_video.split import Split


def leave_one_out(train: sparse.csr_matrix, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histories i64[N, L], padded with V, and their hidden videos i64[N].

    A user with m >= 2 train rows gives m examples, each with one row hidden; L is the longest of
    these users' histories less one.
    """
    n_videos = train.shape[1]
    lists = [train.indices[train.indptr[u] : train.indptr[u + 1]] for u in users]
    examples = [
        (np.delete(one, place), one[place])
        for one in lists
        if len(one) >= 2
        for place in range(len(one))
    ]
    length = max((len(rest) for rest, _ in examples), default=1)
    histories = np.full((len(examples), length), n_videos, dtype=np.int64)
    for row, (rest, _) in enumerate(examples):
        histories[row, : len(rest)] = rest
    return histories, np.array([hidden for _, hidden in examples], dtype=np.int64)


def padded_histories(history: sparse.csr_matrix, users: np.ndarray, length: int) -> np.ndarray:
    """The first ``length`` videos of each user i64[B, length], padded with V.

    A pair has no time, so that the cut of the few longer histories is by video number.
    """
    rows = np.full((len(users), length), history.shape[1], dtype=np.int64)
    for place, user in enumerate(users):
        watched = history.indices[history.indptr[user] : history.indptr[user + 1]][:length]
        rows[place, : len(watched)] = watched
    return rows


def train_tower(split: Split, config: MicroVideoConfig, seed: int, temperature: float) -> TwoTower:
    """Trains one tower on the split's train rows; Adam, a constant rate.

    Raises:
        ValueError: If no ordinary account has two train rows.
    """
    histories, hidden = leave_one_out(split.train, np.flatnonzero(~split.heavy))
    if not len(hidden):
        raise ValueError("no ordinary account has two train rows: there is nothing to learn from")
    model = build_two_tower(
        torch.from_numpy(split.content),
        dim=config.tower_dim,
        hidden=config.tower_hidden,
        normalise=True,
        seed=seed,
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=config.tower_learning_rate)
    everything = torch.arange(split.n_videos)
    rng = np.random.default_rng(seed)
    for _ in range(config.tower_epochs):
        order = rng.permutation(len(hidden))
        for begin in range(0, len(order), config.tower_batch):
            rows = order[begin : begin + config.tower_batch]
            query, items = model(torch.from_numpy(histories[rows]), everything)
            loss = full_softmax_loss(
                query, items, torch.from_numpy(hidden[rows]), temperature=temperature
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def tower_scorer(model: TwoTower, history: sparse.csr_matrix, length: int = 16) -> Scorer:
    """Scores of the catalogue; the videos' vectors are computed once."""
    with torch.inference_mode():
        nobody = torch.full((1, 1), model.n_items)
        _, items = model(nobody, torch.arange(model.n_items))

    def score(users: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            rows = torch.from_numpy(padded_histories(history, users, length))
            query, _ = model(rows, torch.zeros(0, dtype=torch.int64))
            return (query @ items.T).numpy()

    return score
