"""PQ, OPQ and IVF-PQ: codes by hand, ADC against decoding, and FAISS with the same codebooks."""

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour.exact import FlatIndex, direct_distances
from ml_algorithms.nearest_neighbour.index import VectorIndex
from ml_algorithms.nearest_neighbour.ivf_pq import IVFPQIndex
from ml_algorithms.nearest_neighbour.product_quantization import (
    PQIndex,
    ProductQuantizer,
    adc,
    pca_allocation,
    procrustes,
    reconstruction_error,
    train_opq,
)


def correlated(seed: int, n: int, dimensions: int = 16) -> np.ndarray:
    """Gaussian with variances falling from 8 to 0.06, in one random basis."""
    basis = np.linalg.qr(np.random.default_rng(77).normal(size=(dimensions, dimensions)))[0]
    spread = np.sqrt(8.0 * 0.72 ** np.arange(dimensions))
    rows = np.random.default_rng(seed).normal(size=(n, dimensions)) * spread
    return (rows @ basis.T).astype(np.float32)


def faiss_pq(faiss: object, codebooks: np.ndarray, bits: int):  # type: ignore[no-untyped-def]
    parts, _, width = codebooks.shape
    theirs = faiss.ProductQuantizer(parts * width, parts, bits)  # type: ignore[attr-defined]
    faiss.copy_array_to_vector(codebooks.ravel(), theirs.centroids)  # type: ignore[attr-defined]
    return theirs


def test_codes_tables_and_distances_by_hand() -> None:
    books = np.array([[[0.0], [10.0]], [[0.0], [1.0]]], dtype=np.float32)  # M 2, K 2, Ds 1
    quantizer = ProductQuantizer(books)
    points = np.array([[9.0, 0.2], [1.0, 0.8]], dtype=np.float32)
    codes = quantizer.encode(points)
    assert codes.tolist() == [[1, 0], [0, 1]]
    np.testing.assert_allclose(quantizer.decode(codes), [[10, 0], [0, 1]])
    table = quantizer.table(np.array([8.0, 1.0], dtype=np.float32))
    np.testing.assert_allclose(table, [[64, 4], [1, 0]])
    np.testing.assert_allclose(adc(table, codes), [4 + 1, 64 + 0])
    assert quantizer.code_bytes == 2 / 8
    assert reconstruction_error(points, quantizer.decode(codes)) == pytest.approx(
        ((1 + 0.04) + (1 + 0.04)) / 2
    )


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_adc_is_the_distance_to_the_decoded_vector(metric: str) -> None:
    points, queries = correlated(0, 600), correlated(1, 5)
    quantizer = ProductQuantizer.train(points, parts=4, bits=5, iterations=5)
    codes = quantizer.encode(points)
    expected = direct_distances(queries, quantizer.decode(codes), metric)  # type: ignore[arg-type]
    for row, query in enumerate(queries):
        np.testing.assert_allclose(
            adc(quantizer.table(query, metric), codes), expected[row], rtol=1e-4, atol=1e-3  # type: ignore[arg-type]
        )  # fmt: skip


def test_codes_and_adc_equal_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    points, queries = correlated(2, 1200), correlated(3, 8)
    quantizer = ProductQuantizer.train(points, parts=8, bits=6, iterations=8)
    theirs = faiss.IndexPQ(16, 8, 6)
    theirs.pq = faiss_pq(faiss, quantizer.codebooks, 6)
    theirs.is_trained = True
    theirs.add(points)
    their_distances, their_ids = theirs.search(queries, 15)
    near, ids = PQIndex(points, quantizer).search(queries, 15)
    np.testing.assert_allclose(near, their_distances, rtol=1e-4, atol=1e-4)
    # Two vectors with one code tie, and libraries break ties their own way.
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, their_ids, strict=True)]) > 14.5


