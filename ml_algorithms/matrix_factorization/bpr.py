"""BPR: matrix factorisation trained on pairs, "the user took i and not j".

In: interactions csr [U, I], whose pattern counts. Out: user factors W [U, D], item factors
H [I, D], item biases b [I]; scores are W H' + b.

Rendle, Freudenthaler, Gantner, Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit
Feedback", UAI 2009. Maximise, over triples (u, i taken, j not taken),

    sum log sigmoid(x_ui - x_uj) - reg / 2 * |parameters of the triple|^2,    x_ui = w_u h_i + b_i

by stochastic gradient ascent (LearnBPR, figure 4 there). With one j drawn uniformly for each i it
is a smooth stand-in for the AUC: an error at rank 1,000 costs as much as one at rank 10. That is
BPR's weakness on top-k metrics, and the reason why the sampler matters more than the model.

Departures: an epoch visits every interaction once in random order, not with replacement; one
``reg`` for all parameters instead of three; the bias is part of the model.

Legend: U users, I items, N interactions, D factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.collaborative_filtering.neighbourhood import as_float32_csr
from ml_algorithms.matrix_factorization.compiled import chosen

Factors = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BPRModel:
    """Fitted parameters; a new user needs gradient steps of its own, there is no closed form."""

    user_factors: Factors
    """[U, D]"""
    item_factors: Factors
    """[I, D]"""
    item_bias: Factors
    """[I]"""

    def score(self, user_factors: Factors) -> npt.NDArray[np.float32]:
        """Scores f32[B, I] of user factors [B, D]."""
        return (user_factors @ self.item_factors.T + self.item_bias).astype(np.float32)


def fit_bpr(
    matrix: sparse.csr_matrix,
    *,
    factors: int,
    learning_rate: float = 0.01,
    reg: float = 0.01,
    epochs: int = 200,
    popularity_exponent: float = 0.0,
    seed: int = 0,
    compile_loop: bool = True,
) -> BPRModel:
    """Fit by LearnBPR. Time O(epochs N D).

    Args:
        matrix: csr [U, I].
        factors: D.
        learning_rate: Step length.
        reg: L2 penalty of every parameter.
        epochs: Passes over the interactions.
        popularity_exponent: Negatives are drawn in proportion to ``count^exponent``: 0 uniform,
            1 by popularity (what the ``implicit`` library does).
        seed: Of initialisation and sampling.
        compile_loop: False runs the loop in plain Python.

    Returns:
        The fitted model.

    Raises:
        ValueError: If a knob is out of range, the matrix has no interaction, or a user took
            everything.
    """
    _check(factors, learning_rate, reg, epochs)
    csr = as_float32_csr(matrix)
    sampler = TripleSampler(csr, popularity_exponent=popularity_exponent)
    rng = np.random.default_rng(seed)
    users = rng.normal(0.0, 0.1 / math.sqrt(factors), (csr.shape[0], factors))
    items = rng.normal(0.0, 0.1 / math.sqrt(factors), (csr.shape[1], factors))
    bias = np.zeros(csr.shape[1])
    loop = chosen(bpr_epoch, compile_loop=compile_loop)
    for _ in range(epochs):
        loop(users, items, bias, *sampler.epoch(rng), learning_rate, reg)
    if not np.isfinite(items).all():
        raise ValueError(f"BPR diverged at learning_rate {learning_rate}: lower it")
    return BPRModel(users, items, bias)


def bpr_epoch(
    users: Factors,
    items: Factors,
    bias: Factors,
    user: Indices,
    taken: Indices,
    not_taken: Indices,
    learning_rate: float,
    reg: float,
) -> None:
    """One pass over N triples, updating the parameters in place."""
    for n in range(len(user)):
        w, i, j = users[user[n]], taken[n], not_taken[n]
        difference = bias[i] - bias[j]
        for d in range(len(w)):
            difference += w[d] * (items[i, d] - items[j, d])
        # d log sigmoid(x) / dx = 1 - sigmoid(x): a pair in the right order moves little.
        push = 1.0 / (1.0 + math.exp(difference))
        bias[i] += learning_rate * (push - reg * bias[i])
        bias[j] += learning_rate * (-push - reg * bias[j])
        for d in range(len(w)):
            old, h_i, h_j = w[d], items[i, d], items[j, d]
            w[d] += learning_rate * (push * (h_i - h_j) - reg * old)
            items[i, d] += learning_rate * (push * old - reg * h_i)
            items[j, d] += learning_rate * (-push * old - reg * h_j)


class TripleSampler:
    """Draws an epoch's triples: every interaction once, with a negative that the user has not."""

    def __init__(self, matrix: sparse.csr_matrix, *, popularity_exponent: float = 0.0) -> None:
        self.n_items = matrix.shape[1]
        lengths = np.diff(matrix.indptr)
        if matrix.nnz == 0 or lengths.max() >= self.n_items:
            raise ValueError(
                "BPR needs interactions, and for every user an item not taken; the matrix has "
                f"{matrix.nnz} entries, its fullest row {lengths.max()} of {self.n_items} items"
            )
        self.user = np.repeat(np.arange(matrix.shape[0]), lengths)
        self.item = matrix.indices.astype(np.int64)
        self._pair = np.sort(self.user * self.n_items + self.item)
        # Items nobody took keep a chance: else they are never pushed down.
        counts = np.maximum(np.bincount(matrix.indices, minlength=self.n_items), 1)
        weight = counts.astype(np.float64) ** popularity_exponent
        self._uniform = popularity_exponent == 0.0
        self._cumulative = np.cumsum(weight / weight.sum())

    def epoch(self, rng: np.random.Generator) -> tuple[Indices, Indices, Indices]:
        """(user, taken, not taken), i64[N] each, in random order."""
        order = rng.permutation(len(self.user))
        user, taken = self.user[order], self.item[order]
        negative = self._draw(rng, len(user))
        wrong = np.flatnonzero(self._is_taken(user, negative))
        while len(wrong):  # rejection: draw again only where the user has the item
            negative[wrong] = self._draw(rng, len(wrong))
            wrong = wrong[self._is_taken(user[wrong], negative[wrong])]
        return user, taken, negative

    def _draw(self, rng: np.random.Generator, size: int) -> Indices:
        if self._uniform:
            return rng.integers(self.n_items, size=size)
        place = np.searchsorted(self._cumulative, rng.random(size), side="right")
        return np.minimum(place, self.n_items - 1)

    def _is_taken(self, user: Indices, item: Indices) -> npt.NDArray[np.bool_]:
        key = user * self.n_items + item
        place = np.minimum(np.searchsorted(self._pair, key), len(self._pair) - 1)
        return np.asarray(self._pair[place] == key)


def _check(factors: int, learning_rate: float, reg: float, epochs: int) -> None:
    if factors < 1 or epochs < 1:
        raise ValueError(f"factors and epochs must be at least 1, got {factors} and {epochs}")
    if not learning_rate > 0.0 or reg < 0.0:
        raise ValueError(
            f"learning_rate must be positive and reg at least 0, got {learning_rate} and {reg}"
        )
