"""Prompts, metrics and rivals of text search, by hand; the whole command at small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score

from image_search.config import Config, load_config
from image_search.images.captions import NOTHING, WORDINGS, Captions, Claims
from image_search.images.shapes import SHAPES, shapes
from image_search.images.traits import traits_of
from image_search.text import study
from image_search.text.command import meanings
from image_search.text.evaluation import (
    LinearText,
    Searched,
    best_is_true,
    class_sentences,
    filter_scores,
    full_sentences,
    neighbour_class,
    random_scores,
    ranking_scores,
    similarities,
)
from image_search.text.prompts import (
    COMMON,
    JUDGED_PLAIN,
    JUDGED_WORDINGS,
    RARE,
    Prompts,
    composition_prompts,
    has_held_out,
    held_out_pairs,
    judged_prompts,
    slip,
)
from image_search.text.tokens import Lexicon

NAMES = ("bag", "coat")
LABEL = np.array([0, 0, 1, 1, 1, 0], dtype=np.int16)
# no colour; dark, dark, light, medium, dark, light; all plain; even
TABLE = np.array([[-1, b, 0, 1] for b in (0, 0, 2, 1, 0, 2)], dtype=np.int8)


def claim(classes: list[bool], brightness: int = NOTHING) -> Claims:
    return Claims(np.array([classes]), np.array([[NOTHING, brightness, NOTHING, NOTHING]], "i1"))


def searched(dim: int = 2) -> Searched:
    return Searched(np.zeros((6, dim), np.float32), LABEL, TABLE)


# --- metrics ---


def test_metrics_by_hand() -> None:
    scores = np.array([[0.1, 0.9, 0.8, 0.3, 0.2, 0.05]], np.float32)  # order 1 2 3 4 0 5
    values = ranking_scores(scores, claim([True, False], 0), searched())  # dark bags: 0 and 1
    assert values["precision@1"][0] == 1
    assert values["map"][0] == pytest.approx((1 / 1 + 2 / 5) / 2)
    assert values["precision@10"][0] == pytest.approx(2 / 6)  # six pictures are all there are


def test_average_precision_agrees_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=300).astype(np.int16)
    table = np.stack([rng.integers(0, 3, 300)] * 4, axis=1).astype(np.int8)
    claims = Claims(
        np.array([[True, False], [True, True]]),
        np.array([[NOTHING, 1, NOTHING, NOTHING], [NOTHING, NOTHING, 2, NOTHING]], np.int8),
    )
    scores = rng.random((2, 300), dtype=np.float32)
    found = ranking_scores(scores, claims, Searched(np.zeros((300, 2)), label, table))
    relevant = claims.true_of(label, table)
    for n in range(2):
        expected = average_precision_score(relevant[n], scores[n])
        assert found["map"][n] == pytest.approx(expected, abs=1e-6)


def test_a_refused_text_scores_nothing_and_an_unanswerable_one_is_an_error() -> None:
    refused = np.full((1, 6), -np.inf, np.float32)
    assert not any(
        v.any() for v in ranking_scores(refused, claim([True, True]), searched()).values()
    )
    with pytest.raises(ValueError, match="prompt 0 is true of no picture"):
        ranking_scores(np.zeros((1, 6), np.float32), claim([True, False], 1), searched())


# --- rivals ---


def test_filters_put_first_what_they_let_through() -> None:
    dark_bag = claim([True, False], 0)
    order = np.argsort(-filter_scores(dark_bag, LABEL, TABLE, seed=1)[0])
    assert set(order[:2]) == {0, 1}  # class and trait
    assert set(order[:3]) == {0, 1, 5}  # then the class
    by_class = [np.argsort(-filter_scores(dark_bag, LABEL, None, seed=s)[0])[:3] for s in range(8)]
    assert all(set(first) == {0, 1, 5} for first in by_class)
    assert len({tuple(first) for first in by_class}) > 1  # in random order


def test_random_precision_is_the_share_of_the_relevant() -> None:
    n = 4_000
    label = (np.arange(n) % 4 == 0).astype(np.int16)
    pictures = Searched(np.zeros((n, 1)), label, np.tile(TABLE[:1], (n, 1)))
    claims = Claims(np.array([[False, True]] * 50), np.full((50, 4), NOTHING, np.int8))
    found = ranking_scores(random_scores(50, n, 0), claims, pictures)
    assert found["map"].mean() == pytest.approx(0.25, abs=0.02)


def test_the_nearest_neighbours_class() -> None:
    gallery = np.eye(3, dtype=np.float32)
    queries = np.array([[0.1, 0.9, 0], [0, 0.2, 0.8], [1, 0, 0]], np.float32)
    found = neighbour_class(gallery, np.array([7, 5, 6]), queries, block=2)
    np.testing.assert_array_equal(found, [5, 6, 7])


def test_the_linear_rival_recovers_a_linear_truth() -> None:
    lexicon = Lexicon(["bag", "coat", "dark"], ["a"])
    vectors = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 1]], np.float32)
    label, table = np.array([0, 0, 1, 1]), TABLE[[0, 3, 3, 0]]
    told = Captions(
        ["a dark bag", "a bag", "a coat", "a dark coat"],
        Claims(
            np.array([[True, False], [True, False], [False, True], [False, True]]),
            np.array([[-1, b, -1, -1] for b in (0, -1, -1, 0)], np.int8),
        ),
    )
    tower = LinearText(told, vectors, label, table, lexicon)
    scores = tower.scores(["dark bag", "a dark coat please", "zebra"], vectors)
    np.testing.assert_array_equal(scores[:2].argmax(axis=1), [0, 3])
    assert np.isneginf(scores[2]).all()


# --- prompts ---


@pytest.mark.parametrize(
    ("drawn", "found"),
    # drawn = 3 * place + kind (lost, doubled, exchanged); the first letter always stays
    [(0, "cat"), (1, "cooat"), (2, "caot"), (3, "cot"), (4, "coaat"), (5, "cota")],
)
def test_slips_by_hand(drawn: int, found: str) -> None:
    assert slip("coat", drawn) == found
    assert slip("bag", drawn) == "bag"


def test_prompts_are_answered_and_no_sentence_of_training() -> None:
    made, _ = shapes(40, 3)
    table = traits_of(made.images).table
    prompts = judged_prompts(SHAPES, made.label, table, 0, least=5)
    assert (prompts.claims.true_of(made.label, table).sum(axis=1) >= 5).all()
    assert {"class", "one_trait", "two_traits", "misspelt"} <= set(prompts.group)
    assert not set(WORDINGS) & (set(JUDGED_WORDINGS) | set(JUDGED_PLAIN))
    n_said = (prompts.claims.traits != NOTHING).sum(axis=1)
    for group, expected in (("class", 0), ("one_trait", 1), ("two_traits", 2)):
        assert (n_said[prompts.group == group] == expected).all()
    again = judged_prompts(SHAPES, made.label, table, 0, least=5)
    assert again.sentences == prompts.sentences
    assert len(prompts.of("misspelt")) == (prompts.group == "misspelt").sum()
    assert not set(prompts.of("misspelt").sentences) & set(prompts.of("class").sentences)


def test_held_out_pairs_leave_neither_too_little_nor_too_much() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1, 2], 400)
    table = np.stack(
        [np.full(1200, -1), rng.choice(3, 1200, p=[0.1, 0.5, 0.4]), np.zeros(1200), np.ones(1200)],
        axis=1,
    ).astype(np.int8)
    table[label == 2, 1] = 1  # nothing of class 2 has a word but "plain", which all have
    pairs = held_out_pairs(label, table, 3, seed=0)
    assert pairs[2] == (NOTHING, 0)
    for k in (0, 1):
        column, value = pairs[k]
        assert RARE <= np.mean(table[label == k, column] == value) <= COMMON
    out = has_held_out(label, table, pairs)
    assert not out[label == 2].any()
    column, value = pairs[0]
    np.testing.assert_array_equal(out[label == 0], table[label == 0, column] == value)
    names = ("bag", "coat", "dress")
    prompts = composition_prompts(names, label, table, pairs, 0, least=1)
    assert set(prompts.group) == {"composition"}
    true = prompts.claims.true_of(label, table)
    assert not true[:, ~out].any()  # they ask for nothing that training has seen


def test_meanings_join_synonyms() -> None:
    claims = Claims(
        np.array([[True, False], [True, False], [False, True]]), np.full((3, 4), NOTHING, np.int8)
    )
    group = meanings(Prompts(("a bag", "a purse", "a coat"), claims, np.array(["class"] * 3)))
    assert group[0] == group[1] != group[2]


# --- picture to text ---


class Fixed:
    """A dual encoder whose texts are given; stands in for a trained one."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors = vectors

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    def readable(self, texts: list[str]) -> tuple[list[list[str]], dict[int, str]]:
        return [], {n: "unknown" for n, text in enumerate(texts) if text not in self.vectors}


