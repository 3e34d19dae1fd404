"""One search: candidates, own picture, filters, order, additions; and the bundle it comes from."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_search.bundle import Parts, load_searcher, make_searcher
from image_search.config import Config
from image_search.images.image_set import ImageSet
from image_search.pipeline import save_trained, train_system
from image_search.searcher import Ask, Filters, Searcher, TextUnavailableError
from image_search.thumbnails import Thumbnails, encode_thumbnail, media_type
from ml_platform.evaluation.progress import Silent
from ml_platform.operations.bundle_manifest import BundleError


@pytest.fixture
def config() -> Config:
    return Config.model_validate({"embeddings": {"served": "pixels_cosine", "pixels_side": 32}})


@pytest.fixture
def parts(tiny: ImageSet, config: Config) -> Parts:
    return train_system(tiny, config, Silent())


@pytest.fixture
def searcher(parts: Parts, config: Config) -> Searcher:
    return make_searcher(parts, config, version="v")


def ask_of(searcher: Searcher, row: int, **rest: Any) -> Ask:
    return Ask(vector=searcher.spaces["image"].vectors[row], **rest)


def test_an_items_own_picture_comes_first_unless_it_asks(searcher: Searcher) -> None:
    plain, own = searcher.search([ask_of(searcher, 4, k=5), ask_of(searcher, 4, k=5, own_row=4)])
    assert plain.rows[0] == 4
    assert plain.similarity[0] == pytest.approx(1, abs=1e-5)
    assert 4 not in own.rows
    assert own.rows[:4].tolist() == plain.rows[1:].tolist()
    assert len(own.rows) == 5


def test_the_order_is_that_of_every_similarity(searcher: Searcher) -> None:
    vectors = searcher.spaces["image"].vectors
    answer = searcher.search([ask_of(searcher, 0, k=20)])[0]
    brute = np.sort(vectors @ vectors[0])[::-1][:20]
    assert answer.similarity == pytest.approx(brute, abs=1e-5)


def test_a_filtered_ask_gets_what_is_allowed_and_full_pages(searcher: Searcher) -> None:
    filters = Filters(labels=frozenset({2}))
    mixed = searcher.search([ask_of(searcher, 0, k=30, filters=filters), ask_of(searcher, 0, k=30)])
    assert set(searcher.catalogue.label[mixed[0].rows]) == {2}
    assert len(mixed[0].rows) == int((searcher.catalogue.label == 2).sum())
    assert len(mixed[1].rows) == 30


def test_nothing_allowed_is_an_empty_answer(searcher: Searcher) -> None:
    nothing = searcher.search([ask_of(searcher, 0, filters=Filters(min_price=1e8))])[0]
    assert len(nothing.rows) == 0
    assert nothing.duplicates == 0


class ByPrice:
    """A ranker whose only feature is the price."""

    name = "by_price"

    def score(self, features: np.ndarray, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        assert features.shape[:2] == items.shape[:2]
        assert queries.shape == items[:, 0].shape
        return features[..., 0]

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> ByPrice:
        return cls()


def test_the_ranker_orders_and_padding_never_shows(searcher: Searcher) -> None:
    prices = searcher.catalogue.attributes.price

    def features(asks: Sequence[Ask], rows: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        return np.where(rows >= 0, prices[rows], 1e9)[..., None]  # padding would come first

    searcher.ranker, searcher.features = ByPrice(), features
    answer = searcher.search([ask_of(searcher, 0, k=7, own_row=0)])[0]
    allowed = np.delete(np.arange(len(prices)), 0)
    assert answer.score.tolist() == np.sort(prices[allowed])[::-1][:7].tolist()
    assert (answer.rows >= 0).all()


def test_re_ranking_gets_candidates_by_score_and_decides_the_page(searcher: Searcher) -> None:
    def rerank(
        ask: Ask, rows: np.ndarray, score: np.ndarray, vectors: np.ndarray
    ) -> tuple[np.ndarray, int]:
        assert (np.diff(score) <= 0).all()
        assert vectors.shape == (len(rows), len(ask.vector))
        return np.array([2, 0]), 3

    plain = searcher.search([ask_of(searcher, 0, k=3)])[0]
    searcher.rerank = rerank
    answer = searcher.search([ask_of(searcher, 0, k=3)])[0]
    assert answer.rows.tolist() == plain.rows[[2, 0]].tolist()
    assert answer.duplicates == 3


def test_personal_scores_are_asked_for_known_users_only(searcher: Searcher) -> None:
    seen: list[list[int | None]] = []

    def personalise(
        asks: Sequence[Ask], rows: np.ndarray, score: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        seen.append([ask.user_id for ask in asks])
        return -score

    plain = searcher.search([ask_of(searcher, 0, k=100)])[0]
    searcher.personalise = personalise
    searcher.search([ask_of(searcher, 0)])
    assert seen == []
    turned = searcher.search([ask_of(searcher, 0, k=100, user_id=3)])[0]
    assert seen == [[3]]
    assert turned.similarity.tolist() == sorted(plain.similarity.tolist())


def test_an_added_item_is_found_and_a_deleted_one_is_not(
    searcher: Searcher, tiny: ImageSet
) -> None:
    told: list[int] = []
    searcher.on_add.append(lambda row, picture, vector: told.append(row))
    picture = np.full((32, 32, 3), 200, dtype=np.uint8)
    picture[:16] = 30
    row = searcher.add(777, picture, 1, 9.5)
    vector = searcher.embed_images([picture])[0]
    assert told == [row] == [100]
    assert searcher.search([Ask(vector, k=1)])[0].rows.tolist() == [row]
    assert Image.open(io.BytesIO(searcher.thumbnail(row))).size == (32, 32)
    searcher.delete(777)
    assert row not in searcher.search([Ask(vector, k=100)])[0].rows
    filtered = Ask(vector, k=100, filters=Filters(min_price=0))
    assert row not in searcher.search([filtered])[0].rows


def test_a_text_is_refused_by_name_without_a_text_tower(searcher: Searcher) -> None:
    searcher.text = None
    del searcher.spaces["text"]
    with pytest.raises(TextUnavailableError, match="search by picture"):
        searcher.embed_texts(["a coat"])
    with pytest.raises(TextUnavailableError, match="no space text"):
        searcher.search(
            [ask_of(searcher, 0), dataclasses.replace(ask_of(searcher, 0), space="text")]
        )


def test_a_bundle_answers_as_what_was_saved(
    parts: Parts, config: Config, tiny: ImageSet, tmp_path: Path
) -> None:
    version = save_trained(parts, tmp_path / "bundle", tiny, config)
    loaded, before = load_searcher(tmp_path / "bundle"), make_searcher(parts, config, version="v")
    assert loaded.version == version
    asks = [ask_of(before, row, k=9) for row in (0, 50)]
    for one, other in zip(loaded.search(asks), before.search(asks), strict=True):
        assert one.rows.tolist() == other.rows.tolist()
    assert loaded.thumbnail(7) == before.thumbnail(7)
    assert loaded.catalogue.label_names == tiny.label_names


def test_a_damaged_bundle_is_refused(
    parts: Parts, config: Config, tiny: ImageSet, tmp_path: Path
) -> None:
    save_trained(parts, tmp_path / "bundle", tiny, config)
    np.save(tmp_path / "bundle" / "vectors_image.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(BundleError, match=r"vectors_image\.npy is not what was saved"):
        load_searcher(tmp_path / "bundle")


def test_thumbnails_keep_small_pictures_and_shrink_photographs() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (28, 28, 1), dtype=np.uint8)
    large = rng.integers(0, 255, (300, 600, 3), dtype=np.uint8)
    kept = Thumbnails.of([small, large], Silent())
    assert media_type(kept[0]) == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept[0]))), small[..., 0])
    assert media_type(kept[1]) == "image/jpeg"
    assert Image.open(io.BytesIO(kept[1])).size == (256, 128)
    assert kept[0] == encode_thumbnail(small)
    with pytest.raises(IndexError, match="no thumbnail 2"):
        kept[2]
    with pytest.raises(ValueError, match="end at"):
        Thumbnails(np.zeros(3, np.uint8), np.array([0, 2]))
