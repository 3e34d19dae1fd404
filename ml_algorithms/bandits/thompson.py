"""Thompson sampling: draw a world from what is believed, play its best arm.

In: as ``environment.Policy``, R runs at once. Out: an index for every arm f[R, K].

Thompson, "On the Likelihood that One Unknown Probability Exceeds Another in View of the Evidence of
Two Samples", Biometrika 1933; Chapelle and Li, "An Empirical Evaluation of Thompson Sampling",
NeurIPS 2011. An arm is played as often as it is believed to be the best: exploration stops by
itself where the belief is settled, and no bonus has to be tuned.

- ``BetaThompson``: rewards 0 or 1, a Beta belief for each arm.
- ``LinearThompson``: a Gaussian belief over each arm's linear model.

With disjoint models (no parameters shared by arms) the drawn reward of arm k at context x is one
number, ``theta_k . x + scale * sqrt(x' A_k^-1 x) * N(0, 1)``, and independent of the other arms':
the projection of a Gaussian is Gaussian. So no vector theta is drawn and no Cholesky factor is
needed: the cost is LinUCB's, and the only difference is that the width is random. With *shared*
parameters this shortcut is wrong: the arms' rewards are correlated, draw theta once for all.

Legend: R runs, K arms, D dimension.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.bandits.linear_posterior import LinearPosterior


class BetaThompson:
    """Beta-Bernoulli Thompson sampling.

    Args:
        runs: R.
        arms: K.
        prior: Pseudo-counts of ones and zeros, both > 0; (1, 1) is uniform.
        discount: In (0, 1]; below 1 the counts fade at every step, for worlds that change.

    Raises:
        ValueError: If a pseudo-count is not positive, or the discount is out of range.
    """

    def __init__(
        self,
        runs: int,
        arms: int,
        *,
        prior: tuple[float, float] = (1.0, 1.0),
        discount: float = 1.0,
    ) -> None:
        if min(prior) <= 0.0 or not 0.0 < discount <= 1.0:
            raise ValueError(f"need prior > 0 and discount in (0, 1], got {prior} and {discount}")
        self.prior, self.discount = prior, discount
        self.ones = np.zeros((runs, arms))
        self.zeros = np.zeros((runs, arms))

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """A draw from every arm's belief."""
        return rng.beta(self.prior[0] + self.ones, self.prior[1] + self.zeros)

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Counts ones and zeros.

        Raises:
            ValueError: On a reward that is neither.
        """
        if not np.isin(rewards, (0.0, 1.0)).all():
            raise ValueError(f"Beta beliefs are for rewards 0 or 1, got {rewards[:5]}")
        if self.discount < 1.0:
            self.ones *= self.discount
            self.zeros *= self.discount
        played = (np.arange(len(arms)), arms)
        self.ones[played] += rewards
        self.zeros[played] += 1.0 - rewards


class LinearThompson:
    """Thompson sampling over disjoint linear models.

    Args:
        runs: R.
        arms: K.
        dimension: D.
        scale: Standard deviation of a reward around its mean: what turns ``x' A^-1 x`` into a
            variance. Too small is greedy, too large explores for ever.
        ridge: Of the regressions.

    Raises:
        ValueError: If the scale is negative.
    """

    def __init__(
        self, runs: int, arms: int, dimension: int, *, scale: float, ridge: float = 1.0
    ) -> None:
        if scale < 0.0:
            raise ValueError(f"scale must be >= 0, got {scale}")
        self.scale = scale
        self.posterior = LinearPosterior(runs, arms, dimension, ridge=ridge)

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """A draw of every arm's reward at this context."""
        mean, uncertainty = self.posterior.predict(context)
        return mean + self.scale * uncertainty * rng.normal(size=mean.shape)

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """One row for each played arm."""
        self.posterior.add(arms, rewards, context)
