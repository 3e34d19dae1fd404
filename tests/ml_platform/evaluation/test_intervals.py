"""Bootstrap intervals: exact law, coverage on data with a known mean, agreement with scipy."""

import numpy as np
import pytest
from scipy import stats

from ml_platform.evaluation import intervals
from ml_platform.evaluation.intervals import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    student_mean,
)

SIMULATIONS = 300


def clustered_sample(rng, n_clusters=60):
    """Values with true mean 0: user effects N(0, 1), noise N(0, 1), 1 to 15 queries a user."""
    cluster = np.repeat(np.arange(n_clusters), rng.integers(1, 16, n_clusters))
    effect = rng.standard_normal(n_clusters)
    return effect[cluster] + rng.standard_normal(len(cluster)), cluster


def coverage(clustered):
    covered = 0
    for seed in range(SIMULATIONS):
        values, cluster = clustered_sample(np.random.default_rng(seed))
        estimate = bootstrap_mean(values, cluster if clustered else None, resamples=400, seed=seed)
        covered += estimate.low <= 0 <= estimate.high
    return covered / SIMULATIONS


def test_coverage_with_clusters():
    """300 runs of a 95% interval: the share that covers has a standard error of .013."""
    assert 0.88 <= coverage(clustered=True) <= 0.99


def test_ignoring_the_clusters_gives_intervals_that_are_far_too_narrow():
    """Why users are resampled whole: the same data, queries taken as independent."""
    assert coverage(clustered=False) < 0.75


def test_unclustered_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=400)
    ours = bootstrap_mean(values, resamples=10_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    standard_error = values.std() / np.sqrt(len(values))
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * standard_error)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * standard_error)


def test_clustered_agrees_with_resampling_by_copying():
    values, cluster = clustered_sample(np.random.default_rng(5), n_clusters=30)
    groups = [values[cluster == c] for c in range(30)]
    rng = np.random.default_rng(6)
    copied = [
        np.concatenate([groups[c] for c in rng.integers(30, size=30)]).mean() for _ in range(6000)
    ]
    ours = bootstrap_mean(values, cluster, resamples=6000)
    low, high = np.quantile(copied, [0.025, 0.975])
    assert ours.low == pytest.approx(low, abs=0.08 * np.std(copied))
    assert ours.high == pytest.approx(high, abs=0.08 * np.std(copied))


def test_value_is_the_plain_mean_over_queries():
    estimate = bootstrap_mean(np.array([1.0, 0, 0, 0]), np.array([5, 9, 9, 9]))
    assert estimate.value == 0.25
    assert estimate.n == 4


def test_equal_values_have_an_interval_of_no_width():
    assert bootstrap_mean(np.full(9, 0.5)) == Estimate(0.5, 0.5, 0.5, 9)


def test_one_cluster_has_no_interval():
    assert bootstrap_mean(np.array([0.2, 0.4]), np.array([3, 3])) == Estimate(
        pytest.approx(0.3), None, None, 2
    )
    assert not bootstrap_mean(np.array([0.2]), np.array([3])).excludes_zero


def test_same_seed_same_interval_whatever_the_ids_and_the_blocks(monkeypatch):
    values, cluster = clustered_sample(np.random.default_rng(7))
    first = bootstrap_mean(values, cluster)
    names = np.array([f"user {c:03d}" for c in cluster])
    assert bootstrap_mean(values, names) == first
    assert bootstrap_mean(values, cluster, seed=1) != first
    monkeypatch.setattr(intervals, "DRAWS_PER_BLOCK", 60 * 7)
    assert bootstrap_mean(values, cluster) == first


def test_a_paired_difference_sees_what_separate_intervals_do_not():
    rng = np.random.default_rng(8)
    difficulty = rng.random(500)
    worse = difficulty + 0.01 * rng.standard_normal(500)
    better = difficulty + 0.02 + 0.01 * rng.standard_normal(500)
    difference = bootstrap_difference(better, worse)
    assert difference.excludes_zero
    assert difference.value == pytest.approx(0.02, abs=0.003)
    assert bootstrap_mean(worse).high > bootstrap_mean(better).low
    reverse = bootstrap_difference(worse, better)
    assert reverse.low == pytest.approx(-difference.high)


def test_no_difference_covers_zero():
    values = np.random.default_rng(9).random(50)
    assert bootstrap_difference(values, values) == Estimate(0.0, 0.0, 0.0, 50)
    assert not bootstrap_difference(values, values).excludes_zero


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean(np.array([])), "Q >= 1"),
        (lambda: bootstrap_mean(np.array([0, np.nan])), "query 1 is not finite"),
        (lambda: bootstrap_mean(np.zeros(3), np.zeros(2)), "clusters has shape"),
        (lambda: bootstrap_mean(np.zeros(3), resamples=50), "at least 100"),
        (lambda: bootstrap_difference(np.zeros(3), np.zeros(2)), "the same queries"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_ratio_by_hand_and_its_interval_against_the_delta_method():
    rng = np.random.default_rng(0)
    b = rng.uniform(1, 3, 2000)
    a = 0.6 * b + rng.normal(0, 0.5, len(b))
    found = bootstrap_ratio(a, b)
    assert found.value == pytest.approx(a.mean() / b.mean())
    residual = (a - found.value * b) / b.mean()
    width = 2 * 1.96 * residual.std() / np.sqrt(len(b))
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    exact = bootstrap_ratio(2 * b, b, rng.integers(0, 50, len(b)))
    assert (exact.value, exact.low, exact.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_without_a_positive_denominator_is_refused():
    with pytest.raises(ValueError, match="mean of the denominator is 0"):
        bootstrap_ratio(np.ones(3), np.array([1.0, -1.0, 0.0]))
    with pytest.raises(ValueError, match="same queries"):
        bootstrap_ratio(np.ones(3), np.ones(2))


def test_students_interval_by_hand_and_against_scipy():
    found = student_mean(np.array([1.0, 2.0, 3.0]))
    assert found.value == 2.0
    assert found.n == 3
    assert found.high - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    values = np.random.default_rng(0).exponential(size=7)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    one = student_mean(values)
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_students_interval_covers_where_the_bootstrap_of_five_values_does_not():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((1_000, 5))
    exact = [student_mean(row) for row in samples]
    resampled = [bootstrap_mean(row, resamples=200, seed=i) for i, row in enumerate(samples)]
    shares = [np.mean([e.low <= 0 <= e.high for e in found]) for found in (exact, resampled)]
    assert shares[0] == pytest.approx(0.95, abs=0.02)
    assert shares[1] < 0.88


def test_students_interval_of_one_run_of_none_and_of_runs_without_the_measure():
    assert student_mean(np.array([4.0])) == Estimate(4.0, None, None, 1)
    assert student_mean(np.array([4.0, np.nan])) == Estimate(4.0, None, None, 1)
    none = student_mean(np.array([np.nan]))
    assert np.isnan(none.value)
    assert none.n == 0
    same = student_mean(np.array([2.0, 2.0]))
    assert same == Estimate(2.0, 2.0, 2.0, 2)
    with pytest.raises(ValueError, match=r"one a run, got shape \(2, 2\)"):
        student_mean(np.ones((2, 2)))
