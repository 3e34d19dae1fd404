"""Captions: sentences about a picture, made of its class and of traits computed from its pixels.

In: classes, ``Traits``, ids, a seed. Out: one sentence a picture, and what each sentence claims. A
dual encoder for text queries is trained on them, since no data set here has captions. So they are
what they are: a class's name, a synonym or a wider word, some of eleven colours and six other
words, five wordings. Who learns from them learns a vocabulary of some dozens of words, not English.

``Claims.true_of`` says which sentences hold for which pictures. "a dark bag" is true of every dark
bag, not only of the one that it was written for: in a batch those others are no negatives.

Legend: N pictures, M sentences, K classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from image_search.images.traits import (
    BRIGHTNESS,
    COLOURS,
    COLUMNS,
    NO_COLOUR,
    OUTLINE,
    PATTERN,
    Traits,
    colour_names,
    traits_of,
)
from ml_platform.data.interactions import seeded_hash

__all__ = [
    "BRIGHTNESS", "COLOURS", "NO_COLOUR", "OUTLINE", "PATTERN", "Captions", "Claims", "Traits",
    "captions", "colour_names", "described", "make_sentence", "nouns_of", "traits_of", "wider_of",
]  # fmt: skip

SYNONYMS = {
    "t-shirt": ("tee",),
    "trouser": ("trousers", "pants"),
    "pants": ("trousers",),
    "pullover": ("sweater", "jumper"),
    "longsleeve": ("long sleeved top",),
    "dress": ("frock", "gown"),
    "coat": ("jacket", "overcoat"),
    "outwear": ("jacket",),
    "sandal": ("open shoe",),
    "shirt": ("blouse", "button-up"),
    "sneaker": ("trainer", "running shoe"),
    "bag": ("handbag", "purse"),
    "ankle-boot": ("boot", "bootie"),
    "hat": ("cap",),
    "circle": ("disc",),
    "ring": ("hoop",),
}
"""Other words for a class, by us. Where two classes share one, it claims both."""
KINDS = {
    "footwear": {"sandal", "sneaker", "ankle-boot", "shoes"},
    "top": {"t-shirt", "pullover", "shirt", "longsleeve"},
    "outerwear": {"coat", "outwear"},
    "legwear": {"trouser", "pants", "shorts", "skirt"},
}
"""Wider words for some classes, from their labels."""
WORDINGS = (
    "a {traits} {noun}",
    "{traits} {noun}",
    "a photo of a {traits} {noun}",
    "{noun}, {traits}",
    "a {noun}",
)
"""Of training; queries that are judged have others (text/prompts.py)."""
WIDER_ONE_IN = 4
NOTHING = -1
"""A trait that a sentence does not name."""
_PLURAL = re.compile(r"(?<!s)s$|wear$")
"""Shoes, trousers, footwear take no article; a dress and a cross do."""


@dataclass(frozen=True)
class Claims:
    """What M sentences say.

    Attributes:
        classes: bool[M, K], any of which the picture must have.
        traits: i8[M, 4], values that it must have, by column of ``Traits.table``; NOTHING: any.
    """

    classes: np.ndarray
    traits: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, rows: np.ndarray) -> Claims:
        """Those of the sentences ``rows`` i64[m]."""
        return Claims(self.classes[rows], self.traits[rows])

    def true_of(self, label: np.ndarray, table: np.ndarray) -> np.ndarray:
        """bool[M, N]: whether each sentence is true of each picture.

        Args:
            label: i[N].
            table: i8[N, 4], ``Traits.table``.
        """
        holds = self.classes[:, label]
        for column in range(table.shape[1]):
            said = self.traits[:, column, None]
            holds &= (said == NOTHING) | (said == table[None, :, column])
        return holds


@dataclass(frozen=True)
class Captions:
    """A sentence a picture, and what each claims."""

    sentences: list[str]
    claims: Claims


def captions(
    label: np.ndarray, label_names: tuple[str, ...], traits: Traits, item_id: np.ndarray, seed: int
) -> list[str]:
    """The sentences alone; see ``described``."""
    return described(label, label_names, traits, item_id, seed).sentences


def described(
    label: np.ndarray, label_names: tuple[str, ...], traits: Traits, item_id: np.ndarray, seed: int
) -> Captions:
    """One sentence a picture: its class, or a wider word for it, and some of its traits.

    The wording is drawn by (seed, item_id), so that an item keeps its sentence.

    Args:
        label: i16[N], no UNLABELLED among them.
        label_names: The classes.
        traits: Of the same pictures.
        item_id: i64[N].
        seed: Another seed, other wordings; training draws one seed an epoch.

    Raises:
        ValueError: If a picture has no class.
    """
    if len(label) and label.min() < 0:
        raise ValueError("a picture without class has no caption")
    drawn = seeded_hash(seed, item_id, np.zeros_like(item_id))
    meant = {noun: classes_of(noun, label_names) for noun in every_noun(label_names)}
    sentences: list[str] = []
    classes = np.zeros((len(label), len(label_names)), dtype=bool)
    table = traits.table
    said = np.full_like(table, NOTHING)
    for n, k in enumerate(label):
        noun, wording, bits = _draw(label_names[k], int(drawn[n]))
        kept = _kept(table[n].tobytes(), bits) if "{traits}" in wording else ()
        sentences.append(make_sentence(wording, noun, tuple(word for _, _, word in kept)))
        classes[n, meant[noun]] = True
        for column, value, _ in kept:
            said[n, column] = value
    return Captions(sentences, Claims(classes, said))


def nouns_of(name: str) -> tuple[str, ...]:
    """A class's words, its own first: ("ankle boot", "boot", "bootie")."""
    own = name if name == "t-shirt" else name.replace("-", " ")
    return (own, *SYNONYMS.get(name, ()))


