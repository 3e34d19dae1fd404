"""Which pictures show the same: detectors, their thresholds, and what they find.

In: pictures. Out: ``Looks``, what the detectors read of each; ``Rule``s, thresholds chosen so that
few pictures that only resemble each other are called the same; pairs of near-duplicates.

Detectors, each a likeness where larger is more alike:

    phash, dhash   minus the number of differing bits (``perceptual_hash``), 8 bytes a picture
    thumbnail      likeness of thumbnails (``thumbnails``), 288 numbers a picture
    embedding      cosine of the vectors that the search uses

A hash keeps the sign of each frequency and drops its size and all colour, so that two plain shoes
of one outline may share all bits, be they black, white or red. The pair ``phash+thumbnail`` finds
by hash, which can be indexed, and confirms by thumbnail; finding by a cheap code and confirming by
something dearer is the design of A. Gusev, J. Xu, "Evolution of a Web-Scale Near Duplicate Image
Detection System", WWW 2020 (LSH candidates, then a classifier on visual embeddings).

Legend: n pictures, P pairs, D dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from image_search.config import RerankingConfig
from image_search.embeddings.base import unit_rows
from image_search.images.preparing import Images
from image_search.reranking.perceptual_hash import (
    BITS,
    HASHES,
    dhash,
    distances,
    phash,
    shrunk,
    shrunk_colour,
)

THUMBNAIL, COLOUR = 16, 4
"""Sides of what is kept of light and of colour; an eye needs less of the second."""
BLOCK_PAIRS = 1 << 22
"""Hash pairs compared at once: 4 million are 32 MiB."""
DETECTORS = ("phash", "dhash", "thumbnail", "embedding")


@dataclass(frozen=True)
class Looks:
    """What is kept of n pictures to tell whether they show the same.

    Attributes:
        phash: u64[n].
        dhash: u64[n].
        thumbnail: f32[n, 288], of length 1.
        embedding: f32[n, D], of length 1.
    """

    phash: np.ndarray
    dhash: np.ndarray
    thumbnail: np.ndarray
    embedding: np.ndarray

    def __len__(self) -> int:
        return len(self.phash)

    def likeness(
        self, detector: str, mine: np.ndarray, other: Looks, theirs: np.ndarray
    ) -> np.ndarray:
        """f32[P]: of my pictures at ``mine`` i64[P] with the other's at ``theirs`` i64[P].

        Raises:
            ValueError: For an unknown detector.
        """
        if detector not in DETECTORS:
            raise ValueError(f"unknown detector {detector!r}; there are {', '.join(DETECTORS)}")
        one, two = getattr(self, detector)[mine], getattr(other, detector)[theirs]
        if one.ndim == 1:
            return -distances(one, two).astype(np.float32)
        return np.asarray(np.einsum("pd,pd->p", one, two))


def looks_of(images: Images, embedding: np.ndarray) -> Looks:
    """Hashes and thumbnails of pictures, beside their vectors f32[n, D] of length 1."""
    if len(images) != len(embedding):
        raise ValueError(f"{len(images)} pictures and {len(embedding)} vectors")
    return Looks(phash(images), dhash(images), thumbnails(images), embedding)


def thumbnails(images: Images) -> np.ndarray:
    """f32[n, 288] of length 1 (0 for a flat grey picture): what a small copy looks like.

    Grey 16 x 16 averages less their mean, and 4 x 4 averages of what red and blue have more than
    grey, counted for the 16 cells that each covers. An inner product is the correlation of two grey
    pictures; for colour, another colour makes it small. Brightness and contrast do not count.
    """
    if not len(images):
        return np.zeros((0, THUMBNAIL**2 + 2 * COLOUR**2), dtype=np.float32)
    grey = shrunk(images, THUMBNAIL)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    colour = shrunk_colour(images, COLOUR) * (THUMBNAIL / COLOUR)
    parts = [part.reshape(len(images), -1) for part in (grey, colour)]
    return unit_rows(np.concatenate(parts, axis=1))


@dataclass(frozen=True)
class Rule:
    """Two pictures show the same where every named detector's likeness reaches its threshold.

    Attributes:
        least: Detector -> threshold.
        called: A name of its own.
    """

    least: dict[str, float]
    called: str = ""

    @property
    def name(self) -> str:
        """For tables: its own name, or the detectors joined by "+"."""
        return self.called or "+".join(self.least)

    def holds(self, likeness: dict[str, np.ndarray]) -> np.ndarray:
        """bool[P] from the likeness f32[P] of each detector."""
        passed = [likeness[name] >= least for name, least in self.least.items()]
        return np.asarray(np.logical_and.reduce(passed))


def served_rule(config: RerankingConfig) -> Rule:
    """What a page calls near-duplicates, by picture (``page.py``)."""
    least = {"phash": -float(config.hash_bits), "thumbnail": config.thumbnail}
    return Rule(least, called="served")


def single_rule(detector: str, different: np.ndarray, false_alarms: float) -> Rule:
    """The lowest threshold that at most this share of ``different`` f32[P] reaches.

    ``different`` are likenesses of pictures that are not the same. Hashes have few values: their
    share may lie well below what is allowed.
    """
    if not len(different) or not 0 < false_alarms < 1:
        raise ValueError(f"{len(different)} pairs, a share of {false_alarms}: expected (0, 1)")
    allowed = int(len(different) * false_alarms)
    return Rule({detector: _above(detector, np.sort(different)[::-1], allowed)})


def paired_rule(
    first: str,
    second: str,
    same: dict[str, np.ndarray],
    different: dict[str, np.ndarray],
    false_alarms: float,
) -> Rule:
    """Of all rules with both detectors within ``false_alarms``, one that finds most of ``same``.

    Every threshold of ``first`` is tried (it should be a hash: few values), each with the lowest
    threshold of ``second`` that keeps the false alarms.
    """
    allowed = int(len(different[first]) * false_alarms)
    best, most = Rule({first: np.inf, second: np.inf}), -1.0
    for least in np.unique(same[first]):
        passed = np.sort(different[second][different[first] >= least])[::-1]
        rule = Rule({first: float(least), second: _above(second, passed, allowed)})
        if (found := float(rule.holds(same).mean())) > most:
            best, most = rule, found
    return best


def _above(detector: str, falling: np.ndarray, allowed: int) -> float:
    """The lowest threshold that at most ``allowed`` of ``falling`` (sorted) reach."""
    if len(falling) <= allowed:
        return float(-BITS if detector in HASHES else -1)
    excluded = np.float32(falling[allowed])
    if detector in HASHES:  # whole numbers, 0 at most: above 0 nothing is found
        return float(excluded + 1) if excluded < 0 else np.inf
    return float(np.nextafter(excluded, np.float32(np.inf)))


def close_pairs(
    one: np.ndarray, other: np.ndarray | None, most_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of hashes u64 that differ in at most ``most_bits``, block by block.

    Every pair is looked at, which 60,000 hashes bear (some seconds); far more would be found by
    chunks of the hash that agree exactly (M. Norouzi, A. Punjani, D. Fleet, "Fast Search in Hamming
    Space with Multi-Index Hashing", CVPR 2012).

    Args:
        one: u64[n].
        other: u64[m]; None: pairs within ``one``, each once.
        most_bits: At most so many bits differ.

    Yields:
        Positions in ``one`` and in ``other`` (or ``one``), i64[P] each.
    """
    whole = one if other is None else other
    size = max(1, BLOCK_PAIRS // max(len(whole), 1))
    for begin in range(0, len(one), size):
        first = begin + 1 if other is None else 0
        close = distances(one[begin : begin + size, None], whole[None, first:]) <= most_bits
        mine, theirs = np.nonzero(close)
        mine, theirs = mine + begin, theirs + first
        keep = theirs > mine if other is None else slice(None)
        yield mine[keep], theirs[keep]


def find(one: Looks, other: Looks | None, rule: Rule) -> np.ndarray:
    """i64[P, 2]: pairs that the rule calls the same; ``other`` None: within ``one``, each once.

    Raises:
        ValueError: If the rule has no hash to find candidates by.
    """
    hashes = [name for name in HASHES if name in rule.least]
    if not hashes:
        raise ValueError(f"the rule {rule.name} has no hash; candidates are found by one")
    by, there = hashes[0], one if other is None else other
    parts = [np.zeros((0, 2), dtype=np.int64)]
    if rule.least[by] > 0:
        return parts[0]
    codes = None if other is None else getattr(other, by)
    for mine, theirs in close_pairs(getattr(one, by), codes, int(-np.ceil(rule.least[by]))):
        likeness = {name: one.likeness(name, mine, there, theirs) for name in rule.least}
        parts.append(np.stack([mine, theirs], axis=1)[rule.holds(likeness)])
    return np.concatenate(parts)
