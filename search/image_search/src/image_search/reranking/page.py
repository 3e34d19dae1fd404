"""The page: near-duplicates out, then diversity.

In: one ask and its candidates by falling score: rows i64[C], score f32[C], unit vectors f32[C, D].
Out: positions i64[k'] of what is shown, in order, and how many near-duplicates were left out. This
is the ``Rerank`` callable of ``searcher.py``.

1. Near-duplicates. Two items are near-duplicates where their perceptual hashes differ in at most
   ``hash_bits`` bits and their thumbnails correlate by at least ``thumbnail``, or where the cosine
   of their vectors is at least ``cosine`` (``near_duplicates.py`` says why). An item is left out if
   it is a near-duplicate of an item with a better score that stays. The relation is not transitive
   (A. Gusev, J. Xu, "Evolution of a Web-Scale Near Duplicate Image Detection System", WWW 2020,
   cluster offline and cut the graph); on a page the best-scored item of a chain decides,
   and what resembles only items that were left out stays.
2. MMR over what is left (``ml_algorithms.diversity.mmr``). Scores and similarities are both brought
   to [0, 1] over the page first: rankers' scores have no common scale, and the candidates of one
   query are all alike (cosines of .8 to 1, say), so that raw similarities would make the same
   weight mean something else for every query.

Legend: C candidates, D dimension, k results wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_search.config import RerankingConfig
from image_search.images.preparing import Images
from image_search.reranking.near_duplicates import thumbnails
from image_search.reranking.perceptual_hash import distances, phash
from image_search.searcher import Ask
from ml_algorithms.diversity.mmr import mmr, rescale

FILE = "page.npz"
NO_COSINE = 2.0
"""No cosine reaches it: vectors are not compared."""
NO_BITS = -1
"""No distance is as small: hashes are not compared."""


@dataclass
class Page:
    """Chooses what one page shows.

    Attributes:
        hashes: u64[N] by catalogue row; empty: near-duplicates are found by vectors alone. A row
            beyond its end (an item added without a hash) is compared by vectors alone.
        thumbnails: f16[N, T] beside them, of length 1; empty: the hash decides alone.
        hash_bits: At most so many bits differ; NO_BITS: hashes are not compared.
        thumbnail: At least this correlated.
        cosine: At least this similar; NO_COSINE: vectors are not compared.
        diversity: Of an ask that names none; 0 keeps the order of the scores.
    """

    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    thumbnails: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float16))
    hash_bits: int = NO_BITS
    thumbnail: float = -1.0
    cosine: float = NO_COSINE
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.hashes.dtype != np.uint64 or self.hashes.ndim != 1:
            raise ValueError(f"hashes must be u64[N], got {self.hashes.dtype}{self.hashes.shape}")
        if len(self.thumbnails) not in (0, len(self.hashes)):
            raise ValueError(f"{len(self.thumbnails)} thumbnails and {len(self.hashes)} hashes")
        _check_diversity(self.diversity)

    @classmethod
    def of(cls, config: RerankingConfig, images: Images) -> Page:
        """As configured, over the pictures of the catalogue's rows, in their order."""
        made = cls(
            hash_bits=config.hash_bits,
            thumbnail=config.thumbnail,
            cosine=config.cosine,
            diversity=config.diversity,
        )
        made.append(images)
        return made

    def append(self, images: Images) -> None:
        """Adds the pictures of the rows that follow, in order. One writer at a time."""
        small = thumbnails(images).astype(np.float16)
        if len(self.thumbnails):
            small = np.concatenate([self.thumbnails, small])
        codes = np.concatenate([self.hashes, phash(images)])
        # Thumbnails first: a reader that sees the new hashes finds a thumbnail for each.
        self.thumbnails = small
        self.hashes = codes

    def save(self, folder: Path) -> None:
        """Writes ``page.npz`` into an existing folder: hashes and thumbnails."""
        np.savez(folder / FILE, hashes=self.hashes, thumbnails=self.thumbnails)

    @classmethod
    def load(cls, folder: Path, config: RerankingConfig) -> Page:
        """Reads what ``save`` wrote; thresholds are the configuration's."""
        with np.load(folder / FILE, allow_pickle=False) as kept:
            return cls(
                kept["hashes"],
                kept["thumbnails"],
                config.hash_bits,
                config.thumbnail,
                config.cosine,
                config.diversity,
            )

    def __call__(
        self, ask: Ask, rows: np.ndarray, score: np.ndarray, vectors: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """See the module.

        Raises:
            ValueError: If the shapes do not fit or ``ask.diversity`` lies outside [0, 1].
        """
        if not len(rows) == len(score) == len(vectors):
            raise ValueError(f"{len(rows)} rows, {len(score)} scores, {len(vectors)} vectors")
        diversity = self.diversity if ask.diversity is None else ask.diversity
        _check_diversity(diversity)
        likeness = np.asarray(vectors @ vectors.T)
        kept = first_of_each(self._pairs(rows, likeness))
        out = len(rows) - len(kept)
        if diversity == 0 or len(kept) <= 1:
            return kept[: ask.k], out
        between = likeness[np.ix_(kept, kept)]
        chosen = mmr(
            rescale(score[kept]), _rescaled_pairs(between), k=ask.k, trade_off=1 - diversity
        )
        return kept[chosen], out

    def _pairs(self, rows: np.ndarray, likeness: np.ndarray) -> np.ndarray:
        """bool[C, C]: near-duplicates, by hash or by vector."""
        alike = likeness >= self.cosine
        if self.hash_bits != NO_BITS and len(self.hashes):
            hashes, small = self.hashes, self.thumbnails
            known = rows < len(hashes)
            places = np.where(known, rows, 0)
            close = distances(hashes[places, None], hashes[places]) <= self.hash_bits
            close &= known & known[:, None]
            if len(small):
                close &= self._confirmed(close, small[places])
            alike |= close
        return alike

    def _confirmed(self, close: np.ndarray, small: np.ndarray) -> np.ndarray:
        """bool[C, C]: pairs whose thumbnails f16[C, T] correlate; only those close are compared."""
        found = np.zeros_like(close)
        some = np.flatnonzero(close.sum(axis=1) > 1)  # each is close to itself
        if len(some):
            there = small[some].astype(np.float32)
            found[np.ix_(some, some)] = there @ there.T >= self.thumbnail
        return found


def first_of_each(alike: np.ndarray) -> np.ndarray:
    """i64: positions that stay, of pairs bool[C, C] (symmetric; the diagonal is not read).

    In order of position: one stays unless it is alike to an earlier one that stays.
    """
    stays = np.ones(len(alike), dtype=bool)
    later = np.triu(alike, 1)
    for place in np.flatnonzero(later.any(axis=1)):
        if stays[place]:
            stays &= ~later[place]
    return np.flatnonzero(stays)


def _rescaled_pairs(between: np.ndarray) -> np.ndarray:
    """f64[n, n]: similarities of different items brought to [0, 1]; all 0 where they are equal."""
    apart = between[~np.eye(len(between), dtype=bool)]
    low, high = float(apart.min()), float(apart.max())
    if not high > low:
        return np.zeros(between.shape)
    return np.asarray((between.astype(np.float64) - low) / (high - low))


def _check_diversity(diversity: float) -> None:
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity must lie in [0, 1], got {diversity}")
