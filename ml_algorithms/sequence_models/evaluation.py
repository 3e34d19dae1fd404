"""Leave-last-out with full ranking: the split, the scoring of the whole catalogue, the metrics.

In: a log, and a ``Scorer`` that gives f32[B, I] for B histories. Out: HR@k and NDCG@k for every
query, f64[Q].

Protocol: a user's last event is the test target, the one before it the validation target, the rest
is trained on; the test history includes the validation target, but no model is fitted on it. Every
item of the catalogue is ranked (no sampled negatives) and what the user has seen is masked. The
published rows differ in exactly these things, see the page; ``mask_seen`` and
``sampled_hit_rate`` are here to show by how much.

Legend: Q queries, B batch, I items, K list length, R relevant items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ml_algorithms.sequence_models.sequences import Histories, histories_of
from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.data.splits import leave_last_out
from ml_platform.evaluation.ranking_metrics import hit_matrix, hit_rate_at, ndcg_at
from ml_platform.evaluation.top_k import top_k

FloatArray = npt.NDArray[np.float64]
Scorer: TypeAlias = Callable[[Histories], npt.NDArray[np.float32]]
BATCH = 512


@dataclass(frozen=True)
class Questions:
    """Requests with their right answers.

    Attributes:
        histories: Q requests.
        user_idx: i32[Q], to resample users whole.
        relevant_ptr: i64[Q+1].
        relevant_items: i32[R].
    """

    histories: Histories
    user_idx: npt.NDArray[np.int32]
    relevant_ptr: npt.NDArray[np.int64]
    relevant_items: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.user_idx)


@dataclass(frozen=True)
class Split:
    """Training rows, and the questions of both held-out sides."""

    train: InteractionLog
    validation: Questions
    test: Questions


@dataclass(frozen=True)
class Ranking:
    """One row a query: HR@k f64[Q], NDCG@k f64[Q], the lists i32[Q, K] and their scores."""

    hit_rate: FloatArray
    ndcg: FloatArray
    items: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


def questions_of(log: InteractionLog, queries: Queries) -> Questions:
    """The histories and relevant items of queries that were made from ``log``."""
    ptr, items = queries.relevant(log)
    return Questions(histories_of(log, queries), queries.user_idx, ptr, items)


def leave_last_two_out(log: InteractionLog) -> Split:
    """``leave_last_out`` twice: last event to test, second to last to validation."""
    test, keep = leave_last_out(log)
    rest = log.select(keep)
    validation, keep = leave_last_out(rest)
    return Split(rest.select(keep), questions_of(rest, validation), questions_of(log, test))


def rank_all(
    scorer: Scorer, questions: Questions, *, k: int = 10, mask_seen: bool = True
) -> Ranking:
    """Ranks the whole catalogue for every question, block by block."""
    lists, scores = [], []
    for begin in range(0, len(questions), BATCH):
        block = questions.histories.batch(begin, min(begin + BATCH, len(questions)))
        seen = block.seen() if mask_seen else None
        items, values = top_k(scorer(block), k, seen=seen)
        lists.append(items)
        scores.append(values)
    items, values = np.concatenate(lists), np.concatenate(scores)
    hits = hit_matrix(items, questions.relevant_ptr, questions.relevant_items)
    n_relevant = np.diff(questions.relevant_ptr)
    return Ranking(hit_rate_at(hits, k), ndcg_at(hits, n_relevant, k), items, values)


def sampled_hit_rate(
    scorer: Scorer, questions: Questions, *, n_sampled: int = 100, k: int = 10, seed: int = 0
) -> FloatArray:
    """HR@k of the target among ``n_sampled`` uniformly drawn unseen items: the trap, f64[Q].

    Only for questions with one relevant item. An item of equal score counts half.

    Raises:
        ValueError: If a question has several relevant items.
    """
    if len(questions.relevant_items) != len(questions):
        raise ValueError("sampled_hit_rate needs exactly one relevant item in each question")
    rng = np.random.default_rng(seed)
    hits = np.zeros(len(questions))
    for begin in range(0, len(questions), BATCH):
        end = min(begin + BATCH, len(questions))
        block = questions.histories.batch(begin, end)
        scores = scorer(block)
        target = questions.relevant_items[begin:end]
        rows = np.arange(end - begin)
        allowed = np.ones(scores.shape, dtype=np.bool_)
        allowed[block.seen()] = False
        allowed[rows, target] = False
        key = np.where(allowed, rng.random(scores.shape), np.inf)
        drawn = np.argpartition(key, n_sampled, axis=1)[:, :n_sampled]
        mine = scores[rows, target][:, None]
        theirs = np.take_along_axis(scores, drawn, axis=1)
        rank = (theirs > mine).sum(axis=1) + 0.5 * (theirs == mine).sum(axis=1)
        hits[begin:end] = rank < k
    return hits


def model_scorer(model: nn.Module) -> Scorer:
    """Scores by the state at the newest event: f32[B, I]; a user without events gets zeros."""

    def score(histories: Histories) -> npt.NDArray[np.float32]:
        items, times = histories.padded(model.max_length)  # type: ignore[arg-type]
        with torch.inference_mode():
            states = model(torch.from_numpy(items), torch.from_numpy(times))[:, -1]
            scores = states @ model.catalogue().T  # type: ignore[operator]
        answer: npt.NDArray[np.float32] = scores.numpy()
        answer[np.diff(histories.ptr) == 0] = 0.0
        return answer

    return score
