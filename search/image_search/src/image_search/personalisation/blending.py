"""Three ways for a style to change an answer.

(a) ``Personaliser``: the ``Personalise`` callable of ``searcher.py``; the ranker's score and the
    style's, added:  score + weight * spread of the candidates' scores * <style, direction of item>.
    The spread (their standard deviation) makes one weight fit rankers of any scale.
(b) ``style_feature``: the same inner product as a feature, so that the ranker learns what it is
    worth beside the others.
(c) ``shifted``: the query vector moved towards the style before retrieval, so that candidates come
    in that the query alone would not find: Rocchio, "Relevance Feedback in Information Retrieval",
    in Salton (ed.), The SMART Retrieval System, 1971, with the clicks of the past as the relevant
    documents and without his negative term.

All three are exactly the impersonal answer for a user without clicks.

Legend: B asks, C candidates, D dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from image_search.embeddings.base import unit_rows
from image_search.personalisation.styles import Directions, StyleStore
from image_search.searcher import Ask


@dataclass(frozen=True)
class Personaliser:
    """Styles applied to asks; see the module.

    Attributes:
        store: Of the users.
        directions: Of the items.
        vectors: Rows i64[...] to vectors f32[..., D] of the space "image", where styles live.
        clock: Seconds, as in the store's clicks.
    """

    store: StyleStore
    directions: Directions
    vectors: Callable[[np.ndarray], np.ndarray]
    clock: Callable[[], float] = time.time

    def apply_clicks(self, user_id: int, rows: np.ndarray, now_s: float) -> None:
        """Takes a user's clicks on catalogue rows i64[n] into the store."""
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        if len(rows) and rows.min() < 0:
            raise ValueError(f"a click on row {rows.min()}: rows are counted from 0")
        self.store.apply_clicks(user_id, self.directions(rows, self.vectors(rows)), now_s)

    def style_feature(
        self, asks: Sequence[Ask], rows: np.ndarray, vectors: np.ndarray | None = None
    ) -> np.ndarray:
        """f32[B, C]: <style, direction> of each candidate, in [-1, 1]; 0 where nothing is known.

        Args:
            asks: B of one space.
            rows: i64[B, C], -1 padded.
            vectors: f32[B, C, D] of the rows in the space "image"; None: they are looked up.
        """
        styles = self.store.styles([ask.user_id for ask in asks], self.clock())
        found = np.zeros(rows.shape, dtype=np.float32)
        known = np.flatnonzero(np.abs(styles).sum(axis=1))
        for n in known:
            own = self.vectors(np.maximum(rows[n], 0)) if vectors is None else vectors[n]
            found[n] = self.directions(rows[n], own) @ styles[n]
        return np.where(rows >= 0, found, np.float32(0))

    def __call__(
        self, asks: Sequence[Ask], rows: np.ndarray, score: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        """f32[B, C] scores with (a); see ``searcher.Personalise``.

        Asks in the space "text" bring vectors of that space, which say nothing of a style: those of
        the space "image" are looked up for them.
        """
        own_space = all(ask.space == "image" for ask in asks)
        liking = self.style_feature(asks, rows, vectors if own_space else None)
        return blended(score, rows, liking, self.store.config.weight)

    def shifted(self, asks: Sequence[Ask]) -> list[Ask]:
        """The asks with (c): each query vector moved by the style and brought back to length 1."""
        styles = self.store.styles([ask.user_id for ask in asks], self.clock())
        moved = unit_rows(np.stack([ask.vector for ask in asks]) + self.store.config.shift * styles)
        known = np.flatnonzero(np.abs(styles).sum(axis=1))
        return [replace(ask, vector=moved[n]) if n in known else ask for n, ask in enumerate(asks)]


def blended(score: np.ndarray, rows: np.ndarray, liking: np.ndarray, weight: float) -> np.ndarray:
    """f32[B, C]: scores plus ``weight`` times their spread times ``liking`` f32[B, C].

    The spread is over an ask's candidates; padded ones (row -1) have no part in it and stay as they
    are, as do asks whose liking is all 0.
    """
    there = rows >= 0
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    values = np.where(there, score, 0).astype(np.float64)
    mean = values.sum(axis=1, keepdims=True) / n
    spread = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(axis=1, keepdims=True) / n)
    return np.where(there, score + weight * spread * liking, score).astype(np.float32)
