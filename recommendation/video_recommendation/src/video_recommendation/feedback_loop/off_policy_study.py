"""One slot, logged with its propensities, and what the log says of policies that never ran.

In: a ``World``. Out: a ``Slot`` (who may see what, with which reward, all known exactly), logs
drawn from it, and estimates of other policies' values beside the truth.

The slot is the exploration slot of a page: everything else of the page is decided as ever, and
this one position is filled from a pool of A items with known probabilities. So an action is an
item, and its propensity is one number, not that of a whole list (see
``ml_platform.operations.off_policy``). The re-ranker of this system draws the slot uniformly; here
it prefers high scores and explores with ``EXPLORE``, so that propensities differ, and whether they
were logged matters. The pool of a user holds the next-best unseen items of a model that was
trained on the history. The reward is a watch; how often the position is looked at is part of it.

Legend: U users, A items of the pool, N logged decisions, F columns of the reward model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_platform.data.interactions import build_interaction_log
from ml_platform.evaluation.top_k import top_k
from ml_platform.operations.off_policy import (
    Logged,
    PolicyValue,
    direct_method,
    doubly_robust,
    ips,
    snips,
)
from video_recommendation.simulation.world import World

POOL = 20
PLACE = 2
"""0-based place of the slot on a page of ``PAGE``."""
PAGE = 10
EXPLORE = 0.3
"""Share of the logging policy that is uniform over the pool; the rest prefers high scores."""
EASE_REG = 100.0
RIDGE = 1.0
CLIP = 5.0
FOLDS = 2
Estimator = Callable[[Logged], PolicyValue]
ESTIMATORS: Mapping[str, Estimator] = {
    "direct": direct_method,
    "ips": ips,
    "ips_clipped": lambda logged: ips(logged, clip=CLIP),
    "snips": snips,
    "doubly_robust": doubly_robust,
}
LABELS = {
    "direct": "direct method",
    "ips": "IPS",
    "ips_clipped": f"IPS, weights <= {CLIP:g}",
    "snips": "SNIPS",
    "doubly_robust": "doubly robust",
}


@dataclass(frozen=True, eq=False)
class Slot:
    """Everything about the slot, the truth included.

    Attributes:
        activity: f64[U], each user's share of the requests.
        reward: f64[U, A], probability of a watch. Only a simulator knows it.
        columns: f64[U, A, F], what the reward model may see of a user and an item.
        logging: f64[U, A], probabilities of the policy that fills the slot.
        targets: name -> f64[U, A], policies that one would like to know about.
    """

    activity: np.ndarray
    reward: np.ndarray
    columns: np.ndarray
    logging: np.ndarray
    targets: dict[str, np.ndarray]

    def truth(self, policy: np.ndarray) -> float:
        """Expected watches a request of a policy f64[U, A]."""
        return float(self.activity @ (policy * self.reward).sum(axis=1))

    def unsupported(self, policy: np.ndarray) -> float:
        """Share of a policy's choices that the logging policy cannot make."""
        return float(self.activity @ np.where(self.logging > 0, 0.0, policy).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Rows:
    """N decisions as they are logged, with what the reward model sees.

    Attributes:
        user, action: i64[N].
        reward: f64[N].
        propensity: f64[N].
    """

    user: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray


def build_slot(world: World) -> Slot:
    """The pools of all users, the logging policy and three targets."""
    log = build_interaction_log(world.dataset())
    matrix = log.matrix()
    scores = np.asarray(matrix @ fit_ease(matrix, reg=EASE_REG))
    pool, score = top_k(scores, PAGE + POOL, seen=matrix.nonzero())
    pool, score = pool[:, PAGE:], score[:, PAGE:].astype(np.float64)
    items = np.searchsorted(world.item_ids, log.item_ids)[pool]
    users = np.searchsorted(world.user_ids, log.user_ids)
    examined = world.examine_probability(PAGE)[PLACE]
    watch = [world.watch_probability(u, row) for u, row in zip(users, items, strict=True)]
    popularity = np.log1p(np.asarray(matrix.sum(axis=0)).ravel())[pool]
    place = np.broadcast_to(np.arange(POOL) / POOL, score.shape)
    columns = np.stack([np.ones_like(score), score, popularity, place, score * popularity], axis=2)
    spread = score.std(axis=1, keepdims=True)
    greedy_part = softmax(score / np.maximum(spread, 1e-9), axis=1)
    reward = examined * np.array(watch)
    activity = world.activity[users] / world.activity[users].sum()
    return Slot(
        activity=activity,
        reward=reward,
        columns=columns,
        logging=EXPLORE / POOL + (1 - EXPLORE) * greedy_part,
        targets={
            "greedy": _best(score),
            "popularity": _best(popularity),
            "oracle": _best(reward),
        },
    )


def draw(slot: Slot, n: int, rng: np.random.Generator) -> Rows:
    """N requests served by the logging policy."""
    user = rng.choice(len(slot.activity), size=n, p=slot.activity)
    chances = slot.logging[user].cumsum(axis=1)
    action = (rng.random((n, 1)) * chances[:, -1:] > chances).sum(axis=1)
    reward = (rng.random(n) < slot.reward[user, action]).astype(np.float64)
    return Rows(user, action, reward, slot.logging[user, action])


def logged_for(
    slot: Slot, rows: Rows, policy: np.ndarray, models: np.ndarray, *, uniform: bool = False
) -> Logged:
    """The rows as an estimator reads them for one target.

    Args:
        slot: Where they come from.
        rows: The log.
        policy: f64[U, A], the target.
        models: f64[FOLDS, F], from ``reward_models``.
        uniform: Assume that all items of the pool were equally likely, as one must where no
            propensity was logged.
    """
    fold = np.arange(len(rows.user)) % FOLDS
    predicted = np.clip(slot.columns @ models.T, 0.0, 1.0)  # [U, A, FOLDS]
    values = np.einsum("ua,uaf->uf", policy, predicted)
    return Logged(
        reward=rows.reward,
        propensity=np.full(len(rows.user), 1 / POOL) if uniform else rows.propensity,
        target=policy[rows.user, rows.action],
        predicted=predicted[rows.user, rows.action, fold],
        predicted_value=values[rows.user, fold],
    )


def reward_models(slot: Slot, rows: Rows) -> np.ndarray:
    """Ridge regressions f64[FOLDS, F]: model f is fitted on the rows that are not of fold f.

    Cross-fitting: a model that has seen the rows that correct it would explain their noise away.
    """
    fold = np.arange(len(rows.user)) % FOLDS
    seen = slot.columns[rows.user, rows.action]
    models = []
    for own in range(FOLDS):
        x, y = seen[fold != own], rows.reward[fold != own]
        models.append(np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y))
    return np.stack(models)


