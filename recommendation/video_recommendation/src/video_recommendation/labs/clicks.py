"""Clicks on the lists of an old ranker in a world whose truth is known, and how to learn from them.

In: ``ClickSettings``. Out: ``Clicks``, logged lists with what people clicked, and what only a
simulation knows: what they would have watched wherever it stood. The old ranker orders mostly by
freshness, which nobody in this world cares for. On a small share of requests its first item is
swapped to a place drawn at random: that is the experiment which measures examination.

The world is that of ``simulation.world``: the position-based model, examined and wanted.

Legend: Q requests, K places, C candidates of a request, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ml_platform.evaluation.intervals import Estimate
from video_recommendation.simulation.world import World, WorldConfig

FEATURES = ("affinity", "quality", "freshness")
OLD_RANKER = np.array([0.5, 0.0, 1.0])
"""Weights of the features in the ranker whose lists are logged."""
NOISE = np.array([0.5, 0.5, 0.0])
"""The system measures affinity and quality with an error of this standard deviation."""


@dataclass(frozen=True)
class ClickSettings:
    """Size of the log.

    Attributes:
        n_requests: Q.
        n_candidates: C, drawn at random for each request.
        k: K, places shown.
        swapped: Share of requests in which the first item is swapped to a random place.
        position_bias: Place k is examined with probability k^-position_bias.
    """

    n_requests: int = 40_000
    n_candidates: int = 20
    k: int = 10
    swapped: float = 0.1
    position_bias: float = 1.0


@dataclass(frozen=True)
class Clicks:
    """A log of lists, and the truth behind it.

    Attributes:
        user: i64[Q].
        candidates: f64[Q, C, F], features of all candidates; the first K are the list as shown.
        wanted: f64[Q, C], P(watch | examined) of the candidates. Truth.
        examined: f64[K], P(examined) by place. Truth.
        clicked: bool[Q, K].
        swap: i64[Q], the place at which the old ranker's first item was shown; -1 where nothing
            was swapped.
    """

    user: np.ndarray
    candidates: np.ndarray
    wanted: np.ndarray
    examined: np.ndarray
    clicked: np.ndarray
    swap: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """f64[Q, K, F]."""
        return self.candidates[:, : len(self.examined)]

    def part(self, rows: np.ndarray) -> Clicks:
        """Some of the requests."""
        return Clicks(
            self.user[rows],
            self.candidates[rows],
            self.wanted[rows],
            self.examined,
            self.clicked[rows],
            self.swap[rows],
        )


def draw_clicks(settings: ClickSettings, seed: int) -> Clicks:
    """Runs the old ranker for ``n_requests`` requests."""
    world = World(
        WorldConfig(n_new_items_per_day=0, position_bias=settings.position_bias, seed=seed)
    )
    rng = np.random.default_rng((seed, 2))
    n_users, n_items, k = world.config.n_users, len(world.item_ids), settings.k
    shape = (settings.n_requests, settings.n_candidates)
    user, item = rng.integers(0, n_users, shape[0]), rng.integers(0, n_items, shape)
    everything = np.arange(n_items)
    wanted = np.stack([world.watch_probability(u, everything) for u in range(n_users)])
    affinity = np.stack([world.affinity(u, everything) for u in range(n_users)])
    features = np.stack(
        [affinity[user[:, None], item], world.quality[item], rng.standard_normal(shape)], axis=2
    )
    features += NOISE * rng.standard_normal(features.shape)
    order = np.argsort(-(features @ OLD_RANKER), axis=1)
    swap = np.where(rng.random(shape[0]) < settings.swapped, rng.integers(0, k, shape[0]), -1)
    rows = np.flatnonzero(swap >= 0)
    first = order[rows, 0].copy()
    order[rows, 0] = order[rows, swap[rows]]
    order[rows, swap[rows]] = first
    wish = np.take_along_axis(wanted[user[:, None], item], order, axis=1)
    examined = world.examine_probability(k)
    clicked = (rng.random((shape[0], k)) < examined) & (rng.random((shape[0], k)) < wish[:, :k])
    features = np.take_along_axis(features, order[:, :, None], axis=1)
    return Clicks(user, features, wish, examined, clicked, swap)


def examination_from_swaps(clicks: Clicks) -> list[Estimate]:
    """P(examined) at each place relative to the first, from the swapped requests.

    The old ranker's first item stands at every place equally often, so the ratio of its click rates
    at place k and at place 1 is the ratio of examination (Joachims, Swaminathan and Schnabel,
    WSDM 2017, estimate propensities by such swaps). Interval: of the log of a ratio of two
    independent shares.

    Raises:
        ValueError: if a place has no click among the swapped requests.
    """
    rows = np.flatnonzero(clicks.swap >= 0)
    place = clicks.swap[rows]
    hit = clicks.clicked[rows, place]
    found = []
    for k in range(len(clicks.examined)):
        here, first = hit[place == k], hit[place == 0]
        if not here.any() or not first.any():
            raise ValueError(
                f"no click at place {k + 1} or 1 in {len(rows)} swapped requests: log more"
            )
        ratio = here.mean() / first.mean()
        spread = np.sqrt(1 / here.sum() - 1 / len(here) + 1 / first.sum() - 1 / len(first))
        wide = np.exp(1.96 * spread) if k else 1.0
        found.append(Estimate(float(ratio), float(ratio / wide), float(ratio * wide), len(here)))
    return found


def fit_logistic(features: np.ndarray, target: np.ndarray, *, steps: int = 12) -> np.ndarray:
    """Weights f64[F] that minimise the sum of softplus(x w) - target * x w, by Newton's method.

    With targets 0 and 1 this is logistic regression. A target of click / P(examined), which may be
    above 1, has the expectation P(watch): the loss is then unbiased for that of the labels one
    would have if every place were examined (inverse propensity weighting).
    """
    weight = np.zeros(features.shape[1])
    for _ in range(steps):
        probability = expit(features @ weight)
        gradient = features.T @ (probability - target)
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features
        weight -= np.linalg.solve(curvature + 1e-6 * np.eye(len(weight)), gradient)
    return weight
