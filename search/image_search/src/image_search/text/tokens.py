"""Text to words to numbers: what the text tower reads, and what it refuses.

In: a text of any kind. Out: its words, each as a few numbers of hashed character n-grams. After
P. Bojanowski, E. Grave, A. Joulin, T. Mikolov, "Enriching Word Vectors with Subword Information",
TACL 2017, section 3.2: a word is the bag of itself and of its n-grams, with marks for its beginning
and its end, so that "sneekers" shares half of what "sneaker" was trained on.

    sneaker, n = 3:   <sn sne nea eak ake ker er>     and the word <sneaker>

Departures: CRC-32 instead of FNV-1a; the mean of the bag instead of its sum, so that long words do
not weigh more; n from 2 to 3 instead of 3 to 6, since one slip in a word of six letters touches all
but a few of the longer ones.

A word is read if it is known, if it is a known word with or without the "s" of a plural, or if it
is a known word with a slip: a letter too many, too few, wrong, or exchanged with the next, the four
of F. Damerau, "A Technique for Computer Detection and Correction of Spelling Errors", CACM 1964.
The first letter must be right, where people rarely slip (E. Yannakoudakis, D. Fawthrop, "The Rules
of Spelling Errors", Information Processing & Management 1983, introduction). One slip is allowed to
known words of ONE_SLIP letters or more, two to those of TWO_SLIPS, and the n-grams must be alike
still, for it is by these that the tower reads the word: Dice's coefficient, 2 |A and B| / (|A| +
|B|), of at least ``likeness``.

The three numbers are chosen on lists of words (``evaluation.word_errors``, tests/test_words_read.py
with the figures): a word of other things that is read gives nonsense with confidence, a slip that
is not read gives a sentence that says so. So: the fewest slips refused, among the rules that read
at most one word of other things in a hundred. By n-grams alone, from half of them on, some three in
a hundred would be read ("laptop" as "top"), and more slips refused. What stays is what spelling
cannot tell: "skirt" is "shirt" with a slip, where no skirt is known. Words that are not read are
named (``ignored``), and a text without a single word that names something is refused with the
reason: a vector of noise would find pictures too, and nobody would know.

Legend: n length of n-grams.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from zlib import crc32

MOST_CHARACTERS = 500
"""A longer text is cut here, before anything looks at it."""
LONGEST_WORD = 40
"""Characters of a word that are read."""
ONE_SLIP, TWO_SLIPS = 5, 7
"""Letters of a known word from which it is recognised with so many slips; see the module."""
SHORTEST_STEM = 3
"""Letters before the "s" of a plural: "us" is no plural of "u"."""
_FILLERS = (
    "a am an and any are at be can could do find for from get give have i in is it like look "
    "looking me my need of on one or our picture pictures photo photos please search see show some "
    "something that the there these this to want we with would you"
)
FILLERS = frozenset(_FILLERS.split())
"""Words around what is asked for; when they are not read, nothing is lost and nobody is told."""
_WORD = re.compile(r"[^\W_]+")
_T_SHIRT = re.compile(r"\bt[\s-]+shirt")
"""Written with a hyphen, a space or neither; a word "t" would leave "shirt", another class."""
_CACHED = 8_192


class TextError(ValueError):
    """A text cannot be searched with; the message says why."""


def split_words(text: str, most: int) -> list[str]:
    """The first ``most`` words in lower case; "T-shirt" is one word, "ankle-boot" two.

    Raises:
        TextError: If there is none.
    """
    if not isinstance(text, str):
        raise TextError(f"a text must be a string, got {type(text).__name__}")
    plain = unicodedata.normalize("NFKC", text[:MOST_CHARACTERS])[:MOST_CHARACTERS].casefold()
    if not plain.strip():
        raise TextError("the text is empty: say what to look for")
    words = _WORD.findall(_T_SHIRT.sub("tshirt", plain))[:most]
    if not words:
        raise TextError(f"{text[:40]!r} holds no word: say what to look for")
    return [word[:LONGEST_WORD] for word in words]


def ngrams(word: str, shortest: int, longest: int) -> list[str]:
    """Every n-gram of a word between its marks, each once; the marked word itself is not one."""
    marked = f"<{word}>"
    found = [
        marked[begin : begin + n]
        for n in range(shortest, longest + 1)
        for begin in range(len(marked) - n + 1)
    ]
    return [gram for gram in dict.fromkeys(found) if gram != marked]


class Lexicon:
    """The words of training, and how others are read by them.

    Args:
        names: Words that name something: nouns and traits.
        others: Words of the wordings around them ("a", "photo", "of").
        shortest, longest: n.
        buckets: Numbers that words and n-grams are hashed to.
        most_words: Of a text; the rest is not read.
        likeness: Dice's coefficient with the known word that a word with a slip needs at least.
    """

    def __init__(
        self,
        names: Iterable[str],
        others: Iterable[str],
        *,
        shortest: int = 2,
        longest: int = 3,
        buckets: int = 1 << 14,
        most_words: int = 24,
        likeness: float = 0.3,
    ) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.others = tuple(word for word in dict.fromkeys(others) if word not in self.names)
        self.shortest, self.longest, self.buckets = shortest, longest, buckets
        self.most_words, self.likeness = most_words, likeness
        self.words = (*self.names, *self.others)
        self._known = {word: number for number, word in enumerate(self.words)}
        # Instances are few and live as long as the process; so may their caches.
        self._cached_nearest = lru_cache(maxsize=_CACHED)(self._nearest)
        self._cached_features = lru_cache(maxsize=_CACHED)(self._features)

    def __contains__(self, word: str) -> bool:
        return word in self._known

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int:
        """Position of a known word in ``words``."""
        return self._known[word]

    def settings(self) -> dict[str, object]:
        """What ``Lexicon(**settings)`` needs to be the same."""
        return {
            "names": list(self.names), "others": list(self.others), "shortest": self.shortest,
            "longest": self.longest, "buckets": self.buckets, "most_words": self.most_words,
            "likeness": self.likeness,
        }  # fmt: skip

    def read(self, text: str) -> list[str]:
        """The words of a text that the tower can read, as they stand in it.

        Raises:
            TextError: If the text is empty, holds no word, or no word like one that names
                something.
        """
        words = split_words(text, self.most_words)
        nearest = [self._cached_nearest(word) for word in words]
        if not any(near in self._known and self._known[near] < len(self.names) for near in nearest):
            raise TextError(
                f"{text[:60]!r} names nothing that was learnt here. Known are: "
                f"{', '.join(self.names)}"
            )
        return [word for word, near in zip(words, nearest, strict=True) if near]

    def ignored(self, text: str) -> tuple[str, ...]:
        """The words of a text that ``read`` leaves out, each once; FILLERS are not among them."""
        try:
            words = dict.fromkeys(split_words(text, self.most_words))
        except TextError:
            return ()  # without a word none is left out
        return tuple(w for w in words if w not in FILLERS and not self._cached_nearest(w))

    def understood(self, text: str) -> list[tuple[str, str]]:
        """(word, the known word that it is most like) for each word that is read."""
        return [(word, self._cached_nearest(word)) for word in self.read(text)]

    def nearest(self, word: str) -> str:
        """The known word that a word in lower case is read as, "" for none."""
        return self._cached_nearest(word)

    def features(self, word: str) -> Sequence[int]:
        """Hashed numbers of a word: itself first if it is known, then its n-grams."""
        return self._cached_features(word)

    def _features(self, word: str) -> tuple[int, ...]:
        own = [f"<{word}>"] if word in self._known else []
        grams = [*own, *self._ngrams(word)] or [f"<{word}>"]
        return tuple(crc32(gram.encode()) % self.buckets for gram in grams)

    def _nearest(self, word: str) -> str:
        """The known word that it is read as, "" for none."""
        if word in self._known:
            return word
        for form in (*singulars(word), f"{word}s", f"{word}es"):
            if form in self._known:
                return form
        found = [
            (slips, -self._likeness(word, known), known)
            for known in self.words
            if (slips := _fewest_slips(word, known)) is not None
        ]
        near = [one for one in found if -one[1] >= self.likeness]
        return min(near)[2] if near else ""

    def _likeness(self, one: str, other: str) -> float:
        """Dice's coefficient of their n-grams."""
        first, second = set(self._ngrams(one)), set(self._ngrams(other))
        return 2 * len(first & second) / (len(first) + len(second))

    def _ngrams(self, word: str) -> list[str]:
        return ngrams(word, self.shortest, self.longest)


def singulars(word: str) -> Iterator[str]:
    """The word without the ending of a plural, in both ways to write one."""
    for ending in ("s", "es"):
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            yield word[: -len(ending)]


def slips_between(one: str, other: str) -> int:
    """Letters missing, too many, wrong, or exchanged with the next, between two words.

    The optimal string alignment distance: no letter takes part in two slips. O(product of lengths).
    """
    before, last = list[int](), list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            slips = min(row[j - 1] + 1, last[j] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], wanted):
                slips = min(slips, before[j - 2] + 1)
            row.append(slips)
        before, last = last, row
    return last[-1]


def _fewest_slips(word: str, known: str) -> int | None:
    """Slips between a word, or its singular, and a known word; None for more than are allowed."""
    allowed = 2 if len(known) >= TWO_SLIPS else 1
    if len(known) < ONE_SLIP or word[0] != known[0] or len(word) > len(known) + allowed + len("es"):
        return None
    slips = min(slips_between(form, known) for form in (word, *singulars(word)))
    return slips if slips <= allowed else None
