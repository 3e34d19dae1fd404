"""Text to words to numbers: what the text tower reads, and what it refuses.

In: a text of any kind. Out: its words, each as a few numbers of hashed character n-grams. After
P. Bojanowski, E. Grave, A. Joulin, T. Mikolov, "Enriching Word Vectors with Subword Information",
TACL 2017, section 3.2: a word is the bag of itself and of its n-grams, with marks for its beginning
and its end, so that "sneekers" shares half of what "sneaker" was trained on.

    sneaker, n = 3:   <sn sne nea eak ake ker er>     and the word <sneaker>

Departures: CRC-32 instead of FNV-1a; the mean of the bag instead of its sum, so that long words do
not weigh more; n from 2 to 3 instead of 3 to 6, since one slip in a word of six letters touches all
but a few of the longer ones.

A word that is unlike every word of training is left out. Likeness is Dice's coefficient of the
n-grams, 2 |A and B| / (|A| + |B|), and words of fewer than SHORT letters must be more alike, as
"goat" shares half of "coat". Slips in short words are therefore missed, and "night" is still read
as "light": spelling has no meaning, and nothing here has read a text that would tell. A text
without a single word that names something is refused, and the reason is said: a vector of noise
would find pictures too, and nobody would know.

Legend: n length of n-grams.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from zlib import crc32

MOST_CHARACTERS = 500
"""A longer text is cut here, before anything looks at it."""
LONGEST_WORD = 40
"""Characters of a word that are read."""
SHORT, SHORT_EXTRA = 6, 0.1
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
        likeness: Dice's coefficient from which an unknown word is read as like a known one; words
            of fewer than SHORT letters need SHORT_EXTRA more.
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
        likeness: float = 0.5,
    ) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.others = tuple(word for word in dict.fromkeys(others) if word not in self.names)
        self.shortest, self.longest, self.buckets = shortest, longest, buckets
        self.most_words, self.likeness = most_words, likeness
        self.words = (*self.names, *self.others)
        self._known = {word: number for number, word in enumerate(self.words)}
        self._with: dict[str, list[str]] = {}
        self._size = {word: len(self._ngrams(word)) for word in self.words}
        for word in self.words:
            for gram in self._ngrams(word):
                self._with.setdefault(gram, []).append(word)
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

    def understood(self, text: str) -> list[tuple[str, str]]:
        """(word, the known word that it is most like) for each word that is read."""
        return [(word, self._cached_nearest(word)) for word in self.read(text)]

    def features(self, word: str) -> Sequence[int]:
        """Hashed numbers of a word: itself first if it is known, then its n-grams."""
        return self._cached_features(word)

    def _features(self, word: str) -> tuple[int, ...]:
        own = [f"<{word}>"] if word in self._known else []
        grams = [*own, *self._ngrams(word)] or [f"<{word}>"]
        return tuple(crc32(gram.encode()) % self.buckets for gram in grams)

    def _nearest(self, word: str) -> str:
        """The known word that is most like it, "" where none is like enough."""
        if word in self._known:
            return word
        grams = self._ngrams(word)
        shared = Counter(known for gram in grams for known in self._with.get(gram, ()))
        found, best = "", 0.0
        for known, count in shared.items():
            dice = 2 * count / (len(grams) + self._size[known])
            if dice > best or (dice == best and known < found):
                found, best = known, dice
        needed = self.likeness + (SHORT_EXTRA if len(word) < SHORT else 0.0)
        return found if best >= needed else ""

    def _ngrams(self, word: str) -> list[str]:
        return ngrams(word, self.shortest, self.longest)
