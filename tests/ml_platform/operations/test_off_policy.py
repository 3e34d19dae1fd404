"""A finite contextual bandit, whose every expectation is a sum that can be written down."""

from dataclasses import replace

import numpy as np
import pytest

from ml_platform.operations.off_policy import (
    Logged,
    PolicyValue,
    direct_method,
    doubly_robust,
    ips,
    snips,
    unsupported_share,
)

CONTEXTS = np.array([0.5, 0.3, 0.2])  # probability of each context
REWARD = np.array([[0.1, 0.5, 0.2, 0.9], [0.8, 0.1, 0.3, 0.2], [0.4, 0.4, 0.7, 0.1]])
LOGGING = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
TARGET = np.array([[0.0, 0.2, 0.1, 0.7], [0.9, 0.0, 0.1, 0.0], [0.1, 0.1, 0.7, 0.1]])
TRUTH = float(CONTEXTS @ (TARGET * REWARD).sum(axis=1))  # 0.375 + 0.225 + 0.116
WRONG_MODEL = np.full_like(REWARD, 0.6)


def draw(n: int, seed: int, model: np.ndarray = REWARD, logging: np.ndarray = LOGGING) -> Logged:
    rng = np.random.default_rng(seed)
    context = rng.choice(3, n, p=CONTEXTS)
    action = (rng.random((n, 1)) > logging[context].cumsum(axis=1)).sum(axis=1)
    reward = (rng.random(n) < REWARD[context, action]).astype(float)
    return Logged(
        reward=reward,
        propensity=logging[context, action],
        target=TARGET[context, action],
        predicted=model[context, action],
        predicted_value=(TARGET * model).sum(axis=1)[context],
    )


