"""BPR and FunkSVD: steps by hand, gradients by differences, compiled equals plain, floors."""

import math

import numpy as np
import pytest
from scipy import sparse

from ml_algorithms.matrix_factorization.bpr import TripleSampler, bpr_epoch, fit_bpr
from ml_algorithms.matrix_factorization.funk_svd import fit_biases, fit_funk_svd, funk_epoch


def two_camps(seed: int = 0, *, users: int = 40, items: int = 20) -> sparse.csr_matrix:
    """Even users take even items, odd users odd ones, with some left out."""
    rng = np.random.default_rng(seed)
    same = (np.arange(users)[:, None] + np.arange(items)) % 2 == 0
    return sparse.csr_matrix((same & (rng.random((users, items)) < 0.7)).astype(np.float32))


def stars(seed: int = 0, *, users: int = 40, items: int = 25) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, (users, items)) * (rng.random((users, items)) < 0.4)
    return sparse.csr_matrix(dense.astype(np.float64))


# --- BPR --------------------------------------------------------------------------------------


def test_one_bpr_step_by_hand() -> None:
    users, items, bias = np.array([[2.0]]), np.array([[1.0], [0.5]]), np.array([0.1, 0.3])
    bpr_epoch(users, items, bias, *(np.array([n]) for n in (0, 0, 1)), 0.5, 0.0)
    push = 1 / (1 + math.exp(0.1 - 0.3 + 2.0 * 0.5))
    assert users[0, 0] == pytest.approx(2.0 + 0.5 * push * 0.5)
    assert items[:, 0] == pytest.approx([1.0 + 0.5 * push * 2.0, 0.5 - 0.5 * push * 2.0])
    assert bias == pytest.approx([0.1 + 0.5 * push, 0.3 - 0.5 * push])


def test_a_bpr_step_follows_the_gradient_of_the_penalised_loss() -> None:
    rng, reg, rate = np.random.default_rng(1), 0.2, 1e-6
    start = [rng.normal(size=(1, 3)), rng.normal(size=(2, 3)), rng.normal(size=2)]

    def loss(parts: list[np.ndarray]) -> float:
        w, h, b = parts
        x = b[0] - b[1] + w[0] @ (h[0] - h[1])
        return math.log(1 / (1 + math.exp(-x))) - reg / 2 * sum((p**2).sum() for p in parts)

    moved = [part.copy() for part in start]
    bpr_epoch(*moved, *(np.array([n]) for n in (0, 0, 1)), rate, reg)
    for number, part in enumerate(start):
        for place in np.ndindex(part.shape):
            parts = [p.copy() for p in start]
            parts[number][place] += 1e-5
            up = loss(parts)
            parts[number][place] -= 2e-5
            slope = (up - loss(parts)) / 2e-5
            step = (moved[number][place] - part[place]) / rate
            assert step == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_compiled_loops_equal_the_plain_ones() -> None:
    pytest.importorskip("numba")
    matrix, knobs = two_camps(), {"factors": 3, "epochs": 2, "seed": 5}
    plain = fit_bpr(matrix, compile_loop=False, **knobs)  # type: ignore[arg-type]
    fast = fit_bpr(matrix, **knobs)  # type: ignore[arg-type]
    np.testing.assert_allclose(fast.item_factors, plain.item_factors, rtol=1e-10)
    np.testing.assert_allclose(fast.item_bias, plain.item_bias, rtol=1e-10)
    plain_stars = fit_funk_svd(stars(), compile_loop=False, **knobs)  # type: ignore[arg-type]
    fast_stars = fit_funk_svd(stars(), **knobs)  # type: ignore[arg-type]
    np.testing.assert_allclose(fast_stars.user_factors, plain_stars.user_factors, rtol=1e-10)


def test_bpr_finds_the_two_camps() -> None:
    matrix = two_camps()
    model = fit_bpr(matrix, factors=4, learning_rate=0.05, reg=0.001, epochs=150)
    scores = model.score(model.user_factors)
    same = (np.arange(40)[:, None] + np.arange(20)) % 2 == 0
    unseen = matrix.toarray() == 0
    wins = scores[same & unseen][:, None] > scores[~same & unseen][None, :]
    assert wins.mean() > 0.95


