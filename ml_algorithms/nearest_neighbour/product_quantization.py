"""Product quantisation (PQ) and its learned rotation (OPQ): a vector in a few bytes.

In: vectors f32[N, D]. Out: codes u8[N, M] and codebooks f32[M, K, D / M]. Jegou, Douze and Schmid,
"Product Quantization for Nearest Neighbor Search", TPAMI 2011; Ge, He, Ke and Sun, "Optimized
Product Quantization", TPAMI 2014 (the non-parametric and the parametric solution).

One k-means with 2^64 centroids would describe a vector in 8 bytes, and can be neither trained nor
stored. Cut the vector into M = 8 parts and give each its own K = 256 centroids: any combination is
a centroid of the whole, 256^8 = 2^64 of them, from 8 small k-means.

Search without decoding ("asymmetric": the query stays exact): squared distances add up over parts,
so one table of M K distances per query turns each stored vector into M lookups and additions.

The cut is blind: where parts are correlated or carry unequal variance, bits are wasted. OPQ rotates
first, R orthogonal, which changes no distance, and alternates (a) with R fixed train PQ on x R,
(b) with codes fixed the best rotation is the orthogonal Procrustes solution, R = U V' of the
singular value decomposition of X' decoded.

Departures: (a) is one Lloyd iteration per round, started from the last round's codebooks; codes are
one byte each even for K < 256 (``bytes_per_vector`` counts the bits; FAISS packs them).

Legend: N vectors, D dimensions, M parts, K centroids a part, Ds = D / M, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ml_algorithms.nearest_neighbour.exact import norms_squared, smallest_k
from ml_algorithms.nearest_neighbour.index import (
    Codes,
    Distances,
    Ids,
    Metric,
    Vectors,
    as_vectors,
    check_k,
    check_metric,
    empty_result,
)
from ml_algorithms.nearest_neighbour.kmeans import assign, train_kmeans, update

Tables = npt.NDArray[np.float32]
Start = Literal["better", "identity", "pca"]
MAX_TRAINING_VECTORS = 65_536


@dataclass(frozen=True)
class ProductQuantizer:
    """Codebooks f32[M, K, Ds] of the M parts; what encodes, decodes and compares."""

    codebooks: Vectors

    @classmethod
    def train(
        cls,
        vectors: Vectors,
        *,
        parts: int,
        bits: int = 8,
        iterations: int = 20,
        seed: int = 0,
    ) -> ProductQuantizer:
        """M independent k-means of 2^bits centroids: O(iterations N K D).

        Args:
            vectors: f32[N, D], N at least 2^bits; at most 256 per centroid are used.
            parts: M; must divide D.
            bits: Per part, 1 to 8.
            iterations: Of each k-means.
            seed: Of each k-means, plus the part's number.

        Raises:
            ValueError: If parts does not divide D or bits is out of range.
        """
        vectors = as_vectors(vectors)
        check_parts(vectors.shape[1], parts, bits)
        split = split_parts(vectors, parts)
        books = [
            train_kmeans(split[:, part], 1 << bits, iterations=iterations, seed=seed + part)
            for part in range(parts)
        ]
        return cls(np.stack([book.centroids for book in books]))

    @property
    def parts(self) -> int:
        """M."""
        return int(self.codebooks.shape[0])

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self.codebooks.shape[0] * self.codebooks.shape[2])

    @property
    def code_bytes(self) -> float:
        """M log2(K) / 8: bytes of a packed code."""
        return self.parts * np.log2(self.codebooks.shape[1]) / 8.0

    def encode(self, vectors: Vectors) -> Codes:
        """Nearest centroid of every part, u8[N, M]; O(N K D)."""
        split = split_parts(as_vectors(vectors, self.dimensions), self.parts)
        codes = [assign(split[:, part], book)[0] for part, book in enumerate(self.codebooks)]
        return np.stack(codes, axis=1).astype(np.uint8)

    def decode(self, codes: Codes) -> Vectors:
        """The centroids that the codes name, f32[N, D]."""
        picked = [book[codes[:, part]] for part, book in enumerate(self.codebooks)]
        return np.concatenate(picked, axis=1)

    def table(self, query: Vectors, metric: Metric = "l2") -> Tables:
        """Distance of each part of a query f32[D] to each centroid, f32[M, K]; O(K D)."""
        split = query.reshape(self.parts, 1, -1)
        if metric == "ip":
            return -(self.codebooks * split).sum(axis=2)
        return np.asarray(((self.codebooks - split) ** 2).sum(axis=2), dtype=np.float32)


def adc(table: Tables, codes: Codes) -> Distances:
    """Asymmetric distances f32[N] of a query's table [M, K] to codes u8[N, M]: M lookups each.

    Codes stored part by part (``np.asfortranarray``) make every lookup run over contiguous bytes.
    """
    total = np.zeros(len(codes), dtype=np.float32)
    for part, row in enumerate(table):
        total += row[codes[:, part]]
    return total


def reconstruction_error(vectors: Vectors, decoded: Vectors) -> float:
    """Mean squared distance between vectors and what their codes decode to."""
    return float(norms_squared(vectors - decoded).mean(dtype=np.float64))


class PQIndex:
    """All codes compared by ADC, after an optional rotation. The pieces of every PQ index."""

    def __init__(
        self,
        vectors: Vectors,
        quantizer: ProductQuantizer,
        *,
        metric: Metric = "l2",
        rotation: Vectors | None = None,
    ) -> None:
        """Encodes the vectors.

        Args:
            vectors: f32[N, D], not rotated.
            quantizer: Trained on vectors, rotated if there is a rotation.
            metric: Both survive a rotation: it changes neither distances nor inner products.
            rotation: f32[D, D] of ``train_opq``.
        """
        check_metric(metric)
        self.metric, self.quantizer, self.rotation = metric, quantizer, rotation
        self.codes = np.asfortranarray(quantizer.encode(rotate(as_vectors(vectors), rotation)))

    @property
    def bytes_per_vector(self) -> float:
        """The packed code and the share of codebooks and rotation."""
        shared = self.quantizer.codebooks.nbytes
        shared += 0 if self.rotation is None else self.rotation.nbytes
        return self.quantizer.code_bytes + shared / len(self.codes)

    def search(self, queries: Vectors, k: int) -> tuple[Distances, Ids]:
        """The k nearest by ADC: f32[Q, k] (estimates) and i64[Q, k]; O(Q (K D + N M))."""
        check_k(k)
        queries = rotate(as_vectors(queries, self.quantizer.dimensions), self.rotation)
        found = empty_result(len(queries), k)
        for row, query in enumerate(queries):
            near, ids = smallest_k(adc(self.quantizer.table(query, self.metric), self.codes), k)
            found[0][row, : near.size], found[1][row, : near.size] = near, ids
        return found


def train_opq(
    vectors: Vectors,
    *,
    parts: int,
    bits: int = 8,
    rounds: int = 30,
    start: Start = "better",
    seed: int = 0,
) -> tuple[Vectors, ProductQuantizer, list[float]]:
    """A rotation and the quantiser of the rotated vectors, trained together.

    O(rounds (N K D + N D^2 + D^3)). The error never rises from round to round.

    Args:
        vectors: f32[N, D]; at most 65,536 are used.
        parts: M; must divide D.
        bits: Per part, 1 to 8.
        rounds: Of rotation and Lloyd update.
        start: "identity"; "pca": principal axes dealt out so that parts have equal products of
            variances, the best rotation for Gaussian data (the paper's parametric solution); or
            "better": whichever of the two begins with the smaller error. Pixels are not Gaussian,
            and the parts that they come in are good ones.
        seed: Of sample and codebooks.

    Returns:
        Rotation f32[D, D] (use ``x @ rotation``), quantiser, mean squared error before each round.
    """
    vectors = as_vectors(vectors)
    check_parts(vectors.shape[1], parts, bits)
    rng = np.random.default_rng(seed)
    if len(vectors) > MAX_TRAINING_VECTORS:
        vectors = vectors[rng.choice(len(vectors), MAX_TRAINING_VECTORS, replace=False)]
    begun = [
        (rotation, *_begin(vectors @ rotation, parts, bits, seed))
        for rotation in _rotations(vectors, parts, start)
    ]
    rotation, books, _ = min(begun, key=lambda one: one[2])
    errors = []
    for _ in range(rounds):
        quantizer = ProductQuantizer(books)
        rotated = vectors @ rotation
        codes = quantizer.encode(rotated)
        errors.append(reconstruction_error(rotated, quantizer.decode(codes)))
        split = split_parts(rotated, parts)
        labels = codes.astype(np.int64)
        books = np.stack([update(split[:, m], labels[:, m], books[m]) for m in range(parts)])
        rotation = procrustes(vectors, ProductQuantizer(books).decode(codes))
    return rotation, ProductQuantizer(books), errors


def _rotations(vectors: Vectors, parts: int, start: Start) -> list[Vectors]:
    """The rotations to begin with."""
    identity = np.eye(vectors.shape[1], dtype=np.float32)
    if start == "identity":
        return [identity]
    pca = pca_allocation(vectors, parts)
    return [pca] if start == "pca" else [identity, pca]


def _begin(rotated: Vectors, parts: int, bits: int, seed: int) -> tuple[Vectors, float]:
    """Codebooks after a few iterations, and their error."""
    quantizer = ProductQuantizer.train(rotated, parts=parts, bits=bits, iterations=5, seed=seed)
    decoded = quantizer.decode(quantizer.encode(rotated))
    return quantizer.codebooks, reconstruction_error(rotated, decoded)


def procrustes(vectors: Vectors, target: Vectors) -> Vectors:
    """The orthogonal R [D, D] with the least |vectors R - target|^2: U V' of vectors' target."""
    left, _, right = np.linalg.svd(vectors.T.astype(np.float64) @ target.astype(np.float64))
    return np.asarray(left @ right, dtype=np.float32)


def pca_allocation(vectors: Vectors, parts: int) -> Vectors:
    """Principal axes dealt to parts f32[D, D]: the largest free one to the part that holds least.

    "Least" is the product of variances so far: for Gaussian parts the error at a given number of
    bits grows with that product (Ge et al., section 3, "eigenvalue allocation").
    """
    dimensions = vectors.shape[1]
    values, axes = np.linalg.eigh(np.cov(vectors, rowvar=False).astype(np.float64))
    logs = np.log(np.maximum(values, values.max() * 1e-9))
    held = np.zeros(parts)
    members: list[list[int]] = [[] for _ in range(parts)]
    for axis in np.argsort(-values, kind="stable"):
        free = [part for part in range(parts) if len(members[part]) < dimensions // parts]
        part = min(free, key=lambda one: (held[one], one))
        members[part].append(int(axis))
        held[part] += logs[axis] - logs.min()  # shifted: every axis adds, none takes away
    return np.asarray(axes[:, [axis for group in members for axis in group]], dtype=np.float32)


def rotate(vectors: Vectors, rotation: Vectors | None) -> Vectors:
    """``vectors @ rotation``, or the vectors themselves."""
    return vectors if rotation is None else np.ascontiguousarray(vectors @ rotation)


def split_parts(vectors: Vectors, parts: int) -> Vectors:
    """f32[N, D] seen as f32[N, M, D / M]."""
    return vectors.reshape(len(vectors), parts, -1)


def check_parts(dimensions: int, parts: int, bits: int) -> None:
    """Raises ValueError unless parts divides D and bits is 1 to 8."""
    if parts < 1 or dimensions % parts:
        divisors = [m for m in range(1, dimensions + 1) if dimensions % m == 0]
        raise ValueError(
            f"parts must divide {dimensions} dimensions: one of {divisors}, not {parts}"
        )
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be 1 to 8 (a code is one byte), got {bits}")
