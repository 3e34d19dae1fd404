"""What the neighbourhood models share: item-item products in blocks, pruned to the nearest.

Orientation, the same for every model in this folder: ``W[i, j]`` is the vote that history item
``i`` gives to target item ``j``, so that a user's scores are ``history @ W``.

Pruning is by *column*: each target keeps its ``neighbours`` strongest sources, so that its score
is a sum over the user's items among the target's neighbours (Sarwar et al., WWW 2001). The other
way, each source voting for its ``neighbours`` best targets (Deshpande and Karypis,
TOIS 2004), leaves rarely seen targets without any vote; ``prune_rows`` does that, where a bounded
fan-out per history item matters more than quality.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

# Rows of the product that are dense at once: 1,024 x 100,000 items in float32 are 400 MB.
BLOCK_ROWS = 1024

BlockTransform = Callable[[npt.NDArray[np.float32], slice], npt.NDArray[np.float32]]


def pruned_product(
    left: sparse.csr_matrix,
    right: sparse.csr_matrix,
    *,
    neighbours: int,
    transform: BlockTransform,
) -> sparse.csr_matrix:
    """Compute ``transform(left @ right)`` and keep the best sources of each target.

    The full item-item matrix never exists at once: memory is one dense block plus the result. Only
    positive entries are kept, so a target may have fewer than ``neighbours``.

    Args:
        left: Factor with a row for each target [I, U].
        right: Factor with a column for each source [U, I].
        neighbours: Sources to keep for each target, at least 1.
        transform: Called with a dense block [targets, I] and the slice of targets that it covers;
            returns the similarities of that block (for example, counts divided by norms). It may
            work in place.

    Returns:
        csr f32[I, I] with a zero diagonal, ``W[source, target]``.

    Raises:
        ValueError: If ``neighbours`` is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    blocks = []
    for begin in range(0, left.shape[0], BLOCK_ROWS):
        targets = slice(begin, min(begin + BLOCK_ROWS, left.shape[0]))
        dense = (left[targets] @ right).toarray().astype(np.float32, copy=False)
        dense = transform(dense, targets)
        dense[np.arange(dense.shape[0]), np.arange(targets.start, targets.stop)] = 0.0
        blocks.append(_keep_top_per_row(dense, neighbours))
    return sparse.vstack(blocks).T.tocsr()


def prune_rows(matrix: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Keep the ``neighbours`` largest positive entries of each row of a sparse matrix.

    Args:
        matrix: csr [I, J], any numeric type.
        neighbours: Entries to keep in each row, at least 1.

    Returns:
        csr f32[I, J] with sorted columns. Among equal values the lower column stays.

    Raises:
        ValueError: If ``neighbours`` is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    row_of = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row_of))  # row by row, best value first
    rank_in_row = np.arange(order.size) - matrix.indptr[row_of[order]]
    kept = order[(rank_in_row < neighbours) & (matrix.data[order] > 0)]
    entries = (matrix.data[kept].astype(np.float32), (row_of[kept], matrix.indices[kept]))
    return sparse.csr_matrix(entries, shape=matrix.shape)


def prune_columns(matrix: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Keep the ``neighbours`` largest positive entries of each column: a target's sources."""
    return prune_rows(matrix.T.tocsr(), neighbours).T.tocsr()


def as_float32_csr(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return ``matrix`` as csr f32 with duplicates summed, or say why it cannot be used.

    Raises:
        ValueError: If the matrix is empty, or holds negative or non-finite values.
    """
    csr = sparse.csr_matrix(matrix, dtype=np.float32)
    if not csr.has_canonical_format:
        csr = csr.copy()  # the caller's arrays stay as they are
        csr.sum_duplicates()
    if csr.shape[0] == 0 or csr.shape[1] == 0:
        raise ValueError(f"the interaction matrix must have users and items, got shape {csr.shape}")
    if csr.nnz and not (np.isfinite(csr.data).all() and csr.data.min() >= 0.0):
        raise ValueError("interactions must be finite and non-negative: clip or shift them")
    return csr


def _keep_top_per_row(dense: npt.NDArray[np.float32], neighbours: int) -> sparse.csr_matrix:
    """The ``neighbours`` largest positive entries of each row of ``dense`` [R, I], as csr.

    Which of several equal values at the cut stay is fixed but arbitrary (numpy's partition).
    """
    n_rows, n_columns = dense.shape
    kept = min(neighbours, n_columns)
    columns = np.argpartition(dense, n_columns - kept, axis=1)[:, n_columns - kept :]
    values = np.take_along_axis(dense, columns, axis=1)
    positive = values > 0.0
    ptr = np.concatenate([[0], np.cumsum(positive.sum(axis=1))])
    return sparse.csr_matrix((values[positive], columns[positive], ptr), shape=(n_rows, n_columns))
