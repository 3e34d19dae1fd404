"""Towers, the masked loss, and a dual encoder fitted on generated shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from image_search.config import TextConfig
from image_search.embeddings.base import NotFittedError
from image_search.embeddings.cnn_network import Network
from image_search.images.image_set import QUERY, ImageSet
from image_search.images.shapes import SHAPES, shapes
from image_search.images.traits import traits_of
from image_search.text.dual_encoder import SETTINGS, WEIGHTS, DualEncoder, examples_of
from image_search.text.tokens import TextError
from image_search.text.towers import TextTower
from image_search.text.training import (
    contrastive_loss,
    no_negatives,
    train_towers,
)
from ml_algorithms.two_tower_and_contrastive.infonce import symmetric_info_nce_loss
from ml_platform.evaluation.progress import Silent

QUICK = TextConfig(
    width=12, text_width=32, dim=32, buckets=1 << 10, epochs=12, batch=24, shift=1,
    precision="fp32", learning_rate=5e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> ImageSet:
    return shapes(48, seed=5)[0]


@pytest.fixture(scope="module")
def encoder(made: ImageSet) -> DualEncoder:
    return DualEncoder().fit(made, np.flatnonzero(made.split == 0), QUICK, 0, Silent())


def unit(seed: int, *shape: int) -> torch.Tensor:
    return functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1
    )


# --- loss ---


def test_without_a_mask_the_loss_is_clips() -> None:
    image, text = unit(0, 7, 5), unit(1, 7, 5)
    ours = contrastive_loss(image, text, 0.1, torch.zeros(7, 7, dtype=torch.bool))
    assert float(ours) == pytest.approx(
        float(symmetric_info_nce_loss(image, text, temperature=0.1)), rel=1e-5
    )


def test_masked_loss_against_a_plain_loop() -> None:
    image, text, t = unit(0, 6, 4), unit(1, 6, 4), 0.2
    exclude = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) < 0.4  # text by image
    total = 0.0
    for b in range(6):
        score = np.exp((text[b] @ image.T / t).numpy())
        kept = [c for c in range(6) if c == b or not exclude[b, c]]
        total -= np.log(score[b] / score[kept].sum())
        score = np.exp((image[b] @ text.T / t).numpy())
        kept = [c for c in range(6) if c == b or not exclude[c, b]]
        total -= np.log(score[b] / score[kept].sum())
    assert float(contrastive_loss(image, text, t, exclude)) == pytest.approx(total / 12, rel=1e-5)


def test_masks_nest_and_true_is_what_the_sentences_say(made: ImageSet) -> None:
    from image_search.images.captions import described

    rows = np.arange(60)
    examples = examples_of(made, rows, QUICK, Silent())
    told = described(examples.label, made.label_names, examples.traits, examples.item_id, seed=1)
    masks = {m: no_negatives(m, told.claims, examples, rows) for m in ("none", "same", "true")}
    assert not masks["none"].any()
    assert masks["same"].diagonal().all()
    assert (masks["true"] | ~masks["same"]).all()  # the same sentence is true of its own picture
    assert 60 < masks["same"].sum() < masks["true"].sum() < 60 * 60 / 2
    by_hand = told.claims.true_of(examples.label, examples.traits.table)
    np.testing.assert_array_equal(masks["true"].numpy(), by_hand)


# --- towers ---


@pytest.mark.parametrize("tower", ["bag", "transformer"])
def test_padding_changes_nothing(tower: str) -> None:
    torch.manual_seed(0)
    text = TextTower(QUICK.model_copy(update={"tower": tower})).eval()
    words = torch.randn(1, 3, 32)
    padded = torch.cat([words, torch.full((1, 4, 32), 99.0)], dim=1)
    there = torch.tensor([[True] * 3 + [False] * 4])
    with torch.no_grad():
        alone = text(words, torch.ones(1, 3, dtype=torch.bool))
        beside = text(padded, there)
    torch.testing.assert_close(alone, beside)
    assert float(alone.norm()) == pytest.approx(1, abs=1e-5)


def test_a_word_is_the_mean_of_its_buckets() -> None:
    text = TextTower(QUICK)
    found = text.word_vectors([(3, 5), (7,), (3, 3, 9)]).detach()
    table = text.table.weight.detach()
    torch.testing.assert_close(found[0], (table[3] + table[5]) / 2)
    torch.testing.assert_close(found[1], table[7])
    torch.testing.assert_close(found[2], (2 * table[3] + table[9]) / 3)


# --- the dual encoder ---


def test_it_finds_what_the_text_says(made: ImageSet, encoder: DualEncoder) -> None:
    rows = np.flatnonzero(made.split == QUERY)
    pictures = encoder.embed_images(made.images[rows])
    texts = encoder.embed_texts([f"show me a {name}" for name in SHAPES])
    chosen = (pictures @ texts.T).argmax(axis=1)
    assert (chosen == made.label[rows]).mean() > 0.5  # one in five by chance
    table = traits_of(made.images[rows]).table
    blue = encoder.embed_texts(["looking for something blue"])[0]
    named = table[:, 0] == 8
    assert (pictures[named] @ blue).mean() > (pictures[~named] @ blue).mean() + 0.2


def test_a_slip_stays_near_the_word(encoder: DualEncoder) -> None:
    words = ["triangle", "purple", "circle"]
    right = encoder.embed_texts(words)
    typed = encoder.embed_texts(["triangel", "purpel", "circel"])
    assert ((typed @ right.T).argmax(axis=1) == np.arange(3)).all()


def test_rows_have_length_one_and_do_not_depend_on_company(
    made: ImageSet, encoder: DualEncoder
) -> None:
    texts = ["a red ring", "square", "a photo of a plain dark blue triangle", "ring ring"]
    together = encoder.embed_texts(texts)
    assert together.dtype == np.float32
    assert together.shape == (4, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    pictures = encoder.embed_images(made.images[:9])
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(pictures[3:4], encoder.embed_images(made.images[3:4]), atol=1e-4)
    assert encoder.embed_texts([]).shape == (0, encoder.dim)
    assert encoder.embed_images(made.images[:0]).shape == (0, encoder.dim)


def test_the_folded_tower_is_the_trained_one(made: ImageSet, encoder: DualEncoder) -> None:
    from image_search.embeddings.cnn_network import as_input
    from image_search.images.preparing import squares

    assert encoder.fitted is not None
    with torch.no_grad():
        slow = encoder.fitted.towers.image(as_input(squares(made.images[:20], QUICK.side, 3)))
    np.testing.assert_allclose(encoder.embed_images(made.images[:20]), slow.numpy(), atol=1e-4)


def test_refused_texts_are_errors_with_a_reason(encoder: DualEncoder) -> None:
    with pytest.raises(TextError, match=r"names nothing.*circle"):
        encoder.embed_texts(["a red ring", "zebra"])
    read, refused = encoder.readable(["a red ring", "", "zebra"])
    assert read == [["a", "red", "ring"], [], []]
    assert sorted(refused) == [1, 2]


def test_saved_and_loaded_it_is_the_same(
    made: ImageSet, encoder: DualEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    back = DualEncoder.load(tmp_path)
    texts = ["a red ring", "trianglle"]
    np.testing.assert_array_equal(back.embed_texts(texts), encoder.embed_texts(texts))
    np.testing.assert_array_equal(
        back.embed_images(made.images[:5]), encoder.embed_images(made.images[:5])
    )
    assert back.dim == encoder.dim
    (tmp_path / WEIGHTS).write_bytes(b"other")
    with pytest.raises(ValueError, match="not the file that was saved"):
        DualEncoder.load(tmp_path)
    (tmp_path / SETTINGS).unlink()
    with pytest.raises(FileNotFoundError):
        DualEncoder.load(tmp_path)


def test_the_seed_decides_and_the_global_generator_is_left_alone(made: ImageSet) -> None:
    config = QUICK.model_copy(update={"epochs": 1})
    rows = np.arange(80)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, same, other = (
        DualEncoder().fit(made, rows, config, seed, Silent()).embed_texts(["a red ring"])
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_a_trained_trunk_is_where_it_starts(made: ImageSet) -> None:
    torch.manual_seed(4)
    trunk = Network(3, QUICK.width, 16)
    examples = examples_of(made, np.arange(40), QUICK, Silent())
    still = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0})
    fitted = train_towers(examples, still, 0, Silent(), trunk)
    ours, theirs = fitted.towers.image.network.features, trunk.features
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)


def test_what_cannot_be_trained_is_refused(made: ImageSet) -> None:
    from dataclasses import replace

    unknown = replace(made, label=np.where(np.arange(len(made)) < 3, -1, made.label).astype("i2"))
    with pytest.raises(ValueError, match="3 of 10 pictures have no class"):
        DualEncoder().fit(unknown, np.arange(10), QUICK, 0, Silent())
    with pytest.raises(ValueError, match="at least 2"):
        DualEncoder().fit(made, np.arange(1), QUICK, 0, Silent())
    with pytest.raises(NotFittedError):
        DualEncoder().embed_texts(["ring"])
    with pytest.raises(NotFittedError):
        DualEncoder().embed_images(made.images[:1])
