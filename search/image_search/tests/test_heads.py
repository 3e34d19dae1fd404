"""Heads on frozen features: LDA and supcon against references, views, what is kept, saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import gradient
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from image_search.config import EmbeddingsConfig, HeadConfig
from image_search.embeddings import frozen, heads
from image_search.embeddings.base import NotFittedError
from image_search.embeddings.frozen import FrozenFeatures, rooted, seen_as
from image_search.embeddings.heads import EfficientNetHead, components, fit_head, lda
from image_search.embeddings.registry import load_embedder
from image_search.images.image_set import ImageSet
from ml_platform.evaluation.progress import Silent

QUICK = HeadConfig(width=4, epochs=12, batch=40, rate=0.01, dropout=0.1, frozen_share=0)


def clouds(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that differ in two of eight features; the other six are loud noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = rng.normal(size=(n, 8)) * np.array([1, 1, 6, 6, 6, 6, 6, 6])
    features[:, :2] += np.array([[0, 4], [3.5, -2], [-3.5, -2]])[labels]
    return features.astype(np.float32), labels


def same_class_first(rows: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose nearest other row is of their class."""
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return float((labels[similarity.argmax(axis=1)] == labels).mean())


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- LDA ---


def test_lda_agrees_with_scikit_learn() -> None:
    features, labels = clouds()
    centred = features - features.mean(axis=0)
    ours = centred @ lda(centred, labels, 1e-9)
    reference = LinearDiscriminantAnalysis(solver="svd").fit(centred, labels).transform(centred)
    assert ours.shape == reference.shape == (120, 2)
    # The sign of a direction is free.
    for ours_part, their_part in zip(ours.T, reference.T, strict=True):
        sign = np.sign(ours_part @ their_part)
        np.testing.assert_allclose(ours_part * sign, their_part, rtol=1e-3, atol=1e-3)


def test_lda_finds_what_noise_hides() -> None:
    features, labels = clouds()
    centred = features - features.mean(axis=0)
    assert same_class_first(unit(centred), labels) < 0.75
    assert same_class_first(unit(centred @ lda(centred, labels, 0.1)), labels) > 0.9


def test_full_shrinkage_ignores_the_covariance() -> None:
    """Then the spread is the same in all directions, and the directions are those of the means."""
    features, labels = clouds()
    centred = features - features.mean(axis=0)
    means = np.stack([centred[labels == k].mean(axis=0) for k in range(3)])
    found = lda(centred, labels, 1.0)
    left_over = (
        found - np.linalg.pinv(means, rcond=1e-5) @ means @ found
    )  # what the means do not span
    assert np.abs(left_over).max() < 1e-6 * np.abs(found).max()


# --- supcon ---


def test_supcon_learns_the_classes_and_the_seed_decides() -> None:
    features, labels = clouds()
    before = same_class_first(unit(features - features.mean(axis=0)), labels)
    head = fit_head(features, labels, QUICK, 0)
    rows = head(features)
    assert rows.shape == (120, 4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert same_class_first(rows, labels) > max(before, 0.9)
    np.testing.assert_array_equal(fit_head(features, labels, QUICK, 0).learnt, head.learnt)
    assert np.abs(fit_head(features, labels, QUICK, 1).learnt - head.learnt).max() > 1e-3


def test_supcon_holds_on_new_pictures() -> None:
    features, labels = clouds()
    fresh, fresh_labels = clouds(seed=9)
    head = fit_head(features, labels, QUICK, 0)
    assert same_class_first(head(fresh), fresh_labels) > 0.85


@pytest.mark.parametrize("labels", [np.zeros(6, int), np.array([0, 1, -1, 0, 1, 0])])
def test_labels_that_teach_nothing_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="two classes or more"):
        fit_head(np.ones((6, 3), np.float32), labels, HeadConfig(kind="lda"), 0)


# --- the memory of what was there before ---


@pytest.mark.parametrize(("n", "width"), [(30, 8), (8, 30)])
def test_components_agree_with_scikit_learn(n: int, width: int) -> None:
    rows = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    rows -= rows.mean(axis=0)
    ours = rows @ components(rows, 3)
    reference = PCA(3, svd_solver="full").fit_transform(rows)
    np.testing.assert_allclose(np.abs(ours), np.abs(reference), atol=1e-4)
    assert components(rows, 0).shape == (width, 0)


def test_a_similarity_is_shared_as_promised() -> None:
    features, labels = clouds()
    share = 0.3
    config = HeadConfig(kind="lda", frozen_share=share, frozen_width=8)
    rows = fit_head(features, labels, config, 0)(features)
    head_only = fit_head(features, labels, HeadConfig(kind="lda", frozen_share=0), 0)(features)
    before = unit(features - features.mean(axis=0))
    assert rows.shape == (120, 2 + 8)
    expected = (1 - share) * head_only @ head_only.T + share * before @ before.T
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-4)


# --- views ---


