"""The network trained here: folding, training, saving, what an interruption leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.decomposition import PCA

from image_search.config import CnnConfig, EmbeddingsConfig
from image_search.embeddings.base import NotFittedError, unit_rows, write_settings
from image_search.embeddings.cnn import WEIGHTS_FILE, Cnn
from image_search.embeddings.cnn_network import Network, as_input, folded, precision_of
from image_search.embeddings.cnn_training import (
    Method,
    batch_size,
    chosen,
    epoch_sizes,
    rate,
)
from image_search.embeddings.cnn_with_hog import CnnWithHog
from image_search.embeddings.hog import Hog
from image_search.embeddings.registry import load_embedder, make_embedder
from image_search.evaluation.retrieval import retrieval_scores
from image_search.images.image_set import ImageSet
from ml_platform.evaluation.progress import Silent

SMALL = CnnConfig(
    side=32, width=8, epochs=2, view_epochs=2, plain_epochs=1, warm_epochs=1, batch=10,
    learning_rate=0.1, shift=1, cutout=4, dims=(4, 8),
)  # fmt: skip


def parts(images: ImageSet) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gallery and query pictures with their classes."""
    pictures = np.asarray(images.images)
    gallery, query = images.split == 0, images.split == 2
    return pictures[gallery], images.label[gallery], pictures[query], images.label[query]


def trained(method: Method, images: ImageSet, config: CnnConfig = SMALL, seed: int = 0) -> Cnn:
    pictures, label, _, _ = parts(images)
    return Cnn(method).fit(pictures, label, EmbeddingsConfig(cnn=config), seed, Silent())


# --- the network ---


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 33)])
def test_shapes_of_any_picture(channels: int, side: int) -> None:
    network = Network(channels, 8, 16).eval()
    assert network(torch.zeros(2, channels, side, side)).shape == (2, 16)
    assert network.features(torch.zeros(2, channels, side, side)).shape == (2, 16)


def test_input_runs_from_minus_one_to_one() -> None:
    pictures = np.zeros((1, 2, 2, 3), np.uint8)
    pictures[0, 0, 1] = (255, 0, 51)
    seen = as_input(pictures)
    assert seen.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(seen[0, :, 0, 1], [1, -1, -0.6], atol=1e-6)
    assert seen[0, :, 1, 0].tolist() == [-1, -1, -1]


def test_folding_keeps_the_numbers() -> None:
    torch.manual_seed(0)
    network = Network(1, 8, 16).train()
    for _ in range(3):  # statistics that are neither 0 nor 1
        network(torch.randn(16, 1, 28, 28) * 3 + 1)
    pictures = torch.randn(5, 1, 28, 28)
    with torch.no_grad():
        expected = network.eval()(pictures)
        found = folded(network)(pictures)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# --- training ---


