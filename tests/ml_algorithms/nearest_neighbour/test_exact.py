"""Exact search against the definition, hand-computed numbers, a full sort, and FAISS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_algorithms.nearest_neighbour import exact
from ml_algorithms.nearest_neighbour.exact import (
    FlatIndex,
    direct_distances,
    distances,
    heap_search,
    merge,
    rerank,
    smallest_k,
)
from ml_algorithms.nearest_neighbour.index import NO_ID, VectorIndex, as_vectors, normalise


def vectors(seed: int, n: int, dimensions: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dimensions)).astype(np.float32)


def test_distances_by_hand() -> None:
    queries = np.array([[0, 0], [3, 4]], dtype=np.float32)
    stored = np.array([[3, 4], [1, 0], [0, 0]], dtype=np.float32)
    for form in (direct_distances, distances):
        np.testing.assert_allclose(form(queries, stored, "l2"), [[25, 1, 0], [0, 20, 25]])
        np.testing.assert_allclose(form(queries, stored, "ip"), [[0, 0, 0], [-25, -3, 0]])


def test_the_matrix_form_pays_with_digits_far_from_the_origin() -> None:
    """Two points 0.1 apart at distance 1,000 from the origin: the square is lost in rounding."""
    query = np.full((1, 16), 250.0, dtype=np.float32)
    near = query + np.float32(0.025)
    truth = float(direct_distances(query, near)[0, 0])
    assert truth == pytest.approx(0.01, rel=1e-3)
    assert abs(float(distances(query, near)[0, 0]) - truth) > 0.5 * truth
    centred = float(distances(query - 250, near - 250)[0, 0])
    assert centred == pytest.approx(truth, rel=1e-3)  # the cure: subtract the mean first


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
    st.integers(1, 35),
)
@settings(max_examples=200, deadline=None)
def test_selection_equals_a_stable_sort_with_ties(numbers: list[int], k: int) -> None:
    values = np.array(numbers, dtype=np.float32)
    found, places = smallest_k(values, k)
    expected = np.argsort(values, kind="stable")[:k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, values[expected])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_all_forms_agree_with_faiss(metric: str) -> None:
    faiss = pytest.importorskip("faiss")
    stored, queries = vectors(0, 700), vectors(1, 30)
    index = FlatIndex(stored, metric)  # type: ignore[arg-type]
    near, ids = index.search(queries, 10)
    theirs = faiss.IndexFlatL2(8) if metric == "l2" else faiss.IndexFlatIP(8)
    theirs.add(stored)
    their_distances, their_ids = theirs.search(queries, 10)
    np.testing.assert_array_equal(ids, their_ids)
    sign = 1 if metric == "l2" else -1
    np.testing.assert_allclose(near, sign * their_distances, atol=1e-4)
    for row in range(3):
        heap_near, heap_ids, _ = heap_search(queries[row], stored, 10, metric)  # type: ignore[arg-type]
        np.testing.assert_array_equal(heap_ids, ids[row])
        np.testing.assert_allclose(heap_near, near[row], atol=1e-4)


def test_few_vectors_enter_the_heap() -> None:
    """About k (1 + ln(N / k)): the i-th vector in random order is among the k best with k / i."""
    stored, k = vectors(2, 4000, 4), 10
    expected = k + sum(k / i for i in range(k + 1, 4001))
    entered = [heap_search(query, stored, k)[2] for query in vectors(3, 12, 4)]
    assert np.mean(entered) == pytest.approx(expected, rel=0.15)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, queries = vectors(4, 300), vectors(5, 20)
    stored[200] = stored[3]  # a tie across blocks goes to the lower id
    queries[0] = stored[3]
    whole = FlatIndex(stored).search(queries, 7)
    monkeypatch.setattr(exact, "BLOCK_VALUES", 64)
    monkeypatch.setattr(exact, "QUERY_BLOCK", 3)
    blocked = FlatIndex(stored).search(queries, 7)
    np.testing.assert_array_equal(blocked[1], whole[1])
    np.testing.assert_allclose(blocked[0], whole[0], atol=1e-5)
    assert list(blocked[1][0, :2]) == [3, 200]


def test_merging_shards_equals_the_whole_and_k_per_shard_is_needed() -> None:
    stored, queries = vectors(6, 90), vectors(7, 11)
    whole = FlatIndex(stored).search(queries, 9)

    def shards(k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        parts = []
        for shard in range(3):
            near, ids = FlatIndex(stored[shard::3]).search(queries, k)
            parts.append((near, ids * 3 + shard))
        return parts

    merged = merge(shards(9), 9)
    np.testing.assert_array_equal(merged[1], whole[1])
    np.testing.assert_allclose(merged[0], whole[0], atol=1e-5)
    third = merge(shards(3), 9)  # k / S of each shard: loses neighbours
    assert (third[1] != whole[1]).any()


def test_merge_skips_empty_places() -> None:
    first = (np.array([[1.0, np.inf]], dtype=np.float32), np.array([[5, NO_ID]]))
    second = (np.array([[0.5, np.inf]], dtype=np.float32), np.array([[7, NO_ID]]))
    near, ids = merge([first, second], 3)
    assert ids.tolist() == [[7, 5, NO_ID]]
    assert near.tolist() == [[0.5, 1.0, np.inf]]


def test_reranking_orders_candidates_by_the_exact_vectors() -> None:
    stored = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    query = np.array([[2.2]], dtype=np.float32)
    near, ids = rerank(query, np.array([[0, NO_ID, 3, 1]]), stored, 2)
    assert ids.tolist() == [[3, 1]]
    np.testing.assert_allclose(near, [[0.64, 1.44]], rtol=1e-5)
    short = rerank(query, np.array([[0, NO_ID]]), stored, 2)
    assert short[1].tolist() == [[0, NO_ID]]
    assert short[0][0, 1] == np.inf


def test_more_neighbours_than_vectors_are_filled_up() -> None:
    near, ids = FlatIndex(vectors(8, 3)).search(vectors(9, 2), 5)
    assert (ids[:, 3:] == NO_ID).all()
    assert np.isinf(near[:, 3:]).all()
    assert sorted(ids[0, :3]) == [0, 1, 2]


def test_normalised_inner_product_is_cosine_and_zero_stays_zero() -> None:
    rows = np.array([[3, 4], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(normalise(rows), [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="cosine: ip on normalise"):
        FlatIndex(vectors(0, 3), "cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \[N, 8\]"):
        FlatIndex(vectors(0, 3)).search(vectors(0, 2, 3), 1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        FlatIndex(vectors(0, 3)).search(vectors(0, 2), 0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        as_vectors([[1.0, np.nan]])


def test_the_flat_index_keeps_the_interface_and_counts_its_bytes() -> None:
    index = FlatIndex(vectors(0, 3))
    assert isinstance(index, VectorIndex)
    assert index.bytes_per_vector == 8 * 4 + 4
    assert FlatIndex(vectors(0, 3), "ip").bytes_per_vector == 32
