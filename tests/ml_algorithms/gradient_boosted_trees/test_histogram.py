"""Binning and histograms: bins by hand, the compiled kernel against its numpy twin."""

import numpy as np
import pytest

from ml_algorithms.gradient_boosted_trees.histogram import (
    MIN_ROWS_IN_BIN,
    accumulate,
    accumulate_numpy,
    fit_bins,
)


def test_few_distinct_values_get_a_bin_each():
    x = np.repeat([1.0, 2.0, 4.0], 5)[:, None]
    bins = fit_bins(x)
    assert bins.edges[0].tolist() == [1.5, 3.0]
    assert bins.transform(np.array([[0.0], [1.5], [1.6], [3.0], [99.0]]))[:, 0].tolist() == [
        0, 0, 1, 1, 2,
    ]  # fmt: skip


def test_missing_values_have_the_last_bin():
    bins = fit_bins(np.array([[1.0], [np.nan], [2.0]] * 4), max_bins=10)
    assert bins.transform(np.array([[np.nan], [1.0]]))[:, 0].tolist() == [10, 0]


def test_bins_hold_about_as_many_rows():
    x = np.random.default_rng(0).exponential(size=(10_000, 1))
    bins = fit_bins(x, max_bins=16)
    counts = np.bincount(bins.transform(x)[:, 0], minlength=16)
    assert len(counts) == 16
    assert counts.min() > 10_000 / 16 * 0.9
    assert counts.max() < 10_000 / 16 * 1.1


def test_a_frequent_value_has_a_bin_of_its_own():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros(5_000), rng.normal(size=5_000)])[:, None]
    bins = fit_bins(x, max_bins=32)
    of_zero = bins.transform(np.zeros((1, 1)))[0, 0]
    others = bins.transform(x[x[:, 0] != 0])[:, 0]
    assert (others == of_zero).mean() < 0.01
    assert bins.n_bins[0] > 20  # the rest is still cut finely


def test_unknown_categories_are_missing():
    bins = fit_bins(np.array([[0.0], [1.0], [2.0]]), categorical=[0])
    codes = bins.transform(np.array([[2.0], [3.0], [-1.0], [np.nan]]))[:, 0]
    assert codes.tolist() == [2, 255, 255, 255]


def test_the_compiled_histogram_equals_numpy():
    rng = np.random.default_rng(0)
    binned = rng.integers(0, 16, (500, 4)).astype(np.uint8)
    gradient, hessian = rng.normal(size=500), rng.random(500)
    rows = np.sort(rng.choice(500, 200, replace=False))
    ours = accumulate(binned, rows, gradient, hessian, 17)
    np.testing.assert_allclose(ours, accumulate_numpy(binned, rows, gradient, hessian, 17))
    # Against the slowest and plainest form.
    loop = np.zeros((4, 17, 3))
    for row in rows:
        for feature in range(4):
            loop[feature, binned[row, feature]] += gradient[row], hessian[row], 1.0
    np.testing.assert_allclose(ours, loop)


def test_the_larger_child_is_the_parent_less_the_smaller():
    rng = np.random.default_rng(0)
    binned = rng.integers(0, 8, (300, 3)).astype(np.uint8)
    g, h = rng.normal(size=300), rng.random(300)
    rows = np.arange(300)
    left, right = rows[:90], rows[90:]
    parent = accumulate(binned, rows, g, h, 9)
    np.testing.assert_allclose(
        parent - accumulate(binned, left, g, h, 9), accumulate(binned, right, g, h, 9), atol=1e-12
    )


@pytest.mark.parametrize(
    ("x", "options", "match"),
    [
        (np.ones(3), {}, r"\[N, F\]"),
        (np.ones((3, 1)), {"max_bins": 256}, "256"),
        (np.array([[np.inf]]), {}, "infinite"),
        (np.array([[0.5]]), {"categorical": [0]}, "no code"),
        (np.array([[300.0]]), {"categorical": [0]}, "codes up to 300"),
    ],
)
def test_bad_input_is_refused(x, options, match):
    with pytest.raises(ValueError, match=match):
        fit_bins(x, **options)


def test_another_number_of_columns_is_refused():
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        fit_bins(np.ones((3, 2))).transform(np.ones((3, 1)))


def edges_by_walking(values, max_bins):
    """The greedy definition, value by value."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= max_bins and counts.min() >= MIN_ROWS_IN_BIN:
        return (distinct[1:] + distinct[:-1]) / 2
    closed, in_bin, left, bins_left = [], 0, len(values), max_bins
    for position in range(len(distinct) - 1):
        in_bin += counts[position]
        next_is_big = counts[position + 1] * max_bins >= len(values)
        share = max(MIN_ROWS_IN_BIN, left / bins_left)
        if in_bin >= share or (next_is_big and in_bin >= MIN_ROWS_IN_BIN and bins_left > 2):
            closed.append((distinct[position] + distinct[position + 1]) / 2)
            left, in_bin, bins_left = left - in_bin, 0, bins_left - 1
            if bins_left == 1:
                break
    return np.array(closed)


@pytest.mark.parametrize("kind", ["continuous", "integers", "rounded", "half zeros"])
def test_edges_are_those_of_the_greedy_walk(kind):
    rng = np.random.default_rng(0)
    for _ in range(150):
        size, max_bins = int(rng.integers(1, 400)), int(rng.integers(2, 40))
        values = {
            "continuous": rng.normal(size=size),
            "integers": rng.integers(0, 30, size).astype(float),
            "rounded": np.round(rng.exponential(size=size), 1),
            "half zeros": np.where(rng.random(size) < 0.5, 0.0, rng.normal(size=size)),
        }[kind]
        found = fit_bins(values[:, None], max_bins=max_bins).edges[0]
        np.testing.assert_array_equal(found, edges_by_walking(values, max_bins))
