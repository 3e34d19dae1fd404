"""Queries to judge text search with: sentences that no training has seen, and what they claim.

In: class names, the judged pictures' classes and traits, a seed. Out: ``Prompts``. Groups:

    class         each word for a class ("looking for a boot")
    wider         words for several ("footwear")
    one_trait     a word and a trait that at least ``least`` of the pictures have together
    two_traits    a word and two
    misspelt      "class" and "one_trait" with one slip in the noun: a letter missing, doubled, or
                  exchanged with the next
    composition   a class and a trait whose pictures were kept from training (``held_out_pairs``)

The wordings are others than those of training (``captions.WORDINGS``), so no sentence is the same;
the nouns and the traits are not, and cannot be: nothing here knows a word that no caption had.

Legend: Q prompts, N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from image_search.images.captions import (
    NOTHING,
    Claims,
    classes_of,
    every_noun,
    make_sentence,
    nouns_of,
)
from image_search.images.traits import COLUMNS, NO_COLOUR, SAYS_NOTHING
from ml_platform.data.interactions import seeded_hash

JUDGED_WORDINGS = (
    "show me a {traits} {noun}",
    "looking for a {noun} that is {traits}",
    "picture of one {traits} {noun}",
    "the {traits} {noun} please",
)
JUDGED_PLAIN = (
    "show me a {noun}",
    "looking for a {noun}",
    "picture of one {noun}",
    "{noun} please",
)
GROUPS = ("class", "wider", "one_trait", "two_traits", "misspelt", "composition")
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Rows of an English keyboard."""
RARE, COMMON = 0.03, 0.5
"""Shares of a class that a held-out trait lies between: enough to judge, enough left to learn."""

Trait = tuple[int, int]
"""Column of ``Traits.table``, value."""


@dataclass(frozen=True)
class Prompts:
    """Q sentences.

    Attributes:
        sentences: As typed.
        claims: What each asks for.
        group: One of GROUPS each.
    """

    sentences: tuple[str, ...]
    claims: Claims
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.sentences)

    def of(self, *groups: str) -> Prompts:
        """Those of some groups."""
        return self.at(np.flatnonzero(np.isin(self.group, groups)))

    def at(self, rows: np.ndarray) -> Prompts:
        """The prompts ``rows`` i64[n]."""
        return Prompts(
            tuple(self.sentences[int(r)] for r in rows), self.claims.at(rows), self.group[rows]
        )


def judged_prompts(
    label_names: tuple[str, ...],
    label: np.ndarray,
    table: np.ndarray,
    seed: int,
    *,
    least: int = 10,
) -> Prompts:
    """All prompts but compositions, that at least ``least`` of the pictures answer.

    Args:
        label_names: The classes.
        label: i16[N], of the pictures that are searched.
        table: i8[N, 4], ``Traits.table``.
        seed: Of wordings and slips.
        least: Pictures that a prompt must be true of.
    """
    wanted: list[tuple[str, str, tuple[Trait, ...]]] = []
    for noun in every_noun(label_names):
        plain = "wider" if len(classes_of(noun, label_names)) > 1 else "class"
        wanted.append((plain, noun, ()))
        wanted += [("one_trait", noun, (trait,)) for trait in _traits_of(table)]
        wanted += [("two_traits", noun, pair) for pair in _pairs(table)]
    prompts = _answered(_written(wanted, label_names, seed), label, table, least)
    return _joined(prompts, _misspelt(prompts, wanted_nouns=every_noun(label_names), seed=seed))


def held_out_pairs(label: np.ndarray, table: np.ndarray, n_classes: int, seed: int) -> list[Trait]:
    """One trait of each class, whose pictures training shall not see; (NOTHING, 0) where none fits.

    Args:
        label: i16[N], of the training pictures.
        table: i8[N, 4] of them.
        n_classes: K.
        seed: Of the choice among the traits that between RARE and COMMON of the class have.
    """
    chosen = []
    for k in range(n_classes):
        of_class = table[label == k]
        fitting = [
            (column, value)
            for column, value in _traits_of(table)
            if len(of_class) and RARE <= np.mean(of_class[:, column] == value) <= COMMON
        ]
        draw = int(seeded_hash(seed, np.array([k]), np.array([11]))[0])
        chosen.append(fitting[draw % len(fitting)] if fitting else (NOTHING, 0))
    return chosen


def has_held_out(label: np.ndarray, table: np.ndarray, pairs: list[Trait]) -> np.ndarray:
    """bool[N]: the pictures of the held-out pairs of class and trait."""
    found = np.zeros(len(label), dtype=bool)
    for k, (column, value) in enumerate(pairs):
        if column != NOTHING:
            found |= (label == k) & (table[:, column] == value)
    return found


