"""What every index of this folder has in common: the search interface and the checks of its input.

An index is built by its own function or class (their knobs differ too much for one signature) and
is then only asked one thing: queries f32[Q, D] and k in, distances f32[Q, k] and ids i64[Q, k] out.

Conventions, the same in all modules:

- Smaller is nearer. With metric "l2" a distance is the *squared* Euclidean distance (the root
  changes no order); with "ip" it is the *negated* inner product. FAISS returns the inner product
  itself, so compare ``-distances`` with it. One direction keeps every heap and sort in one form.
- Rows are sorted, nearest first. An id is the row of the vector in what the index was built from.
- A search that finds fewer than k fills up with id -1 and distance +inf.
- Cosine similarity is "ip" on vectors of length 1: see ``normalise``.

Legend: N vectors, D dimensions, Q queries, k results per query.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]
Metric = Literal["l2", "ip"]

NO_ID = -1
"""The id that fills up a result with fewer than k neighbours; its distance is +inf."""


@runtime_checkable
class VectorIndex(Protocol):
    """Anything that finds near vectors."""

    @property
    def bytes_per_vector(self) -> float:
        """Bytes held per stored vector: codes or floats, ids, links, and the tables' share."""

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest it finds of each query: distances f32[Q, k] and ids i64[Q, k]."""


def as_vectors(values: npt.ArrayLike, dimensions: int | None = None) -> Vectors:
    """A contiguous float32 matrix [N, D] of finite values.

    Args:
        values: Vectors [N, D].
        dimensions: D that is expected; any when None.

    Raises:
        ValueError: If the shape does not fit or a value is not finite.
    """
    vectors = np.ascontiguousarray(values, dtype=np.float32)
    if vectors.ndim != 2 or (dimensions is not None and vectors.shape[1] != dimensions):
        wanted = "[N, D]" if dimensions is None else f"[N, {dimensions}]"
        raise ValueError(f"vectors have shape {vectors.shape}, expected {wanted}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold NaN or infinity: drop or repair those rows first")
    return vectors


def check_metric(metric: str) -> None:
    """Raises ValueError unless metric is "l2" or "ip"."""
    if metric not in ("l2", "ip"):
        raise ValueError(f'metric is {metric!r}; choose "l2" or "ip" (cosine: ip on normalise())')


def check_k(k: int) -> None:
    """Raises ValueError unless k is at least 1."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")


def normalise(vectors: Vectors) -> Vectors:
    """Vectors scaled to length 1, so that inner product is cosine; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def empty_result(queries: int, k: int) -> tuple[Distances, Ids]:
    """A result of which nothing is found yet: distances +inf, ids NO_ID."""
    return (
        np.full((queries, k), np.inf, dtype=np.float32),
        np.full((queries, k), NO_ID, dtype=np.int64),
    )
