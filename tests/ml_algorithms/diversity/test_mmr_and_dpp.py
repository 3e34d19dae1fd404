"""MMR and greedy DPP against naive greedy implementations and exhaustive search."""

import itertools
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_algorithms.diversity.dpp import (
    condition_on,
    distance_kernel,
    greedy_dpp,
    quality_similarity_kernel,
    trade_off_kernel,
)
from ml_algorithms.diversity.mmr import mmr, rescale


def candidates(seed: int, n: int, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Relevance [C] in [0, 1] and cosine similarity [C, C]."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rng.random(n), vectors @ vectors.T


def naive_mmr(relevance: np.ndarray, similarity: np.ndarray, k: int, trade_off: float) -> list[int]:
    picked: list[int] = []
    while len(picked) < min(k, len(relevance)):
        rest = [c for c in range(len(relevance)) if c not in picked]
        picked.append(
            max(
                rest,
                key=lambda c: (
                    trade_off * relevance[c]
                    - (1 - trade_off) * max((similarity[c, p] for p in picked), default=0.0)
                ),
            )
        )
    return picked


def naive_greedy_determinant(kernel: np.ndarray, k: int) -> list[int]:
    picked: list[int] = []
    while len(picked) < k:
        rest = [c for c in range(len(kernel)) if c not in picked]
        picked.append(
            max(rest, key=lambda c: np.linalg.det(kernel[np.ix_([*picked, c], [*picked, c])]))
        )
    return picked


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    k=st.integers(0, 14),
    trade_off=st.floats(0, 1),
)
def test_mmr_equals_the_definition(seed: int, n: int, k: int, trade_off: float) -> None:
    relevance, similarity = candidates(seed, n)
    assert mmr(relevance, similarity, k=k, trade_off=trade_off).tolist() == naive_mmr(
        relevance, similarity, k, trade_off
    )


def test_mmr_at_its_ends() -> None:
    relevance, similarity = candidates(1, 30)
    by_relevance = np.argsort(-relevance)[:10]
    np.testing.assert_array_equal(mmr(relevance, similarity, k=10, trade_off=1.0), by_relevance)
    same = mmr(np.zeros(4), np.eye(4), k=4, trade_off=0.5)
    np.testing.assert_array_equal(same, [0, 1, 2, 3])  # ties keep the ranker's order


def test_mmr_takes_the_less_relevant_item_over_the_twin() -> None:
    similarity = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    relevance = np.array([1.0, 0.95, 0.5])
    assert mmr(relevance, similarity, k=2, trade_off=0.6).tolist() == [0, 2]
    assert mmr(relevance, similarity, k=2, trade_off=0.9).tolist() == [0, 1]


def test_mmr_leaves_its_inputs_alone() -> None:
    relevance, similarity = candidates(2, 10)
    before = relevance.copy(), similarity.copy()
    mmr(relevance, similarity, k=5, trade_off=0.5)
    np.testing.assert_array_equal(relevance, before[0])
    np.testing.assert_array_equal(similarity, before[1])


@pytest.mark.parametrize(
    ("relevance", "similarity", "knobs", "message"),
    [
        (np.ones(3), np.eye(2), {"k": 1, "trade_off": 0.5}, "does not fit 3"),
        (np.ones(2), np.eye(2), {"k": -1, "trade_off": 0.5}, "k must be"),
        (np.ones(2), np.eye(2), {"k": 1, "trade_off": 1.1}, "trade_off in"),
        (np.array([1.0, np.nan]), np.eye(2), {"k": 1, "trade_off": 0.5}, "finite"),
        (np.ones(2), np.full((2, 2), np.inf), {"k": 1, "trade_off": 0.5}, "finite"),
    ],
)
def test_mmr_names_what_is_wrong(relevance, similarity, knobs, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        mmr(relevance, similarity, **knobs)


def test_rescale() -> None:
    np.testing.assert_allclose(rescale(np.array([2.0, 4.0, 3.0])), [0, 1, 0.5])
    np.testing.assert_allclose(rescale(np.array([5.0, 5.0])), [1, 1])
    assert rescale(np.zeros(0)).size == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 10), k=st.integers(0, 5))
def test_greedy_dpp_equals_greedy_on_determinants(seed: int, n: int, k: int) -> None:
    relevance, similarity = candidates(seed, n, dim=12)
    kernel = quality_similarity_kernel(0.5 + relevance, similarity)
    assert greedy_dpp(kernel, k).tolist() == naive_greedy_determinant(kernel, min(k, n))


def logdet(kernel: np.ndarray, chosen: Sequence[int] | np.ndarray) -> float:
    chosen = np.asarray(chosen)
    return float(np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])


def test_greedy_dpp_holds_its_guarantee_against_the_best_set() -> None:
    """Log det is submodular; where it is also monotone, greedy reaches 1 - 1/e of the best."""
    for seed in range(20):
        relevance, similarity = candidates(seed, 10, dim=12)
        # L = I + something positive semi-definite: every gain is at least 1, every log gain at
        # least 0.
        kernel = np.eye(10) + quality_similarity_kernel(1 + relevance, similarity)
        best = max(logdet(kernel, chosen) for chosen in itertools.combinations(range(10), 4))
        reached = logdet(kernel, greedy_dpp(kernel, 4))
        assert (1 - 1 / math.e) * best <= reached <= best + 1e-9


