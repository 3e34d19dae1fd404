"""Captions with what they claim, and texts read word by word."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest

from image_search.config import TextConfig
from image_search.images.captions import (
    NOTHING,
    Claims,
    classes_of,
    described,
    every_noun,
    make_sentence,
    named_words,
    nouns_of,
    wider_of,
)
from image_search.images.datasets import FASHION_NAMES
from image_search.images.shapes import shapes
from image_search.images.traits import COLUMNS, Traits, traits_of
from image_search.text.lexicon import lexicon_of
from image_search.text.tokens import (
    LONGEST_WORD,
    MOST_CHARACTERS,
    Lexicon,
    TextError,
    ngrams,
    slips_between,
    split_words,
)

# colour, brightness, pattern, outline: a grey dark patterned wide one, and three others
TABLE = np.array([[-1, 0, 1, 2], [-1, 1, 0, 1], [3, 2, 0, 0], [-1, 2, 0, 2]], dtype=np.int8)
LABEL = np.array([0, 1, 1, 0])


def fashion_lexicon(**changes: object) -> Lexicon:
    return lexicon_of(FASHION_NAMES, Traits(*TABLE[[0, 1, 3]].T), TextConfig(**changes))


# --- captions ---


def test_claims_by_hand() -> None:
    claims = Claims(
        np.array([[True, False], [True, True], [False, True]]),
        np.array([[-1, 0, -1, -1], [-1, -1, 0, -1], [3, 2, -1, 0]], dtype=np.int8),
    )
    expected = [
        [True, False, False, False],  # a dark thing of class 0
        [False, True, True, True],  # a plain thing of either class
        [False, False, True, False],  # a light narrow red thing of class 1
    ]
    np.testing.assert_array_equal(claims.true_of(LABEL, TABLE), expected)
    np.testing.assert_array_equal(claims.at(np.array([2])).true_of(LABEL, TABLE), expected[2:])


def test_a_caption_is_true_of_its_own_picture_and_says_what_it_claims() -> None:
    made, _ = shapes(40, 7)
    table = traits_of(made.images)
    told = described(made.label, made.label_names, table, made.item_id, seed=3)
    holds = told.claims.true_of(made.label, table.table)
    assert holds.diagonal().all()
    assert 0.01 < holds.mean() < 0.5  # and not of all
    for n, sentence in enumerate(told.sentences):
        words = sentence.replace(",", "").split()
        for column, value in enumerate(told.claims.traits[n]):
            named = [w for w in COLUMNS[column] if w in words]
            assert named == ([] if value == NOTHING else [COLUMNS[column][value]])
    plain = (told.claims.traits == NOTHING).all(axis=1)
    assert 0.1 < plain.mean() < 0.35  # one wording of five names the class alone


def test_a_word_for_two_classes_claims_both() -> None:
    assert wider_of("coat") == "outerwear"
    names = ("coat", "pants", "outwear", "trouser")
    assert classes_of("jacket", names) == [0, 2]
    assert classes_of("trousers", names) == [1, 3]
    assert classes_of("outerwear", names) == [0, 2]
    assert nouns_of("ankle-boot")[0] == "ankle boot"
    assert len(set(every_noun(names))) == len(every_noun(names))


@pytest.mark.parametrize(
    ("noun", "words", "sentence"),
    [
        ("cross", ("orange",), "an orange cross"),
        ("dress", (), "a dress"),
        ("ankle boot", (), "an ankle boot"),
        ("footwear", ("dark",), "dark footwear"),
        ("trousers", ("plain", "wide"), "plain wide trousers"),
    ],
)
def test_articles(noun: str, words: tuple[str, ...], sentence: str) -> None:
    wording = "a {traits} {noun}" if words else "a {noun}"
    assert make_sentence(wording, noun, words) == sentence


def test_words_that_say_nothing_are_not_named() -> None:
    assert [word for _, _, word in named_words(TABLE[1])] == ["plain"]
    assert [word for _, _, word in named_words(TABLE[2])] == ["light", "narrow", "plain", "red"]


# --- tokens ---


def test_ngrams_by_hand() -> None:
    assert ngrams("bag", 2, 3) == ["<b", "ba", "ag", "g>", "<ba", "bag", "ag>"]
    assert ngrams("a", 2, 3) == ["<a", "a>"]  # the marked word itself is left out
    assert ngrams("banana", 2, 2) == ["<b", "ba", "an", "na", "a>"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A T-Shirt", ["a", "tshirt"]), ("t shirt", ["tshirt"]), ("Tshirt", ["tshirt"]),
        ("ankle-boot,BAG", ["ankle", "boot", "bag"]), ("ｂａｇ", ["bag"]),
        ("bag\n\tbag_bag", ["bag", "bag", "bag"]), ("sac à main", ["sac", "à", "main"]),
    ],
)  # fmt: skip
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert split_words(text, 9) == words


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), ("  \n ", "empty"), ("?!... --", "no word"), ("\x00", "no word"),
        ("quantum chromodynamics", "names nothing"), ("a photo of a", "names nothing"),
        ("12345 67", "names nothing"), ("\U0001f45f", "no word"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(text: str, reason: str) -> None:
    with pytest.raises(TextError, match=reason):
        fashion_lexicon().read(text)
    with pytest.raises(ValueError, match=reason):  # callers may know nothing of TextError
        fashion_lexicon().read(text)


def test_only_strings_are_texts() -> None:
    with pytest.raises(TextError, match="got bytes"):
        split_words(b"bag", 9)  # type: ignore[arg-type]


def test_long_texts_and_words_are_cut() -> None:
    lexicon = fashion_lexicon(most_words=5)
    assert lexicon.read("bag " * 1_000) == ["bag"] * 5
    assert lexicon.read("bag " + "x" * 10_000) == ["bag"]
    assert len(split_words("y" * 400, 3)[0]) == LONGEST_WORD
    with pytest.raises(TextError, match="names nothing"):
        lexicon.read("z" * MOST_CHARACTERS + " bag")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sneekers", "sneaker"), ("snaeker", "sneaker"), ("pulover", "pullover"),
        ("bags", "bag"), ("dresses", "dress"), ("hanbag", "handbag"), ("patternd", "patterned"),
        ("jaket", "jacket"), ("trowsers", "trousers"),
    ],
)  # fmt: skip
def test_unknown_words_are_read_as_what_they_are_like(typed: str, meant: str) -> None:
    assert fashion_lexicon().understood(f"show me {typed}") == [(typed, meant)]


def test_words_of_other_things_are_not_read() -> None:
    lexicon = fashion_lexicon()
    for text in ("elephant", "show", "goat", "boat", "laptop", "night", "purple laptop", "cat"):
        with pytest.raises(TextError):
            lexicon.read(text)
    # Spelling has no meaning: the limit that is stated, so that nobody takes it for a surprise.
    assert lexicon.understood("skirt") == [("skirt", "shirt")]


def test_words_that_are_not_read_are_named_once_and_fillers_never() -> None:
    lexicon = fashion_lexicon()
    assert lexicon.ignored("Show me a purple coat with a PURPLE laptop, please") == (
        "purple", "laptop",
    )  # fmt: skip
    assert lexicon.ignored("a photo of dark sneekers") == ()
    assert lexicon.read("a purple coat") == ["a", "coat"]
    assert lexicon.ignored(" ") == lexicon.ignored("\x00") == ()


@pytest.mark.parametrize(
    ("one", "other", "slips"),
    [
        ("bag", "bag", 0), ("", "bag", 3), ("bg", "bag", 1), ("baag", "bag", 1), ("bog", "bag", 1),
        ("abg", "bag", 1), ("sneekers", "sneaker", 2), ("kitten", "sitting", 3),
        ("ca", "abc", 3),  # two without the rule that no letter slips twice
    ],
)  # fmt: skip
def test_slips_by_hand(one: str, other: str, slips: int) -> None:
    assert slips_between(one, other) == slips_between(other, one) == slips


def test_how_many_slips_a_word_may_have() -> None:
    lexicon = Lexicon(["coat", "shirt", "sneaker"], [])
    for typed, meant in (
        ("coats", "coat"), ("coatt", ""),  # four letters: no slip
        ("shrit", "shirt"), ("shrt", "shirt"), ("shhirrt", ""),  # five: one
        ("sniaker", "sneaker"), ("sneeker", "sneaker"), ("sneekerss", "sneaker"),  # seven: two
        ("kneaker", ""),  # never in the first letter
    ):  # fmt: skip
        assert lexicon.nearest(typed) == meant, typed
    assert Lexicon(["shoes"], []).nearest("shoe") == "shoes"
    assert Lexicon(["dress", "u"], []).nearest("dresses") == "dress"
    assert Lexicon(["u"], []).nearest("us") == ""


def test_a_slip_must_be_alike_in_ngrams_too() -> None:
    # <shrt>: <s sh hr rt t> <sh shr hrt rt> (9); shirt: 11, shared are <s sh rt t> <sh rt>.
    dice = 2 * 6 / (9 + 11)
    assert Lexicon(["shirt"], [], likeness=dice).nearest("shrt") == "shirt"
    assert Lexicon(["shirt"], [], likeness=dice + 0.01).nearest("shrt") == ""


def test_features_are_hashes_of_the_word_and_its_ngrams() -> None:
    lexicon = Lexicon(["bag"], [], buckets=1 << 10)
    by_hand = [crc32(g.encode()) % 1024 for g in ("<bag>", *ngrams("bag", 2, 3))]
    assert list(lexicon.features("bag")) == by_hand
    assert lexicon.features("bags")[0] == crc32(b"<b") % 1024  # unknown: no word of its own
    assert len(set(lexicon.features("bag")) & set(lexicon.features("bags"))) >= 5


def test_settings_make_the_same_lexicon() -> None:
    one = fashion_lexicon(likeness=0.6)
    other = Lexicon(**one.settings())  # type: ignore[arg-type]
    assert other.words == one.words
    assert other.settings() == one.settings()
    assert "red" not in one  # no picture here has a colour
    assert "dark" in one
    assert "medium" not in one
    assert set(one.others) == {"a", "an", "photo", "of"}
