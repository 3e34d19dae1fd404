"""TreeSHAP against the sum over all sets, a tree by hand, and LightGBM on its own trees."""

import lightgbm as lgb
import numpy as np
import pytest

from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, fit
from ml_algorithms.gradient_boosted_trees.forest import LEAF, Forest, concatenate
from ml_algorithms.gradient_boosted_trees.importance import (
    gain_importance,
    permutation_importance,
    shap_importance,
    split_importance,
)
from ml_algorithms.gradient_boosted_trees.tree_shap import brute_force_shap, tree_shap


def stump(feature=0, left=0.0, right=10.0, cover=(3.0, 1.0)):
    """x[feature] <= 0 gives ``left``, else ``right``."""
    return Forest(
        np.array([0]), np.array([feature, LEAF, LEAF]), np.array([0.0, np.nan, np.nan]),
        np.zeros(3, dtype=bool), np.array([1, -1, -1]), np.array([2, -1, -1]),
        np.array([0.0, left, right]), np.array([1.0, 0, 0]),
        np.array([sum(cover), *cover]), np.full(3, -1), np.empty((0, 256), dtype=bool),
    )  # fmt: skip


def fitted(seed=0, n=500):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 4] = rng.integers(0, 8, n)
    y = np.nan_to_num(x[:, 0] * x[:, 1]) + x[:, 4] % 3 + np.nan_to_num(x[:, 2])
    config = BoostingConfig(n_trees=4, n_leaves=14, min_rows_in_leaf=5, categorical=(4,))
    return x, fit(x, y, config)


def test_a_stump_by_hand():
    # Expected: (3 * 0 + 1 * 10) / 4 = 2.5. Right of the cut the only feature explains +7.5.
    values = tree_shap(stump(), np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(values, [[7.5, 2.5], [-2.5, 2.5]])


def test_equal_and_of_two_features_share_alike():
    # Two stumps on two features: contributions add up, each its own.
    forest = concatenate([stump(0), stump(1, right=4.0)])
    np.testing.assert_allclose(tree_shap(forest, np.array([[1.0, 1.0]])), [[7.5, 3.0, 3.5]])


def test_it_equals_the_sum_over_all_sets():
    x, model = fitted()
    assert (model.forest.category_set >= 0).any()  # both kinds of split are walked
    paths = model.forest.depths().max()
    assert paths > 5  # deeper than there are features: some feature returns on its path
    fast = tree_shap(model.forest, x[:15])
    np.testing.assert_allclose(
        fast, [brute_force_shap(model.forest, row) for row in x[:15]], atol=1e-12
    )


def test_rows_sum_to_the_prediction_and_unused_features_get_nothing():
    x, model = fitted()
    wider = np.column_stack([x, np.ones(len(x))])
    values = tree_shap(model.forest, wider)
    np.testing.assert_allclose(values.sum(axis=1), model.forest.predict(wider))
    assert (values[:, 5] == 0).all()


def forest_of(booster) -> Forest:
    """LightGBM's numeric trees as ours."""
    trees = []
    for info in booster.dump_model()["tree_info"]:
        rows: list[list[float]] = []

        def add(node, rows=rows):
            place = len(rows)
            rows.append([])
            if "leaf_value" in node:
                rows[place] = [LEAF, np.nan, False, -1, -1, node["leaf_value"], node["leaf_count"]]
                return place
            left, right = add(node["left_child"]), add(node["right_child"])
            rows[place] = [node["split_feature"], node["threshold"], node["default_left"],
                           left, right, node["internal_value"], node["internal_count"]]  # fmt: skip
            return place

        add(info["tree_structure"])
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        feature, left, right = (columns[i].astype(np.int64) for i in (0, 3, 4))
        trees.append(
            Forest(
                np.array([0]), feature, columns[1], columns[2].astype(bool), left, right,
                columns[5], np.zeros(len(rows)), columns[6].astype(float),
                np.full(len(rows), -1), np.empty((0, 256), dtype=bool),
            )
        )  # fmt: skip
    return concatenate(trees)


def test_on_lightgbms_trees_it_gives_lightgbms_contributions():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 5))
    y = x[:, 0] * x[:, 1] + np.sin(x[:, 2]) + 0.1 * rng.normal(size=600)
    x[rng.random(x.shape) < 0.1] = np.nan
    options = {"num_leaves": 12, "verbose": -1, "num_threads": 1, "boost_from_average": False}
    booster = lgb.train(options, lgb.Dataset(x, y), 6)
    forest = forest_of(booster)
    np.testing.assert_allclose(forest.predict(x), booster.predict(x), atol=1e-9)
    theirs = booster.predict(x[:50], pred_contrib=True)
    np.testing.assert_allclose(tree_shap(forest, x[:50]), theirs, atol=1e-9)


def test_missing_features_are_refused():
    with pytest.raises(ValueError, match="feature 4"):
        tree_shap(stump(feature=4), np.ones((1, 2)))


def test_gain_and_split_importance_by_hand():
    forest = concatenate([stump(0), stump(2), stump(2)])
    assert gain_importance(forest, 4) == pytest.approx([1 / 3, 0, 2 / 3, 0])
    assert split_importance(forest, 4).tolist() == [1, 0, 2, 0]


def test_permutation_sees_what_the_model_uses_and_nothing_else():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    target = 3 * x[:, 0]

    def quality(features):
        return -float(np.mean((3 * features[:, 0] - target) ** 2))

    before = x.copy()
    falls = permutation_importance(quality, x, repeats=3)
    # Shuffling gives two independent draws: E (3a - 3b)^2 = 18 var.
    assert falls[0] == pytest.approx(18.0, rel=0.2)
    assert falls[1:].tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(x, before)
    with pytest.raises(ValueError, match="got 0"):
        permutation_importance(quality, x, repeats=0)


def test_gain_flatters_a_column_of_many_values():
    """The trap: noise with many values gets gain, and nothing by permutation on new rows."""
    rng = np.random.default_rng(0)

    def draw(n):
        x = np.column_stack([rng.integers(0, 2, n), rng.random(n), rng.integers(0, 2, n)])
        return x, x[:, 0] + rng.normal(size=n)

    (x, y), (new_x, new_y) = draw(2000), draw(2000)
    model = fit(x, y, BoostingConfig(n_trees=40))
    gain = gain_importance(model.forest, 3)
    assert gain[1] > 5 * gain[2]
    assert gain[1] > 0.2
    falls = permutation_importance(
        lambda rows: -float(np.mean((model.predict(rows) - new_y) ** 2)), new_x
    )
    assert falls[1] < 0.05 * falls[0]
    assert shap_importance(model.forest, new_x[:200])[0] > 0.2