def wider_of(name: str) -> str | None:
    """The wider word for a class, or None."""
    return next((kind for kind, members in KINDS.items() if name in members), None)


def every_noun(label_names: tuple[str, ...]) -> tuple[str, ...]:
    """All words for these classes, each once."""
    own = [noun for name in label_names for noun in nouns_of(name)]
    return tuple(dict.fromkeys(own + [kind for n in label_names if (kind := wider_of(n))]))


def classes_of(noun: str, label_names: tuple[str, ...]) -> list[int]:
    """Positions of the classes that a noun may mean."""
    return [
        k for k, name in enumerate(label_names) if noun in nouns_of(name) or noun == wider_of(name)
    ]


@lru_cache(maxsize=65_536)
def make_sentence(wording: str, noun: str, words: tuple[str, ...]) -> str:
    """A wording filled, with the article that it needs."""
    sentence = wording.format(traits=" ".join(words), noun=noun)
    if _PLURAL.search(noun):
        sentence = re.sub(r"\ba (?!photo)", "", sentence)
    return re.sub(r"\ba (?=[aeiou])", "an ", sentence)


def named_words(row: np.ndarray) -> list[tuple[int, int, str]]:
    """(column, value, word) of the traits i8[4] of one picture that have a word."""
    found = []
    for column in (1, 3, 2, 0):  # a dark wide plain red ...
        value = int(row[column])
        word = COLUMNS[column][value] if value != NOTHING else ""
        if word not in ("", "medium", "even"):
            found.append((column, value, word))
    return found


def _draw(name: str, drawn: int) -> tuple[str, str, int]:
    """Noun, wording, and what is left of the drawn number."""
    drawn, wording = divmod(drawn, len(WORDINGS))
    drawn, wider = divmod(drawn, WIDER_ONE_IN)
    own = nouns_of(name)
    drawn, which = divmod(drawn, len(own))
    noun = (wider_of(name) if wider == 0 else None) or own[which]
    return noun, WORDINGS[wording], drawn


@lru_cache(maxsize=65_536)
def _kept_of(row: bytes, low_bits: int) -> tuple[tuple[int, int, str], ...]:
    words = named_words(np.frombuffer(row, dtype=np.int8))
    kept = tuple(word for bit, word in enumerate(words) if low_bits >> bit & 1)
    return kept or tuple(words[-1:])


def _kept(row: bytes, bits: int) -> tuple[tuple[int, int, str], ...]:
    """Each word stays or goes by a bit of its own; one stays at least."""
    return _kept_of(row, bits & 15)
