"""HNSW: the paper's pieces by hand, the two implementations against each other, and FAISS."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour.bench_config import clustered_vectors
from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.hnsw import HNSW, draw_levels, insertion_order
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW
from ml_algorithms.nearest_neighbour.hnsw_kernels import pop, push
from ml_algorithms.nearest_neighbour.index import NO_ID, VectorIndex


def whole_numbers(n: int, dimensions: int = 8, seed: int = 0) -> np.ndarray:
    """Vectors of which every distance is exact in float32, whatever the order of the sum."""
    rng = np.random.default_rng(seed)
    return rng.integers(-400, 400, size=(n, dimensions)).astype(np.float32)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)])
    )


# --- levels ---------------------------------------------------------------------------------------


def test_each_layer_holds_one_m_th_of_the_one_below() -> None:
    levels = draw_levels(200_000, 16, seed=1)
    for layer in (1, 2, 3):
        share = float((levels >= layer).mean())
        assert share == pytest.approx(16.0**-layer, rel=0.25), layer
    assert levels.min() == 0


def test_a_level_is_the_floor_of_a_scaled_exponential() -> None:
    uniform = 1.0 - np.random.default_rng(3).random(50)
    expected = [math.floor(-math.log(u) / math.log(4)) for u in uniform]
    assert draw_levels(50, 4, seed=3).tolist() == expected


def test_the_order_of_insertion_is_a_permutation_that_the_seed_fixes() -> None:
    order = insertion_order(100, seed=2)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() == insertion_order(100, seed=2).tolist()
    assert order.tolist() != insertion_order(100, seed=3).tolist()


# --- Algorithms 2 to 4 by hand --------------------------------------------------------------------


def line_of(points: list[float], links: dict[int, list[int]]) -> HNSW:
    """An index of points on a line with one layer and given links."""
    index = HNSW(1, m=2)
    index.vectors = np.array(points, dtype=np.float32)[:, None]
    index.levels = [0] * len(points)
    index.links = [[links.get(node, [])] for node in range(len(points))]
    index.entry = 0
    return index


def test_greedy_descent_stops_in_a_local_minimum_that_a_wider_search_leaves() -> None:
    # From 0 the way to the target 10 leads over node 2 (at -5), farther from it than node 1.
    index = line_of([0.0, 1.0, -5.0, 10.0], {0: [1, 2], 2: [3]})
    query = np.array([10.0], dtype=np.float32)
    assert index.search_layer(query, 0, 1, 0) == [(81.0, 1)]
    assert index.search_layer(query, 0, 2, 0) == [(81.0, 1), (100.0, 0)]
    assert index.search_layer(query, 0, 3, 0)[0] == (0.0, 3)


def test_the_heuristic_keeps_one_neighbour_for_each_direction() -> None:
    # The query stands at 0. 2 and 3 lie behind 1; -4 lies alone on the other side.
    index = line_of([1.0, 2.0, 3.0, -4.0], {})
    found = [(1.0, 0), (4.0, 1), (9.0, 2), (16.0, 3)]
    assert index.select_diverse(found, 3) == [0, 3]
    assert index.select_diverse(found, 3, keep_pruned=True) == [0, 3, 1]
    assert index.select_diverse(found, 1) == [0]
    assert index.select_nearest(found, 3) == [0, 1, 2]


def test_a_candidate_as_near_to_a_kept_one_as_to_the_query_stays() -> None:
    index = line_of([5.0, 5.0], {})  # two copies of the query
    assert index.select_diverse([(0.0, 0), (0.0, 1)], 2) == [0, 1]


def test_a_full_node_chooses_again_and_the_graph_becomes_directed() -> None:
    index = HNSW(1, m=2)  # up to 4 links in layer 0
    for value in (0.0, 1.0, -1.0, 10.0, -10.0, 0.5):
        index.insert(np.array([value], dtype=np.float32), level=0)
    assert all(len(layers[0]) <= 4 for layers in index.links)
    assert set(index.links[5][0]) <= {0, 1}  # 0 and 1 occlude all that lies behind them


def test_bounds_of_degree_hold_in_every_layer() -> None:
    index = HNSW.build(whole_numbers(300), m=4, ef_construction=20)
    for layers, level in zip(index.links, index.levels, strict=True):
        assert len(layers) == level + 1
        for layer, links in enumerate(layers):
            assert len(links) <= index.max_links(layer)
            assert all(index.levels[near] >= layer for near in links)
    assert index.entry is not None
    assert index.levels[index.entry] == max(index.levels)


# --- heaps of the compiled index ------------------------------------------------------------------


def test_the_compiled_heap_sorts_by_distance_then_id() -> None:
    rng = np.random.default_rng(0)
    pairs = [(float(rng.integers(5)), int(i)) for i in rng.permutation(60)]
    distances, ids, size = np.zeros(61, np.float32), np.zeros(61, np.int32), 0
    for distance, node in pairs:
        size = push(distances, ids, size, np.float32(distance), node)
    drained = []
    while size:
        drained.append((float(distances[0]), int(ids[0])))
        size = pop(distances, ids, size)
    assert drained == sorted(pairs)


# --- both implementations -------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_readable_and_compiled_build_the_same_graph_and_find_the_same(metric: str) -> None:
    vectors, queries = whole_numbers(400), whole_numbers(30, seed=1)
    knobs = {"m": 4, "ef_construction": 20, "metric": metric, "seed": 5}
    readable = HNSW.build(vectors, **knobs)  # type: ignore[arg-type]
    compiled = CompiledHNSW.build(vectors, **knobs)  # type: ignore[arg-type]
    graph = compiled.graph
    assert readable.entry == compiled.entry
    assert readable.levels == graph.levels.tolist()
    for node, layers in enumerate(readable.links):
        rows = [graph.base_links[node]]
        rows += [graph.upper_links[graph.upper_begin[node] + up] for up in range(len(layers) - 1)]
        assert layers == [row[row >= 0].tolist() for row in rows]
    for ef in (5, 40):
        readable.ef_search = compiled.ef_search = ef
        (near, ids), (their_near, their_ids) = (
            readable.search(queries, 7),
            compiled.search(queries, 7),
        )
        np.testing.assert_array_equal(ids, their_ids)
        np.testing.assert_array_equal(near, their_near)


def test_a_width_of_all_nodes_is_exact() -> None:
    vectors, queries = whole_numbers(500), whole_numbers(20, seed=1)
    index = CompiledHNSW.build(vectors, m=8, ef_construction=50)
    index.ef_search = 500
    distances, ids = index.search(queries, 10)
    exact_distances, exact_ids = FlatIndex(vectors).search(queries, 10)
    np.testing.assert_allclose(distances, exact_distances, rtol=1e-4)
    assert recall(ids, exact_ids) == 1.0


def test_recall_is_that_of_faiss_at_equal_knobs() -> None:
    faiss = pytest.importorskip("faiss")
    vectors, queries = clustered_vectors(5_000, 300, 24, centres=100, seed=0)
    truth = FlatIndex(vectors).search(queries, 10)[1]
    ours = CompiledHNSW.build(vectors, m=8, ef_construction=40)
    faiss.omp_set_num_threads(1)
    theirs = faiss.IndexHNSWFlat(24, 8)
    theirs.hnsw.efConstruction = 40
    theirs.add(vectors)
    for ef in (20, 40, 80):
        ours.ef_search = theirs.hnsw.efSearch = ef
        mine = recall(ours.search(queries, 10)[1], truth)
        other = recall(theirs.search(queries, 10)[1], truth)
        assert mine >= other - 0.01, ef
        assert 0.8 < mine < 1.0, "too easy or too hard to tell two graphs apart"


def test_links_of_the_heuristic_beat_the_nearest_ones_on_clusters() -> None:
    vectors, queries = clustered_vectors(3_000, 200, 16, centres=100, seed=3)
    truth = FlatIndex(vectors).search(queries, 10)[1]
    reached = []
    for diverse in (True, False):
        index = CompiledHNSW(3_000, 16, m=4, ef_construction=30, diverse=diverse)
        index.add(vectors)
        index.ef_search = 30
        reached.append(recall(index.search(queries, 10)[1], truth))
    assert reached[0] > reached[1] + 0.05


def test_adding_in_batches_keeps_what_was_there() -> None:
    vectors = whole_numbers(600)
    index = CompiledHNSW(600, 8, m=6, ef_construction=40)
    for begin in range(0, 600, 200):
        ids = index.add(vectors[begin : begin + 200])
        assert ids.tolist() == list(range(begin, begin + 200))
    index.ef_search = 100
    assert recall(index.search(vectors, 1)[1], np.arange(600)[:, None]) >= 0.99
    with pytest.raises(ValueError, match="room for 600"):
        index.add(vectors[:1])


@pytest.mark.parametrize("make", [HNSW.build, CompiledHNSW.build])
def test_both_keep_to_the_interface(make) -> None:  # type: ignore[no-untyped-def]
    vectors = whole_numbers(5)
    index = make(vectors, m=4)
    assert isinstance(index, VectorIndex)
    distances, ids = index.search(vectors[:2], 8)
    assert distances.dtype == np.float32
    assert ids.dtype == np.int64
    assert ids[:, 0].tolist() == [0, 1]
    assert (ids[:, 5:] == NO_ID).all()
    assert np.isinf(distances[:, 5:]).all()
    assert index.bytes_per_vector >= 4 * 8 + 4 * 2 * 4
    with pytest.raises(ValueError, match="k must be"):
        index.search(vectors, 0)
    with pytest.raises(ValueError, match="shape"):
        index.search(vectors[:, :3], 1)


@pytest.mark.parametrize("make", [lambda: HNSW(3), lambda: CompiledHNSW(4, 3)])
def test_an_empty_index_finds_nothing(make) -> None:  # type: ignore[no-untyped-def]
    distances, ids = make().search(np.zeros((2, 3), np.float32), 2)
    assert (ids == NO_ID).all()
    assert np.isinf(distances).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"m": 1}, "m must be"),
        ({"ef_construction": 0}, "ef_construction"),
        ({"metric": "cos"}, "cos"),
    ],
)
def test_knobs_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HNSW(3, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        CompiledHNSW(10, 3, **wrong)  # type: ignore[arg-type]


def test_marks_survive_more_searches_than_a_byte_counts() -> None:
    vectors = whole_numbers(120)
    index = CompiledHNSW.build(vectors, m=4, ef_construction=20)
    first = index.search(vectors[:1], 5)[1]
    for _ in range(600):  # 255 searches fill the byte
        found = index.search(vectors[:1], 5)[1]
        np.testing.assert_array_equal(found, first)
