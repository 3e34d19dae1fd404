"""Data, baselines and metrics of the study: one protocol for every model in it.

In: a data set's name. Out: ``StudyData`` (training pairs, queries of validation and test) and, for
scores f32[Q, I], a ``Quality``: recall, NDCG and what the lists do to popularity.

Protocol: split by time 80/10/10; every (user, second) of the window is one query with the user's
history before that second, models frozen at the end of the training window; queries without a
history are left out (nobody in the study knows them); the full catalogue is scored, seen items are
masked. What is chosen is chosen on the validation window; numbers come from the test window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ml_algorithms.collaborative_filtering.scoring import score_histories as item_item_scores
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.matrix_factorization.ials import ImplicitALS, fit_ials
from ml_algorithms.study_data import study_dataset
from ml_algorithms.two_tower_and_contrastive.objective import TrainingPairs
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, score_histories
from ml_algorithms.two_tower_and_contrastive.training import last_items
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.data.interactions import InteractionLog, Queries, build_interaction_log
from ml_platform.data.schema import Dataset, genre_flags
from ml_platform.data.splits import next_event_queries, temporal_windows
from ml_platform.evaluation.diversity_metrics import catalogue_coverage, exposure, gini
from ml_platform.evaluation.ranking_metrics import hit_matrix, ndcg_at, recall_at, top_k

BLOCK = 2048
EASE_GRID = (100.0, 300.0, 1000.0)
RECENT = (10, 20, 1_000_000)  # how many of the last events a baseline reads, tuned with the rest
IALS_GRID = ((0.1, 0.003), (0.1, 0.01), (0.3, 0.003), (0.3, 0.01))


@dataclass(frozen=True)
class Window:
    """Queries of one window in the forms that models and metrics want.

    Attributes:
        queries: Q points in the log.
        history: i64[Q, L], what the two-tower reads.
        relevant_ptr, relevant_items: the ragged relevant items.
        seen: (row, item) pairs to mask.
    """

    queries: Queries
    history: Tensor
    relevant_ptr: np.ndarray
    relevant_items: np.ndarray
    seen: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class StudyData:
    """One data set, cut and ready."""

    dataset: Dataset
    log: InteractionLog
    train: InteractionLog
    pairs: TrainingPairs
    validation: Window
    test: Window
    percentile: np.ndarray
    """f64[I]: share of the catalogue with at most this item's training count, ties at their
    middle."""

    @property
    def protocol(self) -> str:
        """How every number of quality was measured, in words; not how settings were chosen."""
        return (
            f"{self.dataset.name}, split by time 80/10/10, fitted on the first part, "
            f"{len(self.test.queries)} next-event queries of the last part with a history, "
            "full catalogue, seen masked"
        )


@dataclass(frozen=True)
class Quality:
    """Metrics of one model's lists; f64[Q] where a query has its own value."""

    recall_10: np.ndarray
    recall_100: np.ndarray
    ndcg_10: np.ndarray
    popularity: np.ndarray
    """Mean popularity percentile of the ten items of a list."""
    coverage: float
    gini: float


