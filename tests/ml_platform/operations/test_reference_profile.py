"""Bins, sketch, comparison of a window with a reference, and the file in between."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy import stats

from ml_platform.operations.reference_profile import (
    DEFAULT,
    FALSE_ALARM_RATE,
    FIRST,
    MISSING,
    SKETCH_SIZE,
    Monitored,
    ReferenceProfile,
    build_profile,
)

RNG = np.random.default_rng(0)


def profile_of(values: np.ndarray, default: float = -1.0) -> ReferenceProfile:
    rows = values[:, None].astype(float)
    return build_profile(rows, np.arange(len(rows)), (Monitored("x", default=default),))


def test_bins_are_missing_default_and_deciles_with_open_ends():
    column = profile_of(np.concatenate([np.arange(1000), [-1.0], [np.nan]])).columns[0]
    assert not column.discrete
    assert column.n_bins == FIRST + 10
    values = np.array([np.nan, -1.0, -1e9, 0, 99, 101, 950, 1e9])
    expected = [MISSING, DEFAULT, 2, 2, 2, 3, 11, 11]
    np.testing.assert_array_equal(column.bins(values), expected)


def test_few_values_are_compared_one_by_one_with_a_bin_for_unseen_ones():
    column = profile_of(np.array([0, 1, 1, 3, 3, 3])).columns[0]
    assert column.discrete
    np.testing.assert_array_equal(column.bins(np.array([0, 1, 3, 2, 9])), [2, 3, 4, 5, 5])


def test_a_column_of_nothing_but_defaults_has_one_open_interval():
    column = profile_of(np.full(5, -1.0)).columns[0]
    np.testing.assert_array_equal(column.bins(np.array([-1.0, 7.0, np.nan])), [1, 2, 0])


def test_ks_from_the_sketch_is_that_of_the_raw_rows_within_its_resolution():
    then, now = RNG.normal(size=20_000), RNG.normal(0.2, 1.1, size=3000)
    comparison = profile_of(then).compare(now[:, None], np.arange(3000))[0]
    raw = stats.ks_2samp(then, now).statistic
    assert comparison.ks == pytest.approx(raw, abs=1 / SKETCH_SIZE)


def test_undrifted_windows_alarm_as_rarely_as_promised():
    """Ten columns, 200 windows of small size: PSI and KS together."""
    names = tuple(Monitored(f"x{i}") for i in range(10))
    profile = build_profile(RNG.normal(size=(5000, 10)), np.arange(5000), names)
    alarms = sum(
        any(c.moved for c in profile.compare(RNG.normal(size=(150, 10)), np.arange(150)))
        for _ in range(200)
    )
    assert FALSE_ALARM_RATE == 0.01
    assert alarms <= 8  # 2 expected; a Poisson of 2 exceeds 8 once in 4,000


@pytest.mark.parametrize("n", [150, 1500])
def test_a_shift_of_half_a_standard_deviation_is_found(n: int):
    comparison = profile_of(RNG.normal(size=5000)).compare(
        RNG.normal(0.5, 1, size=(n, 1)), np.arange(n)
    )[0]
    assert comparison.moved


def test_a_tiny_shift_in_many_rows_is_no_drift_though_it_is_significant():
    then, now = RNG.normal(size=50_000), RNG.normal(0.08, 1, size=50_000)
    assert stats.ks_2samp(then, now).pvalue < 1e-10
    assert not profile_of(then).compare(now[:, None], np.arange(50_000))[0].moved


def test_a_profile_survives_its_file():
    rows = np.column_stack([RNG.normal(size=500), RNG.integers(0, 3, 500)])
    profile = build_profile(
        rows, np.arange(500) // 5, (Monitored("x", "g", "o", "f", 0), Monitored("y"))
    )
    file = io.BytesIO()
    np.savez(file, **profile.arrays())
    file.seek(0)
    with np.load(file) as stored:
        again = ReferenceProfile.of_arrays(stored)
    window = rows[::2] + 0.1
    for one, two in zip(
        profile.compare(window, np.arange(250)), again.compare(window, np.arange(250)), strict=True
    ):
        assert (one.psi, one.noise, one.ks) == (two.psi, two.noise, two.ks)
        assert one.column.info.name == two.column.info.name
    assert again.columns[0].info == Monitored("x", "g", "o", "f", 0)


def test_rows_that_do_not_fit_the_columns_are_refused():
    with pytest.raises(ValueError, match=r"rows \(3, 2\), 3 clusters, 1 columns"):
        build_profile(np.zeros((3, 2)), np.arange(3), (Monitored("x"),))
