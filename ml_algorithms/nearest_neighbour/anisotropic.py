"""Anisotropic (score-aware) quantisation: ScaNN's loss, for maximum inner product search.

In: vectors f32[N, D]. Out: a product quantiser whose errors fall where they do not change the top
of the ranking. Guo, Sun, Lindgren, Geng, Simcha, Chern and Kumar, "Accelerating Large-Scale
Inference with Anisotropic Vector Quantization", ICML 2020.

An inner product is estimated as q.x~, so its error is q.r with r = x - x~. Averaged over all
queries that depends on |r| alone: minimise reconstruction error, as PQ does. But an error matters
only for vectors that score high, and x scores high when q points along x. For those queries q.r is
made by the part of r *parallel* to x; the perpendicular part meets q at a right angle. So weigh it
more (section 3 of the paper):

    loss(x, x~) = eta |r_par|^2 + |r_perp|^2  =  |r|^2 + (eta - 1) (u.r)^2,     u = x / |x|

With weight 1 on inner products of at least T and 0 below, eta = (D - 1) (T/|x|)^2 / (1 - (T/|x|)^2)
in the limit of many dimensions. eta = 1 is plain PQ, and this module at eta = 1 *is*
plain PQ: the comparison at equal bytes changes one number.

The loss does not split over parts, since (u.r)^2 mixes them (section 4 of the paper):

- assignment: coordinate descent; one part's code at a time, others fixed, some sweeps;
- codebooks: with the codes fixed the loss is quadratic in all M K Ds codebook values at once. Let
  row i of W [N, M K Ds] hold u_i at the centroids that i uses: then
  (diag(counts) + W' diag(eta - 1) W) c = sum over i of eta_i x_i, one linear system of size K D.

K D unknowns limit this to small codebooks; K = 16 (4 bits), two dimensions a part, is what ScaNN
uses too, since 16 table entries fit into one register.

T is one number for vectors of all lengths, as in the paper. Departure: eta is kept at 1 or more.

Legend: N vectors, D dimensions, M parts, K centroids a part, Ds = D / M.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.nearest_neighbour.exact import norms_squared
from ml_algorithms.nearest_neighbour.index import Codes, Vectors, as_vectors, normalise
from ml_algorithms.nearest_neighbour.product_quantization import ProductQuantizer, split_parts

Weights = npt.NDArray[np.float32]
BLOCK = 16_384
MAX_UNKNOWNS = 8_192
RIDGE = 1e-6


def eta_from_threshold(threshold: float, vectors: Vectors) -> Weights:
    """Weight of the parallel error of each vector f32[N], for inner products of at least T.

    Args:
        threshold: T, below the length of a vector that is to be weighed (0.2 of it is ScaNN's
            advice for unit vectors).
        vectors: f32[N, D].

    Raises:
        ValueError: If T is not positive or reaches the length of the shortest vector.
    """
    lengths = np.sqrt(norms_squared(vectors))
    if not 0.0 < threshold < float(lengths.min()):
        raise ValueError(
            f"threshold must lie in (0, {lengths.min():.4g}), the shortest length; got {threshold}"
        )
    share = (threshold / lengths) ** 2
    return np.maximum((vectors.shape[1] - 1) * share / (1.0 - share), 1.0).astype(np.float32)


def anisotropic_loss(vectors: Vectors, decoded: Vectors, eta: Weights) -> float:
    """Mean of |r|^2 + (eta - 1) (u.r)^2 over the vectors."""
    residual = vectors - decoded
    parallel = np.einsum("nd,nd->n", residual, normalise(vectors))
    values = norms_squared(residual) + (eta - 1.0) * parallel**2
    return float(values.mean(dtype=np.float64))


def train_anisotropic(
    vectors: Vectors,
    *,
    parts: int,
    bits: int = 4,
    eta: float | Weights,
    rounds: int = 10,
    seed: int = 0,
) -> tuple[ProductQuantizer, list[float]]:
    """Codebooks for the score-aware loss, started from plain PQ.

    Args:
        vectors: f32[N, D].
        parts: M; must divide D.
        bits: Per part; 2^bits D at most 8,192 unknowns.
        eta: Weight of the parallel error: one number, or one per vector f32[N].
        rounds: Of assignment and codebook update; the loss never rises.
        seed: Of the plain PQ.

    Returns:
        The quantiser (encode with ``encode_anisotropic``), and the loss after each assignment.

    Raises:
        ValueError: If eta is below 1 or the system would be too large.
    """
    vectors = as_vectors(vectors)
    weights = _weights(eta, len(vectors))
    if (1 << bits) * vectors.shape[1] > MAX_UNKNOWNS:
        raise ValueError(
            f"2^{bits} x {vectors.shape[1]} unknowns exceed {MAX_UNKNOWNS}: use fewer bits"
        )
    plain = ProductQuantizer.train(vectors, parts=parts, bits=bits, seed=seed)
    quantizer, codes, losses = plain, plain.encode(vectors), []
    for _ in range(rounds):
        codes = encode_anisotropic(quantizer, vectors, weights, start=codes)
        losses.append(anisotropic_loss(vectors, quantizer.decode(codes), weights))
        quantizer = update_codebooks(quantizer, vectors, codes, weights)
    return quantizer, losses


def encode_anisotropic(
    quantizer: ProductQuantizer,
    vectors: Vectors,
    eta: float | Weights,
    *,
    sweeps: int = 3,
    start: Codes | None = None,
) -> Codes:
    """Codes u8[N, M] by coordinate descent on the loss; O(sweeps N K D).

    Args:
        quantizer: Of ``train_anisotropic``.
        vectors: f32[N, D].
        eta: As in training.
        sweeps: Passes over the parts; a pass that changes nothing ends the work on a block.
        start: Codes to begin with; the nearest centroids when None.
    """
    vectors = as_vectors(vectors, quantizer.dimensions)
    weights = _weights(eta, len(vectors))
    codes = quantizer.encode(vectors) if start is None else start.copy()
    for begin in range(0, len(vectors), BLOCK):
        rows = slice(begin, begin + BLOCK)
        for _ in range(sweeps):
            before = codes[rows].copy()
            _sweep(quantizer, vectors[rows], codes[rows], weights[rows])
            if np.array_equal(before, codes[rows]):
                break
    return codes


def _sweep(quantizer: ProductQuantizer, vectors: Vectors, codes: Codes, eta: Weights) -> None:
    """One pass of coordinate descent over the parts; changes codes [N, M] in place."""
    split = split_parts(vectors, quantizer.parts)
    directions = split_parts(normalise(vectors), quantizer.parts)
    decoded = split_parts(quantizer.decode(codes), quantizer.parts)
    parallel = np.einsum("nmd,nmd->nm", directions, split - decoded)  # u.r by part
    total = parallel.sum(axis=1)
    for part, book in enumerate(quantizer.codebooks):
        others = total - parallel[:, part]
        own = np.einsum("nd,nd->n", directions[:, part], split[:, part])
        along = own[:, None] - directions[:, part] @ book.T  # u.r of this part, [N, K]
        error = -2.0 * split[:, part] @ book.T + norms_squared(book)  # |r|^2 but for a constant
        cost = error + (eta[:, None] - 1.0) * (others[:, None] + along) ** 2
        codes[:, part] = cost.argmin(axis=1)
        parallel[:, part] = np.take_along_axis(along, codes[:, [part]].astype(np.int64), 1)[:, 0]
        total = others + parallel[:, part]


def update_codebooks(
    quantizer: ProductQuantizer, vectors: Vectors, codes: Codes, eta: Weights
) -> ProductQuantizer:
    """The best codebooks for fixed codes: one symmetric system of M K Ds unknowns."""
    n_parts, n_centroids, width = quantizer.codebooks.shape
    rows, columns = _cells(codes, n_centroids, width)
    shape = (len(vectors), n_parts * n_centroids * width)
    uses = sparse.csr_matrix(
        (normalise(vectors).ravel().astype(np.float64), (rows, columns)), shape
    )
    weighted = uses.multiply((eta.astype(np.float64) - 1.0)[:, None]).tocsr()
    counts = np.bincount(columns, minlength=shape[1])
    targets = (eta.astype(np.float64)[:, None] * vectors).ravel()
    right = np.bincount(columns, weights=targets, minlength=shape[1])
    # A centroid that no vector uses has an empty row: the ridge holds it where it is.
    ridge = RIDGE * max(float(counts.mean()), 1.0)
    system: npt.NDArray[np.float64] = (uses.T @ weighted).toarray()
    system += np.diag(counts + ridge)
    solved = np.linalg.solve(system, right + ridge * quantizer.codebooks.ravel())
    return ProductQuantizer(solved.reshape(quantizer.codebooks.shape).astype(np.float32))


def _cells(
    codes: Codes, n_centroids: int, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and unknown of every value of the vectors, i64[N D] each."""
    parts = np.arange(codes.shape[1])
    first = (parts * n_centroids + codes.astype(np.int64)) * width  # [N, M]
    columns = first[:, :, None] + np.arange(width)
    rows = np.repeat(np.arange(len(codes)), codes.shape[1] * width)
    return rows, columns.ravel()


def _weights(eta: float | Weights, n: int) -> Weights:
    """The weights f32[N], each at least 1."""
    weights = np.broadcast_to(np.asarray(eta, dtype=np.float32), (n,))
    if not (np.isfinite(weights).all() and (weights >= 1.0).all()):
        raise ValueError(f"eta must be at least 1 everywhere, got a smallest of {weights.min()}")
    return weights
