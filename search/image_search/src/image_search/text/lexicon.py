"""The words of the captions, sorted into those that name something and those around them.

In: class names, traits. Out: a ``Lexicon``.
"""

from __future__ import annotations

import numpy as np

from image_search.config import TextConfig
from image_search.images.captions import WORDINGS, every_noun
from image_search.images.traits import COLUMNS, NO_COLOUR, SAYS_NOTHING, Traits
from image_search.text.tokens import Lexicon, split_words

_MANY = 1_000


def lexicon_of(label_names: tuple[str, ...], traits: Traits, config: TextConfig) -> Lexicon:
    """All words that captions of these classes and traits may have; no colour of grey pictures."""
    nouns = [word for noun in every_noun(label_names) for word in split_words(noun, _MANY)]
    names = [*nouns, *trait_words(traits)]
    others = [
        word
        for wording in WORDINGS
        for word in split_words(wording.format(traits="", noun="an"), _MANY)
    ]
    return Lexicon(
        names,
        others,
        shortest=config.shortest,
        longest=config.longest,
        buckets=config.buckets,
        most_words=config.most_words,
        likeness=config.likeness,
    )


def trait_words(traits: Traits) -> list[str]:
    """The words for the traits that any of these pictures has."""
    table = traits.table
    return [
        word
        for column, words in enumerate(COLUMNS)
        for value, word in enumerate(words)
        if word not in SAYS_NOTHING and value != NO_COLOUR and np.any(table[:, column] == value)
    ]
