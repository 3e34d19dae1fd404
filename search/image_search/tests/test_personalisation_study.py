"""The study of personalisation on a small simulated world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from image_search.catalogue import gallery_catalogue
from image_search.clicks.simulate import Clicks, simulate_clicks
from image_search.config import ClicksConfig, PersonalisationConfig
from image_search.embeddings.base import unit_rows
from image_search.images.image_set import ImageSet, owner_rows
from image_search.personalisation.loop import loop
from image_search.personalisation.plots import known_figure
from image_search.personalisation.study import (
    Searches,
    Setting,
    World,
    _once_each,
    measure,
    pages,
)
from image_search.personalisation.styles import Directions
from image_search.retrieval.index import build_index
from ml_platform.evaluation.intervals import Estimate


@pytest.fixture(scope="module")
def clicks(tiny: ImageSet) -> Clicks:
    config = ClicksConfig(
        users=12, pages=200, page=20, pool=40, days=9, validation_days=2, test_days=2,
        queries=20, test_queries=20,
    )  # fmt: skip
    return simulate_clicks(tiny, catalogue_of(tiny), config, 0)


def catalogue_of(images: ImageSet):  # type: ignore[no-untyped-def]
    return gallery_catalogue(images, owner_rows(images).gallery, 0)


def vectors_of(images: ImageSet) -> np.ndarray:
    flat = np.asarray(images.images).reshape(len(images), -1).astype(np.float32)
    return unit_rows(flat - flat.mean(axis=0))


@pytest.fixture(scope="module")
def world(tiny: ImageSet, clicks: Clicks) -> World:
    rows = owner_rows(tiny).gallery
    gallery, label = vectors_of(tiny)[rows], tiny.label[rows]
    own = np.full(len(tiny), -1)
    own[rows] = np.arange(len(rows))
    directions = Directions.of(gallery, label, 5)(np.arange(len(rows)), gallery)
    index = build_index("flat", gallery, np.arange(len(rows)))
    return World(clicks.truth, index, gallery, directions, own, candidates=60)


def searches_of(images: ImageSet, clicks: Clicks, n: int = 40) -> Searches:
    query = clicks.log.query_row[-n:]
    return Searches(clicks.log.user_idx[-n:], query, vectors_of(images)[query])


def test_the_oracle_is_the_best_of_the_candidates(
    tiny: ImageSet, clicks: Clicks, world: World
) -> None:
    searches = searches_of(tiny, clicks)
    nobody = np.zeros_like(searches.vectors)
    best = measure(world, searches, nobody, Setting("oracle"))
    np.testing.assert_allclose(best["ndcg@10"], 1)
    for base in ("similarity", "impersonal"):
        plain = measure(world, searches, nobody, Setting("none", base))  # type: ignore[arg-type]
        assert (plain["clicks"] <= best["clicks"] + 1e-9).all()
        assert (plain["ndcg@10"] < 1).all()


@pytest.mark.parametrize("option", ["blend", "feature", "shift"])
def test_no_style_no_change(tiny: ImageSet, clicks: Clicks, world: World, option: str) -> None:
    searches = searches_of(tiny, clicks)
    nobody = np.zeros_like(searches.vectors)
    plain, _ = pages(world, searches, nobody, Setting("none"))
    same, _ = pages(world, searches, nobody, Setting(option, weight=3.0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(plain, same)


@pytest.mark.parametrize("option", ["blend", "feature", "shift"])
def test_a_style_brings_its_like(tiny: ImageSet, clicks: Clicks, world: World, option: str) -> None:
    searches = searches_of(tiny, clicks)
    styles = unit_rows(np.random.default_rng(0).normal(size=searches.vectors.shape))
    plain, _ = pages(world, searches, styles, Setting("none"))
    drawn, _ = pages(world, searches, styles, Setting(option, weight=2.0))  # type: ignore[arg-type]
    liking = [
        np.einsum("nkd,nd->nk", world.directions[shown], styles).mean() for shown in (plain, drawn)
    ]
    assert liking[1] > liking[0]


def test_an_item_is_not_shown_to_its_own_picture(tiny: ImageSet, world: World) -> None:
    rows = owner_rows(tiny).gallery[:10]
    searches = Searches(np.zeros(10, dtype=np.int64), rows, vectors_of(tiny)[rows])
    shown, _ = pages(world, searches, np.zeros_like(searches.vectors), Setting("none"))
    assert not (shown == world.own[rows][:, None]).any()


def test_every_item_counts_once_in_the_ideal() -> None:
    rng = np.random.default_rng(0)
    plain = np.stack([rng.permutation(12)[:6] for _ in range(20)])
    seen = np.stack([rng.permutation(12)[:6] for _ in range(20)])
    gain = rng.random((20, 12))
    both = np.concatenate([plain, seen], axis=1)
    found = _once_each(plain, seen, np.take_along_axis(gain, both, axis=1))
    for n in range(20):
        expected = sorted(gain[n, item] for item in set(both[n].tolist()))
        assert sorted(found[n][found[n] > 0].tolist()) == pytest.approx(expected)


def test_chunks_change_nothing(
    tiny: ImageSet, clicks: Clicks, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = searches_of(tiny, clicks)
    styles = unit_rows(np.random.default_rng(0).normal(size=searches.vectors.shape))
    whole = measure(world, searches, styles, Setting("blend", weight=1.0))
    monkeypatch.setattr("image_search.personalisation.study.CHUNK", 7)
    parts = measure(world, searches, styles, Setting("blend", weight=1.0))
    for name, values in whole.items():
        np.testing.assert_allclose(values, parts[name], err_msg=name)


def test_the_taste_of_a_page_by_hand(tiny: ImageSet, clicks: Clicks, world: World) -> None:
    searches = searches_of(tiny, clicks, 3)
    nobody = np.zeros_like(searches.vectors)
    shown, _ = pages(world, searches, nobody, Setting("none"))
    found = measure(world, searches, nobody, Setting("none"))["taste"]
    truth = clicks.truth
    for n, user in enumerate(searches.user):
        likings = truth.item_style[shown[n]] @ truth.audience.taste[user]
        assert found[n] == pytest.approx(float(likings.mean()), abs=1e-6)


def test_the_true_style_helps(tiny: ImageSet, clicks: Clicks, world: World) -> None:
    """With directions that are the truth's own styles, taste as style must bring clicks."""
    told = replace(world, directions=world.truth.item_style)
    searches = searches_of(tiny, clicks, 100)
    taste = clicks.truth.audience.taste
    plain = measure(told, searches, taste[searches.user], Setting("none", "impersonal"))
    best = measure(told, searches, taste[searches.user], Setting("blend", "impersonal", 1.0))
    other = (searches.user + 1) % len(taste)
    wrong = measure(told, searches, taste[other], Setting("blend", "impersonal", 1.0))
    assert best["clicks"].mean() > plain["clicks"].mean()
    assert wrong["clicks"].mean() < best["clicks"].mean()


