"""Exact splits: numbers by hand, every cut by brute force, scikit-learn's tree."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from ml_algorithms.gradient_boosted_trees.cart import best_split, fit_cart, predict_cart


def test_a_split_by_hand():
    # Targets 0, 0, 6, 6 in the order of x: cutting in the middle removes all of 4 * 3^2 = 36.
    split = best_split(np.array([[4.0], [1.0], [2.0], [5.0]]), np.array([6.0, 0.0, 0.0, 6.0]))
    assert split is not None
    assert (split.feature, split.threshold, split.gain) == (0, 3.0, 36.0)


def test_gain_is_the_fall_of_the_squared_error_of_the_best_cut():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, (40, 3)).astype(float), rng.normal(size=40)

    def error(values):
        return ((values - values.mean()) ** 2).sum()

    gains = {
        (f, t): error(y) - error(y[x[:, f] <= t]) - error(y[x[:, f] > t])
        for f in range(3)
        for t in np.unique(x[:, f])[:-1]
    }
    split = best_split(x, y)
    assert split is not None
    best = max(gains, key=lambda cut: gains[cut])
    assert split.gain == pytest.approx(gains[best])
    assert split.feature == best[0]
    assert best[1] < split.threshold < best[1] + 1


def test_equal_values_are_never_cut_apart():
    assert best_split(np.array([[1.0], [1.0], [1.0]]), np.array([0.0, 5.0, 9.0])) is None


def test_each_side_keeps_min_rows():
    x, y = np.arange(10.0)[:, None], np.array([100.0] + [0.0] * 9)
    assert best_split(x, y, min_rows=1).threshold == 0.5
    assert best_split(x, y, min_rows=3).threshold == 2.5
    assert best_split(x, y, min_rows=6) is None


def test_a_constant_target_gives_one_leaf():
    tree = fit_cart(np.arange(5.0)[:, None], np.full(5, 2.0), max_depth=3)
    assert tree.n_leaves == 1
    assert predict_cart(tree, np.array([[9.0]])).tolist() == [2.0]


@pytest.mark.parametrize("binary", [False, True])
def test_the_tree_is_scikit_learns(binary):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=300)
    y = (y > 0).astype(float) if binary else y
    tree = fit_cart(x, y, max_depth=4, min_rows=5)
    theirs = DecisionTreeRegressor(max_depth=4, min_samples_leaf=5, random_state=0).fit(x, y)
    assert tree.n_leaves == theirs.get_n_leaves()
    np.testing.assert_allclose(predict_cart(tree, x), theirs.predict(x))


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (np.ones((2, 1)), np.ones(3), r"\(2, 1\), \(3,\)"),
        (np.ones((0, 1)), np.ones(0), "N >= 1"),
        (np.array([[np.nan]]), np.ones(1), "finite"),
    ],
)
def test_bad_input_is_refused(x, y, match):
    with pytest.raises(ValueError, match=match):
        fit_cart(x, y, max_depth=1)