def exact_terms(
    weights: np.ndarray, residual_model: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean and variance of one row's term w r, or v + w (r - q), summed over all outcomes."""
    chance = CONTEXTS[:, None] * LOGGING
    mean = second = 0.0
    for reward, likely in ((1.0, REWARD), (0.0, 1 - REWARD)):
        if residual_model is None:
            term = weights * reward
        else:
            value = (TARGET * residual_model).sum(axis=1, keepdims=True)
            term = value + weights * (reward - residual_model)
        mean += float((chance * likely * term).sum())
        second += float((chance * likely * term**2).sum())
    return mean, second - mean**2


WEIGHTS = TARGET / LOGGING


# --- by hand -----------------------------------------------------------------------------------


def test_the_estimators_by_hand() -> None:
    logged = Logged(
        reward=np.array([1.0, 0.0, 1.0]),
        propensity=np.array([0.5, 0.25, 1.0]),
        target=np.array([0.25, 0.5, 1.0]),  # weights 0.5, 2, 1
        predicted=np.array([0.5, 0.5, 0.5]),
        predicted_value=np.array([0.2, 0.4, 0.6]),
    )
    assert ips(logged).value == pytest.approx(1.5 / 3)
    assert snips(logged).value == pytest.approx(1.5 / 3.5)
    assert direct_method(logged).value == pytest.approx(0.4)
    # 0.4 + (0.25 - 1 + 0.5) / 3
    assert doubly_robust(logged).value == pytest.approx(0.4 - 0.25 / 3)
    assert ips(logged).effective_n == pytest.approx(3.5**2 / 5.25)
    assert ips(logged).mean_weight == pytest.approx(3.5 / 3)
    # Terms 0.5, 0, 1 have sample deviation 0.5.
    half = 1.959964 * 0.5 / 3**0.5
    assert (ips(logged).low, ips(logged).high) == pytest.approx((0.5 - half, 0.5 + half))
    # SNIPS: terms w (r - 3/7) = 2/7, -6/7, 4/7 over mean weight 7/6; squares 56/49.
    half = 1.959964 * (56 / 49 * 36 / 49 * 1.5) ** 0.5 / 3
    assert snips(logged).high - snips(logged).value == pytest.approx(half)


def test_the_target_itself_is_a_plain_mean() -> None:
    logged = draw(500, 0)
    own = replace(logged, target=logged.propensity)
    for estimator in (ips, snips):
        assert estimator(own).value == pytest.approx(own.reward.mean())
        assert estimator(own).effective_n == pytest.approx(500)
        assert estimator(own).weights_plausible


# --- closed-form truth -------------------------------------------------------------------------


def test_the_expectation_of_a_term_is_the_truth() -> None:
    """The estimators' formulas, summed over all outcomes instead of simulated."""
    assert pytest.approx(0.716) == TRUTH
    assert exact_terms(WEIGHTS)[0] == pytest.approx(TRUTH)
    assert exact_terms(WEIGHTS, WRONG_MODEL)[0] == pytest.approx(TRUTH)  # right propensities
    assert exact_terms(WEIGHTS * 0.3, REWARD)[0] == pytest.approx(TRUTH)  # right model
    assert exact_terms(WEIGHTS * 0.3)[0] != pytest.approx(TRUTH, abs=0.1)
    assert exact_terms(WEIGHTS * 0.3, WRONG_MODEL)[0] != pytest.approx(TRUTH, abs=0.01)


@pytest.mark.parametrize(
    ("estimator", "model"),
    [(ips, None), (doubly_robust, REWARD), (doubly_robust, WRONG_MODEL)],
)
def test_mean_and_variance_over_many_logs_are_the_formulas(estimator, model) -> None:  # type: ignore[no-untyped-def]
    n, logs = 200, 2_000
    found = np.array(
        [estimator(draw(n, seed, REWARD if model is None else model)).value for seed in range(logs)]
    )
    mean, variance = exact_terms(WEIGHTS, model)
    assert found.mean() == pytest.approx(mean, abs=4 * (variance / n / logs) ** 0.5)
    assert found.var(ddof=1) == pytest.approx(variance / n, rel=0.13)  # 4 sd of a variance


def test_a_model_buys_variance() -> None:
    plain, modelled = exact_terms(WEIGHTS)[1], exact_terms(WEIGHTS, REWARD)[1]
    assert modelled < 0.75 * plain


def test_doubly_robust_needs_one_of_the_two() -> None:
    """On one large log: wrong propensities with a right model, and the reverse; not both wrong."""
    logged = draw(200_000, 1)
    uniform = replace(logged, propensity=np.full(len(logged.reward), 0.25))
    assert doubly_robust(uniform).value == pytest.approx(TRUTH, abs=0.01)
    assert abs(ips(uniform).value - TRUTH) > 0.05
    wrong = draw(200_000, 1, WRONG_MODEL)
    assert doubly_robust(wrong).value == pytest.approx(TRUTH, abs=0.01)
    assert abs(direct_method(wrong).value - TRUTH) > 0.03
    both = replace(wrong, propensity=uniform.propensity)
    assert abs(doubly_robust(both).value - TRUTH) > 0.01


def test_snips_is_less_noisy_when_all_rewards_are_high() -> None:
    """Rewards near 1: IPS pays for the noise of the weights, SNIPS cancels it."""
    high = [
        replace(log, reward=0.2 * log.reward + 0.8) for log in (draw(150, s) for s in range(400))
    ]
    assert np.std([snips(log).value for log in high]) < 0.3 * np.std(
        [ips(log).value for log in high]
    )
    assert all(0.8 <= snips(log).value <= 1.0 for log in high)  # stays among the rewards


def test_the_bias_of_clipping_is_what_is_cut_off() -> None:
    clip = 2.0
    lost = (CONTEXTS[:, None] * LOGGING * np.maximum(WEIGHTS - clip, 0) * REWARD).sum()
    found = ips(draw(400_000, 2), clip=clip).value
    assert lost > 0.3
    assert found == pytest.approx(TRUTH - lost, abs=0.005)
    # Doubly robust loses only the residuals that were cut off: none in expectation here.
    assert doubly_robust(draw(400_000, 2), clip=clip).value == pytest.approx(TRUTH, abs=0.005)


@pytest.mark.parametrize("estimator", [ips, snips, doubly_robust])
def test_intervals_cover_the_truth(estimator) -> None:  # type: ignore[no-untyped-def]
    covered = [
        found.low <= TRUTH <= found.high
        for found in (estimator(draw(400, 10_000 + seed)) for seed in range(800))
    ]
    assert 0.92 < np.mean(covered) < 0.975


def test_rows_of_one_user_are_one_observation() -> None:
    once = draw(300, 3)
    twice = Logged(
        reward=np.tile(once.reward, 4),
        propensity=np.tile(once.propensity, 4),
        target=np.tile(once.target, 4),
        users=np.tile(np.arange(300), 4),
    )
    assert ips(twice).high == pytest.approx(ips(once).high)
    assert ips(replace(twice, users=None)).high < ips(once).high


# --- what can be wrong with a log ----------------------------------------------------------------


def test_the_weights_tell_that_propensities_are_wrong() -> None:
    logged = draw(5_000, 4)
    assert ips(logged).weights_plausible
    assert not ips(replace(logged, propensity=np.full(5_000, 0.5))).weights_plausible


def test_missing_support_is_measured_and_biases_ips() -> None:
    narrow = LOGGING.copy()
    narrow[0] = [0.5, 0.3, 0.2, 0.0]  # the target's favourite in context 0 was never shown
    ten = np.repeat([0, 1, 2], [5, 3, 2])  # ten contexts, as often as they come
    assert unsupported_share(TARGET[ten], LOGGING[ten]) == 0.0
    assert unsupported_share(TARGET[ten], narrow[ten]) == pytest.approx(0.5 * 0.7)
    found = ips(draw(100_000, 5, logging=narrow))
    assert found.value == pytest.approx(TRUTH - 0.5 * 0.7 * 0.9, abs=0.01)
    assert found.mean_weight == pytest.approx(0.65, abs=0.02)
    assert not found.weights_plausible


def test_a_target_that_the_log_never_took() -> None:
    nothing = replace(draw(50, 6), target=np.zeros(50))
    with pytest.raises(ValueError, match="never takes an action of this log"):
        snips(nothing)
    assert ips(nothing) == PolicyValue(0.0, 0.0, 0.0, 50, 0.0, 0.0, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"propensity": np.array([0.5, 0.0])}, "propensity of row 1 is 0.0, but the action was"),
        ({"propensity": np.array([1.5, 0.5])}, "propensity of row 0 is 1.5"),
        ({"target": np.array([0.5, 1.5])}, "probabilities of the new policy"),
        ({"reward": np.array([np.nan, 1.0])}, "reward of row 0 not finite"),
        ({"predicted": np.ones(3)}, r"predicted has shape \(3,\)"),
    ],
)
def test_logs_that_cannot_be_are_refused(change: dict[str, np.ndarray], words: str) -> None:
    fine = Logged(np.ones(2), np.full(2, 0.5), np.full(2, 0.5))
    with pytest.raises(ValueError, match=words):
        replace(fine, **change)


def test_what_is_missing_is_named() -> None:
    bare = Logged(np.ones(2), np.full(2, 0.5), np.full(2, 0.5))
    with pytest.raises(ValueError, match="at least 2"):
        Logged(np.ones(1), np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="needs predicted_value"):
        direct_method(bare)
    with pytest.raises(ValueError, match="predicted and predicted_value"):
        doubly_robust(bare)
    with pytest.raises(ValueError, match="clip must be"):
        ips(bare, clip=0.0)
    with pytest.raises(ValueError, match="one user"):
        ips(replace(bare, users=np.zeros(2, dtype=np.int64)))
    with pytest.raises(ValueError, match="two policies"):
        unsupported_share(np.ones((1, 2)), np.ones((2, 2)))
