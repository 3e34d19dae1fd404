"""Classification metrics against sklearn, hand-computed numbers and degenerate input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import calibration, metrics

from ml_platform.evaluation import classification_metrics as cm


def test_auc_by_hand():
    # Positives .8 and .4, negatives .6, .4, .1: pairs won 3 + 1, one tie of six.
    labels, scores = np.array([1, 0, 1, 0, 0]), np.array([0.8, 0.6, 0.4, 0.4, 0.1])
    assert cm.auc(labels, scores) == pytest.approx((3 + 1 + 0.5) / 6)


def test_auc_of_degenerate_scorers():
    labels = np.array([0, 1, 1, 0])
    assert cm.auc(labels, np.zeros(4)) == 0.5
    assert cm.auc(labels, labels) == 1.0
    assert cm.auc(labels, -labels) == 0.0


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 8))
def test_auc_equals_sklearn_with_ties(seed, size, levels):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, size)])
    scores = rng.integers(0, levels, len(labels)).astype(float)
    assert cm.auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_log_loss_equals_sklearn_and_survives_certain_errors():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 500), rng.random(500)
    assert cm.log_loss(labels, p) == pytest.approx(metrics.log_loss(labels, p))
    assert cm.log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-np.log(1e-15))


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_curve_equals_sklearn(binning, strategy):
    rng = np.random.default_rng(1)
    p = rng.beta(1, 8, 4000)
    labels = rng.random(4000) < p**0.7
    # With 10 bins no quantile falls on an example, where rounding would choose its bin.
    curve = cm.reliability_curve(labels, p, bins=10, binning=binning)
    observed, predicted = calibration.calibration_curve(labels, p, n_bins=10, strategy=strategy)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.count.sum() == 4000


def test_equal_mass_bins_are_equal_and_do_not_split_ties():
    p = np.linspace(0.001, 0.999, 1000)
    assert set(cm.reliability_curve(p > 0.5, p, bins=10).count) == {100}
    tied = np.array([0.2] * 50 + [0.7] * 50)
    labels = np.array([0, 1] * 50)
    curve = cm.reliability_curve(labels, tied, bins=10)
    assert curve.predicted.tolist() == [pytest.approx(0.2), pytest.approx(0.7)]
    assert curve.count.tolist() == [50, 50]


def test_ece_by_hand():
    # Bin (0, .5]: predicted .25, observed 0, 2 of 4. Bin (.5, 1]: predicted .75, observed .5.
    labels, p = np.array([0, 0, 1, 0]), np.array([0.2, 0.3, 0.7, 0.8])
    ece = cm.expected_calibration_error(labels, p, bins=2, binning="width")
    assert ece == pytest.approx(0.5 * 0.25 + 0.5 * 0.25)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_ece_is_small_when_calibrated_and_the_offset_when_not(binning):
    rng = np.random.default_rng(2)
    p = rng.uniform(0.1, 0.6, 50_000)
    labels = rng.random(50_000) < p
    assert cm.expected_calibration_error(labels, p, binning=binning) < 0.01
    shifted = cm.expected_calibration_error(labels, p + 0.3, binning=binning)
    assert shifted == pytest.approx(0.3, abs=0.01)


def test_ece_edges_belong_to_the_bin_below_and_zero_to_the_first():
    curve = cm.reliability_curve(
        np.array([0, 0, 1]), np.array([0.0, 0.5, 1.0]), bins=2, binning="width"
    )
    assert curve.count.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cm.auc(np.ones(3), np.arange(3)), "AUC needs both classes; got 3 positives"),
        (lambda: cm.auc(np.array([0, 1]), np.array([0, np.nan])), "example 1 is NaN"),
        (lambda: cm.auc(np.array([0, 2]), np.array([0, 1])), "labels must be 0 or 1"),
        (lambda: cm.auc(np.array([0, 1]), np.array([0.0])), "need .N. labels"),
        (lambda: cm.log_loss(np.array([]), np.array([])), "need .N. labels"),
        (lambda: cm.log_loss(np.array([0]), np.array([1.2])), "must lie in 0..1"),
        (lambda: cm.reliability_curve(np.array([0]), np.array([0.5]), bins=0), "bins must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
