"""The pre-ranker: a small student of the transformer that cuts 1,000 candidates to 150.

In: encoded histories f32[B, d] and candidates i32[B, C]. Out: scores f32[B, C]:

    score = (A h + a) . r_v + b_v        r_v f32[V, 32] and b_v f32[V] are computed beforehand
    b_v   = c . item row + e . counters of v      refreshed when counters are published

It is trained to give the teacher's value (Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015: soft targets), not the labels: its task is to lose nothing that the ranker would
have put on top, so the ranker's opinion is its truth. Wang et al., "COLD: Towards the Next
Generation of Pre-Ranking System" (DLP-KDD 2020) argue for a light network that also sees cross
features; at 1,000 candidates on one core their computation alone would cost more than this whole
stage, so the student sees none, and the measured recall says what that loses.

Legend: B requests, C candidates, V videos, R rank of the student, d width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from shorts_recommendation.log import Catalogue
from shorts_recommendation.ranking.item_side import ItemTables
from shorts_recommendation.ranking.transformer import TransformerRanker
from shorts_recommendation.ranking.value import value
from shorts_recommendation.requests import RequestBatch

RANK = 32
STEPS = 300
REQUESTS_A_STEP = 32
CANDIDATES_A_STEP = 256
LEARNING_RATE = 5e-3
BATCH = 64  # requests that the teacher scores at a time
SHARPNESS = 2.0
"""Of the soft targets, per standard deviation of the teacher's values: the top counts most."""


class PreRanker:
    """The student.

    Args:
        request: f32[d, R] with request_bias f32[R].
        item: f32[I, R], from an item's table rows (I = d + 128 columns).
        bias: f32[I].
        counter: f32[K], for the counter features.
        teacher: Whose item tables it reads, also for uploads.
        counters: f32[V, K], as published at training.
    """

    def __init__(
        self,
        *,
        request: np.ndarray,
        request_bias: np.ndarray,
        item: np.ndarray,
        bias: np.ndarray,
        counter: np.ndarray,
        teacher: TransformerRanker,
        counters: np.ndarray,
    ) -> None:
        self.request, self.request_bias = request, request_bias
        self.item, self.bias, self.counter = item, bias, counter
        self.teacher, self.counters = teacher, counters
        self._rows = np.empty((0, item.shape[1]), dtype=np.float32)
        self._own = np.empty(0, dtype=np.float32)
        self._append(teacher.tables)
        self.refresh(counters)

    def __len__(self) -> int:
        return len(self._rows)

    def score(self, encoded: np.ndarray, videos: np.ndarray) -> np.ndarray:
        """Scores f32[B, C] of candidates i32[B, C], -1 padded (what stands there is noise)."""
        query = encoded @ self.request + self.request_bias
        known = np.maximum(videos, 0)
        scores = np.empty(videos.shape, dtype=np.float32)
        for row in range(len(videos)):  # one matrix-vector product each: no [B, C, R] copy
            np.matmul(np.take(self._rows, known[row], axis=0), query[row], out=scores[row])
        scores += self._bias[known]
        return scores

    def refresh(self, counters: np.ndarray) -> None:
        """Takes newly published counters f32[V, K] (``CounterSnapshot.features``) into the bias.

        Videos beyond the counters' rows (uploads of this minute) are given the median counters.
        """
        self.counters = counters
        n = min(len(counters), len(self._own))
        self._bias = self._own.copy()
        self._bias[:n] += counters[:n] @ self.counter
        if n < len(self._own):
            self._bias[n:] += np.median(counters, axis=0) @ self.counter

    def add_videos(self, catalogue: Catalogue) -> None:
        """Appends rows for the videos that the catalogue has beyond the student's."""
        self.teacher.add_videos(catalogue)
        if len(self.teacher.tables) > len(self):
            self._append(self.teacher.tables)
            self.refresh(self.counters)

    def _append(self, tables: ItemTables) -> None:
        columns = item_columns(tables, first=len(self._rows))
        self._rows = np.concatenate([self._rows, (columns @ self.item).astype(np.float32)])
        self._own = np.concatenate([self._own, (columns @ self.bias).astype(np.float32)])


class _Student(nn.Module):
    def __init__(self, width: int, n_item: int, n_counter: int) -> None:
        super().__init__()
        self.request = nn.Linear(width, RANK)
        self.item = nn.Linear(n_item, RANK, bias=False)
        self.bias = nn.Linear(n_item, 1, bias=False)
        self.counter = nn.Linear(n_counter, 1, bias=False)

    def forward(self, encoded: Tensor, item: Tensor, counter: Tensor) -> Tensor:
        dots = torch.einsum("br,bcr->bc", self.request(encoded), self.item(item))
        return dots + self.bias(item)[..., 0] + self.counter(counter)[..., 0]


