"""Models of who rated what, without time: each takes a ``TrainPart`` and scores everything.

In: ``TrainPart``. Out: f32[U, I], higher is better, seen items not masked. Settings were chosen
by nDCG@10 on the inner folds of seed 0's train part (a seed that the table does not report).

Beside the usual baselines of ``ml_algorithms`` stand models that are weak alone and useful in a
stack because they err elsewhere: a kernel over users, the nearest few instead of all neighbours,
and models that read the ratings of the train rows (what was liked, what was only seen).

Legend: U users, I items, D factors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.rp3beta import fit_rp3beta
from ml_algorithms.matrix_factorization.ease import fit_ease
from video_recommendation.published_table.train_part import TrainPart

LIKED = 4.0  # stars
INDIFFERENT = 2.5  # stars; below it a rating speaks against an item
ALL = 10**9  # neighbours: no pruning

# The plain blend: sum of z-scores with these weights, chosen with the settings below.
BLEND = {"ials": 1.0, "ials_wide": 1.0, "ease_normalised": 1.0, "rp3beta": 0.5, "ntk": 1.0}


def popularity(part: TrainPart) -> np.ndarray:
    """How many users rated the item; log, so that its z-score is not a few blockbusters."""
    return np.tile(np.log1p(part.popularity), (part.shape[0], 1))


def item_knn(part: TrainPart) -> np.ndarray:
    """Cosine item kNN."""
    return _dense(part.matrix @ fit_item_knn(part.matrix, neighbours=100, shrink=10.0))


def rp3beta(part: TrainPart) -> np.ndarray:
    """Three-step random walk with a popularity discount."""
    model = fit_rp3beta(part.matrix, alpha=0.6, beta=0.6, neighbours=ALL)
    return _dense(part.matrix @ model)


def ease(part: TrainPart) -> np.ndarray:
    """EASE (Steck, WWW 2019)."""
    return part.rated @ fit_ease(part.matrix, reg=500.0)


def ease_normalised(part: TrainPart) -> np.ndarray:
    """EASE with each user's row divided by n_u^0.25: heavy users weigh a little less."""
    model = fit_ease(sparse.csr_matrix(part.rated / part.activity[:, None] ** 0.25), reg=60.0)
    return part.rated @ model


def ease_on_ratings(part: TrainPart) -> np.ndarray:
    """EASE on signed ratings (stars - 2.5): what is liked together, not just seen together."""
    signed = np.where(part.rated > 0, part.rating - INDIFFERENT, 0.0).astype(np.float32)
    return signed @ ease_of_gram(signed.T @ signed, reg=500.0)


def ials(part: TrainPart, *, factors: int = 24, reg: float = 30.0, seeds: int = 3) -> np.ndarray:
    """Implicit ALS (Hu, Koren and Volinsky, ICDM 2008), averaged over initialisations."""
    fits = [_ials(part.rated, factors, reg, 5.0, seed) for seed in range(seeds)]
    return np.mean(fits, axis=0)


def ials_narrow(part: TrainPart) -> np.ndarray:
    """Implicit ALS with few factors: broad tastes."""
    return ials(part, factors=12, reg=20.0)


def ials_wide(part: TrainPart) -> np.ndarray:
    """Implicit ALS with more factors, held by a stronger penalty."""
    return _ials(part.rated, 48, 50.0, 6.0, seed=0)


def ials_liked(part: TrainPart) -> np.ndarray:
    """Implicit ALS on what the user rated 4 or 5."""
    return _ials((part.rating >= LIKED).astype(np.float32), 16, 20.0, 5.0, seed=0)


def user_knn(part: TrainPart) -> np.ndarray:
    """All users vote with the square of their shrunk cosine."""
    return user_cosine(part.rated, shrink=10.0) ** 2 @ part.rated


def user_knn_liked(part: TrainPart) -> np.ndarray:
    """User kNN on what was rated 4 or 5."""
    liked = (part.rating >= LIKED).astype(np.float32)
    return user_cosine(liked, shrink=10.0) ** 2 @ liked


def nearest_ten_users(part: TrainPart) -> np.ndarray:
    """Votes of the ten most similar users only."""
    return keep_largest(user_cosine(part.rated, shrink=5.0), 10) @ part.rated


def nearest_fifty_users(part: TrainPart) -> np.ndarray:
    """Votes of the fifty most similar users only."""
    return keep_largest(user_cosine(part.rated, shrink=5.0), 50) @ part.rated


def nearest_item(part: TrainPart) -> np.ndarray:
    """The closest single item of the user's history."""
    return strongest_votes(item_cosine(part, part.rated.T @ part.rated, shrink=20.0), part, 1)