def test_picture_to_text_by_hand() -> None:
    pictures = Searched(np.eye(6, dtype=np.float32), LABEL, TABLE)
    sentences, claims = class_sentences(NAMES)
    assert sentences == ["a photo of a bag", "a photo of a coat"]
    encoder = Fixed({sentences[0]: [1, 1, 1, 0, 0, 0], sentences[1]: [0, 0, 0, 1, 1, 1]})
    right = best_is_true(encoder, sentences, claims, pictures)  # type: ignore[arg-type]
    np.testing.assert_array_equal(right, [1, 1, 0, 1, 1, 0])


def test_a_full_sentence_must_say_everything() -> None:
    sentences, claims = full_sentences(NAMES, LABEL, TABLE)
    assert sorted(sentences) == sorted(
        ["a dark plain bag", "a light plain bag", "a plain coat", "a dark plain coat",
         "a light plain coat"]
    )  # fmt: skip
    pictures = Searched(np.eye(6, dtype=np.float32), LABEL, TABLE)
    # All six pictures are given "a plain coat": true of every coat, all there is to say of one.
    encoder = Fixed({s: [float(s == "a plain coat")] * 6 for s in sentences})
    right = best_is_true(encoder, sentences, claims, pictures)  # type: ignore[arg-type]
    np.testing.assert_array_equal(right, [0, 0, 0, 1, 0, 0])


