"""Filtered search and deletes: against brute force, and the failures that the page speaks of."""

from __future__ import annotations

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour.bench_config import clustered_vectors
from ml_algorithms.nearest_neighbour.deletes import copy_of, live_copy, repair, unlink
from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.filtered import (
    ADMIT,
    INSIDE,
    TWO_HOP,
    expected_over_fetch,
    post_filter,
    pre_filter,
    walk,
)
from ml_algorithms.nearest_neighbour.hnsw_compiled import CompiledHNSW
from ml_algorithms.nearest_neighbour.index import NO_ID

N, K = 2_000, 10


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return clustered_vectors(N, 60, 12, centres=40, seed=0)


@pytest.fixture(scope="module")
def index(data: tuple[np.ndarray, np.ndarray]) -> CompiledHNSW:
    made = CompiledHNSW.build(data[0], m=8, ef_construction=50)
    made.ef_search = 40
    return made


def random_mask(share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(N) < share


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len((set(a) & set(b)) - {NO_ID}) / len(b) for a, b in pairs]))


# --- filters --------------------------------------------------------------------------------------


def test_pre_filter_is_exact(data: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, queries = data
    allowed = random_mask(0.1)
    distances, ids = pre_filter(vectors, allowed, queries, K)
    for row, query in enumerate(queries):
        squared = ((vectors - query) ** 2).sum(axis=1)
        squared[~allowed] = np.inf
        assert set(ids[row]) == set(np.argsort(squared)[:K])
        np.testing.assert_allclose(distances[row], np.sort(squared)[:K], atol=1e-4)


def test_fewer_allowed_than_k_leaves_places_empty(
    data: tuple[np.ndarray, np.ndarray], index: CompiledHNSW
) -> None:
    allowed = np.zeros(N, dtype=bool)
    allowed[[3, 700]] = True
    for ids in (
        pre_filter(data[0], allowed, data[1], 4)[1],
        walk(index, allowed, data[1], 4, rule=ADMIT)[1],
    ):
        assert {tuple(sorted(row[:2])) for row in ids} == {(3, 700)}
        assert (ids[:, 2:] == NO_ID).all()


@pytest.mark.parametrize("rule", [ADMIT, INSIDE, TWO_HOP])
def test_a_filter_that_allows_all_changes_nothing(
    rule: int, data: tuple[np.ndarray, np.ndarray], index: CompiledHNSW
) -> None:
    distances, ids, computed = walk(index, np.ones(N, dtype=bool), data[1], K, rule=rule)  # type: ignore[arg-type]
    plain_distances, plain_ids = index.search(data[1], K)
    np.testing.assert_array_equal(ids, plain_ids)
    np.testing.assert_array_equal(distances, plain_distances)
    assert (computed >= 40).all()


@pytest.mark.parametrize("rule", [ADMIT, INSIDE, TWO_HOP])
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_only_allowed_vectors_come_back(
    rule: int, share: float, data: tuple[np.ndarray, np.ndarray], index: CompiledHNSW
) -> None:
    allowed = random_mask(share)
    ids = walk(index, allowed, data[1], K, rule=rule)[1]  # type: ignore[arg-type]
    assert allowed[ids[ids != NO_ID]].all()
    post = post_filter(index, allowed, data[1], K, over_fetch=4)[1]
    assert allowed[post[post != NO_ID]].all()


def test_where_each_way_breaks(data: tuple[np.ndarray, np.ndarray], index: CompiledHNSW) -> None:
    vectors, queries = data
    rare = random_mask(0.03, seed=1)
    truth = pre_filter(vectors, rare, queries, K)[1]
    admit, inside, two_hop = (walk(index, rare, queries, K, rule=rule) for rule in (0, 1, 2))
    assert recall(admit[1], truth) > 0.95  # finds them, but looks at most of the base
    assert admit[2].mean() > 0.5 * N
    assert recall(inside[1], truth) < 0.3  # the allowed nodes alone are no connected graph
    assert recall(two_hop[1], truth) > recall(inside[1], truth) + 0.2
    assert two_hop[2].mean() < 0.3 * admit[2].mean()
    assert recall(post_filter(index, rare, queries, K, over_fetch=10)[1], truth) < 0.7


def test_over_fetch_of_an_independent_filter() -> None:
    assert expected_over_fetch(1.0, 10) == 1
    # 3 sigmas at s = 0.1, k = 10: sqrt(n s) = (2.846 + sqrt(8.1 + 40)) / 2 = 4.891, n = 239.2
    assert expected_over_fetch(0.1, 10) == 24
    rng = np.random.default_rng(0)
    left = rng.binomial(10 * expected_over_fetch(0.05, 10), 0.05, size=10_000)
    assert (left >= 10).mean() > 0.99
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="selectivity"):
            expected_over_fetch(wrong, 10)


