"""A Bayesian ridge regression for every arm of every run, one row at a time.

In: contexts f[R, D], the arm played i64[R] and its reward f[R]. Out: for every arm the predicted
reward and its uncertainty f[R, K].

With A = ridge * I + X'X over the rows of one arm and theta = A^-1 X'y, a new row (x, y) changes

    A^-1   <-  A^-1 - (A^-1 x)(A^-1 x)' / (1 + x' A^-1 x)                     (Sherman and Morrison)
    theta  <-  theta + A^-1 x (y - x' theta) / (1 + x' A^-1 x)

in O(D^2) instead of the O(D^3) of a fresh inverse. The uncertainty of the prediction at x is
sqrt(x' A^-1 x), in units of the reward's noise: the same quantity widens LinUCB's bound and spreads
linear Thompson sampling.

Rounding errors add up over millions of rows: recompute A^-1 from A now and then in production.

Legend: R runs, K arms, D dimension.
"""

from __future__ import annotations

import numpy as np


class LinearPosterior:
    """Disjoint models: no arm learns from another's rows.

    Args:
        runs: R.
        arms: K.
        dimension: D.
        ridge: Strength of the prior around 0, > 0.

    Raises:
        ValueError: If the ridge is not positive.
    """

    def __init__(self, runs: int, arms: int, dimension: int, *, ridge: float = 1.0) -> None:
        if not ridge > 0.0:
            raise ValueError(f"ridge must be positive, got {ridge}")
        self.ridge = ridge
        start = np.eye(dimension) / ridge
        self.inverse = np.broadcast_to(start, (runs, arms, dimension, dimension)).copy()
        self.theta = np.zeros((runs, arms, dimension))

    def add(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """One row for the played arm of every run. O(R D^2)."""
        played = (np.arange(len(arms)), arms)
        inverse = self.inverse[played]
        direction = np.einsum("rde,re->rd", inverse, context)
        scale = 1.0 + (direction * context).sum(axis=1)
        surprise = rewards - (self.theta[played] * context).sum(axis=1)
        self.theta[played] += direction * (surprise / scale)[:, None]
        drop = direction[:, :, None] * direction[:, None, :] / scale[:, None, None]
        self.inverse[played] = inverse - drop

    def predict(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and uncertainty of every arm at context f[R, D]: f[R, K] each. O(R K D^2)."""
        mean = np.einsum("rkd,rd->rk", self.theta, context)
        # As one matrix product a run: numpy's einsum over three operands is many times slower.
        runs, arms, dimension, _ = self.inverse.shape
        flat = self.inverse.reshape(runs, arms * dimension, dimension) @ context[:, :, None]
        spread = flat.reshape(runs, arms, dimension) @ context[:, :, None]
        return mean, np.sqrt(np.maximum(spread[:, :, 0], 0.0))

    def refit(self, arms: np.ndarray, rewards: np.ndarray, contexts: np.ndarray) -> None:
        """Forgets all, and fits anew on rows i64[R, N], f[R, N], f[R, N, D]."""
        dimension = contexts.shape[2]
        for arm in range(self.theta.shape[1]):
            rows = contexts * (arms == arm)[:, :, None]
            gram = rows.transpose(0, 2, 1) @ rows + self.ridge * np.eye(dimension)
            self.inverse[:, arm] = np.linalg.inv(gram)
            moment = (rows * rewards[:, :, None]).sum(axis=1)
            self.theta[:, arm] = np.einsum("rde,re->rd", self.inverse[:, arm], moment)
