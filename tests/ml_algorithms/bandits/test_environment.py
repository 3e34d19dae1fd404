"""The loop: regret by hand, delays, batches, availability; the film world against plain pandas."""

import numpy as np
import pytest

from ml_algorithms.bandits.environment import (
    BernoulliWorld,
    ContextualWorld,
    Moment,
    best_arm,
    simulate,
)
from ml_algorithms.bandits.movie_world import MovieWorld
from ml_platform.data.datasets import Dataset, SyntheticConfig, load_dataset


class Script:
    """Plays given arms and remembers what it is told."""

    def __init__(self, arms: list[int], n_arms: int) -> None:
        self.script, self.n_arms = arms, n_arms
        self.step = 0
        self.told: list[tuple[int, int]] = []  # (at which choice, of which choice)
        self.updates = 0

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        self.step += 1
        return np.eye(self.n_arms)[[self.script[self.step - 1]]]

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        self.updates += 1
        self.told.append((self.step, self.updates))


def test_regret_by_hand() -> None:
    means = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.6]])
    outcome = simulate(Script([0, 1, 0], 2), BernoulliWorld(means, runs=1), horizon=3)
    np.testing.assert_allclose(outcome.regret, [[0.0, 0.8, 0.4]])
    np.testing.assert_allclose(outcome.cumulative, [[0.0, 0.8, 1.2]])
    np.testing.assert_array_equal(outcome.arms, [[0, 1, 0]])


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({}, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ({"delay": 2}, [(3, 1), (4, 2)]),
        ({"batch": 2}, [(2, 1), (2, 2), (4, 3), (4, 4)]),
        ({"batch": 3}, [(3, 1), (3, 2), (3, 3)]),
        ({"delay": 1, "batch": 2}, [(2, 1), (4, 2), (4, 3)]),
    ],
)
def test_feedback_comes_when_it_is_due(knobs: dict[str, int], told: list[tuple[int, int]]) -> None:
    policy = Script([0, 0, 0, 0], 2)
    simulate(policy, BernoulliWorld(np.array([0.5, 0.5]), runs=1), horizon=4, **knobs)
    assert policy.told == told


def test_all_policies_meet_the_same_world() -> None:
    world = ContextualWorld(runs=2, arms=2, dimension=3, bend=0.4, seed=5)
    one = simulate(Script2(0), world, horizon=6, seed=9)
    other = simulate(Script2(1), world, horizon=6, seed=9)
    # With two arms, exactly one of the two fixed policies has regret at each step.
    assert (np.minimum(one.regret, other.regret) == 0).all()
    assert (one.regret + other.regret > 0).all()


class Script2:
    """Always one arm."""

    def __init__(self, arm: int) -> None:
        self.arm = arm

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        rng.random(self.arm * 3)  # the policy's draws must not disturb the world's
        return np.eye(2)[np.full(len(context), self.arm)]

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """Learns nothing."""


def test_ties_are_broken_evenly_and_unavailable_arms_never_played() -> None:
    rng = np.random.default_rng(0)
    chosen = best_arm(np.zeros((3000, 3)), None, rng)
    assert np.bincount(chosen).min() > 900
    available = np.array([[False, True, False]] * 50)
    assert (best_arm(np.full((50, 3), np.inf), available, rng) == 1).all()


def test_the_bent_world_by_hand() -> None:
    world = ContextualWorld(runs=1, arms=2, dimension=2, bend=0.25, frequency=3.0, seed=2)
    x = np.array([[0.6, 0.8]])
    for arm in range(2):
        straight = world.theta[0, arm] @ x[0]
        bent = np.cos(3.0 * world.omega[0, arm] @ x[0] + world.phase[0, arm])
        assert world.means(x)[0, arm] == pytest.approx(0.75 * straight + 0.25 * bent)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset(
        "synthetic", synthetic=SyntheticConfig(n_users=100, n_items=40, n_interactions=2500)
    )


def test_the_film_world_tells_the_truth(data: Dataset) -> None:
    world = MovieWorld(data, arms=6, runs=3, past_share=0.3, seed=1)
    assert world.known.sum(axis=1).min() >= 2
    assert world.likes[~world.known].max() == 0
    first = data.interactions.groupby("user_id")["timestamp"].min().sort_values(kind="stable")
    later = set(first.index[30:])
    frame = data.interactions[data.interactions["user_id"].isin(later)]
    past = data.interactions[~data.interactions["user_id"].isin(later)]
    known = past[past["timestamp"] < frame["timestamp"].min()]
    assert len(known) < len(past)  # some of the first users rate on when visitors are there
    counts = known["item_id"].value_counts()
    films = counts.sort_index().nlargest(6).index
    of_films = frame[frame["item_id"].isin(films)]
    rated_two = of_films.groupby("user_id").size()
    assert world.visitors == int((rated_two >= 2).sum())
    kept = of_films[of_films["user_id"].isin(rated_two.index[rated_two >= 2])]
    assert world.known.sum() == len(kept)
    assert world.likes.sum() == (kept["rating"] >= 4).sum()
    np.testing.assert_array_equal(world.past_ratings, counts[films])
    liked = known[known["rating"] >= 4]["item_id"].value_counts().reindex(films, fill_value=0)
    np.testing.assert_array_equal(world.past_likes, liked)


def test_every_visitor_comes_once_in_each_run(data: Dataset) -> None:
    world = MovieWorld(data, arms=6, runs=3, seed=1)
    np.testing.assert_array_equal(np.sort(world.order, axis=1)[0], np.arange(world.visitors))
    steps = np.broadcast_to(np.arange(world.visitors, dtype=float), (3, world.visitors))
    back = world.by_visitor(steps)
    expected = np.argsort(world.order, axis=1).mean(axis=0)  # when each visitor came, on average
    np.testing.assert_allclose(back, expected)
    moment = world.moment(0, np.random.default_rng(0))
    assert isinstance(moment, Moment)
    assert moment.context.shape == (3, 5)


def test_too_few_visitors_are_refused(data: Dataset) -> None:
    with pytest.raises(ValueError, match="visitors"):
        MovieWorld(data, arms=1, runs=1)
