"""PSI and KS by hand and against scipy, and what both are without any drift, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ml_platform.operations.drift import (
    Shares,
    cluster_shares,
    kolmogorov_smirnov,
    ks_without_drift,
    population_stability_index,
    psi_without_drift,
)


def shares_of(counts: list[int]) -> Shares:
    bins = np.repeat(np.arange(len(counts)), counts)
    return cluster_shares(bins, np.arange(len(bins)), len(counts))


def test_psi_by_hand():
    # 0.2, 0.8 against 0.5, 0.5 with so many rows that the pseudo-observation does not show:
    # (0.2 - 0.5) ln(0.2 / 0.5) + (0.8 - 0.5) ln(0.8 / 0.5) = 0.27489 + 0.14100
    reference, now = shares_of([500_000, 500_000]), shares_of([200_000, 800_000])
    by_hand = 0.3 * math.log(2.5) + 0.3 * math.log(1.6)
    assert population_stability_index(reference, now) == pytest.approx(by_hand, rel=1e-4)
    assert by_hand == pytest.approx(0.41589, abs=1e-5)


def test_psi_of_an_empty_bin_by_hand():
    # Both samples hold 2 rows; each gets one more, spread 3/4, 1/4.
    # reference: (1 + 0.75, 1 + 0.25) / 3; now: (2 + 0.75, 0 + 0.25) / 3
    q, p = (1.75 / 3, 1.25 / 3), (2.75 / 3, 0.25 / 3)
    by_hand = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert population_stability_index(shares_of([1, 1]), shares_of([2, 0])) == pytest.approx(
        by_hand
    )


def test_psi_is_zero_symmetric_and_blind_to_bins_that_nobody_uses():
    one, two = shares_of([30, 50, 20]), shares_of([10, 60, 30])
    assert population_stability_index(one, one) == 0
    assert population_stability_index(one, two) == pytest.approx(
        population_stability_index(two, one)
    )
    assert population_stability_index(
        shares_of([30, 0, 50, 20]), shares_of([10, 0, 60, 30])
    ) == pytest.approx(population_stability_index(one, two))


def test_covariance_of_independent_rows_is_the_multinomials():
    shares = shares_of([20, 30, 50])
    p = np.array([0.2, 0.3, 0.5])
    expected = (np.diag(p) - np.outer(p, p)) / 99  # n - 1: the sample variance
    np.testing.assert_allclose(shares.covariance, expected, atol=1e-12)


def test_rows_of_one_cluster_are_worth_one_row():
    bins = np.repeat([0, 1, 0, 1], 25)
    clustered = cluster_shares(bins, np.repeat(np.arange(4), 25), 2)
    four_rows = cluster_shares(np.array([0, 1, 0, 1]), np.arange(4), 2)
    np.testing.assert_allclose(clustered.covariance, four_rows.covariance)


def test_one_cluster_says_nothing():
    one = cluster_shares(np.array([0, 0, 1]), np.zeros(3, dtype=int), 2)
    noise, limit = psi_without_drift(shares_of([50, 50]), one, 0.01)
    assert noise == limit == math.inf
    assert ks_without_drift(shares_of([50, 50]), one, 0.01) == math.inf


def test_shares_of_no_rows_are_refused():
    with pytest.raises(ValueError, match="wait until the window holds some"):
        cluster_shares(np.zeros(0, dtype=int), np.zeros(0, dtype=int), 2)


def test_noise_of_independent_rows_is_the_chi_squares():
    """(B - 1)(1/n + 1/N), and the limit that chi-square's quantile with B - 1 degrees gives."""
    reference, now = shares_of([1000] * 10), shares_of([40] * 10)
    noise, limit = psi_without_drift(reference, now, 0.01)
    assert noise == pytest.approx(9 * (1 / 400 + 1 / 10_000), rel=0.01)
    chi = stats.chi2.isf(0.01, 9) * (1 / 400 + 1 / 10_000)
    assert limit == pytest.approx(chi, rel=0.03)  # a little wider: 399 clusters, not all of them


@pytest.mark.parametrize("rows_a_user", [1, 20])
def test_psi_without_drift_exceeds_its_limit_as_often_as_promised(rows_a_user: int):
    """Users with 1 or 20 rows; a user's rows crowd around the user's own level."""
    rng = np.random.default_rng(3)
    edges = stats.norm.ppf(np.arange(1, 10) / 10)

    def sample(n_users: int) -> Shares:
        users = np.repeat(np.arange(n_users), rows_a_user)
        values = 0.8 * rng.normal(size=n_users)[users] + 0.6 * rng.normal(size=len(users))
        return cluster_shares(np.searchsorted(edges, values), users, 10)

    reference = sample(2000)
    psi, noise, above = [], [], 0
    for _ in range(400):
        now = sample(100)
        psi.append(population_stability_index(reference, now))
        expected, limit = psi_without_drift(reference, now, 0.05)
        noise.append(expected)
        above += psi[-1] > limit
    assert np.mean(psi) == pytest.approx(np.mean(noise), rel=0.15)
    assert 0.01 < above / 400 < 0.09  # 5% promised; three standard errors are 3.3%


def test_a_naive_limit_would_alarm_on_clustered_rows():
    """The reason for all of this: 2,000 rows of 100 users pass for 2,000 independent ones."""
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(100), 20)
    edges = stats.norm.ppf(np.arange(1, 10) / 10)
    reference = shares_of([10_000] * 10)
    naive = stats.chi2.isf(0.05, 9) * (1 / 2000 + 1 / 100_000)
    alarms = 0
    for _ in range(100):
        values = 0.95 * rng.normal(size=100)[users] + 0.312 * rng.normal(size=2000)
        now = cluster_shares(np.searchsorted(edges, values), users, 10)
        alarms += population_stability_index(reference, now) > naive
    assert alarms > 90


def test_ks_is_scipys():
    rng = np.random.default_rng(0)
    for one, two in [
        (rng.normal(size=300), rng.normal(0.3, 1, size=200)),
        (rng.integers(0, 4, 300), rng.integers(0, 5, 200)),  # ties
        (np.zeros(5), np.ones(3)),
    ]:
        expected = stats.ks_2samp(one, two).statistic
        assert kolmogorov_smirnov(one, two) == pytest.approx(expected)


def test_ks_by_hand():
    # F(1) = 1/3 against 0; F(2) = 2/3 against 0; F(3) = 1 against 1/2
    assert kolmogorov_smirnov(np.array([1, 2, 3]), np.array([3, 4])) == pytest.approx(2 / 3)


def test_ks_without_drift_of_independent_rows_is_the_textbooks():
    reference, now = shares_of([100_000] * 10), shares_of([100] * 10)
    c = math.sqrt(-math.log(0.05 / 2) / 2)
    assert ks_without_drift(reference, now, 0.05) == pytest.approx(c / math.sqrt(1000), rel=0.02)
