"""The rows every table needs: random, popularity, recent popularity, item-item, EASE, iALS.

In: the part of the log a model may know, and live histories at query time. Out: scorers that map a
``RequestBatch`` to scores f32[Q, I], each with its few knobs chosen on the validation window. The
baselines get what our models get: live histories and, for popularity, live counters. A baseline
that is denied the present is not a baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from feature_engineering.counters import EventCounter, as_of
from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.scoring import ItemItemModel, score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.data.interactions import InteractionLog
from ml_platform.data.synthetic import Oracle
from video_recommendation.requests import RequestBatch
from video_recommendation.retrieval.sources import DAY_S

Scorer = Callable[[RequestBatch], np.ndarray]


@dataclass(frozen=True)
class Baseline:
    """A family of scorers: a name, a grid of knobs, and how to fit one member.

    Attributes:
        name: Variant name in the results.
        grid: The settings tried on the validation window; one entry means nothing to choose.
        fit: Maps (log, setting) to a scorer.
    """

    name: str
    grid: tuple[dict[str, float], ...]
    fit: Callable[[InteractionLog, dict[str, float]], Scorer]


def baselines(counter: EventCounter, seed: int) -> tuple[Baseline, ...]:
    """All baselines. ``counter`` knows all events; a scorer reads those before its request."""

    def popularity(_: InteractionLog, setting: dict[str, float]) -> Scorer:
        return lambda batch: popularity_scores(counter, batch, setting.get("days"))

    return (
        Baseline("random", ({},), lambda log, _: _random_scorer(log.n_items, seed)),
        Baseline("popularity", ({},), popularity),
        Baseline(
            "recent_popularity", ({"days": 1}, {"days": 7}, {"days": 14}, {"days": 30}), popularity
        ),
        Baseline(
            "item_knn",
            tuple({"neighbours": n, "shrink": s} for n in (20, 100) for s in (10, 200)),
            lambda log, s: item_item_scorer(
                fit_item_knn(log.matrix(), neighbours=int(s["neighbours"]), shrink=s["shrink"])
            ),
        ),
        Baseline(
            "ease",
            ({"reg": 100}, {"reg": 300}, {"reg": 1000}),
            lambda log, s: item_item_scorer(fit_ease(log.matrix(), reg=s["reg"])),
        ),
        Baseline(
            "ials",
            tuple({"factors": f, "reg": r} for f in (16, 32, 64) for r in (1.0, 10.0)),
            lambda log, s: ials_scorer(log.matrix(), int(s["factors"]), s["reg"], seed),
        ),
    )


def oracle_scorer(oracle: Oracle) -> Scorer:
    """True utility on generated data: the ceiling."""
    return lambda batch: oracle.utility(batch.user_idx, batch.now)


def item_item_scorer(model: ItemItemModel) -> Scorer:
    """Every event of the history votes once, however old."""
    return lambda batch: score_histories(model, batch.item_idx, batch.ptr)


def popularity_scores(counter: EventCounter, batch: RequestBatch, days: float | None) -> np.ndarray:
    """Live event counts f32[Q, I] at each request: of the last ``days``, of all time by default."""
    items = np.arange(counter.n_items)
    moments, moment_of = np.unique(as_of(batch.now), return_inverse=True)
    counts = np.empty((len(moments), counter.n_items), dtype=np.float32)
    for row, moment in enumerate(moments):
        if days is None:
            counts[row] = counter.before(items, int(moment))
        else:
            counts[row] = counter.between(items, int(moment - days * DAY_S), int(moment))
    return counts[moment_of]


def ials_scorer(matrix: sparse.csr_matrix, factors: int, reg: float, seed: int) -> Scorer:
    """Implicit ALS (Hu, Koren and Volinsky, ICDM 2008) by the ``implicit`` library.

    The user factor is solved anew from the live history at every request.
    """
    with threadpool_limits(1, "blas"):  # the library's own advice: many tiny solves
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=reg,
            alpha=1.0,
            iterations=15,
            random_state=seed,
            num_threads=1,
        )
        model.fit(matrix, show_progress=False)

    def score(batch: RequestBatch) -> np.ndarray:
        shape = (len(batch), matrix.shape[1])
        ones = np.ones(len(batch.item_idx), dtype=np.float32)
        histories = sparse.csr_matrix((ones, batch.item_idx, batch.ptr), shape=shape)
        histories.sum_duplicates()
        users = model.recalculate_user(np.arange(len(batch)), histories)
        return np.asarray(users @ model.item_factors.T, dtype=np.float32)

    return score


def _random_scorer(n_items: int, seed: int) -> Scorer:
    rng = np.random.default_rng(seed)
    return lambda batch: rng.random((len(batch), n_items), dtype=np.float32)
