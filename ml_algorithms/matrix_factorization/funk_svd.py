"""Rating prediction: biases alone, and FunkSVD (biased factors by stochastic gradient descent).

In: ratings csr [U, I]. Out: predictions ``mean + b_u + b_i + w_u h_i`` of any pair.

Koren, Bell, Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer
2009, equations 4 and 5; the gradient steps one rating at a time were published by Funk, "Netflix
Update: Try This at Home", 2006, for the Netflix Prize. The name misleads: there is no singular
value decomposition here, which would read empty cells as zeros. Only rated pairs enter the loss,

    sum over rated (u,i) of (r_ui - mean - b_u - b_i - w_u h_i)^2 + reg * |parameters of u and i|^2

and that is why it predicts ratings well and ranks a catalogue badly: nothing in it says what
happens to the pairs that nobody rated.

Departures from Funk: all factors are trained together, not one after the other, and the biases
are parameters (Koren's form).

Legend: U users, I items, N ratings, D factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.matrix_factorization.compiled import chosen

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RatingModel:
    """Mean, biases and factors; D may be 0."""

    mean: float
    user_bias: Array
    """[U]"""
    item_bias: Array
    """[I]"""
    user_factors: Array
    """[U, D]"""
    item_factors: Array
    """[I, D]"""

    def predict(self, user: Indices, item: Indices) -> Array:
        """Predicted ratings f64[N] of pairs, not clipped to the scale."""
        biases = self.mean + self.user_bias[user] + self.item_bias[item]
        return biases + np.einsum("nd,nd->n", self.user_factors[user], self.item_factors[item])


def fit_biases(
    ratings: sparse.csr_matrix, *, damping: float = 5.0, sweeps: int = 10
) -> RatingModel:
    """Mean plus damped user and item biases, alternating to convergence. O(sweeps N).

    Args:
        ratings: csr [U, I].
        damping: Pseudo-ratings of zero deviation beside each row's own: an item with one rating of
            5 is not yet the best of the catalogue.
        sweeps: Alternations.

    Raises:
        ValueError: On no ratings, or damping below 0.
    """
    user, item, value = _pairs(ratings)
    if damping < 0.0:
        raise ValueError(f"damping must be at least 0, got {damping}")
    mean = float(value.mean())
    user_bias, item_bias = np.zeros(ratings.shape[0]), np.zeros(ratings.shape[1])
    for _ in range(sweeps):
        item_bias = _damped_mean(value - mean - user_bias[user], item, len(item_bias), damping)
        user_bias = _damped_mean(value - mean - item_bias[item], user, len(user_bias), damping)
    nothing = np.zeros((len(user_bias), 0)), np.zeros((len(item_bias), 0))
    return RatingModel(mean, user_bias, item_bias, *nothing)


def fit_funk_svd(
    ratings: sparse.csr_matrix,
    *,
    factors: int,
    learning_rate: float = 0.01,
    reg: float = 0.1,
    epochs: int = 40,
    seed: int = 0,
    compile_loop: bool = True,
) -> RatingModel:
    """Biased factors by SGD. Time O(epochs N D).

    Args:
        ratings: csr [U, I].
        factors: D.
        learning_rate: Step length.
        reg: L2 penalty, paid at each rating: so a row pays in proportion to its count.
        epochs: Passes over the ratings, in a new order each.
        seed: Of initialisation and order.
        compile_loop: False runs the loop in plain Python.

    Raises:
        ValueError: On no ratings, a knob out of range, or divergence.
    """
    if factors < 1 or epochs < 1 or not learning_rate > 0.0 or reg < 0.0:
        raise ValueError(
            "factors and epochs must be at least 1, learning_rate positive, reg at least 0; got "
            f"{factors}, {epochs}, {learning_rate}, {reg}"
        )
    user, item, value = _pairs(ratings)
    rng = np.random.default_rng(seed)
    mean = float(value.mean())
    user_bias, item_bias = np.zeros(ratings.shape[0]), np.zeros(ratings.shape[1])
    users = rng.normal(0.0, 0.1, (ratings.shape[0], factors))
    items = rng.normal(0.0, 0.1, (ratings.shape[1], factors))
    loop = chosen(funk_epoch, compile_loop=compile_loop)
    for _ in range(epochs):
        order = rng.permutation(len(value))
        loop(
            users, items, user_bias, item_bias, user[order], item[order], value[order] - mean,
            learning_rate, reg,
        )  # fmt: skip
    if not np.isfinite(items).all():
        raise ValueError(f"FunkSVD diverged at learning_rate {learning_rate}: lower it")
    return RatingModel(mean, user_bias, item_bias, users, items)


def funk_epoch(
    users: Array,
    items: Array,
    user_bias: Array,
    item_bias: Array,
    user: Indices,
    item: Indices,
    centred: Array,
    learning_rate: float,
    reg: float,
) -> None:
    """One pass over N ratings (less their mean), updating the parameters in place."""
    for n in range(len(user)):
        u, i = user[n], item[n]
        error = centred[n] - user_bias[u] - item_bias[i]
        for d in range(users.shape[1]):
            error -= users[u, d] * items[i, d]
        user_bias[u] += learning_rate * (error - reg * user_bias[u])
        item_bias[i] += learning_rate * (error - reg * item_bias[i])
        for d in range(users.shape[1]):
            w, h = users[u, d], items[i, d]
            users[u, d] += learning_rate * (error * h - reg * w)
            items[i, d] += learning_rate * (error * w - reg * h)


def _pairs(ratings: sparse.csr_matrix) -> tuple[Indices, Indices, Array]:
    """(user, item, rating) of the stored entries."""
    csr = sparse.csr_matrix(ratings)
    if csr.nnz == 0:
        raise ValueError(f"no ratings in a matrix of shape {csr.shape}")
    user = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    return user, csr.indices.astype(np.int64), csr.data.astype(np.float64)


def _damped_mean(residual: Array, group: Indices, size: int, damping: float) -> Array:
    total = np.bincount(group, weights=residual, minlength=size)
    return np.asarray(total / np.maximum(np.bincount(group, minlength=size) + damping, 1e-12))