def test_reconstruction_error_is_that_of_faiss_within_a_few_percent() -> None:
    faiss = pytest.importorskip("faiss")
    points = correlated(4, 4000)
    ours = ProductQuantizer.train(points, parts=8, bits=6, iterations=25)
    theirs = faiss.ProductQuantizer(16, 8, 6)
    theirs.train(points)
    their_error = reconstruction_error(points, theirs.decode(theirs.compute_codes(points)))
    our_error = reconstruction_error(points, ours.decode(ours.encode(points)))
    assert our_error == pytest.approx(their_error, rel=0.03)


@pytest.mark.parametrize("start", ["identity", "pca", "better"])
def test_opq_is_no_worse_than_pq_and_never_rises(start: str) -> None:
    points = correlated(5, 3000)
    plain = ProductQuantizer.train(points, parts=4, bits=5)
    rotation, quantizer, errors = train_opq(points, parts=4, bits=5, rounds=25, start=start)  # type: ignore[arg-type]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-4)
    assert all(b <= a * (1 + 1e-4) for a, b in zip(errors, errors[1:], strict=False))
    rotated = points @ rotation
    error = reconstruction_error(rotated, quantizer.decode(quantizer.encode(rotated)))
    base = reconstruction_error(points, plain.decode(plain.encode(points)))
    assert error < 0.95 * base, (error, base)


def test_opq_is_as_good_as_that_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    points = correlated(6, 3000)
    matrix = faiss.OPQMatrix(16, 4)
    matrix.niter = 25
    matrix.pq = faiss.ProductQuantizer(16, 4, 5)
    matrix.train(points)
    turned = matrix.apply(points)
    theirs = faiss.ProductQuantizer(16, 4, 5)
    theirs.train(turned)
    their_error = reconstruction_error(turned, theirs.decode(theirs.compute_codes(turned)))
    rotation, ours, _ = train_opq(points, parts=4, bits=5, rounds=25)
    rotated = points @ rotation
    our_error = reconstruction_error(rotated, ours.decode(ours.encode(rotated)))
    assert our_error < 1.05 * their_error


def test_opq_begins_where_the_error_is_smaller() -> None:
    """Axes of falling variance, cut in order: a rotation by principal axes helps at once."""
    points = correlated(17, 2000)
    first = {
        start: train_opq(points, parts=4, bits=5, rounds=1, start=start)[2][0]  # type: ignore[arg-type]
        for start in ("identity", "pca", "better")
    }
    assert first["better"] == min(first["identity"], first["pca"]) < max(first.values())


def test_procrustes_finds_a_known_rotation_and_allocation_balances() -> None:
    points = correlated(7, 200)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0].astype(np.float32)
    np.testing.assert_allclose(procrustes(points, points @ turn), turn, atol=1e-4)
    axes = pca_allocation(correlated(8, 5000), 4)
    variances = (correlated(8, 5000) @ axes).var(axis=0).reshape(4, 4)
    logs = np.log(variances).sum(axis=1)
    in_order = np.log(np.sort(variances.ravel())[::-1].reshape(4, 4)).sum(axis=1)
    assert np.ptp(logs) < 0.35 * np.ptp(in_order)


def test_codes_of_more_bytes_recall_more() -> None:
    points, queries = correlated(9, 2000), correlated(10, 40)
    truth = FlatIndex(points).search(queries, 10)[1]
    recalls = []
    for parts in (2, 4, 8):
        quantizer = ProductQuantizer.train(points, parts=parts, bits=5, iterations=8)
        found = PQIndex(points, quantizer).search(queries, 10)[1]
        recalls.append(np.mean([len(set(a) & set(b)) for a, b in zip(found, truth, strict=True)]))
    assert recalls[0] < recalls[1] < recalls[2]


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_ivf_pq_equals_faiss_with_the_same_quantisers(metric: str) -> None:
    faiss = pytest.importorskip("faiss")
    points, queries = correlated(11, 1500), correlated(12, 12)
    ours = IVFPQIndex.build(points, metric=metric, parts=8, bits=6, lists=12, probes=4)  # type: ignore[arg-type]
    coarse = faiss.IndexFlatL2(16) if metric == "l2" else faiss.IndexFlatIP(16)
    coarse.add(ours.centroids)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    theirs = faiss.IndexIVFPQ(coarse, 16, 12, 8, 6, kind)
    theirs.pq = faiss_pq(faiss, ours.quantizer.codebooks, 6)
    theirs.is_trained = True
    theirs.add(points)
    theirs.nprobe = 4
    their_distances, their_ids = theirs.search(queries, 10)
    near, ids = ours.search(queries, 10)
    sign = 1 if metric == "l2" else -1
    np.testing.assert_allclose(near, sign * their_distances, rtol=1e-3, atol=2e-3)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, their_ids, strict=True)]) > 9.7


