"""Filters around a search: before it, or after it. Within it is the business of each index.

In: queries f32[Q, D], a filter bool[N] over rows. Out: rows i64[Q, k] that pass and their
similarities f32[Q, k], padded with -1 and -inf.

- before: take the vectors that pass and compare all of them. Exact; the cost falls with the share
  that passes, s N D a query.
- after: search for ``fetch`` rows as if there were no filter and drop what fails. Of these
  s * fetch pass where filter and query have nothing to do with each other; where they do (bags
  asked for with the picture of a shoe) it may be none, and the page ends short or empty.

Legend: N rows, D dimension, Q queries, s share that passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from image_search.retrieval.faiss_library import faiss

if TYPE_CHECKING:
    from image_search.retrieval.index import VectorIndex

Found = tuple[np.ndarray, np.ndarray]
"""Rows i64[Q, k] and similarities f32[Q, k]."""
GATHER = 1 << 22
"""Vectors' numbers that ``rescored`` holds at once, a float each."""


def best_of(queries: np.ndarray, rows: np.ndarray, vectors: np.ndarray, k: int) -> Found:
    """The k best of vectors f32[n, D] at rows i64[n], exactly; padded where n < k."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if not len(rows):
        return empty(len(queries), k)
    similarity, place = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    found = np.where(place < 0, -1, np.append(rows, -1)[place])
    return found, np.where(found < 0, np.float32(-np.inf), similarity)


def before(queries: np.ndarray, vectors: np.ndarray, allowed: np.ndarray, k: int) -> Found:
    """Filters first: vectors f32[N, D] by row, those of ``allowed`` bool[N] are compared."""
    rows = np.flatnonzero(allowed)
    return best_of(queries, rows, vectors[rows], k)


def after(
    index: VectorIndex, queries: np.ndarray, allowed: np.ndarray, k: int, *, fetch: int
) -> Found:
    """Searches for ``fetch`` rows, then filters; pages may end short.

    Raises:
        ValueError: If fewer are fetched than are wanted.
    """
    if fetch < k:
        raise ValueError(f"{fetch} rows fetched for {k} results: fetch at least as many")
    rows, similarity = index.search(queries, fetch)
    keep = (rows >= 0) & allowed[rows]  # -1 reads the last entry, and is masked
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(keep, order, axis=1)
    found = np.where(kept, np.take_along_axis(rows, order, axis=1), -1)
    score = np.where(kept, np.take_along_axis(similarity, order, axis=1), np.float32(-np.inf))
    return found, score


def rescored(queries: np.ndarray, rows: np.ndarray, vectors: np.ndarray, k: int) -> Found:
    """The k best of each query's own shortlist rows i64[Q, C], by vectors f32[N, D]; C >= k."""
    found, score = empty(len(queries), k)
    block = max(1, GATHER // max(rows.shape[1] * vectors.shape[1], 1))
    for begin in range(0, len(queries), block):
        part = slice(begin, begin + block)
        near = vectors[np.maximum(rows[part], 0)]
        exact = np.matmul(near, queries[part, :, None])[..., 0]
        exact = np.where(rows[part] < 0, np.float32(-np.inf), exact)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        found[part] = np.take_along_axis(rows[part], order, axis=1)
        score[part] = np.take_along_axis(exact, order, axis=1)
    return found, score


def empty(n: int, k: int) -> Found:
    """Nothing found for n queries."""
    return np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
