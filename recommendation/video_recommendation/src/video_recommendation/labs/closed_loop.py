"""A recommender that is fitted every night on the answers to its own lists.

In: a ``Policy`` and a simulated world with known preferences. Out: day by day, what the lists were
like and what they were worth. Every night EASE (Steck, WWW 2019) is fitted on all watches so far;
every day each user gets one list of K of the items published by then. Nothing is masked as seen: a
user may watch a favourite again.

Legend: U users, I items, K places in a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.evaluation.diversity_metrics import catalogue_coverage, exposure, gini
from video_recommendation.simulation.world import World, WorldConfig

METRICS = ("coverage", "effective_items", "gini", "new_items", "click_rate", "regret")


@dataclass(frozen=True)
class LoopSettings:
    """Size of the closed loop.

    Attributes:
        n_users: U.
        n_items: Items on day 0, when lists are random.
        n_new_items: Published every day after.
        n_days: Days.
        n_worlds: Worlds with other users and items; intervals are over worlds.
        k: Places in a list.
        reg: Ridge penalty of EASE.
    """

    n_users: int = 300
    n_items: int = 200
    n_new_items: int = 10
    n_days: int = 30
    n_worlds: int = 10
    k: int = 10
    reg: float = 60.0


@dataclass(frozen=True)
class Policy:
    """How lists are filled and what a watch counts for.

    Attributes:
        label: In tables.
        explores: Whether the last place is drawn from all items that the others do not hold.
        weight_cap: A watch counts one over the probability that its item was shown there and
            examined, at most this; 1 counts every watch once.
    """

    label: str
    explores: bool
    weight_cap: float = 1.0


def closed_loop(settings: LoopSettings, policy: Policy, seed: int) -> np.ndarray:
    """One world under one policy: f64[days, len(METRICS)]."""
    world = _world(settings, seed)
    rng = np.random.default_rng((seed, 1))
    everything = np.arange(len(world.item_ids))
    wanted = np.stack([world.watch_probability(u, everything) for u in range(settings.n_users)])
    examined = world.examine_probability(settings.k)
    memory = np.zeros_like(wanted)  # what a watch of (user, item) counts for; 0: never watched
    days = []
    for day in range(settings.n_days):
        n_items = len(world.available(day))
        scores = rng.random((settings.n_users, n_items))
        if day:
            known = memory[:, :n_items]
            model = fit_ease(sparse.csr_matrix(known.astype(np.float32)), reg=settings.reg)
            scores = known @ model + 1e-9 * scores
        lists, propensity = fill(scores, settings.k, policy.explores and day > 0, rng)
        wish = np.take_along_axis(wanted, lists, axis=1)
        watched = (rng.random(lists.shape) < examined) & (rng.random(lists.shape) < wish)
        weight = np.minimum(1 / (propensity * examined), policy.weight_cap)
        user, place = np.nonzero(watched)
        cell = user, lists[user, place]
        memory[cell] = np.maximum(memory[cell], weight[user, place])
        best = -np.sort(-wanted[:, :n_items], axis=1)[:, : settings.k] @ examined
        regret = 1 - (wish @ examined).mean() / best.mean()
        new = (lists >= settings.n_items).mean()
        days.append([*concentration(lists, n_items), new, watched.mean(), regret])
    return np.array(days)


def fill(
    scores: np.ndarray, k: int, explores: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lists i64[U, k] and the probability f64[U, k] of each item to stand where it stands."""
    order = np.argsort(-scores, axis=1)
    lists, propensity = order[:, :k].copy(), np.ones((len(scores), k))
    if explores:
        drawn = rng.integers(k - 1, order.shape[1], len(order))
        lists[:, -1] = order[np.arange(len(order)), drawn]
        propensity[:, -1] = 1 / (order.shape[1] - (k - 1))
    return lists, propensity


def concentration(lists: np.ndarray, n_items: int) -> tuple[float, float, float]:
    """Coverage, effective number of items (2 to the entropy of exposure) and Gini."""
    shown = exposure(lists, n_items)
    share = shown[shown > 0] / shown.sum()
    entropy = float(-(share * np.log2(share)).sum())
    return catalogue_coverage(lists, n_items), 2.0**entropy, gini(shown)


def _world(settings: LoopSettings, seed: int) -> World:
    return World(
        WorldConfig(
            n_users=settings.n_users,
            n_items=settings.n_items,
            n_new_items_per_day=settings.n_new_items,
            n_days=settings.n_days,
            slate_size=settings.k,
            seed=seed,
        )
    )
