"""Calibrated lists: KL by hand, greedy by its definition, the bound against exhaustive search."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import rel_entr

from ml_algorithms.diversity.calibrated import (
    calibrated_list,
    genre_shares,
    miscalibration,
    mix,
    objective,
)


def test_shares_and_mix_by_hand() -> None:
    shares = genre_shares(np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]]))
    np.testing.assert_allclose(shares, [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(mix(shares), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(mix(shares, np.array([3.0, 1.0, 5.0])), [0.375, 0.375, 0.25])
    with pytest.raises(ValueError, match="no mix"):
        mix(np.zeros((2, 3)))


def test_miscalibration_by_hand_and_by_scipy() -> None:
    target, actual = np.array([0.7, 0.3, 0.0]), np.array([1.0, 0.0, 0.0])
    smoothed = 0.99 * actual + 0.01 * target
    expected = 0.7 * math.log(0.7 / 0.997) + 0.3 * math.log(0.3 / 0.003)
    assert miscalibration(target, actual) == pytest.approx(expected)
    assert miscalibration(target, actual) == pytest.approx(rel_entr(target, smoothed).sum())
    assert miscalibration(target, target) == pytest.approx(0.0, abs=1e-12)
    nothing = np.array([0.0, 0.0, 1.0])
    assert miscalibration(target, nothing) == pytest.approx(math.log(100))  # -log(alpha)


def test_the_papers_example_of_seventy_and_thirty() -> None:
    """Ten slots, every drama scores higher: relevance alone shows no comedy, calibration three."""
    shares = np.repeat(np.eye(2), 20, axis=0)
    relevance = np.concatenate([np.linspace(1.0, 0.8, 20), np.linspace(0.5, 0.3, 20)])
    target = np.array([0.7, 0.3])
    plain = calibrated_list(relevance, shares, target, k=10, weight=0.0)
    np.testing.assert_array_equal(plain, np.arange(10))
    balanced = calibrated_list(relevance, shares, target, k=10, weight=0.99)
    assert (balanced >= 20).sum() == 3


def naive_greedy(
    relevance: np.ndarray, shares: np.ndarray, target: np.ndarray, k: int, weight: float
) -> list[int]:
    """Formula (1) of every longer list, the way it is mostly written."""
    picked: list[int] = []
    for _ in range(k):
        rest = [c for c in range(len(relevance)) if c not in picked]
        values = [
            objective(np.array([*picked, c]), relevance, shares, target, weight=weight)
            for c in rest
        ]
        picked.append(rest[int(np.argmax(values))])
    return picked


def instance(seed: int, n: int = 9, n_genres: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    genres = rng.random((n, n_genres)) < 0.3
    genres[np.arange(n), rng.integers(n_genres, size=n)] = True
    return rng.random(n), genre_shares(genres), mix(rng.dirichlet(np.ones(n_genres), size=1))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_greedy_on_the_log_sum_is_greedy_on_the_partial_kl(seed: int, weight: float) -> None:
    arguments = instance(seed)
    ours = calibrated_list(*arguments, k=5, weight=weight)
    assert ours.tolist() == naive_greedy(*arguments, k=5, weight=weight)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_keeps_its_bound_from_the_first_pick(seed: int) -> None:
    arguments, k, weight = instance(seed), 4, 0.6

    def log_sum(chosen: tuple[int, ...]) -> float:
        value = objective(np.array(chosen), *arguments, weight=weight)
        return value + weight * math.log(len(chosen))

    greedy = calibrated_list(*arguments, k=k, weight=weight)
    first = log_sum((int(greedy[0]),))
    best = max(log_sum(chosen) for chosen in itertools.combinations(range(9), k))
    share = (log_sum(tuple(greedy)) - first) / (best - first)
    assert 1 - (1 - 1 / k) ** (k - 1) <= share <= 1 + 1e-9


def test_items_without_a_genre_and_short_pools() -> None:
    shares = np.array([[1.0, 0.0], [0.0, 0.0]])
    picked = calibrated_list(np.array([0.2, 0.9]), shares, np.array([1.0, 0.0]), k=5, weight=0.9)
    assert picked.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": np.ones((2, 3))}, "do not fit"),
        ({"weight": 1.5}, "weight in"),
        ({"alpha": 0.0}, "alpha in"),
        ({"k": -1}, "k >= 0"),
        ({"relevance": np.array([-0.1, 1.0])}, "rescale"),
        ({"target": np.array([0.5, 0.2])}, "sum"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "relevance": np.array([0.1, 1.0]),
        "shares": np.eye(2),
        "target": np.array([0.5, 0.5]),
        "k": 1,
        "weight": 0.5,
    }
    with pytest.raises(ValueError, match=message):
        calibrated_list(**(arguments | changes))  # type: ignore[arg-type]
    if "alpha" in changes:
        with pytest.raises(ValueError, match="alpha"):
            miscalibration(np.ones(1), np.ones(1), alpha=0.0)
