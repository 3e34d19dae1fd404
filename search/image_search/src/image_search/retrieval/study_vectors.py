"""The vectors that the index studies measure: those of the embedding that the service has.

In: a ``Run`` and its pictures. Out: gallery and query vectors with classes and (synthetic) prices.
They come from the last bundle where it was trained on these very pictures, else the served
embedding is fitted here. The gallery is split 0; queries are the test pictures, or drawn out of the
gallery for a choice (``held_out``) or for a set without a test split.

Legend: G gallery, Q queries, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from image_search.attributes import draw_attributes
from image_search.embeddings.vectors import embed_rows
from image_search.images.image_set import GALLERY, QUERY, ImageSet
from image_search.served import served

if TYPE_CHECKING:
    from image_search.commands import Run


@dataclass(frozen=True)
class StudyVectors:
    """What is searched and what asks.

    Attributes:
        name: Of the embedding.
        gallery: f32[G, D], of length 1.
        label: i[G].
        price: f32[G]; SYNTHETIC.
        queries: f32[Q, D].
        query_label: i[Q].
        words: Where all this comes from, for protocols.
    """

    name: str
    gallery: np.ndarray
    label: np.ndarray
    price: np.ndarray
    queries: np.ndarray
    query_label: np.ndarray
    words: str

    def held_out(self, n: int, seed: int) -> StudyVectors:
        """Another draw for choices: ``n`` gallery vectors ask, the rest is searched.

        Raises:
            ValueError: If the gallery would be less than half of what it was.
        """
        if 2 * n > len(self.gallery):
            raise ValueError(f"{n} queries held out of {len(self.gallery)} vectors: at most half")
        order = np.random.default_rng(seed).permutation(len(self.gallery))
        asks, rest = np.sort(order[:n]), np.sort(order[n:])
        return StudyVectors(
            self.name,
            self.gallery[rest],
            self.label[rest],
            self.price[rest],
            self.gallery[asks],
            self.label[asks],
            f"{self.words}, validation: {n:,} held out of the gallery",
        )


def study_vectors(run: Run, images: ImageSet, most: int) -> StudyVectors:
    """Vectors of the served embedding; at most ``most`` queries, drawn by the seed.

    Raises:
        ValueError: If the embedding is not compared by cosine: an index does nothing else here.
    """
    embedder, gallery = served(run, images)
    if embedder.metric != "cosine":
        raise ValueError(f"{embedder.name} is compared by {embedder.metric}; indexes need cosine")
    rows = np.flatnonzero(images.split == GALLERY)
    asks = np.flatnonzero(images.split == QUERY)
    if len(asks) > most:
        asks = np.sort(np.random.default_rng(run.config.seed).choice(asks, most, replace=False))
    label = images.label[rows]
    kind = ", synthetic" if images.synthetic else ""
    made = StudyVectors(
        embedder.name,
        gallery,
        label,
        draw_attributes(images.item_id[rows], label, run.config.seed).price,
        embed_rows(embedder, images, asks, progress=run.progress, what="queries"),
        images.label[asks],
        f"{images.name}{kind}, {embedder.name} {gallery.shape[1]}-d, gallery {len(rows):,}",
    )
    return made if len(asks) else made.held_out(min(most, len(rows) // 4), run.config.seed)
