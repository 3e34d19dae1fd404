"""Worlds whose truth is known, and the loop in which a policy meets them, many runs at once.

In: a ``Policy`` (an index for every arm) and a ``World`` (contexts, true means). Out: ``Outcome``,
the regret of every run at every step.

Regret at a step is the true mean of the best arm less the true mean of the arm played: means, not
drawn rewards, so that luck of the coin does not count. All policies meet the same contexts and the
same reward noise (the world's random numbers do not depend on what is played), which makes their
differences less noisy than the curves.

Delayed feedback: the reward of step t is told to the policy after step t + delay. Batched feedback:
it is told when the batch of steps is full.

Legend: R runs, K arms, D dimension of a context, T steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ml_platform.evaluation.diversity_metrics import unit_rows

NEVER = -np.inf


class Policy(Protocol):
    """What learns. It sees rewards of its own choices only."""

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """An index for every arm f[R, K]; the largest is played, ties at random."""
        ...

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Learns from arms i64[R] played in context f[R, D] and their rewards f[R]."""
        ...


@dataclass(frozen=True)
class Moment:
    """One step of a world.

    Attributes:
        context: f[R, D]; D may be 0.
        means: f[R, K], true mean rewards; hidden from policies.
        rewards: f[R, K], the reward that each arm would give now; only the played one is told.
        available: bool[R, K] or None where all arms may be played.
    """

    context: np.ndarray
    means: np.ndarray
    rewards: np.ndarray
    available: np.ndarray | None = None


class World(Protocol):
    """What is learnt about: R independent copies."""

    runs: int
    arms: int

    def moment(self, step: int, rng: np.random.Generator) -> Moment:
        """The state of all runs at a step."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What happened.

    Attributes:
        regret: f[R, T], of each step (not cumulative).
        arms: i64[R, T], what was played.
        rewards: f[R, T], what was earned.
    """

    regret: np.ndarray
    arms: np.ndarray
    rewards: np.ndarray

    @property
    def cumulative(self) -> np.ndarray:
        """f[R, T], regret summed up to and with each step."""
        return np.cumsum(self.regret, axis=1)


def simulate(
    policy: Policy,
    world: World,
    *,
    horizon: int,
    seed: int = 0,
    delay: int = 0,
    batch: int = 1,
) -> Outcome:
    """Lets a policy play ``horizon`` steps in all runs of the world at once.

    Args:
        policy: Fresh, with as many runs and arms as the world.
        world: The world.
        horizon: T, at least 1.
        seed: Of the world and, on another stream, of the policy.
        delay: Steps until a reward is told, at least 0.
        batch: Rewards are told when this many steps are full, at least 1.

    Raises:
        ValueError: If horizon, delay or batch is out of range.
    """
    if horizon < 1 or delay < 0 or batch < 1:
        raise ValueError(
            f"need horizon >= 1, delay >= 0, batch >= 1; got {horizon}, {delay}, {batch}"
        )
    nature, player = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    rows = np.arange(world.runs)
    regret = np.zeros((world.runs, horizon))
    played = np.zeros((world.runs, horizon), dtype=np.int64)
    rewards = np.zeros((world.runs, horizon))
    waiting: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque()
    for step in range(horizon):
        now = world.moment(step, nature)
        arms = best_arm(policy.scores(player, now.context), now.available, player)
        earned = now.rewards[rows, arms]
        best = now.means if now.available is None else np.where(now.available, now.means, NEVER)
        regret[:, step] = best.max(axis=1) - now.means[rows, arms]
        rewards[:, step], played[:, step] = earned, arms
        waiting.append((arms, earned, now.context))
        if (step + 1) % batch == 0:
            while len(waiting) > delay:
                policy.update(*waiting.popleft())
    return Outcome(regret, played, rewards)


def best_arm(
    scores: np.ndarray, available: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """The arm with the largest index in every run i64[R]; equal ones at random.

    Without the random draw a policy that starts with equal indices would always favour arm 0.

    Raises:
        ValueError: If a run has no available arm.
    """
    if available is not None:
        if not available.any(axis=1).all():
            raise ValueError(f"run {available.any(axis=1).argmin()} has no available arm")
        scores = np.where(available, scores, NEVER)
    ties = scores == scores.max(axis=1, keepdims=True)
    return np.asarray((ties * rng.random(scores.shape)).argmax(axis=1))


class BernoulliWorld:
    """Arms that pay 1 with a probability, 0 otherwise; the probabilities may change over time."""

    def __init__(self, means: np.ndarray, *, runs: int) -> None:
        """Set up.

        Args:
            means: f[K], or f[T, K] where they change.
            runs: R.

        Raises:
            ValueError: If a mean lies outside [0, 1].
        """
        self.means = np.atleast_2d(np.asarray(means, dtype=np.float64))
        if self.means.min() < 0.0 or self.means.max() > 1.0:
            raise ValueError(
                f"means must lie in [0, 1], got {self.means.min()}..{self.means.max()}"
            )
        self.runs, self.arms = runs, self.means.shape[1]
        self._no_context = np.zeros((runs, 0))

    def moment(self, step: int, rng: np.random.Generator) -> Moment:
        """All runs share the means; their coins are independent."""
        means = np.broadcast_to(self.means[min(step, len(self.means) - 1)], (self.runs, self.arms))
        rewards = (rng.random(means.shape) < means).astype(np.float64)
        return Moment(self._no_context, means, rewards)


class ContextualWorld:
    """Arms whose mean depends on a context of unit length, linearly or not.

    The mean of arm k at context x is

        (1 - bend) * theta_k . x  +  bend * cos(frequency * omega_k . x + phase_k)

    with theta, omega and phase drawn for every run and arm: ``bend`` 0 is a linear world, 1 one in
    which a straight line sees almost nothing.
    """

    def __init__(
        self,
        *,
        runs: int,
        arms: int,
        dimension: int,
        bend: float,
        noise: float = 0.3,
        frequency: float = 4.0,
        seed: int = 0,
    ) -> None:
        """Draw the world.

        Args:
            runs: R, each with parameters of its own.
            arms: K.
            dimension: D.
            bend: In [0, 1].
            noise: Standard deviation of a reward around its mean.
            frequency: How fast the bent part turns.
            seed: Of the parameters.

        Raises:
            ValueError: If bend lies outside [0, 1].
        """
        if not 0.0 <= bend <= 1.0:
            raise ValueError(f"bend must lie in [0, 1], got {bend}")
        rng = np.random.default_rng(seed)
        self.runs, self.arms, self.dimension = runs, arms, dimension
        self.bend, self.noise, self.frequency = bend, noise, frequency
        self.theta = unit_rows(rng.normal(size=(runs, arms, dimension)))
        self.omega = unit_rows(rng.normal(size=(runs, arms, dimension)))
        self.phase = rng.uniform(0, 2 * np.pi, size=(runs, arms))

    def moment(self, step: int, rng: np.random.Generator) -> Moment:
        """A fresh context for every run."""
        context = unit_rows(rng.normal(size=(self.runs, self.dimension)))
        means = self.means(context)
        return Moment(context, means, means + self.noise * rng.normal(size=means.shape))

    def means(self, context: np.ndarray) -> np.ndarray:
        """True means f[R, K] at context f[R, D]."""
        straight = np.einsum("rkd,rd->rk", self.theta, context)
        angle = self.frequency * np.einsum("rkd,rd->rk", self.omega, context) + self.phase
        return np.asarray((1 - self.bend) * straight + self.bend * np.cos(angle))
