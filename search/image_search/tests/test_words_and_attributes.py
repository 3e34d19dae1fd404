"""Captions from pixels, and the synthetic columns of a shop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from image_search.attributes import (
    HALF_LIFE_DAYS,
    MEAN_AGE_DAYS,
    MEDIAN_PRICE,
    draw_attributes,
)
from image_search.images.captions import captions, nouns_of
from image_search.images.shapes import PAINTS, shapes
from image_search.images.traits import (
    BRIGHTNESS,
    COLOURS,
    NO_COLOUR,
    OUTLINE,
    PATTERN,
    colour_names,
    traits_of,
)


def on_ground(height: int, width: int, *, value: int = 30, ground: int = 240) -> np.ndarray:
    """A grey rectangle in the middle of 32 x 32."""
    picture = np.full((1, 32, 32, 1), ground, np.uint8)
    top, left = (32 - height) // 2, (32 - width) // 2
    picture[:, top : top + height, left : left + width] = value
    return picture


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 0, 0), "red"), ((250, 128, 10), "orange"), ((100, 60, 30), "brown"),
        ((250, 240, 20), "yellow"), ((10, 200, 30), "green"), ((20, 30, 220), "blue"),
        ((140, 20, 200), "purple"), ((250, 90, 180), "pink"), ((5, 5, 5), "black"),
        ((250, 250, 245), "white"), ((128, 128, 128), "grey"), ((200, 10, 30), "red"),
    ],
)  # fmt: skip
def test_colours_by_hand(rgb: tuple[int, int, int], name: str) -> None:
    assert COLOURS[colour_names(np.array([rgb], np.uint8))[0]] == name


def test_the_paint_of_a_shape_is_named() -> None:
    made, paint = shapes(40, 11)
    found = [COLOURS[k] for k in traits_of(made.images).colour]
    painted = [list(PAINTS)[k] for k in paint]
    assert np.mean([f == p for f, p in zip(found, painted, strict=True)]) > 0.95


def test_outline_brightness_and_pattern_by_hand() -> None:
    cases = [
        (on_ground(20, 8), "dark", "plain", "narrow"),
        (on_ground(8, 20, value=128), "medium", "plain", "wide"),
        (on_ground(16, 16, value=200, ground=0), "light", "plain", "even"),
    ]
    for picture, brightness, pattern, outline in cases:
        traits = traits_of(picture)
        assert BRIGHTNESS[traits.brightness[0]] == brightness
        assert PATTERN[traits.pattern[0]] == pattern
        assert OUTLINE[traits.outline[0]] == outline
        assert traits.colour[0] == NO_COLOUR
    striped = on_ground(20, 20)
    striped[:, 6:26:2, 6:26] = 100
    assert PATTERN[traits_of(striped).pattern[0]] == "patterned"


def test_a_picture_of_one_grey_has_traits_too() -> None:
    traits = traits_of(np.full((1, 28, 28, 1), 90, np.uint8))
    assert traits.words(0) == ["plain"]


def test_sentences_name_the_class_and_what_is_seen() -> None:
    made, paint = shapes(20, 5)
    traits = traits_of(made.images)
    found = captions(made.label, made.label_names, traits, made.item_id, seed=0)
    for k, sentence in zip(made.label, found, strict=True):
        assert sum(noun in sentence for noun in nouns_of(made.label_names[k])) == 1
        assert "a o" not in sentence  # an orange
    with_paint = [
        list(PAINTS)[p] in sentence.split() for p, sentence in zip(paint, found, strict=True)
    ]
    assert 0.3 < np.mean(with_paint) < 0.9  # each trait stays or goes
    assert captions(made.label, made.label_names, traits, made.item_id, seed=0) == found
    assert captions(made.label, made.label_names, traits, made.item_id, seed=1) != found


def test_an_item_keeps_its_sentence_whoever_is_beside_it() -> None:
    made, _ = shapes(8, 2)
    traits = traits_of(made.images)
    every = captions(made.label, made.label_names, traits, made.item_id, seed=4)
    last = slice(-5, None)
    alone = captions(
        made.label[last], made.label_names, traits_of(made.images[last]), made.item_id[last], 4
    )
    assert alone == every[last]


def test_wider_words_stand_for_some_classes() -> None:
    n = 200
    traits = traits_of(np.repeat(on_ground(20, 8), n, axis=0))
    sneakers = captions(np.zeros(n, np.int16), ("sneaker",), traits, np.arange(n), seed=0)
    share = np.mean(["footwear" in sentence for sentence in sneakers])
    assert 0.1 < share < 0.4
    own = ("sneaker", "trainer", "running shoe")
    assert all(("footwear" in s) != any(noun in s for noun in own) for s in sneakers)
    assert all(any(noun in s for s in sneakers) for noun in own)
    assert not any(" a " in f" {s}".replace("a photo", "") for s in sneakers if "footwear" in s)
    boots = captions(np.zeros(9, np.int16), ("ankle-boot",), traits, np.arange(9), seed=0)
    assert any("ankle boot" in sentence for sentence in boots)
    with pytest.raises(ValueError, match="without class"):
        captions(np.array([-1]), (), traits, np.arange(1), seed=0)


# --- attributes ---

IDS = np.arange(20_000)
LABEL = (IDS % 4).astype(np.int16)


def test_attributes_belong_to_the_item_and_the_seed() -> None:
    whole = draw_attributes(IDS, LABEL, seed=1)
    few = draw_attributes(IDS[[70, 3]], LABEL[[70, 3]], seed=1)
    for name in ("price", "quality", "popularity", "age_days"):
        np.testing.assert_array_equal(getattr(few, name), getattr(whole, name)[[70, 3]])
        other = getattr(draw_attributes(IDS, LABEL, seed=2), name)
        assert (other != getattr(whole, name)).mean() > 0.99
    assert whole.synthetic
    assert len(whole) == len(IDS)


def test_attributes_follow_the_laws_that_are_named() -> None:
    drawn = draw_attributes(IDS, LABEL, seed=1)
    assert stats.kstest(drawn.quality, stats.beta(4, 2).cdf).pvalue > 0.001
    assert stats.kstest(drawn.age_days, stats.expon(scale=MEAN_AGE_DAYS).cdf).pvalue > 0.001
    for k in range(4):
        of_class = np.log(drawn.price[k == LABEL])
        assert of_class.std() == pytest.approx(0.45, rel=0.05)
        low, high = np.log(MEDIAN_PRICE)
        assert low - 0.05 < np.median(of_class) < high + 0.05
    medians = [np.median(drawn.price[k == LABEL]) for k in range(4)]
    assert max(medians) > 1.1 * min(medians)
    assert drawn.popularity.min() >= 1
    related = stats.spearmanr(drawn.quality, drawn.popularity).statistic
    assert 0.1 < related < 0.9  # related, not the same


def test_columns_are_independent_of_each_other() -> None:
    drawn = draw_attributes(IDS, np.zeros(len(IDS), np.int16), seed=1)
    for one, two in (("price", "quality"), ("price", "age_days"), ("quality", "age_days")):
        related = stats.spearmanr(getattr(drawn, one), getattr(drawn, two)).statistic
        assert abs(related) < 4 / np.sqrt(len(IDS))


def test_freshness_halves() -> None:
    drawn = draw_attributes(IDS, LABEL, seed=1)
    np.testing.assert_allclose(drawn.freshness, 0.5 ** (drawn.age_days / HALF_LIFE_DAYS), rtol=1e-5)
    with pytest.raises(ValueError, match="expected one each"):
        draw_attributes(IDS, LABEL[:3], seed=1)