@dataclass(frozen=True, eq=False)
class Record:
    """Estimates of one target by one estimator over L logs of one size.

    Attributes:
        truth: The value that is estimated.
        value, low, high, effective_n: f64[L].
        plausible: bool[L], whether the weights pass their check.
    """

    truth: float
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effective_n: np.ndarray
    plausible: np.ndarray

    @property
    def bias(self) -> float:
        """Mean error."""
        return float(self.value.mean() - self.truth)

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return float(np.sqrt(np.mean((self.value - self.truth) ** 2)))

    @property
    def covered(self) -> int:
        """Logs whose interval holds the truth."""
        return int(((self.low <= self.truth) & (self.truth <= self.high)).sum())


def study(
    slot: Slot, n: int, n_logs: int, seed: int, *, uniform: bool = False
) -> dict[tuple[str, str], Record]:
    """(target, estimator) -> record, over ``n_logs`` logs of ``n`` decisions."""
    found: dict[tuple[str, str], list[PolicyValue]] = {}
    for number in range(n_logs):
        rows = draw(slot, n, np.random.default_rng((seed, n, number)))
        models = reward_models(slot, rows)
        for target, policy in slot.targets.items():
            logged = logged_for(slot, rows, policy, models, uniform=uniform)
            for name, estimator in ESTIMATORS.items():
                found.setdefault((target, name), []).append(estimator(logged))
    return {key: _record(slot.truth(slot.targets[key[0]]), values) for key, values in found.items()}


def narrowed(slot: Slot, keep: int) -> Slot:
    """The same slot logged without exploration: only the ``keep`` best of a pool are ever shown."""
    logging = np.where(np.arange(POOL) < keep, slot.logging, 0.0)
    logging /= logging.sum(axis=1, keepdims=True)
    return Slot(slot.activity, slot.reward, slot.columns, logging, slot.targets)


def _best(values: np.ndarray) -> np.ndarray:
    """The policy f64[U, A] that always takes the largest value."""
    policy = np.zeros(values.shape)
    policy[np.arange(len(values)), values.argmax(axis=1)] = 1.0
    return policy


def _record(truth: float, values: list[PolicyValue]) -> Record:
    return Record(
        truth=truth,
        value=np.array([found.value for found in values]),
        low=np.array([found.low for found in values]),
        high=np.array([found.high for found in values]),
        effective_n=np.array([found.effective_n for found in values]),
        plausible=np.array([found.weights_plausible for found in values]),
    )
