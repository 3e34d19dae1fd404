"""Maps against sklearn and closed forms; measures against hand-computed numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ml_algorithms.metrics_and_calibration.calibration import (
    fit_beta,
    fit_histogram,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    pool_adjacent_violators,
    sigmoid,
    undo_down_sampling,
)
from ml_algorithms.metrics_and_calibration.calibration_measures import (
    brier_parts,
    brier_score,
    ece_of_the_calibrated,
)


def overconfident(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose log-odds are twice too large, and labels from the right ones."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.3, 1.0, n)
    return expit(2.0 * truth), (rng.random(n) < expit(truth)).astype(int)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.integers(0, 1000),
)
def test_pool_adjacent_violators_equals_sklearn(means: list[float], seed: int) -> None:
    weights = np.random.default_rng(seed).uniform(0.5, 3.0, len(means))
    ours = pool_adjacent_violators(np.array(means), weights)
    theirs = IsotonicRegression().fit_transform(np.arange(len(means)), means, sample_weight=weights)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_pooling_by_hand() -> None:
    pooled = pool_adjacent_violators(np.array([0.0, 1.0, 0.0, 1.0, 1.0]), np.ones(5))
    np.testing.assert_allclose(pooled, [0, 0.5, 0.5, 1, 1])
    weighted = pool_adjacent_violators(np.array([3.0, 1.0]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(weighted, [1.5, 1.5])


def test_isotonic_equals_sklearn_with_ties_and_between_knots() -> None:
    p, y = overconfident(800)
    p = np.round(p, 2)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    grid = np.linspace(-0.1, 1.1, 301)
    np.testing.assert_allclose(
        fit_isotonic(p, y).probability(grid), theirs.predict(grid), atol=1e-9
    )


def test_platt_equals_an_unpenalised_logistic_regression() -> None:
    p, y = overconfident()
    theirs = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(logit(p)[:, None], y)
    ours = fit_platt(p, y)
    np.testing.assert_allclose(ours.weights, [theirs.coef_[0, 0], theirs.intercept_[0]], atol=2e-4)
    np.testing.assert_allclose(
        ours.probability(p), theirs.predict_proba(logit(p)[:, None])[:, 1], atol=1e-4
    )


def test_temperature_finds_the_factor_and_leaves_one_half() -> None:
    p, y = overconfident(40_000)
    fitted = fit_temperature(p, y)
    assert fitted.weights[0] == pytest.approx(0.5, abs=0.02)
    assert fitted.probability(np.array([0.5]))[0] == pytest.approx(0.5)


def test_beta_holds_platt_and_the_identity() -> None:
    p, y = overconfident(20_000)
    right = expit(logit(p) / 2)
    np.testing.assert_allclose(fit_beta(p, y).probability(p), right, atol=0.03)
    np.testing.assert_allclose(fit_beta(right, y).weights, [1, 1, 0], atol=0.15)


def test_beta_never_turns_the_order_around() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.01, 0.99, 300)
    y = (rng.random(300) < 1 - p).astype(int)  # the worst case: an inverted model
    weights = fit_beta(p, y).weights
    assert weights[0] >= 0
    assert weights[1] >= 0


def test_histogram_bins_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.6, 0.9])
    fitted = fit_histogram(scores, np.array([0, 1, 1, 1]), bins=2)
    np.testing.assert_allclose(
        fitted.probability(np.array([0.0, 0.15, 0.6, 2.0])), [0.5, 0.5, 1, 1]
    )


def test_undoing_the_down_sampling_is_exact() -> None:
    rng = np.random.default_rng(2)
    truth, kept = rng.uniform(0.01, 0.6, 5), 0.1
    thinned = truth / (truth + kept * (1 - truth))  # Bayes' rule with a tenth of the negatives
    np.testing.assert_allclose(undo_down_sampling(thinned, kept), truth)
    np.testing.assert_allclose(undo_down_sampling(thinned, 1.0), thinned)


def test_sigmoid_at_the_extremes() -> None:
    np.testing.assert_allclose(sigmoid(np.array([-1e4, 0.0, 3.0, 1e4])), [0, 0.5, expit(3), 1])


def test_separable_labels_still_give_finite_maps() -> None:
    p, y = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    for fit in (fit_temperature, fit_platt, fit_beta):
        mapped = fit(p, y).probability(p)
        assert np.isfinite(mapped).all()
        assert mapped[0] < 0.5 < mapped[3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_platt(np.array([0.1, 0.2]), np.array([1, 1])), "both 0 and 1"),
        (lambda: fit_platt(np.array([0.1, 1.2]), np.array([0, 1])), "sigmoid"),
        (lambda: fit_isotonic(np.array([0.1]), np.array([0, 1])), "need"),
        (lambda: fit_isotonic(np.array([np.nan, 1.0]), np.array([0, 1])), "finite"),
        (lambda: fit_histogram(np.array([0.1, 0.2]), np.array([0, 1]), bins=0), "bins"),
        (lambda: undo_down_sampling(np.array([0.1]), 0.0), "kept"),
    ],
)
def test_what_is_wrong_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_brier_score_is_the_sum_of_its_parts() -> None:
    p, y = overconfident(500)
    parts = brier_parts(y, p, bins=7)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(parts.score) == pytest.approx(brier_score(y, p))
    discrete = np.where(p > 0.5, 0.8, 0.3)
    assert brier_parts(y, discrete, bins=10).within == pytest.approx(0.0, abs=1e-12)


def test_the_ece_of_a_calibrated_model_falls_with_the_root_of_the_rows() -> None:
    p = np.random.default_rng(3).uniform(0.2, 0.8, 16_000)
    few = ece_of_the_calibrated(p[:1000], bins=10, draws=100)
    many = ece_of_the_calibrated(p, bins=10, draws=100)
    assert few / many == pytest.approx(4.0, rel=0.15)
    # Each bin's gap is about a normal of variance p (1 - p) / n: its mean size is 0.8 deviations.
    expected = math.sqrt(2 / math.pi) * math.sqrt((p * (1 - p)).mean() / 100)
    assert few == pytest.approx(expected, rel=0.15)
