"""A half-step of alternating least squares: many small ridge regressions, solved in batches.

In: for each row r the columns it touched with a weight and a target each (the pattern of a csr
[R, J]), and the fixed factors H [J, D] of the other side. Out: factors W [R, D] with

    (shared + sum_j weight_rj h_j h_j' + penalty_r I) w_r  =  sum_j target_rj h_j

the normal equations of row r. Everything that distinguishes explicit ALS, Hu's implicit ALS and
iALS is what stands in ``weight``, ``target``, ``shared`` and ``penalty``; see als.py and ials.py.

Why batches: one D x D system is far too small to keep numpy busy, so rows of similar length are
padded to one length and handled as one batched matrix product and one batched solve.

Legend: R rows, J columns, N stored entries, D factors, L longest row of a block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

# Padded gather of one block of rows: 2^22 float32 values are 16 MB.
BLOCK_VALUES = 1 << 22

Array = npt.NDArray[np.floating]


def solve_ridge_rows(
    rows: sparse.csr_matrix,
    other: Array,
    *,
    weight: Array,
    target: Array,
    shared: Array,
    penalty: Array,
) -> Array:
    """Solve every row's ridge regression against fixed factors of the other side.

    Time O(N D^2 + R D^3). Rows are taken in order of their length, so that a block pads little.

    Args:
        rows: csr [R, J]; only its pattern is read.
        other: Fixed factors [J, D]; its dtype is the precision of the solves.
        weight: [N], in the order of ``rows.data``.
        target: [N], likewise.
        shared: [D, D], added to every row's matrix.
        penalty: [R], added to every row's diagonal.

    Returns:
        [R, D] in the dtype of ``other``; a row without entries is zero.
    """
    n_factors = other.shape[1]
    lengths = np.diff(rows.indptr)
    padded = np.vstack([other, np.zeros((1, n_factors), dtype=other.dtype)])  # last row: padding
    solved = np.zeros((rows.shape[0], n_factors), dtype=other.dtype)
    order = np.argsort(lengths, kind="stable")
    begin = int(np.searchsorted(lengths[order], 1))  # empty rows stay zero
    while begin < order.size:
        end = _block_end(lengths[order], begin, n_factors)
        block = order[begin:end]
        solved[block] = _solve_block(rows, block, padded, weight, target, shared, penalty[block])
        begin = end
    return solved


def _block_end(sorted_lengths: npt.NDArray[np.int32], begin: int, n_factors: int) -> int:
    """End of the block that begins at ``begin``: at most BLOCK_VALUES values, at least one row."""
    size = max(1, BLOCK_VALUES // int(max(sorted_lengths[begin], n_factors) * n_factors))
    end = min(begin + size, sorted_lengths.size)
    while (
        end - begin > 1 and (end - begin) * int(sorted_lengths[end - 1]) * n_factors > BLOCK_VALUES
    ):
        end = begin + (end - begin + 1) // 2
    return end


def _solve_block(
    rows: sparse.csr_matrix,
    block: npt.NDArray[np.int64],
    padded: Array,
    weight: Array,
    target: Array,
    shared: Array,
    penalty: Array,
) -> Array:
    """Ridge solutions of the rows in ``block``, [R, D]."""
    lengths = rows.indptr[block + 1] - rows.indptr[block]
    slot = np.arange(int(lengths.max()))
    inside = slot[None, :] < lengths[:, None]  # [R, L]
    position = np.where(inside, rows.indptr[block][:, None] + slot[None, :], 0)
    columns = np.where(inside, rows.indices[position], padded.shape[0] - 1)
    gathered = padded[columns]  # [R, L, D]; padding is the zero row, so its weight is harmless
    weighted = gathered * weight[position].astype(padded.dtype)[:, :, None]
    system = shared + weighted.transpose(0, 2, 1) @ gathered  # [R, D, D]
    diagonal = np.einsum("rdd->rd", system)  # a writable view
    diagonal += penalty[:, None].astype(padded.dtype)
    right = target[position].astype(padded.dtype)[:, None, :] @ gathered  # [R, 1, D]
    return np.linalg.solve(system, right.transpose(0, 2, 1))[:, :, 0]