def test_root_of_shares_by_hand() -> None:
    found = rooted(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0.5, 0.75**0.5, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((256, 192), (288, 224)), ((192, 256), (224, 288)), ((50, 50), (224, 224)),
     ((256, 20), (448, 224))],
)  # fmt: skip
def test_the_whole_picture_is_seen(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Sides are multiples of 32; the ends that the middle square loses are there."""
    picture = np.zeros((*size, 3), np.uint8)
    picture[0], picture[-1] = 200, 200
    whole = seen_as(picture, "whole")
    assert whole.shape == (*expected, 3)
    assert whole[0].min() > 50
    assert seen_as(picture, "crop").shape == (224, 224, 3)
    if size == (256, 192):
        assert seen_as(picture, "crop").max() == 0


def test_grey_pictures_are_seen_too() -> None:
    grey = np.full((28, 28, 1), 9, np.uint8)
    assert seen_as(grey, "whole").shape == (224, 224, 3)
    assert seen_as(grey, "whole").max() == 9


# --- the embedder, on a stand-in for the network ---


class Means:
    """A network of 1,280 features: the three colours' means at every place, repeated."""

    def __init__(self) -> None:
        self.asked = 0

    def extract_features(self, batch: torch.Tensor) -> torch.Tensor:
        self.asked += len(batch)
        light = torch.nn.functional.avg_pool2d(batch + 1.0, 32)
        return light.repeat(1, 427, 1, 1)[:, : frozen.DIM]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Means:
    stand_in = Means()
    monkeypatch.setattr(frozen, "load_network", lambda: (stand_in, "abc"))
    monkeypatch.setenv("MLSD_CACHE_DIR", str(tmp_path / "cache"))
    return stand_in


def config_of(**head: Any) -> EmbeddingsConfig:
    return EmbeddingsConfig(head=HeadConfig(kind="lda", shrinkage=0.5, **head))


def fitted(images: ImageSet, **head: Any) -> EfficientNetHead:
    few = slice(0, 40)
    return EfficientNetHead().fit(images.images[few], images.label[few], config_of(**head), 0,
                                  Silent())  # fmt: skip


def test_features_of_every_view_have_length_one(network: Means) -> None:
    pictures = [gradient(), gradient(60, 30), gradient(30, 60)]
    made = FrozenFeatures(("whole", "crop"), 4).of(pictures)
    assert made.shape == (3, 2 * 1280)
    for view in (made[:, :1280], made[:, 1280:]):
        np.testing.assert_allclose(np.linalg.norm(view, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        FrozenFeatures(("whole",), 1).of(pictures[1:2])[0], made[1, :1280]
    )
    assert network.asked == 3 * 2 + 1


def test_features_are_kept_while_fitting_only(
    network: Means, tiny: ImageSet, tmp_path: Path
) -> None:
    embedder = fitted(tiny)
    assert network.asked == 80  # forty pictures, two views
    rows = embedder.embed(tiny.images[:40])
    again = fitted(tiny)
    assert network.asked == 80
    np.testing.assert_array_equal(again.embed(tiny.images[:40]), rows)

    folder = tmp_path / "saved"
    folder.mkdir()
    embedder.save(folder)
    shelf = tmp_path / "cache" / "image_search" / "features"
    before = sorted(shelf.rglob("*.npy"))
    loaded = load_embedder(folder)
    np.testing.assert_array_equal(loaded.embed(tiny.images[:40]), rows)
    loaded.embed(tiny.images[50:52])
    assert network.asked == 80 + 80 + 4  # a loaded head neither reads nor writes the shelf
    assert sorted(shelf.rglob("*.npy")) == before
    assert loaded.fingerprint == embedder.fingerprint


def test_a_damaged_file_is_made_again(network: Means, tiny: ImageSet, tmp_path: Path) -> None:
    rows = fitted(tiny).embed(tiny.images[:5])
    shelf = tmp_path / "cache" / "image_search" / "features"
    for path in shelf.rglob("*.npy"):
        path.write_bytes(b"damaged")
    np.testing.assert_array_equal(fitted(tiny).embed(tiny.images[:5]), rows)


def test_other_weights_are_refused(
    network: Means, tiny: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(tiny).save(tmp_path)
    monkeypatch.setattr(frozen, "load_network", lambda: (network, "other"))
    with pytest.raises(ValueError, match="train again"):
        load_embedder(tmp_path)


def test_a_fingerprint_changes_with_the_head(network: Means, tiny: ImageSet) -> None:
    plain, shared = fitted(tiny, frozen_share=0), fitted(tiny, frozen_share=0.3, frozen_width=5)
    assert plain.fingerprint != shared.fingerprint
    assert shared.dim == plain.dim + 5


def test_what_cannot_be_fitted_is_refused(network: Means, tiny: ImageSet) -> None:
    with pytest.raises(ValueError, match="these pictures have none"):
        EfficientNetHead().fit(tiny.images, None, EmbeddingsConfig(), 0, Silent())
    with pytest.raises(NotFittedError, match="has no head yet"):
        EfficientNetHead().embed(tiny.images[:1])
    with pytest.raises(ValueError, match="each once"):
        HeadConfig(views=("crop", "crop"))


def test_nothing_of_torch_for_lda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed form needs none of the training code."""
    wrong: Callable[..., Any] = lambda *_: pytest.fail("supcon was asked")  # noqa: E731
    monkeypatch.setattr(heads, "supcon_map", wrong)
    features, labels = clouds()
    assert fit_head(features, labels, HeadConfig(kind="lda", frozen_share=0), 0).dim == 2