def test_triples_visit_every_interaction_once_and_draw_what_the_user_has_not() -> None:
    matrix = two_camps()
    user, taken, negative = TripleSampler(matrix).epoch(np.random.default_rng(0))
    assert sorted(zip(user, taken, strict=True)) == sorted(zip(*matrix.nonzero(), strict=True))
    assert not matrix.toarray()[user, negative].any()


def test_negatives_follow_popularity_where_asked() -> None:
    dense = np.zeros((300, 4), dtype=np.float32)
    dense[:200, 0], dense[200:250, 1], dense[250:, 2] = 1, 1, 1  # nobody took the last item
    sampler = TripleSampler(sparse.csr_matrix(dense), popularity_exponent=1.0)
    rng = np.random.default_rng(0)
    counts = np.zeros(4)
    for _ in range(200):
        user, _, negative = sampler.epoch(rng)
        counts += np.bincount(negative[user >= 250], minlength=4)
    share = counts / counts.sum()  # of 200, 50 and 1: the users' own item is redrawn
    np.testing.assert_allclose(share, [200 / 251, 50 / 251, 0, 1 / 251], atol=0.01)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"factors": 0}, "at least 1"),
        ({"epochs": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"reg": -1.0}, "at least 0"),
    ],
)
def test_bpr_knobs_out_of_range(knobs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_bpr(two_camps(), **{"factors": 2, "compile_loop": False, **knobs})  # type: ignore[arg-type]


@pytest.mark.parametrize("dense", [np.ones((2, 3)), np.zeros((2, 3))])
def test_bpr_needs_something_taken_and_something_not(dense: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an item not taken"):
        fit_bpr(sparse.csr_matrix(dense.astype(np.float32)), factors=2)


# --- ratings ----------------------------------------------------------------------------------


def test_biases_by_hand() -> None:
    # Ratings 5 and 3 of one user; no damping: mean 4, item biases +1 and -1, nothing left.
    ratings = sparse.csr_matrix(np.array([[5.0, 3.0]]))
    model = fit_biases(ratings, damping=0.0)
    assert model.predict(np.array([0, 0]), np.array([0, 1])) == pytest.approx([5.0, 3.0])
    damped = fit_biases(ratings, damping=1.0, sweeps=1)
    assert damped.item_bias == pytest.approx([0.5, -0.5])


def test_one_funk_step_by_hand() -> None:
    users, items = np.array([[1.0]]), np.array([[2.0]])
    user_bias, item_bias = np.array([0.1]), np.array([0.2])
    zero = np.array([0])
    funk_epoch(users, items, user_bias, item_bias, zero, zero, np.array([3.0]), 0.1, 0.5)
    error = 3.0 - 0.1 - 0.2 - 2.0
    assert user_bias[0] == pytest.approx(0.1 + 0.1 * (error - 0.05))
    assert item_bias[0] == pytest.approx(0.2 + 0.1 * (error - 0.1))
    assert users[0, 0] == pytest.approx(1.0 + 0.1 * (error * 2.0 - 0.5))
    assert items[0, 0] == pytest.approx(2.0 + 0.1 * (error * 1.0 - 1.0))


def test_funk_svd_beats_biases_where_there_is_structure() -> None:
    rng = np.random.default_rng(2)
    truth = 3.0 + rng.normal(size=(60, 1)) * rng.normal(size=(1, 40))
    seen = rng.random(truth.shape) < 0.6
    train = sparse.csr_matrix(np.where(seen, truth, 0.0))
    user, item = np.nonzero(~seen)
    model = fit_funk_svd(train, factors=2, learning_rate=0.02, reg=0.02, epochs=80)
    biases = fit_biases(train)
    errors = [
        float(np.sqrt(((one.predict(user, item) - truth[~seen]) ** 2).mean()))
        for one in (model, biases)
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: fit_biases(sparse.csr_matrix((2, 2))),
        lambda: fit_biases(stars(), damping=-1.0),
        lambda: fit_funk_svd(stars(), factors=0),
        lambda: fit_funk_svd(stars(), factors=2, learning_rate=0.0),
        lambda: fit_funk_svd(sparse.csr_matrix((2, 2)), factors=2),
    ],
)
def test_rating_models_refuse_what_they_cannot_use(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"at least|no ratings"):
        make()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_divergence_is_said_and_not_returned() -> None:
    with pytest.raises(ValueError, match="diverged"):
        fit_funk_svd(stars(), factors=2, learning_rate=50.0, epochs=30, compile_loop=False)
