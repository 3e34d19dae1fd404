"""Retrieval by class: numbers by hand, a naive loop, blocks, and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from image_search.embeddings.base import Metric, unit_rows
from image_search.evaluation.retrieval import METRICS, RetrievalScores, retrieval_scores, vote
from ml_platform.evaluation.intervals import bootstrap_mean


def on_a_line(*positions: float) -> np.ndarray:
    return np.array(positions, dtype=np.float32)[:, None]


def test_by_hand() -> None:
    """One query at 0 among a, b, a, b, a at distances 1..5: R = 3, hits at ranks 1, 3 (and 5)."""
    scores = retrieval_scores(
        on_a_line(1, 2, 3, 4, 5),
        np.array([0, 1, 0, 1, 0]),
        on_a_line(0),
        np.array([0]),
        metric="l2",
    )
    assert scores.neighbours[0].tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1, -1]
    assert scores.values["recall@1"].tolist() == [1]
    assert scores.values["precision@10"].tolist() == pytest.approx([0.3])
    assert scores.values["map@r"].tolist() == pytest.approx([(1 + 2 / 3) / 3])
    assert scores.values["vote@10"].tolist() == [1]


def test_by_hand_when_the_first_result_is_wrong() -> None:
    """b, a, a: R = 2, so only the first two places count for mAP@R: one hit, at rank 2."""
    scores = retrieval_scores(
        on_a_line(1, 2, 3), np.array([1, 0, 0]), on_a_line(0), np.array([0]), metric="l2"
    )
    assert scores.values["recall@1"].tolist() == [0]
    assert scores.values["recall@5"].tolist() == [1]
    assert scores.values["map@r"].tolist() == pytest.approx([(1 / 2) / 2])


def test_most_of_the_first_ten_decide_and_the_nearest_between_equals() -> None:
    label = np.array([[3, 1, 1, 2], [3, 1, 1, 3], [5, 4, 4, 4]])
    there = np.array([[True] * 4, [True] * 4, [True, False, False, False]])
    assert vote(label, there).tolist() == [1, 3, 5]


def test_a_vote_is_a_classifier_by_neighbours() -> None:
    """As scikit-learn's, where no two classes have equally many of the ten."""
    rng = np.random.default_rng(3)
    label, query_label = rng.integers(0, 3, 200), rng.integers(0, 3, 60)
    gallery = (rng.normal(size=(200, 3)) + label[:, None]).astype(np.float32)
    queries = (rng.normal(size=(60, 3)) + query_label[:, None]).astype(np.float32)
    scores = retrieval_scores(gallery, label, queries, query_label, metric="l2")
    counts = np.array([np.bincount(label[row], minlength=3) for row in scores.neighbours])
    clear = np.sort(counts, axis=1)[:, -1] > np.sort(counts, axis=1)[:, -2]
    peer = KNeighborsClassifier(n_neighbors=10).fit(gallery, label).predict(queries)
    right = (peer == query_label)[clear]
    assert clear.sum() > 20
    assert 0 < right.sum() < len(right)
    assert scores.values["vote@10"][clear].tolist() == right.tolist()


def test_a_perfect_gallery_scores_one_and_a_foreign_one_is_refused() -> None:
    label = np.repeat([0, 1], 10)
    points = np.where(label[:, None] == 0, [1.0, 0.0], [0.0, 1.0]).astype(np.float32)
    scores = retrieval_scores(points, label, points, label)
    for metric in METRICS:
        assert scores.values[metric].tolist() == [1.0] * 20
    with pytest.raises(ValueError, match=r"1 of 1 queries have no other .* class 7"):
        retrieval_scores(points, label, points[:1], np.array([7]))


def test_the_own_picture_is_excluded_from_results_and_from_r() -> None:
    label = np.array([0, 0, 1, 1])
    points = on_a_line(0, 10, 1, 11)
    alone = retrieval_scores(points, label, points, label, self_match=np.arange(4), metric="l2")
    assert alone.neighbours[:, 0].tolist() == [2, 3, 0, 1]
    assert alone.values["recall@1"].tolist() == [0, 0, 0, 0]
    # R = 1: the nearest is of the other class, so nothing of mAP@R is left.
    assert alone.values["map@r"].tolist() == [0, 0, 0, 0]
    included = retrieval_scores(points, label, points, label, metric="l2")
    assert included.values["recall@1"].tolist() == [1, 1, 1, 1]
    only = np.array([0, -1, -1, -1])
    partly = retrieval_scores(points, label, points, label, self_match=only, metric="l2")
    assert partly.values["recall@1"].tolist() == [0, 1, 1, 1]