def stripes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """u8[n, 16, 16, 1] of upright or lying stripes at any phase, and which of the two.

    A shift of half a period turns a picture's pixels around; its class stays.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    wave = np.sin(np.arange(16) * 2 * np.pi / 8 + rng.uniform(0, 2 * np.pi, (n, 1)))
    upright = np.broadcast_to(wave[:, None, :], (n, 16, 16))
    made = np.where(label[:, None, None] == 0, upright, upright.transpose(0, 2, 1))
    noisy = 127 + 60 * made + rng.normal(0, 110, made.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)[..., None], label


def recall(gallery: np.ndarray, label: np.ndarray, queries: np.ndarray, asked: np.ndarray) -> float:
    scores = retrieval_scores(gallery, label, queries, asked)
    return float(scores.values["recall@1"].mean())


@pytest.mark.parametrize("method", ["supcon", "proxy"])
def test_classes_are_learnt_that_were_not_seen_in_place(method: Method) -> None:
    """Noise hides which phase is near in pixels (.93); a network learns the direction."""
    gallery, label = stripes(96, 0)
    queries, asked = stripes(60, 1)
    config = SMALL.model_copy(
        update={"side": 16, "epochs": 20, "cutout": 0, "shift": 3, "hard_share": 1.0}
    )
    embedder = Cnn(method).fit(gallery, label, EmbeddingsConfig(cnn=config), 0, Silent())
    found = recall(embedder.embed(gallery), label, embedder.embed(queries), asked)
    flat = [unit_rows(x.reshape(len(x), -1)) for x in (gallery, queries)]
    floor = recall(flat[0], label, flat[1], asked)
    assert found > 0.95 > floor, (found, floor)


@pytest.mark.parametrize("method", ["supcon", "proxy", "simclr", "joint"])
def test_rows_are_unit_and_single_pictures_agree(method: Method, tiny: ImageSet) -> None:
    _, _, queries, _ = parts(tiny)
    embedder = trained(method, tiny)
    rows = embedder.embed(queries)
    assert rows.shape == (len(queries), embedder.dim) == (25, 8)
    assert embedder.dims == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedder.embed(queries[3:4])[0], rows[3], atol=1e-5)
    assert np.ptp(rows, axis=0).max() > 0.005  # not one point for all
    assert embedder.training["steps"] == 20  # two epochs of 100 in batches of 10


def test_a_mirror_image_has_the_same_vector(tiny: ImageSet) -> None:
    _, _, queries, _ = parts(tiny)
    embedder = trained("proxy", tiny)
    np.testing.assert_allclose(
        embedder.embed(queries[:, :, ::-1]), embedder.embed(queries), atol=1e-5
    )
    plain = trained("proxy", tiny, SMALL.model_copy(update={"flip_average": False}))
    assert np.abs(plain.embed(queries[:, :, ::-1]) - plain.embed(queries)).max() > 1e-3


def test_the_seed_decides_and_nothing_else(tiny: ImageSet) -> None:
    state = torch.random.get_rng_state()
    first = trained("supcon", tiny)
    torch.testing.assert_close(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert trained("supcon", tiny).fingerprint == first.fingerprint
    assert trained("supcon", tiny, seed=1).fingerprint != first.fingerprint


def test_views_need_no_classes_and_ignore_them(tiny: ImageSet) -> None:
    pictures, label, _, _ = parts(tiny)
    config = EmbeddingsConfig(cnn=SMALL)
    without = Cnn("simclr").fit(pictures, None, config, 0, Silent())
    assert Cnn("simclr").fit(pictures, label, config, 0, Silent()).fingerprint == (
        without.fingerprint
    )
    with pytest.raises(ValueError, match="cnn_supcon learns from classes"):
        Cnn("supcon").fit(pictures, None, config, 0, Silent())


def test_classes_may_have_any_numbers(tiny: ImageSet) -> None:
    """A protocol trains on every second class: 0, 2, 4."""
    pictures, label, _, _ = parts(tiny)
    kept = label % 2 == 0
    config = EmbeddingsConfig(cnn=SMALL)
    found = Cnn("proxy").fit(pictures[kept], label[kept], config, 0, Silent())
    again = Cnn("proxy").fit(pictures[kept], label[kept] // 2, config, 0, Silent())
    assert found.fingerprint == again.fingerprint


def test_an_interruption_leaves_nothing(tiny: ImageSet) -> None:
    class Stops:
        @contextmanager
        def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
            def step(_: int) -> None:
                raise KeyboardInterrupt

            yield step

    pictures, label, _, _ = parts(tiny)
    embedder = Cnn("supcon")
    with pytest.raises(KeyboardInterrupt):
        embedder.fit(pictures, label, EmbeddingsConfig(cnn=SMALL), 0, Stops())
    with pytest.raises(NotFittedError):
        embedder.embed(pictures)
    with pytest.raises(NotFittedError):
        _ = embedder.dim


def test_the_rate_rises_and_falls() -> None:
    assert [rate(x) for x in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_hard_epochs_are_shorter_and_hold_the_hardest() -> None:
    config = CnnConfig(epochs=5, plain_epochs=1, warm_epochs=2, hard_share=0.3)
    assert [batch_size(n, config) for n in (2, 100, 60_000)] == [2, 12, 256]
    assert epoch_sizes(10, 5, config.model_copy(update={"hard_share": 0.1})) == [10, 10, 2, 2, 10]
    assert epoch_sizes(10, 5, config) == [10, 10, 3, 3, 10]
    last = torch.tensor([0.0, 5.0, 1.0, 4.0, 2.0, 0.5, 0.1, 0.2, 0.3, 0.4])
    drawn = chosen(last, 3, torch.Generator().manual_seed(0)).tolist()
    assert {1, 3} <= set(drawn)  # two thirds of three
    assert len(set(drawn)) == 3
    everyone = chosen(last, 10, torch.Generator().manual_seed(0)).tolist()
    assert sorted(everyone) == list(range(10))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("tile", [False, True])
def test_precision_is_a_choice(monkeypatch: pytest.MonkeyPatch, bf16: bool, tile: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tile)
    assert precision_of("fp32") == "fp32"
    assert precision_of("bf16") == "bf16"
    assert precision_of("auto") == ("bf16" if bf16 or tile else "fp32")


@pytest.mark.parametrize(
    "wrong", [{"dims": (8, 4)}, {"dims": ()}, {"dims": (4, 4)}, {"hard_share": 0.0}, {"batch": 1}]
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CnnConfig.model_validate(wrong)


# --- saving ---


def test_what_is_saved_is_read_back(tiny: ImageSet, tmp_path: Path) -> None:
    _, _, queries, _ = parts(tiny)
    embedder = trained("joint", tiny)
    embedder.save(tmp_path)
    read = load_embedder(tmp_path)
    assert (read.name, read.dim, read.fingerprint) == ("cnn_joint", 8, embedder.fingerprint)
    np.testing.assert_array_equal(read.embed(queries), embedder.embed(queries))
    write_settings(tmp_path, "hog")
    with pytest.raises(ValueError, match="holds the embedder 'hog'"):
        Cnn.load(tmp_path)


def test_other_weights_are_refused(tiny: ImageSet, tmp_path: Path) -> None:
    trained("proxy", tiny).save(tmp_path)
    weights = torch.load(tmp_path / WEIGHTS_FILE, weights_only=True)
    weights["head.weight"] += 1
    torch.save(weights, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="train again"):
        load_embedder(tmp_path)


def test_nothing_is_saved_before_training(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="cnn_proxy is not trained"):
        Cnn("proxy").save(tmp_path)
    assert not list(tmp_path.iterdir())


# --- beside oriented gradients ---


def test_both_descriptions_stand_side_by_side(tiny: ImageSet, tmp_path: Path) -> None:
    pictures, label, queries, _ = parts(tiny)
    cnn = SMALL.model_copy(update={"hog_dim": 6, "hog_weight": 0.5})
    config = EmbeddingsConfig(cnn=cnn, hog_side=32)
    both = make_embedder("cnn_proxy_hog").fit(pictures, label, config, 0, Silent())
    network = Cnn("proxy").fit(pictures, label, config, 0, Silent()).embed(queries)
    hog = Hog().fit(pictures, label, config, 0, Silent())
    reference = PCA(6, svd_solver="full").fit(hog.embed(pictures))
    gradients = unit_rows(reference.transform(hog.embed(queries)))
    rows = both.embed(queries)
    assert rows.shape == (25, both.dim) == (25, 8 + 6)
    expected = (network @ network.T + 0.25 * gradients @ gradients.T) / 1.25
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-4)
    np.testing.assert_allclose(unit_rows(rows[:, :8]), network, atol=1e-5)  # prefixes still serve
    both.save(tmp_path)
    read = load_embedder(tmp_path)
    assert (read.name, read.fingerprint) == ("cnn_proxy_hog", both.fingerprint)
    np.testing.assert_array_equal(read.embed(queries), rows)


def test_all_gradients_stand_beside_the_other_network(tiny: ImageSet) -> None:
    pictures, label, queries, _ = parts(tiny)
    config = EmbeddingsConfig(cnn=SMALL, hog_side=32)
    both = make_embedder("cnn_joint_hog").fit(pictures, label, config, 0, Silent())
    network = Cnn("joint").fit(pictures, label, config, 0, Silent()).embed(queries)
    gradients = Hog().fit(pictures, label, config, 0, Silent()).embed(queries)
    rows = both.embed(queries)
    assert rows.shape == (25, both.dim) == (25, 8 + gradients.shape[1])
    expected = (network @ network.T + 0.25 * gradients @ gradients.T) / 1.25
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-4)


def test_nothing_stands_beside_a_network_that_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="cnn_proxy_hog is not trained"):
        make_embedder("cnn_proxy_hog").embed(np.zeros((1, 32, 32, 3), np.uint8))
    write_settings(tmp_path, "hog")
    with pytest.raises(ValueError, match="'hog', which has no network"):
        CnnWithHog.load(tmp_path)
