"""Content vectors of 64 numbers in place of 768, for what compares pairs within a request.

In: content f[V, 768], unit rows. Out: f32[V, d], unit rows, whose cosines stand in for the full
ones. A pool of 60 videos reads 180 KiB at 768 numbers and 15 KiB at 64: the pairs cost less than
fetching the rows.

Two ways, both measured in ``evaluation.reranking``:

- ``principal``: the d directions of largest second moment (no mean is taken off: cosines are about
  the origin). The best d-dimensional approximation of all dot products in the least squares sense
  (Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika
  1936). What it drops is what a video shares with no other; so the cosines that are left are
  larger than the full ones, and keep their order.
- ``random``: a random orthonormal basis. It needs no data and is never stale; the error of a cosine
  is about ``1 / sqrt(d)``, and falls on near and far pairs alike.

Legend: V videos, d projected dimension.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

SAMPLE = 20_000
"""Videos that the principal directions are found on: a 768 x 768 moment needs no more."""
CHUNK = 16_384


def fit_basis(
    content: np.ndarray,
    dim: int,
    *,
    method: Literal["principal", "random"] = "principal",
    seed: int = 0,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """An orthonormal basis f32[768, dim].

    Args:
        content: f[V, 768].
        among: bool[V]: the videos known at training time; None for all.
        dim: At most 768.
        method: Which directions.
        seed: Of the sample, or of the random directions.

    Raises:
        ValueError: If ``dim`` exceeds the content's.
    """
    full = content.shape[1]
    if dim > full:
        raise ValueError(f"cannot project {full} dimensions onto {dim}")
    rng = np.random.default_rng(seed)
    if method == "random":
        return np.linalg.qr(rng.standard_normal((full, dim)))[0].astype(np.float32)
    known = np.arange(len(content)) if among is None else np.flatnonzero(among)
    if len(known) > SAMPLE:
        known = np.sort(rng.choice(known, SAMPLE, replace=False))
    rows = content[known].astype(np.float32)
    moment = (rows.T @ rows).astype(np.float64) / max(1, len(rows))
    return np.linalg.eigh(moment)[1][:, ::-1][:, :dim].astype(np.float32)


def project(content: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Unit rows f32[V, d]; a row that the basis does not touch stays zero, like nothing else."""
    low = np.empty((len(content), basis.shape[1]), dtype=np.float32)
    for begin in range(0, len(content), CHUNK):  # never the whole catalogue as float32
        low[begin : begin + CHUNK] = content[begin : begin + CHUNK].astype(np.float32) @ basis
    length = np.linalg.norm(low, axis=1, keepdims=True)
    return np.divide(low, length, out=np.zeros_like(low), where=length > 0)