def test_an_over_fetch_that_is_wide_enough_is_as_good_as_the_search(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    vectors, queries = data
    allowed = random_mask(0.2)
    ids = post_filter(FlatIndex(vectors), allowed, queries, K, over_fetch=N // K)[1]
    np.testing.assert_array_equal(ids, pre_filter(vectors, allowed, queries, K)[1])


@pytest.mark.parametrize(
    ("allowed", "rule", "message"),
    [
        (np.ones(5, dtype=bool), ADMIT, "expected bool"),
        (np.ones(N, dtype=np.int8), ADMIT, "expected bool"),
        (np.ones(N, dtype=bool), 7, "rule is 7"),
    ],
)
def test_what_does_not_fit_is_refused(
    allowed: np.ndarray, rule: int, message: str, index: CompiledHNSW
) -> None:
    with pytest.raises(ValueError, match=message):
        walk(index, allowed, np.zeros((1, 12), np.float32), 1, rule=rule)  # type: ignore[arg-type]


def test_post_filter_refuses_an_over_fetch_below_one(index: CompiledHNSW) -> None:
    everything = np.ones(N, dtype=bool)
    with pytest.raises(ValueError, match="over_fetch"):
        post_filter(index, everything, np.zeros((1, 12), np.float32), 1, over_fetch=0)


# --- deletes --------------------------------------------------------------------------------------


def living_recall(data: tuple[np.ndarray, np.ndarray], dead: np.ndarray, ids: np.ndarray) -> float:
    return recall(ids, pre_filter(data[0], ~dead, data[1], K)[1])


def test_cut_links_lose_recall_that_repair_and_rebuilding_keep(
    data: tuple[np.ndarray, np.ndarray], index: CompiledHNSW
) -> None:
    dead = random_mask(0.8, seed=4)
    cut, mended = copy_of(index), copy_of(index)
    unlink(cut, dead)
    repair(mended, dead)
    rebuilt, old = live_copy(index, dead)
    rebuilt.ef_search = index.ef_search
    reached = {
        "cut": living_recall(data, dead, cut.search(data[1], K)[1]),
        "mended": living_recall(data, dead, mended.search(data[1], K)[1]),
        "rebuilt": living_recall(data, dead, old[rebuilt.search(data[1], K)[1]]),
        "tombstones": living_recall(data, dead, walk(index, ~dead, data[1], K)[1]),
    }
    assert reached["cut"] < reached["mended"] - 0.1, reached
    assert reached["mended"] > 0.9, reached
    assert reached["tombstones"] > 0.95, reached
    assert reached["rebuilt"] > 0.95, reached


@pytest.mark.parametrize("take_out", [unlink, repair])
def test_no_dead_node_is_linked_or_returned(
    take_out,  # type: ignore[no-untyped-def]
    data: tuple[np.ndarray, np.ndarray],
    index: CompiledHNSW,
) -> None:  # type: ignore[no-untyped-def]
    dead = random_mask(0.5, seed=5)
    dead[index.entry] = True
    twin = copy_of(index)
    take_out(twin, dead)
    graph = twin.graph
    assert not dead[twin.entry]
    assert graph.levels[twin.entry] == graph.levels[~dead].max()
    for links in (graph.base_links[~dead], graph.upper_links):
        assert not dead[links[links >= 0]].any()
    assert (graph.base_links[dead] == -1).all()
    ids = twin.search(data[1], K)[1]
    assert not dead[ids[ids != NO_ID]].any()


def test_the_original_is_untouched_by_what_happens_to_its_copy(index: CompiledHNSW) -> None:
    before = index.graph.base_links.copy()
    repair(copy_of(index), random_mask(0.5))
    np.testing.assert_array_equal(index.graph.base_links, before)


def test_without_dead_nodes_nothing_changes(index: CompiledHNSW) -> None:
    twin = copy_of(index)
    repair(twin, np.zeros(N, dtype=bool))
    np.testing.assert_array_equal(twin.graph.base_links, index.graph.base_links)


def test_a_path_over_a_dead_node_becomes_a_link() -> None:
    """Five points on a line, linked to their neighbours only; the middle three die."""
    index = CompiledHNSW.build(np.arange(5, dtype=np.float32)[:, None], m=2, ef_construction=5)
    links = index.graph.base_links
    links[:] = -1
    for node in range(5):
        near = [other for other in (node - 1, node + 1) if 0 <= other < 5]
        links[node, : len(near)] = near
    dead = np.array([False, True, True, True, False])
    repair(index, dead)
    assert links[0, 0] == 4
    assert links[4, 0] == 0


def test_all_dead_is_refused(index: CompiledHNSW) -> None:
    for take_out in (unlink, repair, live_copy):
        with pytest.raises(ValueError, match="all nodes are dead"):
            take_out(copy_of(index), np.ones(N, dtype=bool))
