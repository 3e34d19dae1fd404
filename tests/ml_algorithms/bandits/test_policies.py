"""Policies against closed forms and naive loops, one run at a time."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from ml_algorithms.bandits.environment import (
    BernoulliWorld,
    ContextualWorld,
    best_arm,
    simulate,
)
from ml_algorithms.bandits.epsilon_greedy import (
    EpsilonGreedy,
    EpsilonGreedyLinear,
    explored_share,
)
from ml_algorithms.bandits.linear_posterior import LinearPosterior
from ml_algorithms.bandits.linucb import LinUCB
from ml_algorithms.bandits.neural_linear import NeuralLinear, one_torch_thread
from ml_algorithms.bandits.thompson import BetaThompson, LinearThompson
from ml_algorithms.bandits.ucb import (
    UCB1,
    DiscountedUCB,
    SlidingWindowUCB,
    bernoulli_kl,
    lai_robbins,
    ucb1_bound,
)

NOTHING = np.zeros((1, 0))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and far slower on a busy machine."""
    with one_torch_thread():
        yield


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def feed(policy: object, arms: list[int], rewards: list[float]) -> None:
    for arm, reward in zip(arms, rewards, strict=True):
        policy.update(np.array([arm]), np.array([reward]), NOTHING)  # type: ignore[attr-defined]


# --- the linear posterior -------------------------------------------------------------------------


def test_sherman_and_morrison_equal_the_direct_inverse() -> None:
    runs, arms, dimension, ridge = 3, 4, 5, 0.7
    posterior = LinearPosterior(runs, arms, dimension, ridge=ridge)
    draw = rng()
    rows: dict[tuple[int, int], list[tuple[np.ndarray, float]]] = {}
    for _ in range(60):
        played = draw.integers(arms, size=runs)
        context, reward = draw.normal(size=(runs, dimension)), draw.normal(size=runs)
        posterior.add(played, reward, context)
        for run in range(runs):
            rows.setdefault((run, int(played[run])), []).append((context[run], reward[run]))
    for (run, arm), seen in rows.items():
        x, y = np.array([row[0] for row in seen]), np.array([row[1] for row in seen])
        inverse = np.linalg.inv(ridge * np.eye(dimension) + x.T @ x)
        np.testing.assert_allclose(posterior.inverse[run, arm], inverse, atol=1e-10)
        np.testing.assert_allclose(posterior.theta[run, arm], inverse @ x.T @ y, atol=1e-10)
        new = draw.normal(size=(runs, dimension))
        mean, uncertainty = posterior.predict(new)
        assert mean[run, arm] == pytest.approx(new[run] @ inverse @ x.T @ y)
        assert uncertainty[run, arm] == pytest.approx(math.sqrt(new[run] @ inverse @ new[run]))


def test_refitting_equals_adding_row_by_row() -> None:
    draw = rng()
    arms, rewards = draw.integers(3, size=(2, 30)), draw.normal(size=(2, 30))
    contexts = draw.normal(size=(2, 30, 4))
    one, other = LinearPosterior(2, 3, 4), LinearPosterior(2, 3, 4)
    for step in range(30):
        one.add(arms[:, step], rewards[:, step], contexts[:, step])
    other.refit(arms, rewards, contexts)
    np.testing.assert_allclose(one.inverse, other.inverse, atol=1e-10)
    np.testing.assert_allclose(one.theta, other.theta, atol=1e-10)


def test_linucb_by_hand() -> None:
    policy = LinUCB(1, 2, 1, alpha=2.0)
    policy.update(np.array([0]), np.array([3.0]), np.array([[1.0]]))
    # Arm 0: A = 1 + 1, theta = 3 / 2, width sqrt(1 / 2). Arm 1: theta = 0, width 1.
    scores = policy.scores(rng(), np.array([[1.0]]))
    np.testing.assert_allclose(scores, [[1.5 + 2 * math.sqrt(0.5), 2.0]])


