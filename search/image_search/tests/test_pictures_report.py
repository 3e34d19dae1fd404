"""Pictures of the report: which queries are shown, what is drawn, maps that repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from image_search.evaluation.retrieval import RetrievalScores, retrieval_scores
from image_search.images.image_set import ImageSet, owner_rows
from image_search.reporting.map_plot import (
    MOST,
    drawn_rows,
    spread_places,
    tsne,
    tsne_picture,
)
from image_search.reporting.neighbours import chosen_queries, neighbour_picture
from ml_platform.evaluation.plot_style import GREEN, ORANGE


def scores_of(precision: list[float], label: list[int]) -> RetrievalScores:
    values = np.array(precision)
    return RetrievalScores(
        {"precision@10": values, "map@r": values, "recall@1": values},
        np.array(label),
        np.zeros((len(label), 10), np.int32),
        5,
    )


def test_good_rows_are_of_different_classes_and_bad_ones_the_worst() -> None:
    scores = scores_of([1.0, 0.9, 0.8, 0.0, 0.1, 0.2, 0.3], [0, 0, 1, 2, 2, 2, 3])
    # Query 1 is of query 0's class; of the failures two are of class 2, and a third is passed over.
    assert chosen_queries(scores, good=2, bad=3) == ([0, 2], [3, 4, 6])


def test_no_query_is_shown_twice_and_failures_are_not_called_good() -> None:
    assert chosen_queries(scores_of([0.0, 0.1, 0.2], [0, 1, 2])) == ([], [0, 1, 2])
    assert chosen_queries(scores_of([1.0, 1.0], [0, 1])) == ([0, 1], [])


def test_ties_are_broken_by_the_place() -> None:
    assert chosen_queries(scores_of([0.5] * 4, [0, 1, 2, 3]), good=1, bad=2) == ([], [0, 1])


def judged(images: ImageSet) -> RetrievalScores:
    rows = owner_rows(images)
    flat = images.images.reshape(len(images), -1).astype(np.float32)  # type: ignore[union-attr]
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return retrieval_scores(
        flat[rows.gallery], images.label[rows.gallery], flat[rows.queries],
        images.label[rows.queries],
    )  # fmt: skip


def test_the_grid_shows_queries_and_frames(tiny: ImageSet, tmp_path: Path) -> None:
    rows, scores = owner_rows(tiny), judged(tiny)
    path = tmp_path / "plots" / "neighbours.png"
    figure = neighbour_picture(tiny, rows, scores, "pixels", path)
    good, bad = chosen_queries(scores)
    assert len(figure.axes) == 11 * len([*good, *bad])
    assert "pixels: nearest of 100" in figure.get_suptitle()
    for line, query in enumerate([*good, *bad]):
        axes = figure.axes[11 * line : 11 * (line + 1)]
        shown = axes[0].images[0].get_array()
        np.testing.assert_array_equal(shown, tiny.images[int(rows.queries[query])])
        found = rows.gallery[scores.neighbours[query]]
        for one, row in zip(axes[1:], found, strict=True):
            same = tiny.label[row] == scores.label[query]
            assert to_hex(one.patches[0].get_edgecolor()).upper() == (GREEN if same else ORANGE)
            assert one.texts[0].get_text() == ("" if same else tiny.label_names[tiny.label[row]])
    with Image.open(path) as written:
        assert written.width > 800


def test_a_gallery_smaller_than_ten_leaves_places_empty(tiny: ImageSet, tmp_path: Path) -> None:
    whole = owner_rows(tiny)
    scores = judged(tiny)
    scores.neighbours[:, 3:] = -1
    figure = neighbour_picture(tiny, whole, scores, "few", tmp_path / "few.png")
    assert [len(axes.images) for axes in figure.axes[:11]] == [1] * 4 + [0] * 7


def test_scores_of_other_rows_are_refused(tiny: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores of 3 queries in 5, rows of 25 in 100"):
        neighbour_picture(
            tiny, owner_rows(tiny), scores_of([1, 1, 1], [0, 1, 2]), "x", tmp_path / "x.png"
        )


# --- the map ---


def clusters() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    return (np.eye(3)[labels] * 20 + rng.normal(size=(60, 3))).astype(np.float32), labels


def test_a_map_keeps_neighbours_and_repeats() -> None:
    vectors, labels = clusters()
    places = tsne(vectors, 0)
    np.testing.assert_array_equal(tsne(vectors, 0), places)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.95


def test_a_map_is_drawn_with_names_and_pictures(tmp_path: Path) -> None:
    vectors, labels = clusters()
    pictures = np.zeros((60, 4, 4, 1), np.uint8)
    path = tmp_path / "plots" / "map.png"
    names = ("left", "right", "up")
    figure = tsne_picture(vectors, labels, names, path, 0, pictures=pictures, thumbnails=5)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == list(names)
    assert len(axes.artists) == 5
    assert sum(len(part.get_offsets()) for part in axes.collections) == 60
    with Image.open(path) as written:
        assert written.width > 800


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 vectors and 2 labels; three are needed"):
        tsne_picture(np.zeros((2, 3)), np.zeros(2), ("a",), tmp_path / "x.png", 0)
    with pytest.raises(ValueError, match="3 vectors and 2 labels"):
        tsne_picture(np.zeros((3, 3)), np.zeros(2), ("a",), tmp_path / "x.png", 0)


def test_at_most_so_many_are_drawn() -> None:
    rows = drawn_rows(10_000, 3)
    assert len(np.unique(rows)) == MOST
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(drawn_rows(10_000, 3), rows)
    assert drawn_rows(5, 0).tolist() == [0, 1, 2, 3, 4]


def test_thumbnails_lie_apart() -> None:
    line = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0], [10, 0]])
    # From the middle (3.2: point 3) the farthest is 4, by 7; then 0.
    assert spread_places(line, 3) == [3, 4, 0]
    assert len(spread_places(line, 9)) == 5
