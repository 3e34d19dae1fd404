"""Trees and boosting: first steps by hand, constraints, sampling, LightGBM on the same task."""

import numpy as np
import pytest
from pydantic import ValidationError

from ml_algorithms.gradient_boosted_trees.boosting import BoostingConfig, Validation, fit
from ml_algorithms.gradient_boosted_trees.cart import fit_cart, predict_cart
from ml_algorithms.gradient_boosted_trees.forest import LEAF, concatenate
from ml_algorithms.gradient_boosted_trees.library_parameters import fit_lightgbm, fit_xgboost

SMALL = {"min_rows_in_leaf": 1, "min_hessian_in_leaf": 0.0}


def table(n=800, seed=0):
    """Four numbers with holes and a category of nine."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    x[:, 4] = rng.integers(0, 9, n)
    y = x[:, 0] * 2 + np.sin(3 * x[:, 1]) + (x[:, 4] % 3) + 0.3 * rng.normal(size=n)
    x[rng.random(n) < 0.2, 1] = np.nan
    return x, y


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_one_tree_with_full_steps_by_hand():
    x, y = np.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]]), np.array([1.0, 1, 1, 5, 5, 5])
    model = fit(x, y, BoostingConfig(n_trees=1, learning_rate=1.0, n_leaves=2, **SMALL))
    assert model.initial_score == 3.0
    assert model.predict(np.array([[0.0], [1.0]])) == pytest.approx([1.0, 5.0])
    half = fit(x, y, BoostingConfig(n_trees=2, learning_rate=0.5, n_leaves=2, **SMALL))
    # Residuals -2, +2; half a step leaves 1, a second half step leaves 0.5.
    assert half.predict(np.array([[0.0], [1.0]])) == pytest.approx([1.5, 4.5])


def test_l2_shrinks_leaves():
    x, y = np.array([[0.0]] * 3 + [[1.0]] * 3), np.array([1.0, 1, 1, 5, 5, 5])
    model = fit(x, y, BoostingConfig(n_trees=1, learning_rate=1.0, n_leaves=2, l2=3.0, **SMALL))
    # Sum of residuals 6 over 3 rows + 3: one instead of two.
    assert model.predict(np.array([[0.0], [1.0]])) == pytest.approx([2.0, 4.0])


def test_one_depth_wise_tree_is_cart():
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(200, 3)), 1)  # few distinct values, each at least three times
    x = np.vstack([x, x, x])
    y = np.tile(x[:200, 0] * x[:200, 1], 3)
    config = BoostingConfig(n_trees=1, learning_rate=1.0, n_leaves=64, max_depth=3,
                            leaf_wise=False, min_rows_in_leaf=7)  # fmt: skip
    exact = fit_cart(x, y, max_depth=3, min_rows=7)
    np.testing.assert_allclose(fit(x, y, config).predict(x), predict_cart(exact, x), atol=1e-9)


def test_a_node_holds_its_limits():
    x, y = table()
    config = BoostingConfig(n_trees=5, n_leaves=20, max_depth=4, min_rows_in_leaf=30)
    forest = fit(x, y, config).forest
    leaves = forest.feature == LEAF
    assert forest.cover[leaves].min() >= 30
    assert forest.depths().max() <= 4
    assert forest.n_leaves() <= 5 * 20
    inner = np.flatnonzero(~leaves)
    np.testing.assert_allclose(
        forest.cover[inner], forest.cover[forest.left[inner]] + forest.cover[forest.right[inner]]
    )


def test_leaf_wise_fits_training_rows_better_than_depth_wise():
    x, y = table()
    errors = [
        rmse(fit(x, y, BoostingConfig(n_trees=3, n_leaves=12, leaf_wise=leaf_wise)).predict(x), y)
        for leaf_wise in (True, False)
    ]
    assert errors[0] < errors[1]


def test_scores_of_rows_in_training_are_those_of_predict():
    """Leaves known from growing, against walking the trees, with categories and holes."""
    x, y = table()
    config = BoostingConfig(n_trees=8, categorical=(4,))
    seen = []
    model = fit(x, y, config, validation=Validation(x, lambda s: seen.append(s.copy()) or 0.0))
    np.testing.assert_allclose(seen[-1], model.predict(x))
    walked = fit(x, y, config.model_copy(update={"row_fraction": 0.999}))
    assert rmse(walked.predict(x), model.predict(x)) < 0.1
    np.testing.assert_allclose(model.predict(x, n_trees=3), seen[2])


def test_training_error_falls_with_every_tree_without_sampling():
    x, y = table()
    history = fit(
        x, y, BoostingConfig(n_trees=30), validation=Validation(x, lambda s: rmse(s, y))
    ).history
    assert (np.diff(history) < 0).all()


def test_early_stopping_keeps_the_best_trees():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = x[:, 0] + 2 * rng.normal(size=300)  # mostly noise: overfits soon
    held = rng.normal(size=(300, 3))
    target = held[:, 0] + 2 * rng.normal(size=300)
    config = BoostingConfig(n_trees=400, patience=10, min_rows_in_leaf=5)
    model = fit(x, y, config, validation=Validation(held, lambda s: rmse(s, target)))
    best = int(model.history.argmin()) + 1
    assert len(model.history) == best + 10
    assert model.forest.n_trees == best
    assert rmse(model.predict(held), target) == pytest.approx(model.history.min())


def test_missing_and_unseen_values_are_scored():
    x, y = table()
    model = fit(x, y, BoostingConfig(n_trees=5, categorical=(4,)))
    odd = np.array([[np.nan] * 5, [0, 0, 0, 0, 77.0], [0, 0, 0, 0, -3.0]])
    assert np.isfinite(model.predict(odd)).all()
    assert model.predict(odd[1:2]) == pytest.approx(model.predict(odd[2:3]))


def test_informative_missingness_is_learned():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 1))
    gone = rng.random(600) < 0.4
    y = np.where(gone, 3.0, 0.0)
    x[gone] = np.nan
    model = fit(x, y, BoostingConfig(n_trees=40, learning_rate=0.3))
    assert model.predict(np.array([[np.nan], [0.0]])) == pytest.approx([3.0, 0.0], abs=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_monotone_constraint_is_never_violated(sign):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3))
    y = sign * x[:, 0] + np.sin(6 * x[:, 0]) + x[:, 1] * x[:, 0] + 0.1 * rng.normal(size=1000)
    free = fit(x, y, BoostingConfig(n_trees=40))
    kept = fit(x, y, BoostingConfig(n_trees=40, monotone={0: sign}))
    grid = np.linspace(-3, 3, 200)
    falls = []
    for model in (free, kept):
        rows = np.repeat(x[:50], 200, axis=0)
        rows[:, 0] = np.tile(grid, 50)
        steps = sign * np.diff(model.predict(rows).reshape(50, 200), axis=1)
        falls.append((steps < -1e-12).mean())
    assert falls[0] > 0.05  # the data do ask for falls
    assert falls[1] == 0.0


def test_a_seed_draws_the_same_rows_and_features():
    x, y = table()
    config = BoostingConfig(n_trees=5, row_fraction=0.5, feature_fraction=0.4, seed=3)
    one, two = fit(x, y, config), fit(x, y, config)
    other = fit(x, y, config.model_copy(update={"seed": 4}))
    np.testing.assert_array_equal(one.predict(x), two.predict(x))
    assert not np.allclose(one.predict(x), other.predict(x))


def test_without_a_useful_split_the_mean_is_predicted():
    model = fit(np.ones((50, 2)), np.arange(50.0), BoostingConfig(n_trees=3))
    assert model.predict(np.zeros((1, 2))) == pytest.approx([24.5])


# --- against LightGBM and XGBoost ---------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_first_tree_is_lightgbms(loss):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 40, (600, 4)).astype(float)  # a bin for every value, in both
    y = x[:, 0] * x[:, 1] + 20 * rng.normal(size=600)
    y = (y > np.median(y)).astype(float) if loss == "logistic" else y
    config = BoostingConfig(loss=loss, n_trees=3, n_leaves=8, l2=1.0)
    ours, theirs = fit(x, y, config), fit_lightgbm(x, y, config)
    score = ours.probability(x) if loss == "logistic" else ours.predict(x)
    np.testing.assert_allclose(score, theirs.predict(x), rtol=1e-4)


def test_the_first_ranking_trees_are_lightgbms():
    """With no minimum of rows: LightGBM estimates them from hessians, which differ by row here."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, (400, 3)).astype(float)
    grade = np.clip((x[:, 0] + 10 * rng.random(400)) // 10, 0, 4)
    group = np.full(20, 20)
    config = BoostingConfig(loss="lambdamart", n_trees=3, n_leaves=6, min_rows_in_leaf=1)
    ours = fit(x, grade, config, group=group)
    theirs = fit_lightgbm(x, grade, config, group=group)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-4, atol=1e-5)