def test_linear_thompson_draws_the_posteriors_reward() -> None:
    """The one-number shortcut has the law of a drawn theta's projection."""
    policy = LinearThompson(1, 1, 3, scale=0.8)
    draw = rng()
    for _ in range(5):
        policy.update(np.zeros(1, dtype=int), draw.normal(size=1), draw.normal(size=(1, 3)))
    x = np.array([[0.5, -1.0, 2.0]])
    shortcut = np.array([policy.scores(draw, x)[0, 0] for _ in range(4000)])
    covariance = 0.8**2 * policy.posterior.inverse[0, 0]
    thetas = draw.multivariate_normal(policy.posterior.theta[0, 0], covariance, size=4000)
    assert stats.ks_2samp(shortcut, thetas @ x[0]).pvalue > 0.01


# --- bandits without contexts ---------------------------------------------------------------------


def test_ucb1_by_hand() -> None:
    policy = UCB1(1, 3)
    feed(policy, [0, 0, 1], [1.0, 0.0, 1.0])
    policy.steps = 3
    scores = policy.scores(rng(), NOTHING)[0]  # the fourth choice
    assert scores[0] == pytest.approx(0.5 + math.sqrt(2 * math.log(4) / 2))
    assert scores[1] == pytest.approx(1.0 + math.sqrt(2 * math.log(4)))
    assert scores[2] == math.inf


