"""LinUCB: the arm whose predicted reward could be highest for this context.

In: as ``environment.Policy``, contexts f[R, D]. Out: an index for every arm f[R, K].

Li, Chu, Langford and Schapire, "A Contextual-Bandit Approach to Personalized News Article
Recommendation", WWW 2010, Algorithm 1 (disjoint linear models):

    index of arm k = theta_k . x + alpha sqrt(x' A_k^-1 x)

Departure: the inverse is kept and updated by Sherman and Morrison's formula, where the paper's
listing inverts anew. The paper's hybrid model, with parameters that arms share, is not here.

Legend: R runs, K arms, D dimension.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.bandits.linear_posterior import LinearPosterior


class LinUCB:
    """Disjoint LinUCB.

    Args:
        runs: R.
        arms: K.
        dimension: D; give the context a constant feature if arms differ in their base rate.
        alpha: Width of the bound, in units of the reward's noise; 0 is greedy.
        ridge: Of the regressions.

    Raises:
        ValueError: If alpha is negative.
    """

    def __init__(
        self, runs: int, arms: int, dimension: int, *, alpha: float, ridge: float = 1.0
    ) -> None:
        if alpha < 0.0:
            raise ValueError(f"alpha must be >= 0, got {alpha}")
        self.alpha = alpha
        self.posterior = LinearPosterior(runs, arms, dimension, ridge=ridge)

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """The bounds."""
        mean, uncertainty = self.posterior.predict(context)
        return mean + self.alpha * uncertainty

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """One row for each played arm."""
        self.posterior.add(arms, rewards, context)
