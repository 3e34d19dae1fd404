"""LSH against its theory: collision probability, the order of probes, recall."""

import itertools
import math

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.index import NO_ID, normalise
from ml_algorithms.nearest_neighbour.lsh import (
    LSHIndex,
    collision_probability,
    pack,
    probe_sequence,
)


def sphere(seed: int, n: int, dimensions: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return normalise(rng.normal(size=(n, dimensions)).astype(np.float32))


def test_collision_probability_by_hand() -> None:
    assert collision_probability(math.pi / 2, 1) == pytest.approx(0.5)
    assert collision_probability(math.pi / 2, 3) == pytest.approx(0.125)
    assert collision_probability(math.pi / 2, 1, tables=2) == pytest.approx(0.75)
    assert collision_probability(0.0, 20) == 1.0
    assert collision_probability(math.pi, 1) == 0.0


@pytest.mark.parametrize(("bits", "tables"), [(1, 1), (6, 1), (6, 4)])
def test_collisions_happen_as_often_as_the_theory_says(bits: int, tables: int) -> None:
    """One pair at 40 degrees, many draws of the planes; within four standard errors."""
    angle, draws = math.radians(40), 6000
    pair = np.array([[1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]], dtype=np.float32)
    planes = np.random.default_rng(0).normal(size=(draws * tables, 3, bits)).astype(np.float32)
    keys = np.stack([pack(pair @ normals) for normals in planes])
    met = (keys[:, 0] == keys[:, 1]).reshape(draws, tables).any(axis=1).mean()
    expected = collision_probability(angle, bits, tables)
    assert abs(met - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_keys_by_hand() -> None:
    margins = np.array([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0]])
    assert pack(margins).tolist() == [0b101, 0]


def test_probes_come_in_order_of_cost_and_each_once() -> None:
    margins = np.random.default_rng(1).normal(size=7)
    every = [set_ for size in range(8) for set_ in itertools.combinations(range(7), size)]
    costs = sorted(sum(margins[bit] ** 2 for bit in one) for one in every)
    found = probe_sequence(margins, 128)
    assert len({frozenset(one) for one in found}) == 128
    np.testing.assert_allclose([sum(margins[bit] ** 2 for bit in one) for one in found], costs)
    assert probe_sequence(margins, 1) == [()]
    assert len(probe_sequence(margins[:2], 50)) == 4  # no more sets than there are


def test_recall_is_what_the_theory_predicts() -> None:
    stored, queries = sphere(2, 3000), sphere(3, 60)
    index = LSHIndex.build(stored, tables=6, bits=7, seed=5)
    _, truth = FlatIndex(stored, "ip").search(queries, 1)
    cosine = np.einsum("qd,qd->q", queries, stored[truth[:, 0]])
    expected = np.mean([collision_probability(a, 7, 6) for a in np.arccos(np.clip(cosine, -1, 1))])
    recall = np.mean(index.search(queries, 1)[1][:, 0] == truth[:, 0])
    assert abs(recall - expected) < 4 * math.sqrt(expected * (1 - expected) / 60)


def test_probing_all_buckets_is_exact() -> None:
    stored, queries = sphere(4, 200), sphere(5, 10)
    index = LSHIndex.build(stored, tables=1, bits=4, probes=16)
    exact = FlatIndex(stored, "ip").search(queries, 5)
    found = index.search(queries, 5)
    np.testing.assert_array_equal(found[1], exact[1])
    np.testing.assert_allclose(found[0], exact[0], atol=1e-6)


def test_probes_buy_recall_without_tables() -> None:
    stored, queries = sphere(6, 3000), sphere(7, 80)
    truth = FlatIndex(stored, "ip").search(queries, 1)[1][:, 0]
    index = LSHIndex.build(stored, tables=2, bits=10)
    recalls = [
        (index.probing(probes).search(queries, 1)[1][:, 0] == truth).mean() for probes in (1, 8, 64)
    ]
    assert recalls[0] < recalls[1] < recalls[2]
    # Cheapest buckets first: nearer than as many random ones, which hold 8 / 1024 of the vectors.
    assert recalls[1] > recalls[0] + 0.1


def test_running_out_of_candidates_is_visible() -> None:
    index = LSHIndex.build(sphere(8, 20), tables=1, bits=20)
    near, ids = index.search(-sphere(8, 20), 3)
    assert (ids == NO_ID).any()
    assert np.isinf(near[ids == NO_ID]).all()


def test_bad_numbers_are_named_and_bytes_are_counted() -> None:
    with pytest.raises(ValueError, match=r"bits in 1..62, got 2, 63"):
        LSHIndex.build(sphere(0, 5), tables=2, bits=63)
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        LSHIndex.build(sphere(0, 5), bits=3, probes=0)
    index = LSHIndex.build(sphere(0, 5), tables=3, bits=4)
    assert index.bytes_per_vector * 5 == index.vectors.nbytes + index.keys.nbytes + index.ids.nbytes