def test_a_sliding_window_forgets_and_a_discount_fades() -> None:
    window = SlidingWindowUCB(1, 2, window=3)
    feed(window, [0, 1, 1, 0], [1.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(window.count, [[1, 2]])
    np.testing.assert_allclose(window.total, [[0, 1]])
    faded = DiscountedUCB(1, 2, discount=0.5)
    feed(faded, [0, 1, 1], [1.0, 1.0, 0.0])
    np.testing.assert_allclose(faded.count, [[0.25, 1.5]])
    np.testing.assert_allclose(faded.total, [[0.25, 0.5]])
    assert np.isfinite(faded.scores(rng(), NOTHING)).all()


def test_the_bounds_by_hand() -> None:
    means = np.array([0.9, 0.6])
    expected = 8 * math.log(1000) / 0.3 + (1 + math.pi**2 / 3) * 0.3
    assert ucb1_bound(means, 1000) == pytest.approx(expected)
    kl = 0.6 * math.log(0.6 / 0.9) + 0.4 * math.log(0.4 / 0.1)
    assert lai_robbins(means, 1000) == pytest.approx(0.3 / kl * math.log(1000))
    assert bernoulli_kl(np.array([0.0, 1.0, 0.3]), 0.3) == pytest.approx(
        [-math.log(0.7), -math.log(0.3), 0.0]
    )


def test_ucb1_stays_below_its_bound_and_above_nothing() -> None:
    means = np.array([0.9, 0.5, 0.3])
    outcome = simulate(UCB1(50, 3), BernoulliWorld(means, runs=50), horizon=1000)
    regret = outcome.cumulative[:, -1].mean()
    uniform = (means.max() - means.mean()) * 1000
    assert 0 < regret < min(ucb1_bound(means, 1000), uniform / 3)


def test_beta_thompson_counts_and_chooses_by_the_posterior() -> None:
    policy = BetaThompson(1, 2, prior=(1.0, 2.0))
    feed(policy, [0, 0, 0, 1], [1.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(policy.ones, [[2, 0]])
    np.testing.assert_allclose(policy.zeros, [[1, 1]])
    draw = rng()
    wins = np.mean([policy.scores(draw, NOTHING).argmax() == 0 for _ in range(5000)])
    a, b = stats.beta(3, 3), stats.beta(1, 3)
    grid = np.linspace(0, 1, 4001)
    expected = np.trapezoid(a.pdf(grid) * b.cdf(grid), grid)  # P(draw of arm 0 is larger)
    assert wins == pytest.approx(expected, abs=0.02)


def test_a_discount_halves_what_was_known() -> None:
    policy = BetaThompson(1, 2, discount=0.5)
    feed(policy, [0, 1], [1.0, 0.0])
    np.testing.assert_allclose(policy.ones, [[0.5, 0.0]])
    np.testing.assert_allclose(policy.zeros, [[0.0, 1.0]])


def test_epsilon_greedy_means_and_shares() -> None:
    policy = EpsilonGreedy(1, 2, epsilon=0.0)
    assert (policy.scores(rng(), NOTHING) == np.inf).all()  # unseen arms first
    feed(policy, [0, 0, 1], [1.0, 0.0, 1.0])
    np.testing.assert_allclose(policy.scores(rng(), NOTHING), [[0.5, 1.0]])
    moving = EpsilonGreedy(1, 1, epsilon=0.0, step_size=0.5)
    feed(moving, [0, 0, 0], [1.0, 0.0, 0.0])
    assert moving.mean[0, 0] == pytest.approx(0.25)  # 1, then halved twice
    assert explored_share(50, 1.0, 100.0) == 1.0
    assert explored_share(200, 1.0, 100.0) == 0.5
    always = EpsilonGreedy(500, 4, epsilon=1.0)
    always.count += 1
    always.mean[:, 0] = 1.0
    chosen = best_arm(always.scores(rng(), np.zeros((500, 0))), None, rng())
    assert np.bincount(chosen, minlength=4).min() > 80  # 125 each


# --- contexts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["epsilon", "linucb", "thompson", "neural"])
def test_policies_with_contexts_beat_chance_by_far(name: str) -> None:
    world = ContextualWorld(runs=6, arms=3, dimension=4, bend=0.0, seed=1)
    policy = {
        "epsilon": lambda: EpsilonGreedyLinear(6, 3, 4, epsilon=0.05),
        "linucb": lambda: LinUCB(6, 3, 4, alpha=0.5),
        "thompson": lambda: LinearThompson(6, 3, 4, scale=0.3),
        "neural": lambda: NeuralLinear(
            6, 3, 4, scale=0.2, hidden=16, features=8, retrain_every=50, training_steps=40
        ),
    }[name]()
    chance = simulate(EpsilonGreedyLinear(6, 3, 4, epsilon=1.0), world, horizon=400)
    outcome = simulate(policy, world, horizon=400)
    late = slice(200, None)
    assert outcome.regret[:, late].mean() < 0.4 * chance.regret[:, late].mean()


def test_neural_linear_keeps_networks_apart_and_fits() -> None:
    policy = NeuralLinear(2, 2, 3, scale=0.1, hidden=8, features=4, retrain_every=1000)
    draw = rng()
    contexts = draw.normal(size=(2, 200, 3))
    arms = draw.integers(2, size=(2, 200))
    rewards = np.where(arms == 0, contexts[..., 0], -contexts[..., 1])
    rewards[1] = 0.0  # the second run's network has nothing to learn but zero
    before = policy.networks.weights[0].detach().clone()
    for _ in range(6):
        policy._train(arms, rewards, contexts)
    with torch.no_grad():
        predicted = policy.networks(torch.from_numpy(contexts.astype(np.float32))).numpy()
    error = np.take_along_axis(predicted, arms[:, :, None], axis=2)[:, :, 0] - rewards
    assert np.square(error[0]).mean() < 0.3 * np.var(rewards[0])
    assert np.square(error[1]).mean() < 0.05
    assert not torch.equal(before[0], policy.networks.weights[0][0])
    assert policy._features(contexts).shape == (2, 200, 5)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EpsilonGreedy(1, 2, epsilon=1.5), "epsilon"),
        (lambda: UCB1(1, 2, width=-1.0), "width"),
        (lambda: DiscountedUCB(1, 2, discount=1.0), "discount"),
        (lambda: SlidingWindowUCB(1, 5, window=3), "cannot hold"),
        (lambda: LinearPosterior(1, 2, 2, ridge=0.0), "ridge"),
        (lambda: LinUCB(1, 2, 2, alpha=-0.1), "alpha"),
        (lambda: LinearThompson(1, 2, 2, scale=-0.1), "scale"),
        (lambda: BetaThompson(1, 2, prior=(0.0, 1.0)), "prior"),
        (lambda: BetaThompson(1, 2).update(np.array([0]), np.array([0.5]), NOTHING), "0 or 1"),
        (lambda: BernoulliWorld(np.array([1.2]), runs=1), "means"),
        (lambda: ContextualWorld(runs=1, arms=2, dimension=2, bend=2.0), "bend"),
        (
            lambda: simulate(UCB1(1, 2), BernoulliWorld(np.array([0.1, 0.2]), runs=1), horizon=0),
            "horizon",
        ),
        (lambda: best_arm(np.ones((2, 2)), np.array([[True, True], [False, False]]), rng()), "1"),
    ],
)
def test_what_is_wrong_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
