"""Fewer numbers a vector before it is indexed: its first ones, or its directions of most energy.

In: vectors f32[n, D]. Out: f32[n, d].

- prefix: the first d numbers, brought back to length 1. Right for an embedding whose prefixes were
  trained as embeddings of their own: A. Kusupati, G. Bhatt, A. Rege and others, "Matryoshka
  Representation Learning", NeurIPS 2022, section 3. For any other it throws d/D of chance away.
- pca: the projection on the first d right singular vectors of the vectors themselves. Nothing is
  centred and nothing brought back to length 1, unlike the textbook's: what is searched is an inner
  product, and of all projections to d this one changes the vectors least.

Legend: n vectors, D and d dimensions before and after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.embeddings.base import unit_rows

MOST = 20_000
"""Vectors that the directions are learned from; the first, evenly spread."""


@dataclass(frozen=True)
class Reduced:
    """What is done to every vector and query.

    Attributes:
        kind: "none", "prefix" or "pca".
        dim: d.
        basis: f32[D, d] for "pca", else empty.
    """

    kind: str
    dim: int
    basis: np.ndarray

    @property
    def bytes(self) -> int:
        """Of the basis."""
        return int(self.basis.nbytes)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """f32[n, d]."""
        if self.kind == "none":
            return vectors
        if self.kind == "prefix":
            return unit_rows(vectors[:, : self.dim])
        return np.asarray(vectors @ self.basis, dtype=np.float32)


def fit_reduction(kind: str, to: int, vectors: np.ndarray) -> Reduced:
    """Learns what there is to learn from vectors f32[n, D].

    Raises:
        ValueError: For an unknown kind, or more dimensions than there are (or than vectors).
    """
    nothing = np.zeros((0, 0), dtype=np.float32)
    if kind == "none":
        return Reduced("none", vectors.shape[1], nothing)
    if kind not in ("prefix", "pca"):
        raise ValueError(f"unknown reduction {kind!r}; there are none, prefix, pca")
    if to > min(vectors.shape) and not (kind == "prefix" and to <= vectors.shape[1]):
        raise ValueError(f"{to} dimensions of {vectors.shape[0]} vectors of {vectors.shape[1]}")
    if kind == "prefix":
        return Reduced("prefix", to, nothing)
    rows = np.linspace(0, len(vectors) - 1, min(MOST, len(vectors))).astype(np.int64)
    sample = vectors[rows].astype(np.float64)
    _, directions = np.linalg.eigh(sample.T @ sample)  # ascending
    basis = np.ascontiguousarray(directions[:, ::-1][:, :to], dtype=np.float32)
    return Reduced("pca", to, basis)
