"""Every vector is compared, but as a code: 8 bits a number, or 1.

In: vectors f32[N, D] of length 1. Out: the most similar rows, by the codes.

``Int8Index``: one range for all dimensions, cut into 256 equal steps (FAISS's ``QT_8bit_uniform``),
learned from the vectors; values outside are clipped. A quarter of the bytes.

``BinaryIndex``: the sign of each number after centring and a rotation, 1/32 of the bytes; compared
by Hamming distance h. Two unit vectors at an angle t fall on different sides of a random hyperplane
with probability t / pi (M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms",
STOC 2002, section 3), so that cos(pi h / D) estimates the cosine of the centred vectors. The
rotation is random, or learned so that the numbers lie near the corners of the cube that their signs
name: Y. Gong, S. Lazebnik, A. Gordo, F. Perronnin, "Iterative Quantization: A Procrustean Approach
to Learning Binary Codes for Large-Scale Image Retrieval", TPAMI 2013 (ITQ), without its PCA, which
``reduction.py`` does where it is wanted.

Either order is coarse; ``rescored.py`` puts the shortlist right.

Legend: N rows, D dimension, n vectors of a training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from image_search.retrieval.faiss_library import faiss
from image_search.retrieval.filtering import empty
from image_search.retrieval.index import FaissIndex, checked, queries_of, write_kind
from ml_algorithms.nearest_neighbour.product_quantization import procrustes

ROTATION_ROUNDS = 30
"""Each costs one decomposition of D x D. Not tuned."""
MOST = 10_000
"""Vectors that a rotation is learned from."""


class Int8Index(FaissIndex):
    """See the module; made by ``trained``. Similarities are those of the codes."""

    KIND = "int8"

    @classmethod
    def trained(cls, vectors: np.ndarray) -> Self:
        """Learns the range from vectors f32[n, D]; none of them is added."""
        codes = faiss.IndexScalarQuantizer(
            vectors.shape[1], faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
        )
        codes.train(queries_of(vectors))
        return cls(faiss.IndexIDMap2(codes))


class BinaryIndex:
    """See the module; made by ``trained``.

    Args:
        middle: f32[D], taken off before the rotation.
        rotation: f32[D, D], orthogonal.
    """

    FILE = "binary.npz"

    def __init__(self, middle: np.ndarray, rotation: np.ndarray) -> None:
        self.middle, self.rotation = middle, rotation
        self._codes = np.zeros((0, len(middle) // 8), dtype=np.uint8)
        self._row = np.zeros(0, dtype=np.int64)

    @classmethod
    def trained(cls, vectors: np.ndarray, rotation: str, seed: int) -> Self:
        """Learns middle and rotation from vectors f32[n, D]; none of them is added.

        Raises:
            ValueError: If D is no multiple of 8, or the rotation is of an unknown kind.
        """
        if vectors.shape[1] % 8:
            raise ValueError(
                f"binary codes need a multiple of 8 dimensions, got {vectors.shape[1]}"
            )
        if rotation not in ("learned", "random"):
            raise ValueError(f"unknown rotation {rotation!r}; there are learned, random")
        middle = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        rng = np.random.default_rng(seed)
        turned = random_rotation(vectors.shape[1], rng)
        if rotation == "learned":
            chosen = rng.permutation(len(vectors))[:MOST]
            turned = learned_rotation(vectors[chosen] - middle, turned)
        return cls(middle, turned)

    def __len__(self) -> int:
        return len(self._row)

    @property
    def bytes(self) -> int:
        """Codes, row numbers, middle and rotation."""
        parts = (self._codes, self._row, self.middle, self.rotation)
        return sum(int(part.nbytes) for part in parts)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """u8[n, D / 8]: a bit a number, set where it is above 0."""
        return np.packbits((vectors - self.middle) @ self.rotation > 0, axis=1)

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """See ``VectorIndex``; copies the codes, O(N)."""
        rows, vectors = checked(rows, vectors, len(self.middle))
        self._codes = np.concatenate([self._codes, self.encode(vectors)])
        self._row = np.concatenate([self._row, rows])

    def remove(self, rows: np.ndarray) -> None:
        """See ``VectorIndex``."""
        keep = ~np.isin(self._row, rows)
        self._codes, self._row = self._codes[keep], self._row[keep]

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``VectorIndex``; similarities are estimates. Equal distances: who came first."""
        codes, rows = self._codes, self._row
        if allowed is not None:
            keep = (rows < len(allowed)) & np.append(allowed, False)[np.minimum(rows, len(allowed))]
            codes, rows = codes[keep], rows[keep]
        found = empty(len(queries), k)
        if len(rows):
            most = min(k, len(rows))
            distance, place = faiss.knn_hamming(self.encode(queries_of(queries)), codes, most)
            found[0][:, :most] = rows[place]
            found[1][:, :most] = np.cos(np.pi * distance / len(self.middle))
        return found

    def save(self, folder: Path) -> None:
        """See ``VectorIndex``."""
        np.savez(
            folder / self.FILE,
            codes=self._codes,
            row=self._row,
            middle=self.middle,
            rotation=self.rotation,
        )
        write_kind(folder, "binary")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See ``VectorIndex``."""
        with np.load(folder / cls.FILE, allow_pickle=False) as kept:
            made = cls(kept["middle"], kept["rotation"])
            made._codes, made._row = kept["codes"], kept["row"]
        return made


def random_rotation(dim: int, rng: np.random.Generator) -> np.ndarray:
    """f32[D, D], orthogonal, uniform: QR of a Gaussian matrix with the signs put right."""
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float32)


def learned_rotation(centred: np.ndarray, start: np.ndarray) -> np.ndarray:
    """ITQ: in turn, signs for the rotation and the best rotation onto the signs.

    Args:
        centred: f32[n, D] with mean 0.
        start: f32[D, D], orthogonal.

    Returns:
        f32[D, D], orthogonal; |signs - centred R|^2 never rises from round to round.
    """
    rotation = start
    for _ in range(ROTATION_ROUNDS):
        signs = np.where(centred @ rotation > 0, 1.0, -1.0)
        rotation = procrustes(centred, signs)
    return rotation


def sign_error(centred: np.ndarray, rotation: np.ndarray) -> float:
    """Mean of |signs - x R|^2 over the vectors: what ITQ minimises."""
    turned = centred @ rotation
    return float(((np.where(turned > 0, 1.0, -1.0) - turned) ** 2).sum(axis=1).mean())