def test_held_out_error_is_the_libraries():
    x, y = table(3000)
    test_x, test_y = table(2000, seed=1)
    config = BoostingConfig(n_trees=60, categorical=(4,))
    ours = rmse(fit(x, y, config).predict(test_x), test_y)
    assert ours == pytest.approx(rmse(fit_lightgbm(x, y, config).predict(test_x), test_y), rel=0.02)
    assert ours == pytest.approx(rmse(fit_xgboost(x, y, config).predict(test_x), test_y), rel=0.05)
    assert ours < 0.5 * test_y.std()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "group", "match"),
    [
        ({"loss": "lambdamart"}, None, "groups go with lambdamart"),
        ({}, np.array([800]), "groups go with lambdamart"),
        ({"monotone": {9: 1}}, None, "feature 9"),
        ({"monotone": {4: 1}, "categorical": (4,)}, None, "feature 4"),
    ],
)
def test_contradictions_are_refused(change, group, match):
    x, y = table()
    with pytest.raises(ValueError, match=match):
        fit(x, y, BoostingConfig(n_trees=1, **change), group=group)


def test_bad_shapes_and_knobs_are_refused():
    x, y = table()
    with pytest.raises(ValueError, match="finite targets"):
        fit(x, y[:-1], BoostingConfig())
    with pytest.raises(ValueError, match="finite targets"):
        fit(x, np.where(y > 0, y, np.nan), BoostingConfig())
    with pytest.raises(ValidationError, match="learning_rate"):
        BoostingConfig(learning_rate=0.0)
    with pytest.raises(ValidationError, match="rounds"):
        BoostingConfig(rounds=3)
    with pytest.raises(ValueError, match="at least one tree"):
        concatenate([])