def naive(
    gallery: np.ndarray,
    gallery_label: np.ndarray,
    query: np.ndarray,
    label: int,
    own: int,
    metric: Metric,
) -> dict[str, float]:
    """Definitions in plain loops, in double precision."""
    candidates = [g for g in range(len(gallery)) if g != own]

    def nearness(g: int) -> float:
        if metric == "cosine":
            return sum(float(a) * float(b) for a, b in zip(gallery[g], query, strict=True))
        return -sum((float(a) - float(b)) ** 2 for a, b in zip(gallery[g], query, strict=True))

    order = sorted(candidates, key=nearness, reverse=True)
    hits = [int(gallery_label[g] == label) for g in order]
    r = sum(hits)
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]]
    found = {f"recall@{k}": float(any(hits[:k])) for k in (1, 5, 10)}
    first = [int(gallery_label[g]) for g in order[:10]]
    voted = max(first, key=first.count)
    found |= {"precision@10": sum(hits[:10]) / 10, "map@r": sum(precisions) / r}
    return found | {"vote@10": float(voted == label)}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("leave_out", [False, True])
def test_as_plain_loops_in_blocks_of_any_size(metric: Metric, leave_out: bool) -> None:
    rng = np.random.default_rng(7)
    gallery = rng.normal(size=(90, 6)).astype(np.float32)
    label = rng.choice(4, 90, p=[0.5, 0.3, 0.15, 0.05])
    if metric == "cosine":
        gallery = unit_rows(gallery)
    rows = rng.permutation(90)[:40]
    own = rows if leave_out else np.full(40, -1)
    queries = gallery[rows] if leave_out else unit_rows(rng.normal(size=(40, 6)))
    expected = [
        naive(gallery, label, queries[q], label[rows[q]], own[q], metric) for q in range(40)
    ]
    for block_bytes in (4, 4 * 90 * 7, 1 << 20):
        scores = retrieval_scores(
            gallery,
            label,
            queries,
            label[rows],
            self_match=own,
            metric=metric,
            block_bytes=block_bytes,
        )
        for name in METRICS:
            np.testing.assert_allclose(
                scores.values[name], [row[name] for row in expected], rtol=1e-12, err_msg=name
            )


def test_equal_pictures_are_not_ordered_by_their_place() -> None:
    """Forty equal pictures, the class by place: the order of the file must not win."""
    gallery = np.ones((40, 2), np.float32)
    label = np.repeat([0, 1], 20)
    scores = retrieval_scores(gallery, label, gallery[:1], np.array([0]))
    assert 0.2 <= scores.values["precision@10"][0] <= 0.8
    again = retrieval_scores(gallery, label, gallery[:1], np.array([0]))
    np.testing.assert_array_equal(scores.neighbours, again.neighbours)


def test_memory_is_bounded_by_the_block() -> None:
    """All similarities of this search would be 32 MB, its blocks are a hundredth of that."""
    rng = np.random.default_rng(0)
    gallery, queries = (unit_rows(rng.normal(size=(n, 4))) for n in (4_000, 2_000))
    label, query_label = np.arange(4_000) % 200, np.arange(2_000) % 200
    tracemalloc.start()
    retrieval_scores(gallery, label, queries, query_label, block_bytes=320_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_means_classes_and_intervals() -> None:
    label = np.array([0, 0, 0, 2])
    values = {name: np.array([1.0, 0.0, 1.0, 0.25]) for name in METRICS}
    scores = RetrievalScores(values, label, np.zeros((4, 10), np.int32), 9)
    expected = bootstrap_mean(values["map@r"], resamples=200, seed=3)
    assert scores.estimate("map@r", resamples=200, seed=3) == expected
    by_class = scores.per_class("map@r", resamples=200)
    assert list(by_class) == [0, 2]
    assert by_class[0].value == pytest.approx(2 / 3)
    assert (by_class[2].value, by_class[2].low, by_class[2].n) == (0.25, None, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": np.ones((3, 5), np.float32)}, "do not fit"),
        ({"gallery_label": np.zeros(2, int)}, "2 labels for 3 gallery"),
        ({"query_label": np.zeros(3, int)}, "3 for 2 queries"),
        ({"self_match": np.array([0, 3])}, "values 0..3"),
        ({"self_match": np.array([0])}, r"self_match \(1,\)"),
        ({"queries": np.zeros((0, 2), np.float32), "query_label": np.zeros(0, int)}, "0 queries"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    given = {
        "gallery": np.ones((3, 2), np.float32),
        "gallery_label": np.zeros(3, int),
        "queries": np.ones((2, 2), np.float32),
        "query_label": np.zeros(2, int),
    }
    with pytest.raises(ValueError, match=message):
        retrieval_scores(**(given | change))  # type: ignore[arg-type]
