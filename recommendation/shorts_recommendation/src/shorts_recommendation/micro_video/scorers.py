"""The baselines, each as a ``Scorer``: popularity, item kNN, RP3beta, iALS, EASE, content kNN.

In: the train matrix csr [U, V] and, for content, features f32[V, D]. Out: a function from users to
scores of the catalogue. The models are ``ml_algorithms``'; here stands only how a user is put to
them: the history is the user, so that the same function scores a history with a row hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import sparse

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.rp3beta import fit_rp3beta
from ml_algorithms.matrix_factorization.ease import fit_ease
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


def content_grid(split: Split, config: MicroVideoConfig) -> Grid:
    """Content kNN over the weight of audio beside image."""

    def fitted(weight: float) -> Scorer:
        return content_knn(split.train, split.with_audio(weight).content)

    return [(f"audio={weight:g}", partial(fitted, weight)) for weight in config.audio_weights]


def _popular(split: Split, light_only: bool) -> Scorer:
    return constant(split.popularity(light_only=light_only))


def popularity_grid(split: Split) -> Grid:
    """Popularity among everybody, or among ordinary accounts only."""
    return [(f"light_only={light}", partial(_popular, split, light)) for light in (False, True)]


def item_knn_grid(split: Split, config: MicroVideoConfig, *, ordinary_only: bool = False) -> Grid:
    """Cosine item kNN over neighbours and shrink; fitted on everybody or on ordinary accounts."""

    def fitted(neighbours: int, shrink: float) -> Scorer:
        rows = split.train[~split.heavy] if ordinary_only else split.train
        return item_item(split.train, fit_item_knn(rows, neighbours=neighbours, shrink=shrink))

    return [
        (f"neighbours={n} shrink={s:g}", partial(fitted, n, s))
        for n in config.knn_neighbours
        for s in config.knn_shrink
    ]


def rp3beta_grid(split: Split, config: MicroVideoConfig) -> Grid:
    """RP3beta over neighbours and the discount of popular targets."""

    def fitted(neighbours: int, beta: float) -> Scorer:
        model = fit_rp3beta(split.train, alpha=1.0, beta=beta, neighbours=neighbours)
        return item_item(split.train, model)

    return [
        (f"neighbours={n} beta={b:g}", partial(fitted, n, b))
        for n in config.rp3_neighbours
        for b in config.rp3_beta
    ]


def ials_scorer(
    split: Split, config: MicroVideoConfig, alpha: float, reg: float, seed: int
) -> Scorer:
    """Fits iALS of the ``implicit`` library, against which ``ml_algorithms`` proves its own.

    One thread: with several the factors differ from run to run.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=config.ials_factors,
        alpha=alpha,
        regularization=reg,
        iterations=config.ials_iterations,
        random_state=seed,
        num_threads=1,
    )
    model.fit(split.train, show_progress=False)
    users_factors, videos_factors = model.user_factors, model.item_factors
    return lambda users: np.asarray(users_factors[users] @ videos_factors.T, dtype=np.float32)


def ials_settings(config: MicroVideoConfig) -> list[tuple[float, float]]:
    """(alpha, reg) of the grid, as ``implicit`` names them."""
    return [(alpha, reg) for alpha in config.ials_alpha for reg in config.ials_reg]


def ease_grid(split: Split, config: MicroVideoConfig) -> Grid:
    """EASE over its penalty; single precision, which a catalogue of this size allows."""

    def fitted(reg: float) -> Scorer:
        return item_item(split.train, fit_ease(split.train, reg=reg, dtype=np.float32))

    return [(f"reg={reg:g}", partial(fitted, reg)) for reg in config.ease_reg]