def test_similarities_of_refused_texts_are_minus_infinity() -> None:
    encoder = Fixed({"bag": [1.0, 0.0], "coat": [0.0, 1.0]})
    pictures = np.array([[0.6, 0.8], [1, 0]], np.float32)
    found = similarities(encoder, ["coat", "zebra", "bag"], pictures)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[[0, 2]], [[0.8, 0], [0.6, 1]], rtol=1e-6)
    assert np.isneginf(found[1]).all()
    none = similarities(encoder, ["zebra"], pictures)  # type: ignore[arg-type]
    assert np.isneginf(none).all()


# --- all of it ---


def small(**text: object) -> Config:
    config = load_config(None, ("images.dataset=shapes", "images.shapes_per_class=16"))
    changes = {"width": 8, "dim": 16, "text_width": 16, "epochs": 1, "batch": 40, "buckets": 512}
    quick = config.text.model_copy(update={**changes, "least_relevant": 1, **text})
    evaluation = config.evaluation.model_copy(update={"resamples": 100})
    return config.model_copy(update={"quick": True, "text": quick, "evaluation": evaluation})


def test_variants_differ_in_what_they_say() -> None:
    config = small().text
    made = study.variants(config)
    assert made["configured"] == config
    assert made["transformer"].tower == "transformer"
    assert len({repr(v) for v in made.values()}) == len(made)


def test_the_command_writes_its_numbers_and_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_search.commands import Run
    from image_search.text import command

    two = {"configured": {}, "transformer": {"tower": "transformer"}}
    monkeypatch.setattr(
        study, "variants", lambda text: {k: text.model_copy(update=v) for k, v in two.items()}
    )
    done = Run(config=small(), artifacts=tmp_path, console=Console(quiet=True))
    command.run(done)
    folder = done.results_folder()
    metrics = json.loads((folder / "text_search.json").read_text())["metrics"]
    ways = ("dual_encoder", "random", "class_filter", "class_and_trait_filter", "metadata",
            "frozen_linear")  # fmt: skip
    for way in ways:
        for metric in ("precision@1", "precision@10", "map"):
            assert 0 <= metrics[f"text_search/{way}/{metric}"]["value"] <= 1
    assert metrics["text_search/metadata.class/map"]["value"] == 1  # an upper bound for the class
    assert all("synthetic" in row["protocol"] for key, row in metrics.items() if "search/" in key)
    assert "text_variant/transformer/map" in metrics
    assert (folder / "plots" / "text_search.png").read_bytes().startswith(b"\x89PNG")