def test_duplicates_are_never_both_chosen() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(6, 8))
    vectors = np.repeat(vectors, 3, axis=0)  # each of six items three times
    kernel = vectors @ vectors.T
    picked = greedy_dpp(kernel, 10)
    assert len(picked) == 6  # the rank: no seventh item adds volume
    assert sorted(picked // 3) == list(range(6))


def test_greedy_dpp_stops_at_items_of_no_quality() -> None:
    kernel = np.diag([0.0, 2.0, 0.0, 1.0])
    assert greedy_dpp(kernel, 4).tolist() == [1, 3]
    assert greedy_dpp(np.zeros((0, 0)), 3).size == 0


def test_trade_off_kernel_is_the_weighted_sum_in_logs() -> None:
    relevance, similarity = candidates(4, 6, dim=8)
    trade_off = 0.7
    kernel = trade_off_kernel(relevance, similarity, trade_off=trade_off)
    for chosen in itertools.combinations(range(6), 3):
        block = np.ix_(chosen, chosen)
        objective = trade_off * relevance[list(chosen)].sum()
        objective += (1 - trade_off) * np.linalg.slogdet(similarity[block])[1]
        shifted = (1 - trade_off) * np.linalg.slogdet(kernel[block])[1]
        assert shifted == pytest.approx(objective - 3 * trade_off * relevance.max())


def test_more_weight_on_relevance_gives_more_relevance() -> None:
    relevance, similarity = candidates(5, 60, dim=30)
    totals = [
        relevance[greedy_dpp(trade_off_kernel(relevance, similarity, trade_off=t), 10)].sum()
        for t in (0.0, 0.5, 0.8, 0.99)
    ]
    assert totals == sorted(totals)
    assert totals[-1] == pytest.approx(np.sort(relevance)[-10:].sum(), rel=0.01)


def test_distance_kernel_by_hand_and_projection() -> None:
    quality, distance = np.array([1.0, 2.0]), np.array([[0.0, 2.0], [2.0, 0.0]])
    kernel = distance_kernel(quality, distance, strength=0.5, width=1.0)
    np.testing.assert_allclose(kernel, [[1, math.exp(-1)], [math.exp(-1), 4]])
    strong = distance_kernel(np.ones(5), np.zeros((5, 5)), strength=3.0)
    assert np.linalg.eigvalsh(strong).min() > -1e-9
    with pytest.raises(ValueError, match="strength"):
        distance_kernel(quality, distance, strength=-1.0)


def test_conditioning_continues_the_list() -> None:
    relevance, similarity = candidates(6, 12, dim=14)
    kernel = quality_similarity_kernel(0.5 + relevance, similarity)
    whole = greedy_dpp(kernel, 8)
    rest = greedy_dpp(condition_on(kernel, whole[:3]), 5)
    assert rest.tolist() == whole[3:].tolist()
    assert (
        greedy_dpp(condition_on(kernel, np.zeros(0, dtype=np.int64)), 8).tolist() == whole.tolist()
    )


def test_conditioning_shuts_out_duplicates_of_what_was_shown() -> None:
    vectors = np.random.default_rng(7).normal(size=(4, 6))
    kernel = np.vstack([vectors, vectors]) @ np.vstack([vectors, vectors]).T
    picked = greedy_dpp(condition_on(kernel, np.array([0, 1])), 8)
    assert sorted(picked % 4) == [2, 3]


@pytest.mark.parametrize(
    ("kernel", "k", "message"),
    [
        (np.ones((2, 3)), 1, "square"),
        (np.eye(2), -1, "k must be"),
        (np.array([[np.nan]]), 1, "finite"),
        (np.array([[-1.0]]), 1, "diagonal"),
    ],
)
def test_greedy_dpp_names_what_is_wrong(kernel: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        greedy_dpp(kernel, k)


@pytest.mark.parametrize("trade_off", [-0.1, 1.0])
def test_trade_off_out_of_range(trade_off: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        trade_off_kernel(np.ones(2), np.eye(2), trade_off=trade_off)


def test_negative_quality_is_refused() -> None:
    with pytest.raises(ValueError, match="quality"):
        quality_similarity_kernel(np.array([-1.0]), np.eye(1))


@pytest.mark.parametrize("name", ["mmr", "dpp"])
def test_a_page_of_20_from_200_takes_well_under_a_millisecond(name: str) -> None:
    relevance, similarity = candidates(8, 200, dim=64)
    kernel = trade_off_kernel(relevance, similarity, trade_off=0.7)
    seconds = []
    for _ in range(50):
        begin = time.perf_counter()
        if name == "mmr":
            mmr(relevance, similarity, k=20, trade_off=0.7)
        else:
            greedy_dpp(kernel, 20)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1e-3  # about 0.1 ms on one core; the slack is for a busy machine