def test_ivf_pq_distances_are_those_of_the_decoded_vectors() -> None:
    points = correlated(13, 500)
    index = IVFPQIndex.build(points, parts=4, bits=5, lists=6, probes=6, opq=True)
    assert index.rotation is not None
    labels = np.repeat(np.arange(6), np.diff(index.lists.offsets))
    decoded = np.empty_like(points)
    decoded[index.lists.order] = index.centroids[labels] + index.quantizer.decode(index.codes)
    expected = FlatIndex(decoded).search(points[:4] @ index.rotation, 5)[0]
    np.testing.assert_allclose(index.search(points[:4], 5)[0], expected, rtol=1e-3, atol=1e-3)


def test_refining_repairs_the_order_and_costs_the_vectors() -> None:
    points, queries = correlated(14, 2000), correlated(15, 40)
    truth = FlatIndex(points).search(queries, 10)
    index = IVFPQIndex.build(points, parts=4, bits=4, lists=8, probes=8, refine=20)
    coarse = index.probing(8, 0).search(queries, 10)[1]
    refined = index.search(queries, 10)
    hits = [
        np.mean([len(set(a) & set(b)) for a, b in zip(ids, truth[1], strict=True)])
        for ids in (coarse, refined[1])
    ]
    assert hits[0] < 8 < 9 < hits[1]
    same = refined[1] == truth[1]
    np.testing.assert_allclose(refined[0][same], truth[0][same], atol=1e-3)
    lean = IVFPQIndex.build(points, parts=4, bits=4, lists=8)
    assert index.bytes_per_vector - lean.bytes_per_vector == pytest.approx(64)
    assert isinstance(lean, VectorIndex)


def test_residuals_are_cheaper_to_encode_than_vectors() -> None:
    rng = np.random.default_rng(16)
    points = (rng.normal(size=(8, 16))[rng.integers(8, size=3000)] * 5).astype(np.float32)
    points += rng.normal(size=points.shape).astype(np.float32)
    index = IVFPQIndex.build(points, parts=4, bits=4, lists=8)
    labels = np.repeat(np.arange(8), np.diff(index.lists.offsets))
    decoded = index.centroids[labels] + index.quantizer.decode(index.codes)
    plain = ProductQuantizer.train(points, parts=4, bits=4)
    with_lists = reconstruction_error(points[index.lists.order], decoded)
    assert with_lists < 0.8 * reconstruction_error(points, plain.decode(plain.encode(points)))


def test_bad_knobs_are_named() -> None:
    points = correlated(0, 40)
    with pytest.raises(ValueError, match=r"one of \[1, 2, 4, 8, 16\], not 3"):
        ProductQuantizer.train(points, parts=3, bits=2)
    with pytest.raises(ValueError, match="bits must be 1 to 8"):
        ProductQuantizer.train(points, parts=4, bits=9)
    index = IVFPQIndex.build(points, parts=4, bits=2, lists=2, probes=1)
    with pytest.raises(ValueError, match="build with refine >= 1"):
        index.probing(1, refine=5)
    with pytest.raises(ValueError, match=r"probes must be 1..2 \(the lists\), got 3"):
        index.probing(3)
