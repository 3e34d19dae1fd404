"""Epsilon-greedy: the best arm so far, and with probability epsilon any arm.

In: as ``environment.Policy``, R runs at once. Out: an index for every arm f[R, K].

Auer, Cesa-Bianchi and Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine
Learning 2002, section 4: a constant epsilon pays ``epsilon * mean gap`` for ever, so regret grows
linearly; an epsilon that falls as c / t gets logarithmic regret, if c is large enough for the
(unknown) smallest gap. Exploration here is blind: a hopeless arm is tried as often as a close
second.

Legend: R runs, K arms, D dimension.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.bandits.linear_posterior import LinearPosterior


class EpsilonGreedy:
    """Means by arm; the context is ignored.

    Args:
        runs: R.
        arms: K.
        epsilon: Share of random choices, in [0, 1].
        cooling: If given, the share at step t is min(epsilon, cooling / t).
        step_size: If given, a mean is a moving average with this weight on the newest reward, for
            worlds that change; else the plain mean.

    Raises:
        ValueError: If epsilon lies outside [0, 1].
    """

    def __init__(
        self,
        runs: int,
        arms: int,
        *,
        epsilon: float,
        cooling: float | None = None,
        step_size: float | None = None,
    ) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
        self.epsilon, self.cooling, self.step_size = epsilon, cooling, step_size
        self.count = np.zeros((runs, arms))
        self.mean = np.zeros((runs, arms))
        self.steps = 0

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """The means; random numbers in the runs that explore now. Arms never seen come first."""
        self.steps += 1
        explore = rng.random(len(self.mean)) < explored_share(
            self.steps, self.epsilon, self.cooling
        )
        greedy = np.where(self.count > 0, self.mean, np.inf)
        return np.where(explore[:, None], rng.random(self.mean.shape), greedy)

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Moves the played arms' means towards the rewards."""
        played = (np.arange(len(arms)), arms)
        self.count[played] += 1
        weight = 1 / self.count[played]
        if self.step_size is not None:
            weight = np.maximum(weight, self.step_size)
        self.mean[played] += weight * (rewards - self.mean[played])


class EpsilonGreedyLinear:
    """A ridge regression by arm: the best prediction, and with probability epsilon any arm."""

    def __init__(
        self, runs: int, arms: int, dimension: int, *, epsilon: float, cooling: float | None = None
    ) -> None:
        self.epsilon, self.cooling = epsilon, cooling
        self.posterior = LinearPosterior(runs, arms, dimension)
        self.steps = 0

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """Predicted rewards; random numbers in the runs that explore now."""
        self.steps += 1
        predicted, _ = self.posterior.predict(context)
        share = explored_share(self.steps, self.epsilon, self.cooling)
        explore = rng.random(len(predicted)) < share
        return np.where(explore[:, None], rng.random(predicted.shape), predicted)

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Adds the played arms' rows to their regressions."""
        self.posterior.add(arms, rewards, context)


def explored_share(step: int, epsilon: float, cooling: float | None) -> float:
    """The probability of a random choice at a step, counted from 1."""
    return epsilon if cooling is None else min(epsilon, cooling / step)
