"""The page, detectors of near-duplicates and their thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_search.config import RerankingConfig
from image_search.embeddings.base import unit_rows
from image_search.images.image_set import ImageSet
from image_search.reranking.leakage import groups, leakage
from image_search.reranking.near_duplicates import (
    Looks,
    Rule,
    close_pairs,
    find,
    looks_of,
    paired_rule,
    served_rule,
    single_rule,
    thumbnails,
)
from image_search.reranking.page import Page, first_of_each
from image_search.reranking.perceptual_hash import distances
from image_search.reranking.robustness import choose_rules, judge
from image_search.reranking.trade_off import (
    Retrieved,
    judged_pages,
    keeping_duplicates,
    pages_at,
)
from image_search.searcher import Ask
from ml_algorithms.diversity.mmr import mmr


def u64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def drawn_vectors(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, dim)))


def falling(n: int) -> np.ndarray:
    return np.linspace(1, 0, n, dtype=np.float32)


ASK = Ask(np.zeros(8, dtype=np.float32), k=3)


# --- which of near-duplicates stays ---


def test_the_best_scored_of_a_chain_decides() -> None:
    # 0-1 and 1-2 are alike, 0-2 are not: 1 goes, and what resembles only 1 stays.
    alike = np.zeros((4, 4), dtype=bool)
    alike[0, 1] = alike[1, 0] = alike[1, 2] = alike[2, 1] = True
    assert first_of_each(alike).tolist() == [0, 2, 3]


def test_first_of_each_against_a_naive_loop() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        alike = rng.random((12, 12)) < 0.2
        alike |= alike.T
        kept: list[int] = []
        for place in range(12):
            if not any(alike[place, other] for other in kept):
                kept.append(place)
        assert first_of_each(alike).tolist() == kept


# --- the page ---


def test_no_candidates_no_page() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    kept, out = Page()(ASK, nothing, nothing.astype(np.float32), np.zeros((0, 8), np.float32))
    assert (len(kept), out) == (0, 0)


def test_without_thresholds_the_first_k_stay() -> None:
    kept, out = Page()(ASK, np.arange(9), falling(9), drawn_vectors(9))
    assert (kept.tolist(), out) == ([0, 1, 2], 0)


def test_hashes_leave_out_the_worse_scored() -> None:
    page = Page(hashes=u64(0b0000, 0b0001, 0b1111, 0b0111), hash_bits=1)
    # Rows 2, 0, 3, 1 by score: 3 is one bit from 2, 1 one bit from 0.
    kept, out = page(ASK, np.array([2, 0, 3, 1]), falling(4), drawn_vectors(4))
    assert (kept.tolist(), out) == ([0, 1], 2)


def test_cosine_leaves_out_without_any_hash() -> None:
    vectors = drawn_vectors(3)
    vectors[2] = vectors[0]
    kept, out = Page(cosine=0.999)(ASK, np.array([7, 8, 9]), falling(3), vectors)
    assert (kept.tolist(), out) == ([0, 1], 1)


def test_equal_hashes_need_like_thumbnails() -> None:
    small = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float16)
    page = Page(hashes=u64(5, 5, 5), thumbnails=small, hash_bits=0, thumbnail=0.9)
    kept, out = page(ASK, np.arange(3), falling(3), drawn_vectors(3))
    assert (kept.tolist(), out) == ([0, 1], 1)


def test_a_row_without_hash_is_no_near_duplicate() -> None:
    page = Page(hashes=u64(5, 5), hash_bits=64)
    kept, out = page(ASK, np.array([1, 900, 0]), falling(3), drawn_vectors(3))
    assert (kept.tolist(), out) == ([0, 1], 1)


def test_diversity_is_mmr_on_the_page() -> None:
    vectors, score = drawn_vectors(6, seed=4), falling(6)
    ask = Ask(vectors[0], k=4, diversity=0.6)
    kept, _ = Page()(ask, np.arange(6), score, vectors)
    between = (vectors @ vectors.T).astype(np.float64)
    apart = between[~np.eye(6, dtype=bool)]
    scaled = (between - apart.min()) / (apart.max() - apart.min())
    np.testing.assert_array_equal(kept, mmr(score, scaled, k=4, trade_off=1 - 0.6))
    assert kept.tolist() != [0, 1, 2, 3]


def test_diversity_does_not_depend_on_scale() -> None:
    vectors, score = drawn_vectors(10, seed=5), falling(10) ** 2
    ask = Ask(vectors[0], k=5, diversity=0.5)
    kept, _ = Page()(ask, np.arange(10), score, vectors)
    again, _ = Page()(ask, np.arange(10), 1000 * score - 7, vectors)
    np.testing.assert_array_equal(kept, again)


def test_the_configured_diversity_is_for_asks_that_name_none() -> None:
    vectors, score = drawn_vectors(8, seed=6), falling(8)
    named, _ = Page()(Ask(vectors[0], k=4, diversity=0.7), np.arange(8), score, vectors)
    configured, _ = Page(diversity=0.7)(Ask(vectors[0], k=4), np.arange(8), score, vectors)
    plain, _ = Page(diversity=0.7)(Ask(vectors[0], k=4, diversity=0), np.arange(8), score, vectors)
    np.testing.assert_array_equal(named, configured)
    assert plain.tolist() == [0, 1, 2, 3]


def test_equal_vectors_keep_the_order() -> None:
    vectors = np.tile(drawn_vectors(1), (4, 1))
    kept, _ = Page(diversity=0.5)(ASK, np.arange(4), falling(4), vectors)
    assert kept.tolist() == [0, 1, 2]


def test_bad_pages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"diversity must lie in \[0, 1\], got 1.5"):
        Page(diversity=1.5)
    with pytest.raises(ValueError, match="got 2"):
        Page()(Ask(np.zeros(8), diversity=2), np.arange(2), falling(2), drawn_vectors(2))
    with pytest.raises(ValueError, match="2 rows, 3 scores"):
        Page()(ASK, np.arange(2), falling(3), drawn_vectors(2))
    with pytest.raises(ValueError, match="u64"):
        Page(hashes=np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="1 thumbnails and 2 hashes"):
        Page(hashes=u64(1, 2), thumbnails=np.zeros((1, 3), dtype=np.float16))


def test_a_page_of_pictures_finds_an_added_copy(tiny: ImageSet, tmp_path: Path) -> None:
    config = RerankingConfig(hash_bits=10, thumbnail=0.99)
    pictures = np.asarray(tiny.images[:20])
    page = Page.of(config, pictures)
    page.append(pictures[3:4])
    assert len(page.hashes) == len(page.thumbnails) == 21
    kept, out = page(Ask(np.zeros(8), k=5), np.array([3, 20]), falling(2), drawn_vectors(2))
    assert (kept.tolist(), out) == ([0], 1)
    page.save(tmp_path)
    again = Page.load(tmp_path, config)
    np.testing.assert_array_equal(again.hashes, page.hashes)
    np.testing.assert_array_equal(again.thumbnails, page.thumbnails)
    assert (again.hash_bits, again.thumbnail) == (10, 0.99)


# --- detectors and thresholds ---


def test_thumbnails_tell_colours_apart_and_not_brightness(tiny: ImageSet) -> None:
    picture = np.zeros((20, 20, 3), dtype=np.uint8) + np.uint8(200)
    picture[5:15, 5:15] = (200, 30, 40)
    recoloured = picture.copy()
    recoloured[5:15, 5:15] = (40, 80, 200)
    darker = (picture * 0.8).astype(np.uint8)
    small = thumbnails([picture, darker, recoloured])
    likeness = small @ small.T
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-5)
    assert likeness[0, 1] > 0.98
    assert likeness[0, 2] < 0.7


def test_a_grey_thumbnail_is_a_correlation() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
    small = thumbnails(drawn)
    expected = np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]
    assert float(small[0] @ small[1]) == pytest.approx(expected, abs=1e-5)


def test_single_rule_by_hand() -> None:
    others = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], dtype=np.float32)
    rule = single_rule("thumbnail", others, 0.2)  # two of ten may reach it
    assert rule.holds({"thumbnail": others}).sum() == 2
    assert single_rule("thumbnail", others, 0.05).holds({"thumbnail": others}).sum() == 0


def test_single_rule_of_a_hash_keeps_whole_bits() -> None:
    others = -np.array([2, 4, 4, 6, 6, 6, 8, 8, 8, 10], dtype=np.float32)
    assert single_rule("phash", others, 0.1).least == {"phash": -3.0}  # 4 bits would be three
    assert single_rule("phash", others, 0.3).least == {"phash": -5.0}
    nothing = single_rule("phash", np.zeros(10, dtype=np.float32), 0.1)
    assert not nothing.holds({"phash": np.zeros(3)}).any()


def test_a_pair_of_detectors_beats_each() -> None:
    same = {"phash": -np.array([2.0, 4, 4, 6]), "thumbnail": np.array([0.9, 0.9, 0.8, 0.9])}
    others = {"phash": -np.array([2.0, 20, 4, 20]), "thumbnail": np.array([0.1, 0.95, 0.2, 0.95])}
    rule = paired_rule("phash", "thumbnail", same, others, 0.1)
    assert rule.name == "phash+thumbnail"
    assert rule.holds(same).all()
    assert not rule.holds(others).any()
    for detector in same:
        single = single_rule(detector, others[detector], 0.1)
        assert single.holds(same).sum() < 4


def test_bad_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(0, 1\)"):
        single_rule("phash", np.zeros(3), 0.0)
    with pytest.raises(ValueError, match="0 pairs"):
        single_rule("phash", np.zeros(0), 0.1)


@pytest.mark.parametrize("within", [True, False])
def test_close_pairs_against_all_pairs(within: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_search.reranking.near_duplicates.BLOCK_PAIRS", 50)
    rng = np.random.default_rng(1)
    one = rng.integers(0, 2**6, 40).astype(np.uint64)
    other = None if within else rng.integers(0, 2**6, 23).astype(np.uint64)
    found = {
        (int(a), int(b))
        for mine, theirs in close_pairs(one, other, 1)
        for a, b in zip(mine, theirs, strict=True)
    }
    whole = one if other is None else other
    naive = {
        (a, b)
        for a in range(len(one))
        for b in range(len(whole))
        if distances(one[a], whole[b]) <= 1 and (not within or a < b)
    }
    assert found == naive
    assert naive


def looks(pictures: np.ndarray) -> Looks:
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    return looks_of(pictures, unit_rows(flat - flat.mean(axis=1, keepdims=True)))


def test_find_sees_planted_copies(tiny: ImageSet) -> None:
    pictures = np.asarray(tiny.images[:50])
    rule = Rule({"phash": -2.0, "thumbnail": 0.999})
    plain = {tuple(pair) for pair in find(looks(pictures), None, rule).tolist()}
    doubled = np.concatenate([pictures, pictures[[4, 17]]])
    found = {tuple(pair) for pair in find(looks(doubled), None, rule).tolist()}
    assert {(4, 50), (17, 51)} <= found
    assert plain <= found
    between = find(looks(pictures[[4, 17]]), looks(pictures), rule)
    assert {(0, 4), (1, 17)} <= {tuple(pair) for pair in between.tolist()}


def test_find_needs_a_hash(tiny: ImageSet) -> None:
    some = looks(np.asarray(tiny.images[:5]))
    with pytest.raises(ValueError, match="has no hash"):
        find(some, None, Rule({"thumbnail": 0.9}))
    with pytest.raises(ValueError, match="unknown detector 'md5'"):
        some.likeness("md5", np.arange(2), some, np.arange(2))
    assert find(some, None, Rule({"phash": np.inf})).shape == (0, 2)


def test_the_served_rule_is_the_page(tiny: ImageSet) -> None:
    config = RerankingConfig(hash_bits=6, thumbnail=0.98)
    pictures = np.asarray(tiny.images[:60])
    pairs = find(looks(pictures), None, served_rule(config))
    page = Page.of(config, pictures)
    alike = page._pairs(np.arange(60), np.zeros((60, 60)))
    expected = np.argwhere(np.triu(alike, 1))
    np.testing.assert_array_equal(np.sort(pairs, axis=0), np.sort(expected, axis=0))


def test_groups_join_chains() -> None:
    found = groups(np.array([[0, 1], [1, 2], [4, 5]]), 6)
    assert found[0] == found[1] == found[2]
    assert found[4] == found[5] != found[3]
    assert len(set(found.tolist())) == 3


def test_leaking_queries_by_hand(tiny: ImageSet) -> None:
    gallery = np.asarray(tiny.images[:40])
    queries = np.concatenate([gallery[[7]], np.asarray(tiny.images[-3:])])
    label = np.concatenate([tiny.label[[7]], 1 - tiny.label[-3:].clip(0, 1)])
    found = leakage(
        looks(gallery),
        tiny.label[:40],
        looks(queries),
        label,
        Rule({"phash": 0.0, "thumbnail": 1 - 1e-6}),
    )
    assert found.leaks.tolist() == [True, False, False, False]
    assert found.recall(found.leaks, resamples=100, seed=0).value == 1
    assert found.recall(None, resamples=100, seed=0).n == 4
    with pytest.raises(ValueError):
        found.recall(np.zeros(4, dtype=bool), resamples=100, seed=0)


def test_judged_copies_and_neighbours(tiny: ImageSet) -> None:
    gallery = np.asarray(tiny.images[:100])

    def embed(pictures: object) -> np.ndarray:
        return thumbnails(pictures)  # type: ignore[arg-type]

    held = looks_of(gallery, thumbnails(gallery))
    own = np.array([3, 8, 20, -1])
    asked = np.concatenate([gallery[[3, 8, 20]], np.asarray(tiny.images[-1:])])
    judged = judge(asked, held, embed, own=own)
    assert len(judged.others["phash"]) == 40
    assert np.bincount(judged.other_of).tolist() == [10] * 4
    assert judged.others["thumbnail"].max() < 1 - 1e-6  # its own place is not among the others
    assert judged.auc("thumbnail") > 0.8
    false, found = judged.curve("phash")
    assert (np.diff(false) >= 0).all()
    assert (np.diff(found) >= 0).all()
    assert false[-1] == found[-1] == 1
    for rule in choose_rules(judged, 0.05):
        assert judged.false_alarms(rule, resamples=100, seed=0).value <= 0.05
    easy = judged.found(Rule({"thumbnail": 0.9}), "jpeg_90", resamples=100, seed=0)
    assert easy.value == 1
    overall = judged.found_of_all(Rule({"thumbnail": -1.0}), resamples=100, seed=0)
    assert (overall.value, overall.n) == (1, 4 * 12)


# --- trade-off ---


def test_diversity_spreads_the_page_and_costs_precision() -> None:
    rng = np.random.default_rng(2)
    centre = unit_rows(rng.normal(size=(3, 16)))
    label = np.repeat(np.arange(3), 40)
    gallery = unit_rows(centre[label] + 0.15 * rng.normal(size=(120, 16)))
    queries = unit_rows(centre + 0.05 * rng.normal(size=(3, 16)))
    similarity = queries @ gallery.T
    rows = np.argsort(-similarity, axis=1)[:, :80]
    found = Retrieved(queries, np.arange(3), rows, np.take_along_axis(similarity, rows, axis=1))
    page = Page(hashes=np.arange(120).astype(np.uint64), hash_bits=0)
    by_weight = {}
    for weight in (0.0, 0.8):
        shown, left_out, took_ms = pages_at(page, found, gallery, weight, 10)
        assert took_ms.min() > 0
        by_weight[weight] = judged_pages(shown, left_out, found, gallery, label, gallery)
    assert by_weight[0.0]["precision"].min() == 1
    assert by_weight[0.0]["ndcg"].min() == pytest.approx(1)
    assert by_weight[0.8]["distance"].mean() > by_weight[0.0]["distance"].mean()
    assert by_weight[0.8]["precision"].mean() < 1
    assert not by_weight[0.0]["left_out"].any()


def test_pages_with_and_without_duplicates() -> None:
    gallery = drawn_vectors(6)
    found = Retrieved(gallery[:1], np.zeros(1), np.arange(6)[None], falling(6)[None])
    page = Page(hashes=u64(1, 1, 2, 2, 3, 3), hash_bits=0)
    shown, left_out, _ = pages_at(page, found, gallery, 0.0, 4)
    assert (shown.tolist(), left_out.tolist()) == ([[0, 2, 4, -1]], [3])
    shown, left_out, _ = pages_at(keeping_duplicates(page), found, gallery, 0.0, 4)
    assert (shown.tolist(), left_out.tolist()) == ([[0, 1, 2, 3]], [0])
