"""k-means by hand and against its own guarantees; IVF against FAISS at equal centroids."""

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from ml_algorithms.nearest_neighbour import exact, ivf
from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.index import NO_ID
from ml_algorithms.nearest_neighbour.ivf import InvertedLists, IVFIndex, default_lists
from ml_algorithms.nearest_neighbour.kmeans import assign, plus_plus, train_kmeans, update


def clustered(seed: int, n: int, dimensions: int = 8, clusters: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, dimensions)) * 2
    rows = centres[rng.integers(clusters, size=n)] + rng.normal(size=(n, dimensions))
    return rows.astype(np.float32)


def test_one_iteration_by_hand() -> None:
    points = np.array([[0.0], [1.0], [5.0], [9.0]], dtype=np.float32)
    trained = train_kmeans(points, 2, iterations=1, start=np.array([[0.0], [6.0]]))
    # 0 and 1 go to 0 (squares 0, 1); 5 and 9 to 6 (1, 9): mean 11 / 4; then the means.
    assert trained.objective == [pytest.approx(11 / 4)]
    np.testing.assert_allclose(trained.centroids, [[0.5], [7.0]])


def test_the_objective_never_rises_and_ends_where_scipy_ends() -> None:
    points = clustered(0, 2000)
    start = points[:20].copy()
    trained = train_kmeans(points, 20, iterations=25, start=start)
    assert all(b <= a for a, b in zip(trained.objective, trained.objective[1:], strict=False))
    theirs, _ = kmeans2(points.astype(float), start.astype(float), iter=25, minit="matrix")
    np.testing.assert_allclose(trained.centroids, theirs, atol=1e-3)


def test_no_worse_than_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    points = clustered(1, 3000)
    theirs = faiss.Kmeans(8, 40, niter=15, seed=3)
    theirs.train(points)
    ours = train_kmeans(points, 40, iterations=15, seed=3)
    error = [float(assign(points, c)[1].mean()) for c in (ours.centroids, theirs.centroids)]
    assert error[0] < 1.03 * error[1]


def test_an_empty_cluster_takes_half_of_the_largest() -> None:
    points = np.array([[1.0, 1.0], [1.1, 1.0], [1.0, 1.2], [9.0, 9.0]], dtype=np.float32)
    far = np.array([[1.0, 1.0], [9.0, 9.0], [500.0, 500.0]], dtype=np.float32)
    labels, _ = assign(points, far)
    moved = update(points, labels, far)
    assert np.abs(moved[2] - moved[0]).max() < 0.01  # beside the largest
    assert (moved[2] != moved[0]).all()
    trained = train_kmeans(points, 3, iterations=5, start=far)
    assert np.bincount(assign(points, trained.centroids)[0], minlength=3).min() > 0


def test_careful_seeding_spreads_the_seeds() -> None:
    """Ten far clusters: k-means++ hits nearly all, a uniform draw of ten about 6.5 of them."""
    rng = np.random.default_rng(0)
    centres = np.arange(10)[:, None] * np.array([[1000.0, 0.0]])
    label = rng.integers(10, size=500)
    points = (centres[label] + rng.normal(size=(500, 2))).astype(np.float32)
    hit = [
        len(set(np.round(plus_plus(points, 10, np.random.default_rng(s))[:, 0] / 1000)))
        for s in range(5)
    ]
    assert min(hit) >= 9


def test_seeding_copes_with_fewer_distinct_points_than_clusters() -> None:
    same = np.ones((6, 2), dtype=np.float32)
    assert train_kmeans(same, 3, seeding="kmeans++", iterations=2).objective[-1] < 1e-5


def test_bad_numbers_of_clusters() -> None:
    with pytest.raises(ValueError, match="5 clusters need at least as many vectors"):
        train_kmeans(clustered(0, 4), 5)
    with pytest.raises(ValueError, match="at least 1, got 0, 256"):
        train_kmeans(clustered(0, 4), 2, iterations=0)


def test_lists_by_hand() -> None:
    lists = InvertedLists.of(np.array([1, 0, 1, 3]), 4)
    assert lists.order.tolist() == [1, 0, 2, 3]
    assert lists.offsets.tolist() == [0, 1, 3, 3, 4]
    assert lists.imbalance == pytest.approx(4 * (1 + 4 + 1) / 16)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("probes", [1, 5])
def test_identical_to_faiss_at_equal_centroids(metric: str, probes: int) -> None:
    faiss = pytest.importorskip("faiss")
    points, queries = clustered(2, 1500), clustered(3, 40)
    ours = IVFIndex.build(points, metric=metric, lists=24, probes=probes)  # type: ignore[arg-type]
    coarse = faiss.IndexFlatL2(8) if metric == "l2" else faiss.IndexFlatIP(8)
    coarse.add(ours.centroids)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    theirs = faiss.IndexIVFFlat(coarse, 8, 24, kind)
    theirs.is_trained = True
    theirs.add(points)
    theirs.nprobe = probes
    their_distances, their_ids = theirs.search(queries, 10)
    near, ids = ours.search(queries, 10)
    np.testing.assert_array_equal(ids, their_ids)
    found = ids != NO_ID
    sign = 1 if metric == "l2" else -1
    np.testing.assert_allclose(near[found], sign * their_distances[found], atol=2e-4)


def test_probing_every_list_is_exact_and_recall_grows_with_probes() -> None:
    points, queries = clustered(4, 800), clustered(5, 50)
    truth = FlatIndex(points).search(queries, 10)
    index = IVFIndex.build(points, lists=16, probes=16)
    np.testing.assert_array_equal(index.search(queries, 10)[1], truth[1])
    recalls = [
        np.mean([
            len(set(a) & set(b))
            for a, b in zip(index.probing(p).search(queries, 10)[1], truth[1], strict=True)
        ])
        for p in (1, 4, 16)
    ]  # fmt: skip
    assert recalls[0] < recalls[1] <= recalls[2] == 10


def test_blocks_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clustered(6, 300)
    whole = IVFIndex.build(points, lists=9, probes=2)
    monkeypatch.setattr(ivf, "BLOCK", 7)
    monkeypatch.setattr(exact, "BLOCK_VALUES", 50)
    np.testing.assert_array_equal(
        IVFIndex.build(points, lists=9, probes=2).lists.order, whole.lists.order
    )
    np.testing.assert_array_equal(whole.search(points[:5], 3)[1][:, 0], np.arange(5))


def test_ivf_knobs_and_bytes() -> None:
    index = IVFIndex.build(clustered(7, 400), probes=2)
    assert len(index.centroids) == default_lists(400) == 10
    assert default_lists(1_000_000) == 4000
    with pytest.raises(ValueError, match=r"probes must be 1..10 \(the lists\), got 11"):
        index.probing(11)
    arrays = (index.vectors, index.squared_norms, index.lists.order, index.centroids)
    held = sum(one.nbytes for one in arrays) + index.lists.offsets.nbytes
    assert index.bytes_per_vector * 400 == pytest.approx(held)
