"""The baselines, each as a ``Scorer``: popularity, item kNN, RP3beta, iALS, EASE, content kNN.

In: the train matrix csr [U, V] and, for content, features f32[V, D]. Out: a function from users to
scores of the catalogue. The models are ``ml_algorithms``'; here stands only how a user is put to
them: the history is the user, so that the same function scores a history with a row hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.rp3beta import fit_rp3beta
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.matrix_factorization.ials import fit_ials
from shorts_recommendation.micro_video.protocol import Scorer
from shorts_recommendation.micro_video.settings import MicroVideoConfig
from shorts_recommendation.micro_video.split import Split

Grid = list[tuple[str, Callable[[], Scorer]]]


def constant(scores: np.ndarray) -> Scorer:
    """The same scores [V] for everybody."""
    row = np.asarray(scores, dtype=np.float32)
    return lambda users: np.broadcast_to(row, (len(users), len(row)))


def item_item(history: sparse.csr_matrix, model: np.ndarray | sparse.csr_matrix) -> Scorer:
    """Sums of the history's rows of an item-item model [V, V]."""

    def score(users: np.ndarray) -> np.ndarray:
        found = history[users] @ model
        return np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float32)

    return score


def content_knn(history: sparse.csr_matrix, features: np.ndarray) -> Scorer:
    """Sum of cosines with the history: what resembles what was watched. Features are unit rows."""
    return lambda users: np.asarray((history[users] @ features) @ features.T, dtype=np.float32)


def popularity_grid(split: Split) -> Grid:
    """Popularity among everybody, or among ordinary accounts only."""
    return [
        (f"light_only={light}", lambda light=light: constant(split.popularity(light_only=light)))
        for light in (False, True)
    ]


def item_knn_grid(split: Split, config: MicroVideoConfig, *, ordinary_only: bool = False) -> Grid:
    """Cosine item kNN over neighbours and shrink; fitted on everybody or on ordinary accounts."""

    def fitted(neighbours: int, shrink: float) -> Scorer:
        rows = split.train[~split.heavy] if ordinary_only else split.train
        return item_item(split.train, fit_item_knn(rows, neighbours=neighbours, shrink=shrink))

    return [
        (f"neighbours={n} shrink={s:g}", lambda n=n, s=s: fitted(n, s))
        for n in config.knn_neighbours
        for s in config.knn_shrink
    ]


def rp3beta_grid(split: Split, config: MicroVideoConfig) -> Grid:
    """RP3beta over neighbours and the discount of popular targets."""
    return [
        (
            f"neighbours={n} beta={b:g}",
            lambda n=n, b=b: item_item(
                split.train, fit_rp3beta(split.train, alpha=1.0, beta=b, neighbours=n)
            ),
        )
        for n in config.rp3_neighbours
        for b in config.rp3_beta
    ]


def ials_scorer(
    split: Split, config: MicroVideoConfig, unobserved: float, reg: float, seed: int
) -> Scorer:
    """iALS; a user's factors are the last half-step's."""
    model = fit_ials(
        split.train,
        factors=config.ials_factors,
        unobserved_weight=unobserved,
        reg=reg,
        iterations=config.ials_iterations,
        seed=seed,
    )
    return lambda users: model.score(model.user_factors[users])


def ials_settings(config: MicroVideoConfig) -> list[tuple[float, float]]:
    """(unobserved weight, reg) of the grid."""
    return [(w, r) for w in config.ials_unobserved for r in config.ials_reg]


def ease_grid(split: Split, config: MicroVideoConfig) -> Grid:
    """EASE over its penalty; single precision, which a catalogue of this size allows."""
    return [
        (
            f"reg={reg:g}",
            lambda reg=reg: item_item(
                split.train, fit_ease(split.train, reg=reg, dtype=np.float32)
            ),
        )
        for reg in config.ease_reg
    ]
