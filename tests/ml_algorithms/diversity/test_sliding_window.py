"""Windowed selection against its definition, and against the methods without a window."""

import itertools

import numpy as np
import pytest

from ml_algorithms.diversity.dpp import greedy_dpp, quality_similarity_kernel
from ml_algorithms.diversity.mmr import mmr
from ml_algorithms.diversity.sliding_window import (
    orthonormal_rows,
    sliding_spectrum,
    windowed_dpp,
    windowed_mmr,
)


def candidates(seed: int, n: int, dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rng.random(n), vectors


@pytest.mark.parametrize("seed", range(5))
def test_a_window_longer_than_the_list_changes_nothing(seed: int) -> None:
    relevance, vectors = candidates(seed, 20)
    similarity = vectors @ vectors.T
    windowed = windowed_mmr(relevance, similarity, k=7, trade_off=0.6, window=8)
    np.testing.assert_array_equal(windowed, mmr(relevance, similarity, k=7, trade_off=0.6))
    kernel = quality_similarity_kernel(0.5 + relevance, similarity)
    np.testing.assert_array_equal(windowed_dpp(kernel, 7, window=8), greedy_dpp(kernel, 7))


def naive_windowed_dpp(kernel: np.ndarray, k: int, window: int) -> list[int]:
    picked: list[int] = []
    for _ in range(k):
        recent = picked[max(0, len(picked) - window + 1) :]
        rest = [c for c in range(len(kernel)) if c not in picked]
        picked.append(
            max(rest, key=lambda c: np.linalg.det(kernel[np.ix_([*recent, c], [*recent, c])]))
        )
    return picked


@pytest.mark.parametrize(("seed", "window"), list(itertools.product(range(4), (1, 2, 4))))
def test_windowed_dpp_is_greedy_on_the_windows_determinant(seed: int, window: int) -> None:
    relevance, vectors = candidates(seed, 12)
    kernel = quality_similarity_kernel(0.5 + relevance, vectors @ vectors.T)
    assert windowed_dpp(kernel, 9, window=window).tolist() == naive_windowed_dpp(kernel, 9, window)


def test_a_window_carries_the_list_beyond_the_rank() -> None:
    _, vectors = candidates(1, 30, dim=4)
    kernel = vectors @ vectors.T
    assert len(greedy_dpp(kernel, 20)) == 4  # four dimensions span four items
    picked = windowed_dpp(kernel, 20, window=3)
    assert len(picked) == len(set(picked.tolist())) == 20


def test_windowed_dpp_stops_when_nothing_adds_volume() -> None:
    assert windowed_dpp(np.ones((3, 3)), 3, window=2).tolist() == [0]


def naive_sliding_spectrum(
    quality: np.ndarray, vectors: np.ndarray, k: int, gamma: float, window: int
) -> list[int]:
    """The part of a vector outside a span, by least squares."""
    picked: list[int] = []
    for _ in range(k):
        recent = vectors[picked[max(0, len(picked) - window + 1) :]]
        scores = np.full(len(quality), -np.inf)
        for c in set(range(len(quality))) - set(picked):
            rest = vectors[c]
            if len(recent):
                rest = rest - recent.T @ np.linalg.lstsq(recent.T, vectors[c], rcond=None)[0]
            scores[c] = quality[c] + gamma * np.linalg.norm(rest)
        picked.append(int(scores.argmax()))
    return picked


@pytest.mark.parametrize(("seed", "window"), list(itertools.product(range(4), (1, 3, 6))))
def test_sliding_spectrum_equals_least_squares(seed: int, window: int) -> None:
    quality, vectors = candidates(seed, 15)
    ours = sliding_spectrum(quality, vectors, k=10, gamma=0.8, window=window)
    assert ours.tolist() == naive_sliding_spectrum(quality, vectors, 10, 0.8, window)


def test_sliding_spectrum_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    quality = np.array([1.0, 0.9, 0.5])
    # After item 0, its twin has nothing new (0.9), item 2 all of it (0.5 + 1).
    assert sliding_spectrum(quality, vectors, k=2, gamma=1.0, window=5).tolist() == [0, 2]
    # A weight of 0.3 is not worth the loss (0.5 + 0.3 < 0.9).
    assert sliding_spectrum(quality, vectors, k=2, gamma=0.3, window=5).tolist() == [0, 1]
    # In a window of 2 the first item has left when the third is chosen.
    assert sliding_spectrum(quality, vectors, k=3, gamma=1.0, window=2).tolist() == [0, 2, 1]


def test_dependent_rows_add_no_direction() -> None:
    rows = np.array([[1.0, 0, 0], [2.0, 0, 0], [1.0, 1.0, 0], [0, 0, 0]])
    basis = orthonormal_rows(rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(np.abs(basis), [[1, 0, 0], [0, 1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: windowed_mmr(np.ones(3), np.eye(2), k=1, trade_off=0.5, window=2), "fit 3"),
        (lambda: windowed_mmr(np.ones(2), np.eye(2), k=1, trade_off=2.0, window=2), "trade_off"),
        (lambda: windowed_dpp(np.eye(2), 1, window=0), "window >= 1"),
        (lambda: windowed_dpp(np.ones((2, 3)), 1, window=1), "shapes"),
        (lambda: sliding_spectrum(np.ones(2), np.eye(2), k=-1, gamma=1, window=1), "k must"),
        (lambda: sliding_spectrum(np.ones(2), np.eye(2), k=1, gamma=-1, window=1), "gamma"),
        (lambda: sliding_spectrum(np.ones(2), np.eye(3), k=1, gamma=1, window=1), "shapes"),
    ],
)
def test_what_is_wrong_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