def test_feedback_learns_and_nothing_does_not(tiny: ImageSet, clicks: Clicks, world: World) -> None:
    users = np.arange(10)
    rng = np.random.default_rng(0)
    asked = rng.choice(np.unique(clicks.log.query_row), (6, 10))
    vectors = vectors_of(tiny)[asked]
    config = PersonalisationConfig()
    none, zero, blend = (
        loop(world, users, asked, vectors, setting, config, 0)
        for setting in (Setting("none"), Setting("blend", weight=0.0), Setting("blend", weight=5.0))
    )
    np.testing.assert_array_equal(none.clicks, zero.clicks)
    np.testing.assert_array_equal(none.clicks[0], blend.clicks[0])  # nothing is known yet
    assert (none.clicks[1:] != blend.clicks[1:]).any()
    assert none.clicks.shape == none.distance.shape == (6, 10)
    assert ((none.commonest > 0) & (none.commonest <= 1)).all()


def test_numbers_of_clicks_are_drawn_in_their_order():
    """Results that are read back come in the order of their keys: 10 before 3."""
    known = {
        f"impersonal.blend_{n}": {"clicks": Estimate(value, value, value, 5)}
        for n, value in (("0", 0.0), ("10", 0.3), ("3", 0.1), ("30", 0.9))
    }
    axes = known_figure(known).axes[1]
    assert axes.lines[0].get_ydata().tolist() == [0.0, 0.1, 0.3, 0.9]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "3", "10", "30"]
