"""Candidate sources and their merge: five lists of items become one pool per request.

In: a ``RequestBatch``. Out: ``Candidates``, Q ragged pools, each candidate with the rank and score
that every source gives it. One source cannot do all: the two-tower model generalises, co-visitation
follows the sitting, EASE remembers the whole taste, recent popularity catches what is hot and
serves whoever has no history, and fresh items would otherwise never be seen. Each has a quota, so
that none can crowd out the others; what they agree on is kept once, with all its ranks as features.

Legend: Q requests, I items, S sources, C candidates of all requests together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import faiss
import numpy as np
from scipy import sparse

from feature_engineering.counters import EventCounter, as_of
from ml_algorithms.collaborative_filtering.co_visitation import fit_co_visitation
from ml_algorithms.collaborative_filtering.scoring import score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.data.interactions import InteractionLog
from ml_platform.evaluation.top_k import tie_order, top_k
from video_recommendation.config import ItemItemConfig, RetrievalConfig
from video_recommendation.requests import RequestBatch

SOURCES = ("two_tower", "co_visitation", "ease", "recent_popularity", "fresh")
DAY_S = 86_400
HOUR_S = 3600
"""Popularity lists are rebuilt once an hour, as a serving system would."""


@dataclass(frozen=True)
class Candidates:
    """Pools of Q requests; candidate c of request q is a row ptr[q] <= c < ptr[q + 1].

    Attributes:
        ptr: i64[Q + 1].
        item_idx: i32[C], never an item of the request's history; within a request in the fixed
            pseudo-random tie order of the catalogue, so that a stable sort by any score leaves
            equal ones in no order that means something (item numbers follow age and popularity).
        rank: i16[C, S], 0-based place in each source's list; the quota where it is not in it.
        in_source: bool[C, S], whether the source proposed it.
        score: f32[C, 3], logits or votes of two_tower, co_visitation and ease: these three score
            every candidate, whoever proposed it.
        pool_size: i64[Q], how many the sources had proposed; a selection keeps it, so that a
            feature means the same before and after the pre-ranker. What is here, if not given.
    """

    ptr: np.ndarray
    item_idx: np.ndarray
    rank: np.ndarray
    in_source: np.ndarray
    score: np.ndarray
    pool_size: np.ndarray = None  # type: ignore[assignment] # set below

    def __post_init__(self) -> None:
        """A pool that nothing was taken from is the whole pool."""
        if self.pool_size is None:
            object.__setattr__(self, "pool_size", np.diff(self.ptr))

    @cached_property
    def owner(self) -> np.ndarray:
        """i64[C]: the request of every candidate."""
        return np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))

    def take(self, rows: np.ndarray, n_requests: int) -> Candidates:
        """The candidates of an ascending row selection, requests kept."""
        counts = np.bincount(self.owner[rows], minlength=n_requests)
        return Candidates(
            ptr=np.concatenate(([0], np.cumsum(counts))),
            item_idx=self.item_idx[rows],
            rank=self.rank[rows],
            in_source=self.in_source[rows],
            score=self.score[rows],
            pool_size=self.pool_size,
        )


@dataclass(frozen=True)
class ItemItemModels:
    """Fitted item-item sources: co-visitation csr[I, I] and EASE f32[I, I]."""

    co_visitation: sparse.csr_matrix
    ease: np.ndarray
    config: ItemItemConfig

    def co_visitation_scores(self, batch: RequestBatch) -> np.ndarray:
        """f32[Q, I]: votes of the last events, fading with every event since."""
        steps = batch.steps_back
        recent = steps < self.config.history_length
        weights = np.exp(-steps[recent] / self.config.history_decay)
        lengths = np.minimum(batch.lengths, self.config.history_length)
        ptr = np.concatenate(([0], np.cumsum(lengths)))
        return score_histories(self.co_visitation, batch.item_idx[recent], ptr, weights)

    def ease_scores(self, batch: RequestBatch) -> np.ndarray:
        """f32[Q, I]: votes of the whole history, the recent part louder."""
        decay = np.exp(-batch.steps_back / self.config.ease_history_decay)
        weights = decay + self.config.ease_floor
        return score_histories(self.ease, batch.item_idx, batch.ptr, weights)


def fit_item_item(log: InteractionLog, config: ItemItemConfig) -> ItemItemModels:
    """Fits both item-item models on a log that holds only what they may know."""
    co_visitation = fit_co_visitation(
        log.user_ptr,
        log.item_idx,
        log.timestamp,
        n_items=log.n_items,
        window_s=config.window_s,
        max_lag=config.max_lag,
        decay_s=config.decay_s,
        target_exponent=config.target_exponent,
        tie_weight=1.0,
        neighbours=config.neighbours,
    )
    ease = fit_ease(log.matrix(), reg=config.ease_reg)
    return ItemItemModels(co_visitation, ease.astype(np.float32), config)


@dataclass
class Retriever:
    """All sources of one model version.

    Attributes:
        item_vectors: f32[I, D], unit rows.
        index: FAISS index of the same vectors.
        inverse_temperature: Turns a cosine into the two-tower logit.
        item_item: Fitted item-item models.
        counter: Item events so far; the server replaces it as new events come in.
        config: Quotas.
    """

    item_vectors: np.ndarray
    index: faiss.Index
    inverse_temperature: float
    item_item: ItemItemModels
    counter: EventCounter
    config: RetrievalConfig

    @property
    def n_items(self) -> int:
        """I, the size of the catalogue."""
        return len(self.item_vectors)

    @property
    def quotas(self) -> dict[str, int]:
        """Slots of each source."""
        return {name: getattr(self.config, name) for name in SOURCES}

    def retrieve(self, batch: RequestBatch, user_vectors: np.ndarray) -> Candidates:
        """Asks every source and merges.

        Args:
            batch: Q requests.
            user_vectors: f32[Q, D] of the same requests.
        """
        history = (batch.owner, batch.item_idx)
        dense = {
            "co_visitation": self.item_item.co_visitation_scores(batch),
            "ease": self.item_item.ease_scores(batch),
        }
        for scores in dense.values():
            scores[history] = -np.inf
        lists = {
            "two_tower": self._two_tower_list(batch, user_vectors),
            "co_visitation": top_k(_voted(dense["co_visitation"]), self.config.co_visitation)[0],
            "ease": top_k(dense["ease"], self.config.ease)[0],
            **self._popular_and_fresh(batch, user_vectors),
        }
        request, item, rank = merge_lists(lists, self.quotas, self.n_items)
        logits = np.einsum("cd,cd->c", user_vectors[request], self.item_vectors[item])
        score = np.stack(
            [
                logits * self.inverse_temperature,
                dense["co_visitation"][request, item],
                dense["ease"][request, item],
            ],
            axis=1,
        ).astype(np.float32)
        counts = np.bincount(request, minlength=len(batch))
        in_source = rank < np.array([self.quotas[name] for name in SOURCES])
        return Candidates(np.concatenate(([0], np.cumsum(counts))), item, rank, in_source, score)

    def _two_tower_list(self, batch: RequestBatch, user_vectors: np.ndarray) -> np.ndarray:
        """i32[Q, quota] nearest unseen items: over-fetch by the longest history, drop the seen."""
        quota = min(self.config.two_tower, self.n_items)
        longest = int(batch.lengths.max(initial=0))
        depth = min(self.n_items, quota + longest)
        found = self.index.search(user_vectors, depth)[1]
        return _unseen(found, batch, self.n_items, quota)

    def _popular_and_fresh(
        self, batch: RequestBatch, user_vectors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Lists by the clock: what was popular, and new items in the order of the two-tower."""
        popular = np.full((len(batch), self.config.recent_popularity), -1, dtype=np.int32)
        fresh = np.full((len(batch), self.config.fresh), -1, dtype=np.int32)
        first_event = self.counter.first_event
        hours, hour_of = np.unique(batch.now // HOUR_S * HOUR_S, return_inverse=True)
        for position, hour in enumerate(hours):
            rows = np.flatnonzero(hour_of == position)
            begin = hour - int(self.config.popular_days * DAY_S)
            counts = self.counter.of_all(begin, int(hour)).astype(np.float32)
            block = np.repeat(counts[None], len(rows), axis=0)
            block[block == 0] = -np.inf
            popular[rows] = top_k(_mask(block, batch, rows), self.config.recent_popularity)[0]
            newest = int(hour) - int(self.config.fresh_days * DAY_S)
            new = np.flatnonzero((first_event >= newest) & (first_event < hour))
            if len(new):
                scores = np.full((len(rows), self.n_items), -np.inf, dtype=np.float32)
                scores[:, new] = user_vectors[rows] @ self.item_vectors[new].T
                fresh[rows] = top_k(_mask(scores, batch, rows), self.config.fresh)[0]
        return {"recent_popularity": popular, "fresh": fresh}

    def window_counts(self, item_idx: np.ndarray, now: np.ndarray, days: float) -> np.ndarray:
        """Events of each item in the ``days`` before the last full minute. Shapes broadcast."""
        end = as_of(now)
        return self.counter.between(item_idx, end - int(days * DAY_S), end)


def merge_lists(
    lists: dict[str, np.ndarray], quotas: dict[str, int], n_items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Union of the sources' lists, every (request, item) once.

    Args:
        lists: For each source i32[Q, quota] with -1 padding, best first.
        quotas: Slots of each source; also the rank of an item that the source does not hold.
        n_items: I.

    Returns:
        request i64[C], item i32[C] (in tie order within a request), rank i16[C, S] in the order of
        ``lists``.
    """
    item_of, place_of = tie_order(n_items)
    keys = []
    for found in lists.values():
        row, column = np.nonzero(found >= 0)
        keys.append((row.astype(np.int64) * n_items + place_of[found[row, column]], column))
    pool = np.unique(np.concatenate([key for key, _ in keys]))
    rank = np.empty((len(pool), len(lists)), dtype=np.int16)
    for source, (name, (key, column)) in enumerate(zip(lists, keys, strict=True)):
        rank[:, source] = quotas[name]
        rank[np.searchsorted(pool, key), source] = column
    return pool // n_items, item_of[pool % n_items], rank


def _voted(scores: np.ndarray) -> np.ndarray:
    """Scores with -inf for items without a single vote: they are no candidates, not ties."""
    return np.where(scores > 0, scores, -np.inf)


def _mask(scores: np.ndarray, batch: RequestBatch, rows: np.ndarray) -> np.ndarray:
    """Sets the histories of requests ``rows`` to -inf in their block of scores [len(rows), I]."""
    lengths = batch.lengths[rows]
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    events = np.repeat(batch.ptr[rows], lengths) + offset
    scores[np.repeat(np.arange(len(rows)), lengths), batch.item_idx[events]] = -np.inf
    return scores


def _unseen(found: np.ndarray, batch: RequestBatch, n_items: int, quota: int) -> np.ndarray:
    """First ``quota`` items of each row that are not in the request's history; -1 padding."""
    seen = np.unique(batch.owner * n_items + batch.item_idx)
    key = np.arange(len(found))[:, None] * n_items + found
    place = np.minimum(np.searchsorted(seen, key), max(len(seen) - 1, 0))
    keep = found >= 0
    if len(seen):
        keep &= seen[place] != key
    position = np.cumsum(keep, axis=1) - 1
    keep &= position < quota
    result = np.full((len(found), quota), -1, dtype=np.int32)
    row, column = np.nonzero(keep)
    result[row, position[row, column]] = found[row, column]
    return result