def fit_prerank(
    teacher: TransformerRanker,
    batch: RequestBatch,
    videos: np.ndarray,
    cross: np.ndarray,
    counters: np.ndarray,
    weights: Mapping[str, float],
    *,
    seed: int,
    encoded: np.ndarray | None = None,
) -> PreRanker:
    """Distils the teacher.

    Args:
        teacher: The ranker.
        batch: B requests of a time before the test window.
        videos: i32[B, C], candidates as retrieval brings them, -1 padded.
        cross: f32[B, C, F], their features; the teacher sees them, the student does not.
        counters: f32[V, K], ``CounterSnapshot.features`` of that time.
        weights: Of the teacher's value.
        seed: Of weights and batches.
        encoded: f32[B, d], if the caller has encoded the batch already.

    Raises:
        ValueError: If there are no requests.
    """
    if not len(batch):
        raise ValueError("no requests to distil on")
    encoded = teacher.encode(batch) if encoded is None else encoded
    values = np.concatenate(
        [
            value(
                teacher.score(
                    encoded[at], batch.user[at], batch.context[at], videos[at], cross[at]
                ),
                weights,
            )
            for at in (slice(i, i + BATCH) for i in range(0, len(batch), BATCH))
        ]
    )
    values = np.where(videos >= 0, values, -np.inf)
    columns = item_columns(teacher.tables)
    scale = np.maximum(columns.std(axis=0), 1e-3)
    spread = np.maximum(counters.std(axis=0), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _Student(encoded.shape[1], columns.shape[1], counters.shape[1])
        rng = np.random.default_rng(seed)
        _distil(student, encoded, videos, values, columns / scale, counters / spread, rng)
    return PreRanker(
        request=_of(student.request.weight).T,
        request_bias=_of(student.request.bias),
        item=_of(student.item.weight).T / scale[:, None],
        bias=_of(student.bias.weight)[0] / scale,
        counter=_of(student.counter.weight)[0] / spread,
        teacher=teacher,
        counters=counters,
    )


def soft_targets(values: np.ndarray, scale: float) -> np.ndarray:
    """Softmax f32[B, C] of values over their spread; a value of -inf (a padding) becomes 0."""
    sharp = SHARPNESS * values / max(scale, 1e-6)
    weight = np.exp(sharp - sharp.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float32)


def recall_of_top(teacher: np.ndarray, student: np.ndarray, *, top: int, keep: int) -> np.ndarray:
    """Share of the teacher's ``top`` best that the student's ``keep`` best hold, f64[B].

    Args:
        teacher: f[B, C], -inf at paddings.
        student: f[B, C], -inf at paddings.
        top: As many as the final list is long.
        keep: As many as go on.
    """
    best = np.argsort(-teacher, axis=1, kind="stable")[:, :top]
    order = np.argsort(-student, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return np.asarray((np.take_along_axis(place, best, axis=1) < keep).mean(axis=1))


def item_columns(tables: ItemTables, *, first: int = 0) -> np.ndarray:
    """What the student reads of an item: the teacher's rows, f32[V, d + 128]."""
    return np.concatenate([tables.key[first:], tables.first[first:]], axis=1)


def _distil(
    student: _Student,
    encoded: np.ndarray,
    videos: np.ndarray,
    values: np.ndarray,
    columns: np.ndarray,
    counters: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Cross-entropy against the soft targets, over some candidates of some requests a step."""
    optimiser = torch.optim.Adam(student.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    scale = float(values[np.isfinite(values)].std())
    n_some = min(CANDIDATES_A_STEP, videos.shape[1])
    for _ in range(STEPS):
        rows = rng.integers(0, len(videos), min(REQUESTS_A_STEP, len(videos)))
        some = rng.permutation(videos.shape[1])[:n_some]
        chosen, worth = videos[rows][:, some], values[rows][:, some]
        full = (chosen >= 0).any(axis=1)
        chosen, worth, asked = chosen[full], worth[full], encoded[rows[full]]
        known = np.maximum(chosen, 0)
        scores = student(
            torch.from_numpy(asked),
            torch.from_numpy(columns[known].astype(np.float32)),
            torch.from_numpy(counters[known].astype(np.float32)),
        )
        scores = scores.masked_fill(torch.from_numpy(chosen < 0), -1e9)
        aim = torch.from_numpy(soft_targets(worth, scale))
        loss = -(aim * torch.log_softmax(scores, dim=1)).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _of(parameter: Tensor) -> np.ndarray:
    return np.asarray(parameter.detach().numpy().copy())
