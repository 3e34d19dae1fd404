"""The 8-bit scan against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from shorts_recommendation.retrieval.index import VideoIndex
from shorts_recommendation.retrieval.scan import LARGEST, Int8Scan


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3000, 24)).astype(np.float32) * np.linspace(
        0.1, 3, 24, dtype=np.float32
    )


def exact(queries, vectors, k):
    return np.argsort(-(queries @ vectors.T), axis=1)[:, :k]


def recall(found, wanted):
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True)]
    return np.mean(shared) / wanted.shape[1]


@pytest.mark.parametrize("n_queries", [1, 7])
def test_it_finds_what_brute_force_finds_in_its_order(vectors, n_queries):
    queries = np.random.default_rng(1).normal(size=(n_queries, 24)).astype(np.float32)
    found = Int8Scan.of(vectors).search(queries, 100)
    assert recall(found, exact(queries, vectors, 100)) > 0.99
    scores = np.take_along_axis(queries @ vectors.T, found, axis=1)
    assert (np.diff(scores, axis=1) <= 1e-5).all()  # rescored in full, so truly sorted


def test_codes_are_within_half_a_step(vectors):
    scan = Int8Scan.of(vectors)
    assert np.abs(scan.codes).max() == LARGEST
    error = np.abs(scan.codes * scan.scale - vectors)
    assert (error <= scan.scale / 2 + 1e-6).all()


def test_fewer_vectors_than_asked_for(vectors):
    found = Int8Scan.of(vectors[:5]).search(vectors[:2], 8)
    assert (np.sort(found[:, :5]) == np.arange(5)).all()
    assert (found[:, 5:] == -1).all()


def test_a_sample_that_misleads_costs_time_not_results():
    """Every sixteenth row scores far above the rest: the first cut keeps too few."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(4096, 8)).astype(np.float32)
    vectors[:, 0] = np.where(np.arange(4096) % 16 == 0, 50.0, 0.0)
    query = np.array([[1.0, 0.3, 0, 0, 0, 0, 0, 0]], dtype=np.float32)
    found = Int8Scan.of(vectors).search(query, 600)
    assert (np.sort(found[0]) >= 0).all()
    assert len(np.unique(found[0])) == 600
    assert np.isin(np.arange(0, 4096, 16), found[0]).all()


def test_an_index_on_disk_answers_as_before(vectors, tmp_path):
    videos = np.arange(3000, dtype=np.int32) * 3
    index = VideoIndex("int8", 0, vectors[:2500], videos[:2500])
    index.add(vectors[2500:], videos[2500:])
    index.save(tmp_path)
    loaded = VideoIndex.load(tmp_path, "int8", 0)
    np.testing.assert_array_equal(index.search(vectors[:9], 50), loaded.search(vectors[:9], 50))
    copied = index.copy()
    copied.add(vectors[:1], np.array([77_777]))
    assert len(index) == 3000
    assert len(copied) == 3001
    assert index.n_bytes == 3000 * 24 * 5 + 24 * 4
