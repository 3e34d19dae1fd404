"""Upper confidence bounds: play the arm that could be best.

In: as ``environment.Policy``, R runs at once. Out: an index for every arm f[R, K].

    index of arm k = mean_k + sqrt(width * log t / n_k)

Auer, Cesa-Bianchi and Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine
Learning 2002: ``UCB1`` is width = 2, for any rewards in [0, 1], and its expected regret after n
steps is at most (theorem 1)

    8 sum_{k: gap_k > 0} log(n) / gap_k  +  (1 + pi^2 / 3) sum_k gap_k.

The constant 2 pays for rewards of any distribution in [0, 1] (a variance of up to 1/4). Click rates
of some percent have a variance of some percent, and a narrower bonus is better there, without the
theorem. No policy that is good in every Bernoulli world beats Lai and Robbins, "Asymptotically
Efficient Adaptive Allocation Rules", Advances in Applied Mathematics 1985:

    regret(n) / log(n)  >=  sum_{k: gap_k > 0} gap_k / KL(mean_k, best mean)    as n grows.

For worlds that change: Garivier and Moulines, "On Upper-Confidence Bound Policies for Switching
Bandit Problems", ALT 2011: ``DiscountedUCB`` forgets exponentially, ``SlidingWindowUCB`` at once.

Legend: R runs, K arms.
"""

from __future__ import annotations

from collections import deque

import numpy as np

THEORY_WIDTH = 2.0


class UCB1:
    """UCB1, with a free width.

    Args:
        runs: R.
        arms: K.
        width: 2 is UCB1 and has the theorem; 0 is greedy.

    Raises:
        ValueError: If the width is negative.
    """

    def __init__(self, runs: int, arms: int, *, width: float = THEORY_WIDTH) -> None:
        if width < 0.0:
            raise ValueError(f"width must be >= 0, got {width}")
        self.width = width
        self.count = np.zeros((runs, arms))
        self.total = np.zeros((runs, arms))
        self.steps = 0

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """The bounds; an arm without a reward yet has an infinite one."""
        self.steps += 1
        return self._bounds(float(np.log(self.steps)))

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Counts."""
        played = (np.arange(len(arms)), arms)
        self.count[played] += 1
        self.total[played] += rewards

    def _bounds(self, log_time: float) -> np.ndarray:
        count = np.maximum(self.count, 1e-12)
        bound = self.total / count + np.sqrt(self.width * max(log_time, 0.0) / count)
        return np.where(self.count > 1e-9, bound, np.inf)


class DiscountedUCB(UCB1):
    """UCB whose counts fade by ``discount`` at every step: a memory of 1 / (1 - discount) steps.

    Raises:
        ValueError: If the discount lies outside (0, 1).
    """

    def __init__(
        self, runs: int, arms: int, *, discount: float, width: float = THEORY_WIDTH
    ) -> None:
        super().__init__(runs, arms, width=width)
        if not 0.0 < discount < 1.0:
            raise ValueError(f"discount must lie in (0, 1), got {discount}")
        self.discount = discount

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """The bounds with the discounted number of steps for t."""
        memory = float(self.count[0].sum())
        return self._bounds(float(np.log(max(memory, 1.0))))

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Fades all counts, then counts."""
        self.count *= self.discount
        self.total *= self.discount
        super().update(arms, rewards, context)


class SlidingWindowUCB(UCB1):
    """UCB over the last ``window`` rewards only.

    Raises:
        ValueError: If the window is shorter than the number of arms.
    """

    def __init__(self, runs: int, arms: int, *, window: int, width: float = THEORY_WIDTH) -> None:
        super().__init__(runs, arms, width=width)
        if window < arms:
            raise ValueError(f"a window of {window} cannot hold a reward of each of {arms} arms")
        self.window = window
        self._kept: deque[tuple[np.ndarray, np.ndarray]] = deque()

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """The bounds with min(t, window) for t."""
        self.steps += 1
        return self._bounds(float(np.log(min(self.steps, self.window))))

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Counts, and takes the oldest back out."""
        super().update(arms, rewards, context)
        self._kept.append((arms, rewards))
        if len(self._kept) > self.window:
            old_arms, old_rewards = self._kept.popleft()
            played = (np.arange(len(old_arms)), old_arms)
            self.count[played] -= 1
            self.total[played] -= old_rewards


def ucb1_bound(means: np.ndarray, horizon: int) -> float:
    """The theorem's upper bound on UCB1's expected regret after ``horizon`` steps."""
    gap = means.max() - means
    positive = gap[gap > 0]
    logarithmic = 8.0 * float((np.log(horizon) / positive).sum())
    return logarithmic + (1 + np.pi**2 / 3) * float(gap.sum())


def lai_robbins(means: np.ndarray, horizon: int) -> float:
    """The slope of Lai and Robbins times log(horizon): where good policies end up, asymptotically.

    A lower bound on the growth, not on the regret at any one step: a curve may lie below it early.
    """
    best = float(means.max())
    others = means[means < best]
    slope = float(((best - others) / bernoulli_kl(others, best)).sum())
    return slope * float(np.log(horizon))


def bernoulli_kl(p: np.ndarray, q: float) -> np.ndarray:
    """KL(p, q) of two coins, in nats; p in [0, 1], q in (0, 1)."""
    p = np.asarray(p, dtype=np.float64)
    heads = np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0.0)
    tails = np.where(p < 1, (1 - p) * np.log(np.maximum(1 - p, 1e-300) / (1 - q)), 0.0)
    return np.asarray(heads + tails)