def composition_prompts(
    label_names: tuple[str, ...],
    label: np.ndarray,
    table: np.ndarray,
    pairs: list[Trait],
    seed: int,
    *,
    least: int = 10,
) -> Prompts:
    """The held-out pairs as prompts: alone, and with one trait more."""
    wanted: list[tuple[str, str, tuple[Trait, ...]]] = []
    for k, pair in enumerate(pairs):
        if pair[0] == NOTHING:
            continue
        for noun in nouns_of(label_names[k]):
            if len(classes_of(noun, label_names)) > 1:
                continue  # another class of that word may have been seen with the trait
            wanted.append(("composition", noun, (pair,)))
            more = [t for t in _traits_of(table) if t[0] != pair[0]]
            wanted += [("composition", noun, (pair, trait)) for trait in more]
    return _answered(_written(wanted, label_names, seed), label, table, least)


def _written(
    wanted: list[tuple[str, str, tuple[Trait, ...]]], label_names: tuple[str, ...], seed: int
) -> Prompts:
    sentences = []
    classes = np.zeros((len(wanted), len(label_names)), dtype=bool)
    said = np.full((len(wanted), len(COLUMNS)), NOTHING, dtype=np.int8)
    drawn = seeded_hash(seed, np.arange(len(wanted)), np.full(len(wanted), 7))
    for n, (_, noun, traits) in enumerate(wanted):
        wordings = JUDGED_WORDINGS if traits else JUDGED_PLAIN
        words = tuple(COLUMNS[column][value] for column, value in traits)
        sentences.append(make_sentence(wordings[int(drawn[n]) % len(wordings)], noun, words))
        classes[n, classes_of(noun, label_names)] = True
        for column, value in traits:
            said[n, column] = value
    group = np.array([name for name, _, _ in wanted], dtype=object)
    return Prompts(tuple(sentences), Claims(classes, said), group)


def _answered(prompts: Prompts, label: np.ndarray, table: np.ndarray, least: int) -> Prompts:
    counts = prompts.claims.true_of(label, table).sum(axis=1)
    return prompts.at(np.flatnonzero(counts >= least))


def _misspelt(prompts: Prompts, *, wanted_nouns: tuple[str, ...], seed: int) -> Prompts:
    """The prompts for classes and one trait, with a slip in the longest word of their noun."""
    plain = prompts.of("class", "one_trait")
    words = {max(noun.replace("-", " ").split(), key=len) for noun in wanted_nouns}
    drawn = seeded_hash(seed, np.arange(len(plain)), np.full(len(plain), 13))
    sentences = []
    for sentence, draw in zip(plain.sentences, drawn, strict=True):
        found = max(
            (w for w in sentence.replace("-", " ").split() if w in words), key=len, default=""
        )
        sentences.append(sentence.replace(found, slip(found, int(draw))) if found else sentence)
    kept = np.array([n for n, s in enumerate(sentences) if s != plain.sentences[n]], dtype=np.int64)
    group = np.full(len(kept), "misspelt", dtype=object)
    return Prompts(tuple(sentences[n] for n in kept), plain.claims.at(kept), group)


def slip(word: str, drawn: int) -> str:
    """The word with one slip after its first letter; words under four letters stay."""
    if len(word) < 4:
        return word
    drawn, kind = divmod(drawn, 3)
    at = 1 + drawn % (len(word) - 2)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def every_slip(word: str) -> list[tuple[str, str]]:
    """(kind, word) of every single slip behind the first letter, each word once, without the word.

    The kinds are those of ``slip``, "missing", "doubled" and "exchanged", and "neighbour": the key
    beside the right one.
    """
    found: dict[str, str] = {}
    for at in range(1, len(word)):
        head, letter, rest = word[:at], word[at], word[at + 1 :]
        found.setdefault(head + rest, "missing")
        found.setdefault(head + letter + letter + rest, "doubled")
        if rest:
            found.setdefault(head + rest[0] + letter + rest[1:], "exchanged")
        for key in _beside(letter):
            found.setdefault(head + key + rest, "neighbour")
    found.pop(word, None)
    return [(kind, typed) for typed, kind in found.items()]


def _beside(letter: str) -> Iterator[str]:
    for row in KEYS:
        at = row.find(letter)
        if at >= 0:
            yield from row[max(at - 1, 0) : at] + row[at + 1 : at + 2]


def _joined(first: Prompts, second: Prompts) -> Prompts:
    return Prompts(
        first.sentences + second.sentences,
        Claims(
            np.concatenate([first.claims.classes, second.claims.classes]),
            np.concatenate([first.claims.traits, second.claims.traits]),
        ),
        np.concatenate([first.group, second.group]),
    )


def _traits_of(table: np.ndarray) -> list[Trait]:
    """Those that have a word and occur."""
    return [
        (column, value)
        for column, words in enumerate(COLUMNS)
        for value, word in enumerate(words)
        if word not in SAYS_NOTHING and value != NO_COLOUR and np.any(table[:, column] == value)
    ]


def _pairs(table: np.ndarray) -> Iterator[tuple[Trait, Trait]]:
    return ((a, b) for a, b in combinations(_traits_of(table), 2) if a[0] != b[0])
