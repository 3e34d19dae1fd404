"""What boosting lowers: squared, logistic and LambdaMART losses as gradients and hessians.

In: scores f64[N] of the rows so far. Out: gradient and hessian f64[N] of the loss in the scores.

Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics 2001:
boosting is gradient descent in which the step is a tree, so a loss is all that makes a regressor
into a classifier or a ranker.

LambdaMART (Burges, MSR-TR-2010-82, sections 4 to 7) has no loss to differentiate: NDCG is flat
almost everywhere. It takes RankNet's pairwise logistic gradient and weighs each pair by what
swapping the two would change in NDCG: a pair at the top counts, one at rank 80 does not. As in
LightGBM, whose code this follows: pairs with one member among the first ``truncation`` ranks, NDCG
normalised at that depth, |delta| divided by 0.01 + the score difference, and each query's lambdas
scaled by log2(1 + sum) / sum so that long queries do not drown short ones (``normalise``).
"""

from __future__ import annotations

from typing import Protocol

import numba
import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


class Loss(Protocol):
    """What boosting needs of a loss."""

    def initial_score(self) -> float:
        """The best constant score."""
        ...

    def gradients(self, scores: np.ndarray) -> Pair:
        """Gradient and hessian f64[N] at ``scores``."""
        ...


class SquaredLoss:
    """(score - y)^2 / 2: the gradient is the residual, the hessian 1."""

    def __init__(self, target: np.ndarray) -> None:
        self.target = target

    def initial_score(self) -> float:
        """The mean."""
        return float(self.target.mean())

    def gradients(self, scores: np.ndarray) -> Pair:
        """(score - y, 1)."""
        return scores - self.target, np.ones_like(scores)


class LogisticLoss:
    """-log p(y) with p = 1 / (1 + e^-score): gradient p - y, hessian p (1 - p).

    The hessian falls to 0 on rows that are decided, so ``min_hessian`` limits leaves in units of
    doubt where ``min_rows`` counts heads.

    Raises:
        ValueError: If a target is not 0 or 1, or all are the same.
    """

    def __init__(self, target: np.ndarray) -> None:
        values = np.unique(target)
        if not np.array_equal(values, [0.0, 1.0]):
            raise ValueError(f"logistic loss needs targets 0 and 1, both; got {values[:5]}")
        self.target = target

    def initial_score(self) -> float:
        """The log odds of the base rate."""
        p = float(self.target.mean())
        return float(np.log(p / (1 - p)))

    def gradients(self, scores: np.ndarray) -> Pair:
        """(p - y, p (1 - p))."""
        p = sigmoid(scores)
        return p - self.target, p * (1.0 - p)


class LambdaMART:
    """Lambdas of graded queries.

    Args:
        target: [N] grades 0, 1, 2, ..., whole numbers below 31.
        group: i64[Q], rows of each query, in the order of the rows; they sum to N.
        truncation: Pairs without a member above this rank are left out.
        normalise: LightGBM's ``lambdarank_norm``.

    Raises:
        ValueError: If the groups do not sum to N or a grade is no small whole number.
    """

    def __init__(
        self,
        target: np.ndarray,
        group: np.ndarray,
        *,
        truncation: int = 30,
        normalise: bool = True,
    ) -> None:
        group = np.asarray(group, dtype=np.int64)
        if group.min(initial=1) < 1 or group.sum() != len(target):
            raise ValueError(
                f"groups must be positive and sum to {len(target)} rows, got {group.sum()}"
            )
        if (target != np.floor(target)).any() or target.min() < 0 or target.max() > 30:
            raise ValueError(f"grades must be 0..30, got {target.min()}..{target.max()}")
        self.start = np.concatenate([[0], np.cumsum(group)])
        self.gain = 2.0**target - 1.0
        self.truncation, self.normalise = truncation, normalise
        # 1 / maximal DCG, 0 where a query has no relevant row; query by query, sorted by gain.
        self.inverse_max = np.array(
            [_inverse_max_dcg(self.gain[a:b], truncation) for a, b in self._queries()]
        )

    def _queries(self) -> list[tuple[int, int]]:
        return list(zip(self.start[:-1].tolist(), self.start[1:].tolist(), strict=True))

    def initial_score(self) -> float:
        """0: only differences within a query count."""
        return 0.0

    def gradients(self, scores: np.ndarray) -> Pair:
        """Lambdas and their derivatives; O(truncation x rows) a query."""
        lambdas, hessian = np.zeros_like(scores), np.zeros_like(scores)
        for (a, b), inverse in zip(self._queries(), self.inverse_max, strict=True):
            if inverse > 0:
                order = np.argsort(-scores[a:b], kind="stable")
                lambdas_of_query(
                    scores[a:b], self.gain[a:b], order, inverse, self.truncation,
                    self.normalise, lambdas[a:b], hessian[a:b],
                )  # fmt: skip
        return lambdas, hessian


def _inverse_max_dcg(gain: np.ndarray, truncation: int) -> float:
    best = np.sort(gain)[::-1][:truncation]
    ideal = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
    return 1.0 / ideal if ideal > 0 else 0.0


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-score) without overflow, f64[N]."""
    return 0.5 * (1.0 + np.tanh(0.5 * scores))


@numba.njit(cache=True)
def lambdas_of_query(
    scores: np.ndarray,
    gain: np.ndarray,
    order: np.ndarray,
    inverse_max: float,
    truncation: int,
    normalise: bool,
    lambdas: np.ndarray,
    hessian: np.ndarray,
) -> None:
    """Writes the lambdas and hessians of one query of n rows.

    Args:
        scores: f64[n].
        gain: f64[n], 2^grade - 1.
        order: i64[n], rows by falling score.
        inverse_max: 1 / maximal DCG.
        truncation: As in ``LambdaMART``.
        normalise: As in ``LambdaMART``.
        lambdas: f64[n], zero; written.
        hessian: f64[n], zero; written.
    """
    n = len(order)
    discount = 1.0 / np.log2(np.arange(2.0, n + 2.0))
    spread = scores[order[0]] != scores[order[n - 1]]
    total = 0.0
    for i in range(min(n - 1, truncation)):
        for j in range(i + 1, n):
            if gain[order[i]] == gain[order[j]]:
                continue
            i_is_better = gain[order[i]] > gain[order[j]]
            high, low = (order[i], order[j]) if i_is_better else (order[j], order[i])
            difference = scores[high] - scores[low]
            weight = (gain[high] - gain[low]) * (discount[i] - discount[j]) * inverse_max
            if normalise and spread:
                weight /= 0.01 + abs(difference)
            p = 1.0 / (1.0 + np.exp(difference))  # how wrong the pair is: 1 where upside down
            lambdas[high] -= weight * p
            lambdas[low] += weight * p
            hessian[high] += weight * p * (1.0 - p)
            hessian[low] += weight * p * (1.0 - p)
            total += 2.0 * weight * p
    if normalise and total > 0:
        factor = np.log2(1.0 + total) / total
        lambdas *= factor
        hessian *= factor