def load_study_data(
    name: str, *, history_length: int, max_queries: int, interactions: int = 6000
) -> StudyData:
    """Loads and cuts a data set.

    Args:
        name: Of the registry; "synthetic" is generated.
        history_length: L of the two-tower's histories.
        max_queries: At most so many queries a window, drawn at random from a fixed seed.
        interactions: Size of the generated data.

    Raises:
        MissingInputError: If the data cannot be had; it says what to do.
    """
    small = SyntheticConfig(n_users=120, n_items=151, n_interactions=interactions)
    dataset = study_dataset(name, small=small)
    log = build_interaction_log(dataset)
    cuts = temporal_windows(log.timestamp)
    train = log.select(log.timestamp < cuts.train_end)
    counts = np.bincount(train.item_idx, minlength=log.n_items)
    below = np.searchsorted(np.sort(counts), counts, side="left")
    upto = np.searchsorted(np.sort(counts), counts, side="right")
    validation = next_event_queries(log, cuts.train_end, cuts.validation_end)
    test = next_event_queries(log, cuts.validation_end, None)
    return StudyData(
        dataset=dataset,
        log=log,
        train=train,
        pairs=_pairs(dataset, train, history_length),
        validation=_window(log, validation, history_length, max_queries // 2),
        test=_window(log, test, history_length, max_queries),
        percentile=(below + upto) / (2 * len(counts)),
    )


def evaluate(data: StudyData, window: Window, scores: Callable[[slice], np.ndarray]) -> Quality:
    """Metrics of a model, given as a function from a slice of the queries to scores [b, I]."""
    n_queries, lists = len(window.queries), []
    for begin in range(0, n_queries, BLOCK):
        block = slice(begin, min(begin + BLOCK, n_queries))
        mine = (window.seen[0] >= block.start) & (window.seen[0] < block.stop)
        seen = (window.seen[0][mine] - block.start, window.seen[1][mine])
        lists.append(top_k(scores(block), min(100, data.log.n_items), seen=seen)[0])
    found = np.concatenate(lists)
    hits = hit_matrix(found, window.relevant_ptr, window.relevant_items)
    n_relevant, top = np.diff(window.relevant_ptr), found[:, :10]
    return Quality(
        recall_10=recall_at(hits, n_relevant, 10),
        recall_100=recall_at(hits, n_relevant, found.shape[1]),
        ndcg_10=ndcg_at(hits, n_relevant, 10),
        popularity=data.percentile[top].mean(axis=1),
        coverage=catalogue_coverage(top, data.log.n_items),
        gini=gini(exposure(top, data.log.n_items)),
    )


def two_tower_scores(model: TwoTower, window: Window) -> Callable[[slice], np.ndarray]:
    """A two-tower's scores of a slice of the queries."""
    return lambda block: score_histories(model, window.history[block]).numpy()


def validator(data: StudyData) -> Callable[[TwoTower], float]:
    """Mean validation recall@100 of a model."""
    window = data.validation
    return lambda model: float(
        evaluate(data, window, two_tower_scores(model, window)).recall_100.mean()
    )


def taken_later(
    data: StudyData, model: TwoTower, windows: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    """Of the items in each window of ranks, the share that the user takes later on, f64[Q] each.

    Ranks are of the validation queries, seen items left out; "later" is the rest of the log. To a
    miner that trains at the query's moment these items are false negatives that no mask can know.
    """
    window = data.validation
    last = max(end for _, end in windows)
    scores = two_tower_scores(model, window)(slice(0, len(window.queries)))
    found, _ = top_k(scores, last, seen=window.seen)
    to_the_end = dataclasses.replace(
        window.queries, relevant_end=data.log.user_ptr[window.queries.user_idx + 1]
    )
    hits = hit_matrix(found, *to_the_end.relevant(data.log))
    return [hits[:, begin:end].mean(axis=1) for begin, end in windows]


@dataclass(frozen=True)
class Baseline:
    """A baseline's quality and the setting it was measured at; popularity has none to choose."""

    quality: Quality
    setting: dict[str, float]
    tried: int = 1


def baselines(data: StudyData) -> dict[str, Baseline]:
    """Popularity, EASE and iALS, the latter two tuned on the validation window as the towers."""
    counts = np.bincount(data.train.item_idx, minlength=data.log.n_items).astype(np.float32)
    popularity = evaluate(
        data, data.test, lambda block: np.tile(counts, (block.stop - block.start, 1))
    )
    matrix = data.train.matrix()
    ease: list[Candidate] = []
    for reg in EASE_GRID:
        weights = fit_ease(matrix, reg=reg)
        for last in RECENT:
            setting = {"reg": reg, "last_events": float(last)}
            ease.append((setting, _ease_scorer(data, weights, last)))
    ials: list[Candidate] = []
    for weight, reg in IALS_GRID:
        model = fit_ials(matrix, factors=32, unobserved_weight=weight, reg=reg)
        for last in RECENT:
            setting = {"unobserved_weight": weight, "reg": reg, "last_events": float(last)}
            ials.append((setting, _ials_scorer(data, model, last)))
    return {
        "popularity": Baseline(popularity, {}),
        "ease": _best(data, ease),
        "ials": _best(data, ials),
    }


Scorer = Callable[[Window], Callable[[slice], np.ndarray]]
Candidate = tuple[dict[str, float], Scorer]


def _best(data: StudyData, candidates: list[Candidate]) -> Baseline:
    """Test quality of the candidate with the best validation recall@100."""
    window = data.validation
    recalls = [evaluate(data, window, one(window)).recall_100.mean() for _, one in candidates]
    setting, scorer = candidates[int(np.argmax(recalls))]
    return Baseline(evaluate(data, data.test, scorer(data.test)), setting, len(candidates))


def _ease_scorer(data: StudyData, model: np.ndarray, last: int) -> Scorer:
    def scorer(window: Window) -> Callable[[slice], np.ndarray]:
        def scores(block: slice) -> np.ndarray:
            ptr, rows = _recent(window.queries, block, last).history(data.log)
            return item_item_scores(model, data.log.item_idx[rows], ptr)

        return scores

    return scorer


def _ials_scorer(data: StudyData, model: ImplicitALS, last: int) -> Scorer:
    def scorer(window: Window) -> Callable[[slice], np.ndarray]:
        def scores(block: slice) -> np.ndarray:
            ptr, rows = _recent(window.queries, block, last).history(data.log)
            ones = np.ones(len(rows), dtype=np.float32)
            histories = sparse.csr_matrix(
                (ones, data.log.item_idx[rows], ptr), shape=(len(ptr) - 1, data.log.n_items)
            )
            return model.score(model.fold_in(histories))

        return scores

    return scorer


def _recent(queries: Queries, block: slice, last: int) -> Queries:
    """A slice of the queries with histories cut to the last events."""
    mine = queries.subset(np.arange(block.start, block.stop))
    begin = np.maximum(mine.history_begin, mine.history_end - last)
    return dataclasses.replace(mine, history_begin=begin)


def _pairs(dataset: Dataset, train: InteractionLog, length: int) -> TrainingPairs:
    """Every training row with at least one earlier second is a pair."""
    user = train.user_idx
    starts = np.ones(len(train), dtype=bool)
    starts[1:] = (user[1:] != user[:-1]) | (train.timestamp[1:] != train.timestamp[:-1])
    first_of_second = np.maximum.accumulate(np.where(starts, np.arange(len(train)), 0))
    begin = train.user_ptr[user]
    rows = np.flatnonzero(first_of_second > begin)
    return TrainingPairs(
        history=last_items(
            train.item_idx, begin[rows], first_of_second[rows], length=length,
            padding=train.n_items,
        ),
        item_idx=torch.from_numpy(train.item_idx[rows].astype(np.int64)),
        user_idx=torch.from_numpy(user[rows].astype(np.int64)),
        genres=genre_matrix(dataset),
    )  # fmt: skip


def genre_matrix(dataset: Dataset) -> Tensor:
    """f32[I, G]: each item's genres with equal weights that sum to 1; a row of 0 without any."""
    flags = genre_flags(dataset)[1].astype(np.float32)
    weights = flags / np.maximum(flags.sum(axis=1, keepdims=True), 1.0)
    return torch.from_numpy(weights)


def _window(log: InteractionLog, queries: Queries, length: int, most: int) -> Window:
    keep = np.flatnonzero(queries.history_end > queries.history_begin)
    if len(keep) > most:
        keep = np.sort(np.random.default_rng(0).choice(keep, most, replace=False))
    kept = queries.subset(keep)
    relevant_ptr, relevant_items = kept.relevant(log)
    ptr, rows = kept.history(log)
    owner = np.repeat(np.arange(len(kept)), np.diff(ptr))
    return Window(
        queries=kept,
        history=last_items(
            log.item_idx, kept.history_begin, kept.history_end, length=length, padding=log.n_items
        ),
        relevant_ptr=relevant_ptr,
        relevant_items=relevant_items,
        seen=(owner, log.item_idx[rows]),
    )
