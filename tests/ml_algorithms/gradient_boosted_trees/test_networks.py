"""What trees are compared with: inputs fitted on training rows, models that learn."""

import numpy as np
import pytest

from ml_algorithms.gradient_boosted_trees.tabular_networks import (
    Inputs,
    MLPConfig,
    fit_linear,
    fit_mlp,
)


def table(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    x[:, 2] = rng.integers(0, 4, n)
    y = x[:, 0] + (x[:, 2] == 2) * 2.0
    x[rng.random(n) < 0.1, 1] = np.nan
    return x, y


def test_inputs_have_no_holes_and_unknown_categories_a_code_of_their_own():
    x, _ = table(300, 0)
    inputs = Inputs(x, [2], seed=0)
    numbers, codes = inputs.transform(np.array([[1e9, np.nan, 9.0], [0.0, 0.0, np.nan]]))
    assert np.isfinite(numbers).all()
    assert numbers[0, 0] == 4.0  # beyond all training rows: the clipped end of the scale
    assert numbers[:, 2].tolist() == [1.0, 0.0]  # the flag of the missing one
    assert codes[:, 0].tolist() == [4, 4]
    assert inputs.indicators(x).shape == (300, 3 + 5)


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_both_learn_a_sum(kind):
    (x, y), (held_x, held_y) = table(800, 1), table(400, 2)
    if kind == "binary":
        y, held_y = (y > 0.5).astype(float), (held_y > 0.5).astype(float)
    network, loss = fit_mlp((x, y), (held_x, held_y), kind, [2], MLPConfig(epochs=15))
    line = fit_linear((x, y), kind, [2], strength=0.1)
    baseline = held_y.var()
    for predict in (network, line):
        assert np.mean((predict(held_x) - held_y) ** 2) < 0.3 * baseline
    assert 0 < loss < 0.5
    again, _ = fit_mlp((x, y), (held_x, held_y), kind, [2], MLPConfig(epochs=15))
    np.testing.assert_allclose(again(held_x), network(held_x), atol=1e-5)
