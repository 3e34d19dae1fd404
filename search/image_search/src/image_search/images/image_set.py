"""What every stage reads: pictures with classes and a split, and which of them ask and answer.

``ImageSet`` holds N pictures as one array or as a sequence that decodes when it is asked.
``Rows`` says which pictures are searched (the gallery) and which are searched for (the queries).
Three protocols:

- test: gallery = split 0, queries = split 2, as the data set's owner cut it;
- validation, for every choice made here: queries = split 1 where there is one, else drawn out of
  split 0, class by class, and then missing from the gallery;
- leave one out, for a folder that has no split: every picture asks for all others. ``self_match``
  names the query's own row in the gallery, and evaluation excludes it.

``unseen_classes`` restricts rows to classes that training has not seen: what an embedding knows of
its training classes says little about a new one.

Legend: N images, H, W, C height, width, channels, Q queries, G gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GALLERY, VALIDATION, QUERY = 0, 1, 2
"""Values of ``ImageSet.split``."""
UNLABELLED = -1
"""The class of a picture whose class nobody knows."""


@dataclass(frozen=True)
class ImageSet:
    """Pictures with what is known about them.

    Attributes:
        name: As in tables.
        images: u8[N, H, W, C], or N arrays u8[H, W, 3] of any size, decoded when asked for.
        label: i16[N], position in ``label_names``, or UNLABELLED.
        label_names: The classes.
        split: u8[N], GALLERY (train), VALIDATION or QUERY.
        item_id: i64[N], external ids, each once.
        sha256: Of the content.
        terms: The owner's terms in a sentence.
        synthetic: True for generated pictures.
        source: Who served the files.
        broken: File -> reason, of those that were skipped.
    """

    name: str
    images: np.ndarray | Sequence[np.ndarray]
    label: np.ndarray
    label_names: tuple[str, ...]
    split: np.ndarray
    item_id: np.ndarray
    sha256: str
    terms: str
    synthetic: bool
    source: str = "generated"
    broken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {len(self.images), len(self.label), len(self.split), len(self.item_id)}
        if len(sizes) != 1:
            raise ValueError(f"{self.name}: images, labels, splits, ids number {sorted(sizes)}")
        if len(self.label) and not UNLABELLED <= self.label.min() <= self.label.max() < len(
            self.label_names
        ):
            raise ValueError(
                f"{self.name}: labels {self.label.min()}..{self.label.max()} for "
                f"{len(self.label_names)} classes"
            )
        if len(np.unique(self.item_id)) != len(self.item_id):
            raise ValueError(f"{self.name}: an item_id stands twice")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def labelled(self) -> bool:
        """Whether every picture has a class, so that retrieval can be judged by it."""
        return bool(len(self.label) and (self.label != UNLABELLED).all())


class Selection(Sequence[np.ndarray]):
    """The pictures at ``rows`` i64[n] of a sequence, without copying or decoding any."""

    def __init__(self, images: np.ndarray | Sequence[np.ndarray], rows: np.ndarray) -> None:
        self.images, self.rows = images, np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return Selection(self.images, self.rows[place])
        return self.images[int(self.rows[place])]


@dataclass(frozen=True)
class Rows:
    """Who asks whom.

    Attributes:
        protocol: For tables: split, and how the queries were chosen.
        gallery: i64[G], rows of the image set.
        queries: i64[Q].
    """

    protocol: str
    gallery: np.ndarray
    queries: np.ndarray

    @property
    def self_match(self) -> np.ndarray:
        """i64[Q]: where each query stands in ``gallery``, -1 where it does not."""
        order = np.argsort(self.gallery, kind="stable")
        place = np.searchsorted(self.gallery, self.queries, sorter=order)
        found = order[np.minimum(place, len(order) - 1)]
        return np.where(self.gallery[found] == self.queries, found, -1).astype(np.int64)


def owner_rows(images: ImageSet) -> Rows:
    """The owner's split, or each picture against all others where there is none."""
    queries = np.flatnonzero(images.split == QUERY)
    if len(queries):
        return Rows("test split", np.flatnonzero(images.split == GALLERY), queries)
    everything = np.arange(len(images))
    return Rows("each picture against all others", everything, everything)


def validation_rows(images: ImageSet, n_queries: int, seed: int) -> Rows:
    """Rows for choices; no test query is among them.

    Args:
        images: With a validation split, or a gallery to draw from.
        n_queries: How many to draw, about as many of each class in proportion; ignored where the
            set has a validation split.
        seed: Of the draw.

    Raises:
        ValueError: If the gallery would be left with fewer pictures than there are queries.
    """
    gallery = np.flatnonzero(images.split == GALLERY)
    held = np.flatnonzero(images.split == VALIDATION)
    if len(held):
        return Rows("validation split", gallery, held)
    if 2 * n_queries > len(gallery):
        raise ValueError(
            f"{n_queries} validation queries of {len(gallery)} gallery pictures: at most half"
        )
    shuffled = np.random.default_rng(seed).permutation(gallery)
    # Spread evenly over the shuffled pictures in the order of their classes: a stratified draw.
    by_class = shuffled[np.argsort(images.label[shuffled], kind="stable")]
    drawn = by_class[np.linspace(0, len(by_class) - 1, n_queries).astype(np.int64)]
    rest = np.setdiff1d(gallery, drawn)
    return Rows(f"validation, {n_queries} held out of the gallery", rest, np.sort(drawn))


def unseen_classes(n_classes: int, share: float) -> np.ndarray:
    """i64: the classes kept from training; with share .5 every second one: 1, 3, 5, ..."""
    if not 0 < share < 1:
        raise ValueError(f"the share of unseen classes must lie in (0, 1), got {share}")
    numbers = np.arange(n_classes)
    return numbers[np.floor((numbers + 1) * share) > np.floor(numbers * share)]


def restrict(rows: Rows, images: ImageSet, classes: np.ndarray, protocol: str) -> Rows:
    """The rows whose class is among ``classes``, in gallery and queries alike."""
    gallery, queries = (
        part[np.isin(images.label[part], classes)] for part in (rows.gallery, rows.queries)
    )
    return Rows(f"{rows.protocol}, {protocol}", gallery, queries)


def answerable(rows: Rows, images: ImageSet) -> Rows:
    """Leaves out queries whose class has no other picture in the gallery; says how many."""
    counts = np.bincount(images.label[rows.gallery], minlength=len(images.label_names))
    others = counts[images.label[rows.queries]] - (rows.self_match >= 0)
    if (others > 0).all():
        return rows
    words = f"{(others < 1).sum()} queries without another picture of their class left out"
    return Rows(f"{rows.protocol}, {words}", rows.gallery, rows.queries[others > 0])


def draw_queries(rows: Rows, most: int | None, seed: int) -> Rows:
    """At most so many queries, drawn by the seed; the gallery stays whole."""
    if most is None or len(rows.queries) <= most:
        return rows
    drawn = np.random.default_rng(seed).choice(rows.queries, most, replace=False)
    return Rows(f"{rows.protocol}, {most} queries drawn", rows.gallery, np.sort(drawn))
