"""Splits read off a histogram: gains by hand, all partitions by brute force, the numpy twin."""

from itertools import combinations

import numpy as np
import pytest

from ml_algorithms.gradient_boosted_trees.cart import best_split
from ml_algorithms.gradient_boosted_trees.histogram import accumulate, fit_bins
from ml_algorithms.gradient_boosted_trees.split import (
    Limits,
    best_of_features,
    categorical_split,
    numeric_split,
    numeric_split_numpy,
)

FREE = Limits(min_rows=1.0, min_hessian=0.0, cat_smooth=0.0, cat_l2=0.0, min_rows_per_group=1.0)
INF = np.inf


def cells_of(rows):
    """[B, 3] of (g, h, n) triples; the last is the missing bin."""
    return np.array(rows, dtype=np.float64)


def test_gain_by_hand():
    # g = -6 | +6 with h = 2 each and l2 = 1: 36 / 3 on both sides.
    cells = cells_of([(-6, 2, 2), (6, 2, 2), (0, 0, 0)])
    limits = FREE._replace(l2=1.0)
    gain, cut, _ = numeric_split(cells, 2, (0.0, 4.0, 4.0), limits, 0, -INF, INF)
    assert gain == pytest.approx(24.0)
    assert cut == 0


def test_missing_rows_go_where_the_gain_is():
    cells = cells_of([(-4, 2, 2), (4, 2, 2), (4, 2, 2)])  # missing look like the right side
    total = tuple(cells.sum(axis=0))
    gain, cut, missing_left = numeric_split(cells, 2, total, FREE, 0, -INF, INF)
    assert (cut, missing_left) == (0, False)
    assert gain == pytest.approx(16 / 2 + 64 / 4)
    cells[2, 0] = -4
    _, cut, missing_left = numeric_split(cells, 2, tuple(cells.sum(axis=0)), FREE, 0, -INF, INF)
    assert (cut, missing_left) == (0, True)


def test_missing_against_present_is_a_cut_of_its_own():
    cells = cells_of([(1, 1, 1), (1, 1, 1), (-9, 1, 1)])
    _, cut, missing_left = numeric_split(cells, 2, tuple(cells.sum(axis=0)), FREE, 0, -INF, INF)
    assert (cut, missing_left) == (1, False)  # all present values left, missing right


def test_without_missing_rows_the_default_is_the_larger_side():
    cells = cells_of([(-4, 1, 1), (2, 5, 5), (2, 5, 5), (0, 0, 0)])
    _, cut, missing_left = numeric_split(cells, 3, tuple(cells.sum(axis=0)), FREE, 0, -INF, INF)
    assert (cut, missing_left) == (0, False)


@pytest.mark.parametrize("seed", range(6))
def test_the_compiled_scan_equals_numpy(seed):
    rng = np.random.default_rng(seed)
    cells = np.column_stack(
        [rng.normal(size=9), rng.random(9) + 0.1, rng.integers(1, 9, 9).astype(float)]
    )
    if seed % 2:
        cells[-1] = 0.0
    limits = Limits(l2=0.5, min_rows=4.0, min_hessian=0.3)
    total = tuple(cells.sum(axis=0))
    ours = numeric_split(cells, 8, total, limits, 0, -INF, INF)
    twin = numeric_split_numpy(cells, 8, total, limits)
    assert ours[0] == pytest.approx(twin[0])
    assert ours[1:] == twin[1:]


def test_with_a_bin_for_every_value_it_is_the_exact_split_of_cart():
    rng = np.random.default_rng(3)
    x = np.repeat(rng.permutation(60).reshape(-1, 1) / 7.0, 3, axis=0)
    y = rng.normal(size=180)
    bins = fit_bins(x)
    cells = accumulate(bins.transform(x), np.arange(180), -y, np.ones(180), 256)[0]
    total = tuple(cells.sum(axis=0))
    gain, cut, _ = numeric_split(cells, int(bins.n_bins[0]), total, FREE, 0, -INF, INF)
    exact = best_split(x, y)
    assert gain - total[0] ** 2 / 180 == pytest.approx(exact.gain)
    assert bins.edges[0][cut] == pytest.approx(exact.threshold)


@pytest.mark.parametrize("n_categories", [3, 7])
def test_the_best_category_set_is_found_among_all_partitions(n_categories):
    rng = np.random.default_rng(n_categories)
    cells = np.vstack(
        [np.column_stack([rng.normal(size=n_categories) * 5, np.full(n_categories, 3.0),
                          np.full(n_categories, 3.0)]), np.zeros(3)]
    )  # fmt: skip
    total = cells.sum(axis=0)

    def gain(chosen):
        left = cells[list(chosen)].sum(axis=0)
        right = total - left
        return left[0] ** 2 / left[1] + right[0] ** 2 / right[1]

    sizes = [1] if n_categories <= 4 else range(1, n_categories)
    best = max(gain(c) for size in sizes for c in combinations(range(n_categories), size))
    ours, chosen = categorical_split(cells, n_categories, tuple(total), FREE, -INF, INF)
    assert ours == pytest.approx(best)
    assert gain(np.flatnonzero(chosen)) == pytest.approx(best)


def test_rare_categories_are_not_split_off():
    cells = np.vstack([[(-50.0, 5, 5)], np.tile([(1.0, 200, 200)], (6, 1)), [(0, 0, 0)]])
    guarded = Limits(min_rows=1.0)
    _, chosen = categorical_split(cells, 7, tuple(cells.sum(axis=0)), guarded, -INF, INF)
    assert not chosen[0]  # 5 rows are below cat_smooth: not even a candidate
    _, chosen = categorical_split(cells, 7, tuple(cells.sum(axis=0)), FREE, -INF, INF)
    assert chosen[0]


def test_a_cut_in_the_wrong_order_is_refused():
    cells = cells_of([(-4, 2, 2), (4, 2, 2), (0, 0, 0)])  # outputs +2 | -2: falling
    total = tuple(cells.sum(axis=0))
    assert numeric_split(cells, 2, total, FREE, 1, -INF, INF)[0] == -INF
    assert numeric_split(cells, 2, total, FREE, -1, -INF, INF)[0] == pytest.approx(16.0)


def test_bounds_clip_the_outputs_and_their_gain():
    cells = cells_of([(-4, 2, 2), (4, 2, 2), (0, 0, 0)])
    total = tuple(cells.sum(axis=0))
    gain = numeric_split(cells, 2, total, FREE, 0, -1.0, 1.0)[0]
    # Outputs 2 | -2 become 1 | -1: each worth 2 * 4 * 1 - 2 * 1 = 6 instead of 8.
    assert gain == pytest.approx(12.0)


def test_no_split_where_the_limits_forbid_all():
    cells = cells_of([(-4, 2, 2), (4, 2, 2), (0, 0, 0)])[None]
    found = best_of_features(
        cells, np.array([2]), np.array([False]), np.array([0]), np.array([True]),
        (0.0, 4.0, 4.0), FREE._replace(min_rows=3.0), -INF, INF,
    )  # fmt: skip
    assert found[1] == -1
