"""Batches of windows for training and for scoring a log: padded histories, flat targets.

In: ``Sequences``, ``Cuts``, the catalogue's content. Out: ``WindowBatch`` tensors. A video that
occurs several times in a batch is projected from its 768 numbers once; the heads see only the rows
that are predicted, without padding.

Legend: B windows, W longest window of the batch, n distinct videos, R predicted rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shorts_recommendation.ranking.network import Scale
from shorts_recommendation.ranking.sequences import Cuts, Sequences


@dataclass(frozen=True)
class Scales:
    """Standardisation of the three dense inputs."""

    user: Scale
    context: Scale
    cross: Scale


@dataclass(frozen=True)
class WindowBatch:
    """One step's input.

    Attributes:
        video: i64[n], distinct videos of the batch.
        content: f32[n, 768].
        place: i64[B, W], position of each event's video in ``video``; 0 at paddings.
        events: f32[B, W, E].
        at: i64[R], predicted rows as positions in the flattened [B, W].
        row: i64[R], the same rows in ``Sequences``.
        user, context, cross: f32[R, .], standardised.
        labels: f32[R, 5].
        session: i64[R], 0-based number of the session within the batch.
    """

    video: Tensor
    content: Tensor
    place: Tensor
    events: Tensor
    at: Tensor
    row: np.ndarray
    user: Tensor
    context: Tensor
    cross: Tensor
    labels: Tensor
    session: Tensor


def fit_scales(
    sequences: Sequences, train: np.ndarray, *, seed: int, sample: int = 50_000
) -> Scales:
    """Standardisation by a sample of the training rows, bool[M]."""
    rows = np.flatnonzero(train)
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    source = sequences.rows
    return Scales(*(Scale.fit(x[rows]) for x in (source.user, source.context, source.cross)))


def window_batch(
    sequences: Sequences, cuts: Cuts, chosen: np.ndarray, content: np.ndarray, scales: Scales
) -> WindowBatch:
    """The batch of the windows at positions ``chosen`` i64[B]."""
    first, target, end = cuts.first[chosen], cuts.target[chosen], cuts.end[chosen]
    grid = first[:, None] + np.arange(int((end - first).max()))
    read = grid < end[:, None]
    predicted = read & (grid >= target[:, None])
    rows = np.where(read, grid, first[:, None])
    video, place = np.unique(sequences.video[rows], return_inverse=True)
    at = np.flatnonzero(predicted)
    row = rows.ravel()[at]
    _, session = np.unique(sequences.session[row], return_inverse=True)
    source = sequences.rows
    return WindowBatch(
        video=torch.from_numpy(video.astype(np.int64)),
        content=torch.from_numpy(content[video].astype(np.float32)),
        place=torch.from_numpy(place.reshape(rows.shape)),
        events=torch.from_numpy(sequences.events[rows]),
        at=torch.from_numpy(at),
        row=row,
        user=torch.from_numpy(scales.user.apply(source.user[row])),
        context=torch.from_numpy(scales.context.apply(source.context[row])),
        cross=torch.from_numpy(scales.cross.apply(source.cross[row])),
        labels=torch.from_numpy(sequences.labels[row]),
        session=torch.from_numpy(session.reshape(-1)),
    )


class WindowLoader:
    """Batches of windows of similar length, in another order every epoch.

    Args:
        sequences, content, scales: As ``window_batch``.
        cuts: n windows.
        tokens: Most tokens of a batch, padding included: what a step costs.
        seed: Of the order; None keeps the windows in order (for scoring).
    """

    def __init__(
        self,
        sequences: Sequences,
        cuts: Cuts,
        content: np.ndarray,
        scales: Scales,
        *,
        tokens: int,
        seed: int | None,
    ) -> None:
        self.sequences, self.cuts, self.content, self.scales = sequences, cuts, content, scales
        self.tokens, self.seed, self.epoch = tokens, seed, 0
        self._parts = self._plan(np.random.default_rng(seed))

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[WindowBatch]:
        order = np.arange(len(self._parts))
        if self.seed is not None:
            rng = np.random.default_rng((self.seed, self.epoch))
            rng.shuffle(order)
            self.epoch += 1
        for part in order.tolist():
            yield window_batch(
                self.sequences, self.cuts, self._parts[part], self.content, self.scales
            )

    def _plan(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Windows by length, cut so that a batch's padded size stays below ``tokens``."""
        lengths = self.cuts.end - self.cuts.first
        noise = rng.random(len(lengths)) if self.seed is not None else 0.0
        by_length = np.argsort(lengths + noise, kind="stable")
        parts, begin = [], 0
        while begin < len(by_length):
            end = begin + 1
            while (
                end < len(by_length) and lengths[by_length[end]] * (end + 1 - begin) <= self.tokens
            ):
                end += 1
            parts.append(by_length[begin:end])
            begin = end
        return parts
