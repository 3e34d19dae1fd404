"""Search over every vector in 8 bits, then exactly over the best: no cells, no graph.

In: queries f32[B, D], vectors f32[n, D]. Out: rows i32[B, k] of largest product, best first.

1. Vectors are kept as 8-bit codes beside the originals: a quarter of the memory traffic, and
   processors multiply bytes four times as fast (one scale a dimension, folded into the query, which
   is rounded with a scale of its own). One product serves all queries of a micro-batch.
2. A sixteenth of the scores says roughly where the k-th largest lies; what reaches ``SPARE`` times
   k of them is kept, in one pass without a heap. Where too few pass, the cut is lowered.
3. What was kept is multiplied again in full precision and sorted.

With k in the hundreds, heaps cost as much as products; here neither is left. Codes that are
rescored are those of Jegou, Tavenard, Douze, Amsaleg, "Searching in One Billion Vectors: Re-rank
with Source Coding", ICASSP 2011, with the plainest coder there is. ``torch._int_mm`` is the one
8-bit product at hand; it is not part of torch's stable interface. Shapes: B, n, D, k as above.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch

STEP = 16
"""One of so many scores is in the sample."""
SPARE = 1.4
"""What is kept, in k: rounding moves a video by a few places in a hundred."""
EXTRA = 4
"""More of the sample than that: a small count varies by its root."""
LARGEST = 127


@dataclass
class Int8Scan:
    """Vectors with their codes.

    Attributes:
        vectors: f32[n, D].
        codes: i8[n, D].
        scale: f32[D], vector is code times scale, nearly.
    """

    vectors: np.ndarray
    codes: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        """No scratch yet."""
        self._scratch = torch.empty(0, dtype=torch.int32)
        self._kept = np.zeros(0, dtype=np.int32)

    @classmethod
    def of(cls, vectors: np.ndarray) -> Int8Scan:
        """Codes of vectors f32[n, D]; a larger one that comes later is cut off at the scale."""
        largest = np.maximum(np.abs(vectors).max(axis=0), 1e-9)
        scale = (largest / LARGEST).astype(np.float32)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        return cls(vectors, _codes(vectors / scale), scale)

    @property
    def n_bytes(self) -> int:
        """Of vectors and codes."""
        return self.vectors.nbytes + self.codes.nbytes + self.scale.nbytes

    def add(self, vectors: np.ndarray) -> None:
        """Append vectors f32[m, D]."""
        self.vectors = np.concatenate([self.vectors, vectors.astype(np.float32)])
        self.codes = np.concatenate([self.codes, _codes(vectors / self.scale)])

    def replace(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        """New vectors f32[m, D] at rows i64[m]."""
        self.vectors[rows] = vectors
        self.codes[rows] = _codes(vectors / self.scale)

    def copy(self) -> Int8Scan:
        """The same vectors, its own arrays."""
        return Int8Scan(self.vectors.copy(), self.codes.copy(), self.scale)

    def save(self, folder: Path) -> None:
        """Codes are made again when loading."""
        np.save(folder / "scan_vectors.npy", self.vectors)
        np.save(folder / "scan_scale.npy", self.scale)

    @classmethod
    def load(cls, folder: Path) -> Int8Scan:
        """What ``save`` wrote; vectors are mapped, so that processes share their pages."""
        vectors = np.load(folder / "scan_vectors.npy", mmap_mode="c").view(np.ndarray)
        scale = np.load(folder / "scan_scale.npy")
        return cls(vectors, _codes(vectors / scale), scale)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows i32[B, k]; -1 where there are fewer vectors."""
        found = np.full((len(queries), k), -1, dtype=np.int32)
        scores = self._products(queries)
        step = STEP if len(self.codes) > STEP * STEP else 1
        wanted = int(SPARE * k / step) + EXTRA
        sample = scores[:, ::step]
        if wanted >= sample.shape[1]:
            cuts = np.full(len(queries), np.iinfo(np.int32).min, dtype=np.int32)
        else:
            place = sample.shape[1] - wanted
            cuts = np.ascontiguousarray(np.partition(sample, place, axis=1)[:, place])
        if len(self._kept) <= len(self.codes):
            self._kept = np.zeros(len(self.codes) + len(self.codes) // 8 + 1, dtype=np.int32)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        _best(scores, cuts, queries, self.vectors, self._kept, found)
        return found

    def _products(self, queries: np.ndarray) -> np.ndarray:
        """i32[B, n], products of codes; comparable within a query."""
        folded = queries * self.scale
        scale = np.maximum(np.abs(folded).max(axis=1, keepdims=True), 1e-30) / LARGEST
        asked = torch.from_numpy(_codes(folded / scale))
        n = len(self.codes)
        if self._scratch.numel() < len(asked) * n:
            # Kept: fresh memory of this size costs more than the product (page faults).
            self._scratch = torch.empty(len(asked) * (n + n // 8), dtype=torch.int32)
        products = self._scratch[: len(asked) * n].view(len(asked), n)
        torch._int_mm(asked, torch.from_numpy(self.codes).T, out=products)
        return products.numpy()


def _codes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), -LARGEST, LARGEST).astype(np.int8)


@numba.njit(cache=True, nogil=True)
def _reach(scores, cut, rows):  # type: ignore[no-untyped-def]
    """Put into ``rows`` i32[n + 1] what reaches the cut; returns how many. No branch to guess."""
    kept = 0
    for v in range(len(scores)):
        rows[kept] = v
        kept += scores[v] >= cut
    return kept


@numba.njit(cache=True, nogil=True, fastmath=True)
def _best(scores, cuts, queries, vectors, rows, found):  # type: ignore[no-untyped-def]
    """Fill ``found`` with the k best of what reaches the cut; lowers a cut that is too high."""
    n = scores.shape[1]
    k = min(found.shape[1], n)
    for b in range(len(scores)):
        cut = cuts[b]
        kept = _reach(scores[b], cut, rows)
        while kept < k:  # the sample misled
            cut = np.int32(cut - max(1, abs(cut) // 16))
            kept = _reach(scores[b], cut, rows)
        exact = np.empty(kept, np.float32)
        for i in range(kept):
            total = np.float32(0.0)
            row = vectors[rows[i]]
            for d in range(len(row)):
                total += row[d] * queries[b, d]
            exact[i] = -total
        order = np.argsort(exact)
        for place in range(k):
            found[b, place] = rows[order[place]]
