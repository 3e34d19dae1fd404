"""The models of the study behind one signature, their grids, and how settings are chosen.

In: train csr f32[U, I]. Out: scores f32[U, I], seen items not masked. Every model is given eight to
twenty-seven settings (iALS, with three knobs, the most), tried once on the tuning split by nDCG@10;
what wins is then fitted on each reported seed. That is the whole of "tuned alike": the same data,
the same metric, a like number of tries.

Legend: U users, I items, D factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from scipy import sparse

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.rp3beta import fit_rp3beta
from ml_algorithms.matrix_factorization.bench_data import (
    lists_of,
    ndcg,
    split_of,
    tuning_split_of,
)
from ml_algorithms.matrix_factorization.bpr import fit_bpr
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.matrix_factorization.ials import fit_ials
from ml_algorithms.matrix_factorization.svd import fit_pure_svd
from ml_algorithms.study_data import SYNTHETIC

Settings = Mapping[str, Any]
Scorer = Callable[..., np.ndarray]
DEEP = 50  # length of the lists that are kept

NAMES = {
    "popularity": "Popularity",
    "item_knn": "Item kNN",
    "rp3beta": "RP3beta",
    "pure_svd": "PureSVD",
    "ials": "iALS, ours",
    "ials_implicit": "iALS, implicit library",
    "bpr": "BPR, ours",
    "bpr_implicit": "BPR, implicit library",
    "ease": "EASE",
}


def popularity(train: sparse.csr_matrix, seed: int) -> np.ndarray:
    """The same count for everyone."""
    counts = np.bincount(train.indices, minlength=train.shape[1]).astype(np.float32)
    return np.tile(counts, (train.shape[0], 1))


def item_knn(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """Cosine neighbours."""
    return np.asarray((train @ fit_item_knn(train, **settings)).toarray())


def rp3beta(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """Three-step walks."""
    return np.asarray((train @ fit_rp3beta(train, neighbours=train.shape[1], **settings)).toarray())


def pure_svd(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """Projection of the history onto the first right singular vectors."""
    model = fit_pure_svd(train, seed=seed, **settings)
    return model.score(model.fold_in(train))


def ials(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """ials.py."""
    model = fit_ials(train, seed=seed, **settings)
    return model.score(model.user_factors)


def ease(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """ease.py."""
    return np.asarray(train @ fit_ease(train, **settings))


def bpr(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """bpr.py."""
    model = fit_bpr(train, seed=seed, **settings)
    return model.score(model.user_factors)


def ials_implicit(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """The library's ALS, one thread: reproducible, and fast enough here."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(random_state=seed, num_threads=1, **settings)
    model.fit(train, show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


def bpr_implicit(train: sparse.csr_matrix, seed: int, **settings: Any) -> np.ndarray:
    """The library's BPR; it draws negatives in proportion to popularity."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(random_state=seed, num_threads=1, **settings)
    model.fit(train, show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer
    for scorer in (
        popularity, item_knn, rp3beta, pure_svd, ials, ials_implicit, bpr, bpr_implicit, ease,
    )
}  # fmt: skip


def grid(**knobs: Sequence[Any]) -> list[Settings]:
    """Every combination."""
    return [dict(zip(knobs, values, strict=True)) for values in product(*knobs.values())]


GRIDS: dict[str, list[Settings]] = {
    "popularity": [{}],
    "item_knn": grid(neighbours=(50, 100, 200), shrink=(1.0, 10.0, 50.0, 200.0, 500.0)),
    "rp3beta": grid(alpha=(0.4, 0.6, 0.8, 1.0), beta=(0.4, 0.6, 0.8)),
    "pure_svd": grid(factors=(4, 8, 12, 16, 20, 24, 32, 48, 64)),
    "ials": grid(
        factors=(24, 48, 64), unobserved_weight=(0.25, 0.5, 1.0), reg=(0.006, 0.012, 0.024)
    ),
    "ials_implicit": grid(
        factors=(24, 48, 64), alpha=(5.0, 10.0, 20.0), regularization=(30.0, 60.0, 120.0),
        use_cg=(False,),
    ),
    "bpr": grid(
        factors=(64, 128), learning_rate=(0.005, 0.01, 0.02), reg=(0.01, 0.02, 0.04), epochs=(200,)
    ),
    "bpr_implicit": grid(
        factors=(32,), learning_rate=(0.001, 0.005, 0.02),
        regularization=(0.005, 0.01, 0.02, 0.05), iterations=(200,),
    ),
    "ease": grid(reg=(50.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1000.0, 1500.0)),
}  # fmt: skip

# Generated data, small models: every line of the study runs, no number means anything.
SMALL_GRIDS: dict[str, list[Settings]] = {
    **GRIDS,
    "item_knn": grid(neighbours=(20,), shrink=(0.0, 10.0)),
    "rp3beta": grid(alpha=(0.6,), beta=(0.4, 0.6)),
    "pure_svd": grid(factors=(4, 8)),
    "ials": grid(factors=(4,), unobserved_weight=(0.2,), reg=(0.01, 0.05), iterations=(4,)),
    "ials_implicit": grid(factors=(4,), alpha=(3.0,), regularization=(5.0,), iterations=(4,)),
    "bpr": grid(factors=(4,), epochs=(5, 10)),
    "bpr_implicit": grid(factors=(4,), iterations=(5,)),
    "ease": grid(reg=(20.0, 100.0)),
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra in one thread: the library asks for it, and timings need it."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def side_by_side(call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """``map`` in two threads, linear algebra in one each: what fits do lies outside Python's lock.

    Each call has its own seeds, so the answers do not depend on the threads.
    """
    with one_thread(), ThreadPoolExecutor(2) as pool:
        return list(pool.map(call, arguments))


@cache
def tuned(dataset: str, model: str) -> Settings:
    """The grid's best setting on the tuning split; the first of equals."""
    grids = SMALL_GRIDS if dataset == SYNTHETIC else GRIDS
    if len(grids[model]) == 1:
        return grids[model][0]
    split = tuning_split_of(dataset)

    def value(settings: Settings) -> float:
        scores = SCORERS[model](split.train, 0, **settings)
        return float(ndcg(lists_of(scores, split.train), split).mean())

    return grids[model][int(np.argmax(side_by_side(value, grids[model])))]


@cache
def tuned_lists(dataset: str, model: str, seed: int) -> np.ndarray:
    """Lists i32[U, 50] of the tuned model on a reported seed."""
    train = split_of(dataset, seed).train
    with one_thread():
        scores = SCORERS[model](train, seed, **tuned(dataset, model))
    return lists_of(scores, train, DEEP)


def setting_text(settings: Settings) -> str:
    """Settings as a protocol shows them."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no knobs"
