"""Every kind of index: exactness where promised, adds, deletes, filters, folders, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from image_search.config import IndexConfig
from image_search.embeddings.base import unit_rows
from image_search.retrieval.codes import (
    BinaryIndex,
    Int8Index,
    learned_rotation,
    random_rotation,
    sign_error,
)
from image_search.retrieval.graph import HnswIndex
from image_search.retrieval.index import (
    SHARED_SCAN,
    FlatIndex,
    build_index,
    checked,
    load_index,
)
from image_search.retrieval.inverted import IvfIndex, cells_for
from image_search.retrieval.rescored import RescoredIndex

KINDS = ("flat", "ivf_flat", "ivf_pq", "hnsw", "int8", "binary")
SMALL = IndexConfig(lists=8, probes=8, pq_bytes=4, exact_below=50, rebuild_share=0.5)


def clustered(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, dim))
    return unit_rows(centres[rng.integers(8, size=n)] + 0.5 * rng.standard_normal((n, dim)))


def naive(queries: np.ndarray, rows: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """The k best rows by a sort of all products."""
    order = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)
    return rows[order[:, :k]]


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    return clustered(800)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(20, seed=1)


def test_flat_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    index = build_index("flat", vectors, np.array([10, 20, 30]))
    rows, similarity = index.search(np.array([[0.8, 0.6]], dtype=np.float32), 4)
    assert rows.tolist() == [[30, 10, 20, -1]]
    assert similarity[0, :3] == pytest.approx([0.96, 0.8, 0.6])
    assert similarity[0, 3] == -np.inf
    assert index.bytes == 3 * (2 * 4 + 8)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_search_finds_the_exact_neighbours(
    kind: str, gallery: np.ndarray, queries: np.ndarray
) -> None:
    rows = np.arange(len(gallery)) + 5
    wide = SMALL.model_copy(update={"shortlist": 800, "hnsw_search_width": 800})
    found, similarity = build_index(kind, gallery, rows, wide).search(queries, 7)
    assert (found == naive(queries, rows, gallery, 7)).mean() > 0.99
    exact = np.take_along_axis(queries @ gallery.T, found - 5, axis=1)
    assert similarity == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_filter_delete_and_add(kind: str, gallery: np.ndarray, queries: np.ndarray) -> None:
    index = build_index(kind, gallery[:700], np.arange(700), SMALL)
    allowed = np.zeros(900, dtype=bool)
    allowed[::3] = True
    found, _ = index.search(queries, 5, allowed=allowed)
    assert (found >= 0).all()
    assert allowed[found].all()
    best = naive(queries, np.arange(700), gallery[:700], 1)[:, 0]
    index.remove(np.unique(best))
    assert not np.isin(index.search(queries, 5)[0], best).any()
    assert not np.isin(index.search(queries, 5, allowed=np.ones(900, bool))[0], best).any()
    assert len(index) == 700 - len(np.unique(best))
    index.add(np.arange(800, 900), gallery[700:])
    own = index.search(gallery[700:], 1)[0][:, 0]
    assert (own == np.arange(800, 900)).mean() > (0.97 if kind != "hnsw" else 0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_row_may_come_back_with_another_vector(kind: str, gallery: np.ndarray) -> None:
    index = build_index(kind, gallery, np.arange(len(gallery)), SMALL)
    index.remove(np.array([3]))
    index.add(np.array([3]), gallery[4:5])
    found, similarity = index.search(gallery[4:5], 2)
    assert sorted(found[0]) == [3, 4]
    if kind != "flat":
        assert similarity[0] == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduce", ["none", "pca"])
def test_folder_gives_the_same_index(
    kind: str, reduce: str, gallery: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    config = SMALL.model_copy(update={"reduce": reduce, "reduce_to": 8})
    index = build_index(kind, gallery, np.arange(len(gallery)), config)
    index.remove(np.array([1, 2]))
    index.save(tmp_path)
    read = load_index(tmp_path)
    for one, other in zip(index.search(queries, 6), read.search(queries, 6), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (len(read), read.bytes) == (798, index.bytes)
    read.add(np.array([1]), gallery[1:2])
    assert read.search(gallery[1:2], 1)[0][0, 0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_rows_than_wanted_are_padded(kind: str, gallery: np.ndarray) -> None:
    index = build_index(kind, gallery, np.arange(len(gallery)), SMALL)
    only = np.zeros(800, dtype=bool)
    only[[5, 9]] = True
    found, similarity = index.search(gallery[:2], 4, allowed=only)
    assert (np.sort(found, axis=1) == [-1, -1, 5, 9]).all()
    assert np.isneginf(similarity[found < 0]).all()
    nothing, _ = index.search(gallery[:2], 4, allowed=np.zeros(800, dtype=bool))
    assert (nothing == -1).all()


def test_bytes_order_of_kinds(gallery: np.ndarray) -> None:
    codes = IndexConfig(lists=8, probes=8, pq_bytes=4, rescore=False)
    made = {
        kind: build_index(kind, gallery, np.arange(800), codes).bytes
        for kind in ("flat", "int8", "hnsw")
    }
    # 16 floats and an id of 8 bytes; 16 bytes and an id; floats and some 2 * 16 links of 4 bytes.
    assert made["flat"] == 800 * 72
    assert 800 * 24 <= made["int8"] <= 800 * 24 + 800 * 8
    assert made["hnsw"] > 800 * (64 + 32 * 4)
    binary = build_index("binary", gallery, np.arange(800), codes)
    assert binary.bytes == 800 * (2 + 8) + 4 * (16 + 256)


def test_rescoring_beats_the_codes_own_order(gallery: np.ndarray, queries: np.ndarray) -> None:
    truth = naive(queries, np.arange(800), gallery, 10)

    def recall(rescore: bool, kind: str) -> float:
        config = SMALL.model_copy(update={"rescore": rescore, "shortlist": 60})
        found = build_index(kind, gallery, np.arange(800), config).search(queries, 10)[0]
        return float(
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
        )

    for kind in ("ivf_pq", "binary"):
        assert recall(True, kind) > recall(False, kind) + 0.1


def test_core_bytes_leave_out_the_full_vectors(gallery: np.ndarray) -> None:
    index = build_index("int8", gallery, np.arange(800), SMALL)
    assert isinstance(index, RescoredIndex)
    assert index.bytes - index.core_bytes == 800 * 16 * 4


# --- the inverted file ---


def test_cells_for() -> None:
    assert cells_for(60_000, None) == 980  # 4 * 244.9
    assert cells_for(1_000, None) == 25  # 126 wanted, 39 vectors each
    assert cells_for(10, None) == 1
    assert cells_for(60_000, 64) == 64


def test_fewer_passing_rows_read_more_cells(gallery: np.ndarray) -> None:
    config = IndexConfig(lists=16, probes=2)
    index = build_index("ivf_flat", gallery, np.arange(800), config)
    assert isinstance(index, IvfIndex)
    assert [index.probes_for(n) for n in (800, 400, 200, 100, 1, 0)] == [2, 4, 8, 16, 16, 16]
    assert index.sizes.sum() == 800
    index.probes = 99
    assert index.probes == 16


def test_one_probe_finds_less_than_all(gallery: np.ndarray, queries: np.ndarray) -> None:
    index = build_index("ivf_flat", gallery, np.arange(800), IndexConfig(lists=20, probes=1))
    assert isinstance(index, IvfIndex)
    truth = naive(queries, np.arange(800), gallery, 10)
    narrow = (index.search(queries, 10)[0] == truth).mean()
    index.probes = 20
    assert (index.search(queries, 10)[0] == truth).mean() > 0.99 > narrow


# --- the graph ---


def test_tombstones_until_the_threshold_then_a_rebuild(gallery: np.ndarray) -> None:
    config = IndexConfig(rebuild_share=0.25)
    index = build_index("hnsw", gallery, np.arange(800), config)
    assert isinstance(index, HnswIndex)
    before = index.bytes
    index.remove(np.arange(199))
    assert (index.rebuilds, len(index), index.bytes) == (0, 601, before)
    assert index.dead_share == pytest.approx(199 / 800)
    index.remove(np.array([199]))  # the 200th of 800: a quarter
    assert (index.rebuilds, len(index), index.dead_share) == (1, 600, 0.0)
    assert index.bytes < 0.8 * before
    truth = naive(gallery[300:320], np.arange(200, 800), gallery[200:], 3)
    assert (index.search(gallery[300:320], 3)[0] == truth).mean() > 0.95


def test_everything_removed(gallery: np.ndarray) -> None:
    index = build_index("hnsw", gallery, np.arange(800), SMALL)
    index.remove(np.arange(800))
    assert len(index) == 0
    assert (index.search(gallery[:2], 3)[0] == -1).all()
    index.add(np.array([7]), gallery[7:8])
    assert index.search(gallery[7:8], 1)[0].tolist() == [[7]]


def test_a_row_alive_is_not_added_twice(gallery: np.ndarray) -> None:
    index = build_index("hnsw", gallery, np.arange(800), SMALL)
    with pytest.raises(ValueError, match="row 5 is in the index"):
        index.add(np.array([5]), gallery[5:6])


def test_a_narrow_walk_under_a_filter_ends_short_and_the_wide_one_does_not() -> None:
    vectors, asks = clustered(3000, seed=4), clustered(30, seed=5)
    config = IndexConfig(hnsw_search_width=16, exact_below=1)
    index = build_index("hnsw", vectors, np.arange(3000), config)
    assert isinstance(index, HnswIndex)
    allowed = np.random.default_rng(0).random(3000) < 0.01
    plain = index.during(asks, 10, allowed, widen=False)[0]
    wide = index.search(asks, 10, allowed=allowed)[0]
    assert (plain >= 0).mean() < 0.6 < 0.9 < (wide >= 0).mean()


# --- codes ---


def test_int8_is_off_by_half_a_step_a_number(gallery: np.ndarray, queries: np.ndarray) -> None:
    index = Int8Index.trained(gallery)
    index.add(np.arange(800), gallery)
    found, similarity = index.search(queries, 5)
    exact = np.take_along_axis(queries @ gallery.T, found, axis=1)
    step = (gallery.max() - gallery.min()) / 255
    # The worst error of a product is half a step times the sum of the query's absolute values.
    assert (abs(similarity - exact) <= step * abs(queries).sum(axis=1)[:, None]).all()
    assert abs(similarity - exact).max() > 0


def test_binary_by_hand() -> None:
    index = BinaryIndex(np.zeros(8, np.float32), np.eye(8, dtype=np.float32))
    rows = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, -1, -1, -1, -1]], dtype=np.float32)
    index.add(np.array([4, 6]), rows)
    query = np.array([[1, 1, 1, 1, 1, 1, -1, -1]], dtype=np.float32)
    assert index.encode(rows).tolist() == [[255], [240]]
    found, similarity = index.search(query, 2)
    assert sorted(found[0].tolist()) == [4, 6]
    assert similarity[0] == pytest.approx(np.cos(np.pi * 2 / 8))  # two of eight bits differ


def test_learned_rotation_is_orthogonal_and_no_worse_than_where_it_began() -> None:
    rng = np.random.default_rng(0)
    centred = clustered(500)
    centred = centred - centred.mean(axis=0)
    start = random_rotation(16, rng)
    learned = learned_rotation(centred, start)
    for rotation in (start, learned):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
    assert sign_error(centred, learned) < sign_error(centred, start) - 0.05


def test_learned_rotation_is_as_good_as_the_librarys() -> None:
    centred = clustered(600)
    centred = np.ascontiguousarray(centred - centred.mean(axis=0))
    theirs = faiss.ITQMatrix(16)
    theirs.train(centred)
    rotation = faiss.vector_to_array(theirs.A).reshape(16, 16).T
    start = random_rotation(16, np.random.default_rng(1))
    library, ours = (
        sign_error(centred, rotation),
        sign_error(centred, learned_rotation(centred, start)),
    )
    assert library < sign_error(centred, start)  # theirs is read the right way round
    assert ours < 1.03 * library


def test_sign_bits_estimate_the_angle() -> None:
    rng = np.random.default_rng(3)
    vectors = unit_rows(rng.standard_normal((300, 256)))
    mixed = unit_rows(vectors[:1] + 0.5 * vectors)
    index = BinaryIndex(np.zeros(256, np.float32), random_rotation(256, rng))
    index.add(np.arange(300), mixed)
    found, estimate = index.search(vectors[:1], 300)
    exact = mixed[found[0]] @ vectors[0]
    assert abs(estimate[0] - exact).mean() < 0.1
    # The first of the gallery is the query itself: no bit differs.
    assert (found[0, 0], estimate[0, 0]) == (0, 1.0)


# --- bad input ---


def test_bad_input_is_refused(gallery: np.ndarray) -> None:
    rows = np.arange(800)
    with pytest.raises(ValueError, match="unknown index 'annoy'"):
        build_index("annoy", gallery, rows)
    with pytest.raises(ValueError, match="no vectors"):
        build_index("flat", gallery[:0], rows[:0])
    with pytest.raises(ValueError, match="each once"):
        checked(np.array([1, 1]), gallery[:2], 16)
    with pytest.raises(ValueError, match="each once"):
        checked(np.array([-1, 1]), gallery[:2], 16)
    with pytest.raises(ValueError, match=r"expected \[n\], \[n, 8\]"):
        checked(rows, gallery, 8)
    broken = gallery.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        build_index("flat", broken, rows)
    with pytest.raises(ValueError, match="product codes of 5 bytes"):
        build_index("ivf_pq", gallery, rows, SMALL.model_copy(update={"pq_bytes": 5}))
    with pytest.raises(ValueError, match="multiple of 8"):
        build_index("binary", unit_rows(gallery[:, :12]), rows)
    with pytest.raises(ValueError, match="unknown rotation 'odd'"):
        BinaryIndex.trained(gallery, "odd", 0)


def test_unknown_kind_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"kind": "tree"}))
    with pytest.raises(ValueError, match="unknown kind 'tree'"):
        load_index(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "nowhere")


def test_flat_starts_empty() -> None:
    index = FlatIndex(4)
    assert index.search(np.zeros((1, 4), np.float32), 3)[0].tolist() == [[-1, -1, -1]]


def test_a_flat_index_from_a_folder_shares_scans_too(monkeypatch, tmp_path: Path) -> None:
    FlatIndex(4).save(tmp_path)
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 128_000)
    FlatIndex.load(tmp_path)
    assert faiss.cvar.distance_compute_blas_threshold == SHARED_SCAN


def test_a_flat_index_lets_batches_share_a_scan_and_answers_the_same(monkeypatch) -> None:
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 128_000)
    rng = np.random.default_rng(5)
    vectors = unit_rows(rng.standard_normal((400, 64)).astype(np.float32))
    index = FlatIndex(64)
    assert faiss.cvar.distance_compute_blas_threshold == SHARED_SCAN
    index.add(np.arange(400), vectors)
    queries = unit_rows(rng.standard_normal((16, 64)).astype(np.float32))  # 1,024 numbers
    rows, similarity = index.search(queries, 5)
    alone = [index.search(query[None], 5) for query in queries]
    np.testing.assert_array_equal(rows, np.concatenate([found for found, _ in alone]))
    np.testing.assert_allclose(similarity, np.concatenate([s for _, s in alone]), atol=1e-6)
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 20)  # counts queries
    FlatIndex(64)
    assert faiss.cvar.distance_compute_blas_threshold == 20
