"""Image sets: splits and protocols, generated shapes, preparation of pictures, the data sets."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import encoded, gradient
from PIL import Image

from image_search.config import ImagesConfig
from image_search.images import datasets
from image_search.images.datasets import EncodedPictures, load_images
from image_search.images.decoding import ImageError, Limits
from image_search.images.image_set import (
    GALLERY,
    QUERY,
    VALIDATION,
    ImageSet,
    Rows,
    Selection,
    answerable,
    draw_queries,
    owner_rows,
    restrict,
    unseen_classes,
    validation_rows,
)
from image_search.images.preparing import batches, channels_of, square, squares
from image_search.images.shapes import PAINTS, SHAPES, shapes
from ml_platform.data.download import DatasetUnavailableError
from ml_platform.data.vectors import VECTORS


def plain_set(label: list[int], split: list[int]) -> ImageSet:
    n = len(label)
    return ImageSet(
        name="plain",
        images=np.zeros((n, 2, 2, 1), np.uint8),
        label=np.array(label, np.int16),
        label_names=("a", "b", "c"),
        split=np.array(split, np.uint8),
        item_id=np.arange(n),
        sha256="x",
        terms="none.",
        synthetic=True,
    )


def test_the_owners_split_decides_who_asks_whom() -> None:
    rows = owner_rows(plain_set([0, 1, 0, 1, 2], [0, 2, 1, 0, 2]))
    assert rows.gallery.tolist() == [0, 3]
    assert rows.queries.tolist() == [1, 4]
    assert rows.self_match.tolist() == [-1, -1]
    assert rows.protocol == "test split"


def test_without_queries_each_picture_asks_all_others() -> None:
    rows = owner_rows(plain_set([0, 1, 0], [0, 0, 0]))
    assert rows.queries.tolist() == rows.gallery.tolist() == [0, 1, 2]
    assert rows.self_match.tolist() == [0, 1, 2]
    assert "all others" in rows.protocol


def test_a_query_is_found_in_a_gallery_in_any_order() -> None:
    rows = Rows("x", np.array([7, 3, 9, 1]), np.array([9, 2, 7, 8]))
    assert rows.self_match.tolist() == [2, -1, 0, -1]


def test_validation_uses_the_split_or_draws_without_test_queries() -> None:
    split = validation_rows(plain_set([0, 1, 0, 1], [0, 1, 2, 0]), 1, 0)
    assert (split.gallery.tolist(), split.queries.tolist()) == ([0, 3], [1])
    label = [0] * 60 + [1] * 30 + [2] * 10 + [0, 1, 2]
    images = plain_set(label, [GALLERY] * 100 + [QUERY] * 3)
    drawn = validation_rows(images, 20, seed=5)
    assert len(drawn.queries) == 20
    assert not set(drawn.queries) & set(drawn.gallery)
    assert sorted([*drawn.queries, *drawn.gallery]) == list(range(100))
    counts = np.bincount(images.label[drawn.queries])
    assert np.abs(counts - [12, 6, 2]).max() <= 1
    again = validation_rows(images, 20, seed=5)
    np.testing.assert_array_equal(drawn.queries, again.queries)
    assert set(validation_rows(images, 20, seed=6).queries) != set(drawn.queries)
    with pytest.raises(ValueError, match="at most half"):
        validation_rows(images, 51, seed=5)


def test_every_second_class_is_unseen() -> None:
    assert unseen_classes(10, 0.5).tolist() == [1, 3, 5, 7, 9]
    assert unseen_classes(5, 0.5).tolist() == [1, 3]
    assert unseen_classes(4, 0.25).tolist() == [3]
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 1"):
        unseen_classes(4, 1)


def test_rows_are_restricted_and_drawn() -> None:
    images = plain_set([0, 1, 2, 1, 2, 0], [0, 0, 0, 2, 2, 2])
    judged = restrict(owner_rows(images), images, np.array([1, 2]), "unseen")
    assert (judged.gallery.tolist(), judged.queries.tolist()) == ([1, 2], [3, 4])
    few = draw_queries(owner_rows(images), 2, seed=0)
    assert len(few.queries) == 2
    assert few.gallery.tolist() == [0, 1, 2]
    assert "2 queries drawn" in few.protocol
    assert draw_queries(judged, None, 0) is judged
    assert draw_queries(judged, 2, 0) is judged


def test_queries_without_another_picture_of_their_class_are_left_out() -> None:
    images = plain_set([0, 0, 1, 2, 2], [0] * 5)
    rows = answerable(owner_rows(images), images)
    assert rows.queries.tolist() == [0, 1, 3, 4]
    assert "1 queries without another picture" in rows.protocol
    assert len(rows.gallery) == 5
    fine = owner_rows(plain_set([0, 1, 0], [0, 0, 2]))
    assert answerable(fine, plain_set([0, 1, 0], [0, 0, 2])) is fine


def test_a_set_that_does_not_fit_is_refused() -> None:
    fine = plain_set([0, 1], [0, 2])
    with pytest.raises(ValueError, match=r"number \[2, 3\]"):
        replace(fine, label=np.zeros(3, np.int16))
    with pytest.raises(ValueError, match=r"labels 0\.\.3 for 3 classes"):
        replace(fine, label=np.array([0, 3]))
    with pytest.raises(ValueError, match="item_id stands twice"):
        replace(fine, item_id=np.array([4, 4]))
    assert not replace(fine, label=np.array([-1, 0])).labelled


def test_shapes_are_the_same_each_time_and_balanced() -> None:
    (made, paint), (again, _), (other, _) = shapes(8, 1), shapes(8, 1), shapes(8, 2)
    assert made.sha256 == again.sha256 != other.sha256
    assert made.images[0].shape == (32, 32, 3)
    assert made.synthetic
    for part, n in ((GALLERY, 8), (VALIDATION, 2), (QUERY, 2)):
        assert np.bincount(made.label[made.split == part]).tolist() == [n] * len(SHAPES)
    assert paint.max() < len(PAINTS)
    with pytest.raises(ValueError, match="at least 4"):
        shapes(3, 0)


def test_a_shape_is_painted_in_its_colour() -> None:
    made, paint = shapes(8, 4)
    for row in np.flatnonzero(made.label == SHAPES.index("square")):
        middle = made.images[row][14:18, 14:18].reshape(-1, 3).mean(axis=0)
        assert np.abs(middle - list(PAINTS.values())[paint[row]]).max() < 12


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    assert squares(images, 8, 1) is images
    np.testing.assert_array_equal(squares(list(images), 8, 1), images)
    np.testing.assert_array_equal(squares(images, 8, 3), np.repeat(images, 3, axis=3))


def test_the_middle_square_is_cut_out() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (square(wide, 10, 3, 10) == 200).all()
    tall = wide.transpose(1, 0, 2)
    assert (square(tall, 10, 1, 10) == 200).all()
    assert square(wide, 7, 3, 10).shape == (7, 7, 3)
    assert square(np.full((1, 90, 1), 5, np.uint8), 4, 1, 4).shape == (4, 4, 1)


def test_preparing_as_pillow_does_it() -> None:
    picture = gradient(50, 80)
    image = Image.fromarray(picture).resize((51, 32), Image.Resampling.BICUBIC)
    expected = np.array(image.crop((9, 0, 41, 32)))
    np.testing.assert_array_equal(squares([picture], 32, 3)[0], expected)
    with pytest.raises(ValueError, match="cannot be cut out"):
        squares([picture], 32, 3, resize_to=31)


def test_channels_and_batches() -> None:
    assert channels_of([gradient()]) == 3
    with pytest.raises(ValueError, match="no picture"):
        channels_of([])
    with pytest.raises(ValueError, match="has shape"):
        channels_of(np.zeros((1, 4, 4), np.uint8))
    assert [len(part) for part in batches(np.zeros((7, 1, 1, 1)), 3)] == [3, 3, 1]


def test_encoded_pictures_are_decoded_when_asked_for() -> None:
    pictures = EncodedPictures([encoded(gradient(40, 60)), b"no picture"], Limits(), 30)
    assert len(pictures) == 2
    assert pictures[0].shape == (20, 30, 3)
    assert pictures[:1][0].shape == (20, 30, 3)
    with pytest.raises(ImageError, match="no JPEG"):
        pictures[1]
    chosen = Selection(pictures, np.array([0, 0]))
    assert len(chosen) == 2
    assert len(chosen[1:]) == 1
    assert chosen[1].shape == (20, 30, 3)


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.tobytes())


def test_fashion_mnist_is_read_from_the_owners_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for name, values in {
        "train-images-idx3": pictures[:3],
        "train-labels-idx1": np.array([9, 0, 3], np.uint8),
        "t10k-images-idx3": pictures[3:],
        "t10k-labels-idx1": np.array([0, 9], np.uint8),
    }.items():
        (installed / f"{name}-ubyte.gz").write_bytes(idx(values))
    known = VECTORS["fashion-mnist-784"]
    files: dict[str, tuple[str, ...]] = dict.fromkeys(known.raw.files, ())
    raw = replace(known.raw, files=files, system_folder=str(installed), files_url="")
    monkeypatch.setitem(VECTORS, "fashion-mnist-784", replace(known, raw=raw))
    monkeypatch.setenv("MLSD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MLSD_DATA_MIRROR", raising=False)
    found = load_images(ImagesConfig())
    np.testing.assert_array_equal(found.images[..., 0], pictures)
    assert found.split.tolist() == [0, 0, 0, 2, 2]
    assert [found.label_names[k] for k in found.label] == [
        "ankle-boot", "t-shirt", "dress", "t-shirt", "ankle-boot",
    ]  # fmt: skip
    assert (found.source, found.synthetic) == ("system", False)
    assert "MIT" in found.terms


def test_generated_shapes_follow_the_configuration() -> None:
    found = load_images(ImagesConfig(dataset="shapes", shapes_per_class=4), seed=9)
    assert len(found) == 5 * 6
    assert found.sha256 == shapes(4, 9)[0].sha256


def test_a_folder_goes_with_its_data_set() -> None:
    with pytest.raises(ValueError, match="name a folder with dataset 'folder'"):
        ImagesConfig(dataset="folder")
    with pytest.raises(ValueError, match="name a folder"):
        ImagesConfig(folder=Path("x"))


@pytest.mark.real_data
def test_the_clothing_photographs() -> None:
    try:
        found = load_images(ImagesConfig(dataset="clothing"))
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    assert np.bincount(found.split).tolist() == [3_068, 341, 372]
    assert len(found.label_names) == 10
    for row in (0, 1_500, 3_780):
        assert max(found.images[row].shape[:2]) <= 256
    assert datasets.limits_of(ImagesConfig()).max_pixels == 40_000_000