def nearest_five_items(part: TrainPart) -> np.ndarray:
    """The five closest items of the user's history."""
    return strongest_votes(item_cosine(part, part.rated.T @ part.rated, shrink=20.0), part, 5)


def rbf(part: TrainPart) -> np.ndarray:
    """Kernel ridge regression over users with the kernel exp(3 (cosine - 1))."""
    return _kernel_ridge(np.exp(3.0 * (_row_cosine(part.rated) - 1.0)), part.rated, 3.0)


def ntk(part: TrainPart) -> np.ndarray:
    """An infinitely wide autoencoder with one ReLU layer, as kernel ridge regression over users.

    Sachdeva et al., "Infinite Recommendation Networks: A Data-Centric Approach", NeurIPS 2022; the
    neural tangent kernel is that of arc-cosine kernels, c k0(c) + k1(c) with c the cosine.
    """
    cosine = _row_cosine(part.rated)
    angle = np.arccos(cosine)
    k0 = (np.pi - angle) / np.pi
    k1 = cosine * k0 + np.sqrt(1.0 - cosine * cosine) / np.pi
    return _kernel_ridge(cosine * k0 + k1, part.rated, 12.0)


SCORERS: dict[str, Callable[[TrainPart], np.ndarray]] = {
    scorer.__name__: scorer
    for scorer in (
        popularity, item_knn, rp3beta, user_knn, ease, ease_normalised, ease_on_ratings,
        ials, ials_narrow, ials_wide, ials_liked, user_knn_liked, ntk, rbf,
        nearest_ten_users, nearest_fifty_users, nearest_item, nearest_five_items,
    )
}  # fmt: skip


def item_cosine(part: TrainPart, together: np.ndarray, *, shrink: float) -> np.ndarray:
    """Co-counts [I, I] divided by sqrt(n_i n_j) + shrink, zero diagonal."""
    norm = np.sqrt(part.popularity)
    similarity = together / (np.outer(norm, norm) + shrink)
    np.fill_diagonal(similarity, 0.0)
    return similarity


def user_cosine(rows: np.ndarray, *, shrink: float) -> np.ndarray:
    """Shrunk cosine between binary rows, [U, U] with a zero diagonal."""
    norm = np.sqrt(rows.sum(axis=1))
    similarity = rows @ rows.T / (np.outer(norm, norm) + shrink)
    np.fill_diagonal(similarity, 0.0)
    return similarity


def ease_of_gram(gram: np.ndarray, *, reg: float) -> np.ndarray:
    """EASE's closed form (Steck, WWW 2019, equation 8) where only the Gram matrix is given.

    ``fit_ease`` builds the Gram matrix of interactions itself; here it comes from signed ratings,
    or from pairs weighted by nearness in time.

    Returns:
        f32[I, I] with a zero diagonal.
    """
    # float32: a ridge of hundreds keeps the matrix well conditioned, and it halves the time.
    precision = np.linalg.inv((gram + reg * np.eye(len(gram))).astype(np.float32))
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


def keep_largest(similarity: np.ndarray, count: int) -> np.ndarray:
    """Zeroes all but the ``count`` largest entries of each row."""
    count = min(count, similarity.shape[1])
    threshold = np.partition(similarity, -count, axis=1)[:, -count, None]
    return np.where(similarity >= threshold, similarity, 0.0)


def strongest_votes(similarity: np.ndarray, part: TrainPart, count: int) -> np.ndarray:
    """Sum of the ``count`` largest votes ``similarity[i, j]`` of a user's items i, f32[U, I]."""
    scores = np.zeros(part.shape, np.float32)
    for user in range(part.shape[0]):
        votes = similarity[np.flatnonzero(part.rated[user])]
        kept = min(count, len(votes))
        if kept:
            scores[user] = np.partition(votes, -kept, axis=0)[-kept:].sum(axis=0)
    return scores


def _ials(rows: np.ndarray, factors: int, reg: float, alpha: float, seed: int) -> np.ndarray:
    from implicit.als import AlternatingLeastSquares

    # One thread: the result is then the same on every machine, and a fit takes 0.1 s anyway.
    model = AlternatingLeastSquares(
        factors=factors, regularization=reg, alpha=alpha, iterations=15, random_state=seed,
        num_threads=1,
    )  # fmt: skip
    model.fit(sparse.csr_matrix(rows), show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


def _row_cosine(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return np.clip((unit @ unit.T).astype(np.float64), -1.0, 1.0)


def _kernel_ridge(kernel: np.ndarray, rows: np.ndarray, reg: float) -> np.ndarray:
    weights = np.linalg.solve(kernel + reg * np.eye(len(kernel)), rows)
    return (kernel @ weights).astype(np.float32)


def _dense(scores: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(scores.toarray())
