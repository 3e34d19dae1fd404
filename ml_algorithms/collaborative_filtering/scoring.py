"""Scores of live histories under any item-item model: one sparse-dense product.

In: an item-item model [I, I] (dense EASE, or csr kNN / RP3beta / co-visitation) and B histories in
ragged form. Out: f32[B, I]. Nothing about the user is stored: the history of this moment is the
user.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

ItemItemModel: TypeAlias = npt.NDArray[np.float32] | sparse.csr_matrix


def score_histories(
    model: ItemItemModel,
    item_idx: npt.NDArray[np.integer],
    ptr: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float32]:
    """Score the whole catalogue for each of B histories: ``out[b] = sum_i weight_i * model[i]``.

    Time: O(total history length x I) for a dense model; O(total history length x neighbours + B x
    I) for a sparse one. Memory 4 x B x I bytes: pass large sets in batches of some hundred
    histories.

    Args:
        model: Dense f32[I, I] or csr [I, I]; row i holds the votes of history item i.
        item_idx: Item indices of all histories, one after another [N].
        ptr: History b is ``item_idx[ptr[b]:ptr[b + 1]]``, i64[B + 1]; an empty history scores 0
            everywhere.
        weights: Weight of each history event [N] (recency, rating); all 1 when left out. An item
            that occurs twice votes twice.

    Returns:
        Scores f32[B, I]. Seen items are not masked here.

    Raises:
        ValueError: If the shapes of ``item_idx``, ``ptr`` and ``weights`` disagree, or an index is
            outside the catalogue.
    """
    n_items = model.shape[0]
    if weights is None:
        weights = np.ones(len(item_idx), dtype=np.float32)
    _check_histories(item_idx, ptr, weights, n_items)
    histories = sparse.csr_matrix(
        (np.asarray(weights, dtype=np.float32), item_idx, ptr), shape=(len(ptr) - 1, n_items)
    )
    scores = histories @ model
    return scores.toarray() if sparse.issparse(scores) else np.asarray(scores)


def _check_histories(
    item_idx: npt.NDArray[np.integer],
    ptr: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating],
    n_items: int,
) -> None:
    if len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != len(item_idx):
        raise ValueError(
            f"ptr must run from 0 to the {len(item_idx)} events, got {ptr[:1]}..{ptr[-1:]}"
        )
    if len(weights) != len(item_idx):
        raise ValueError(f"{len(weights)} weights for {len(item_idx)} events")
    if len(item_idx) and not (item_idx.min() >= 0 and item_idx.max() < n_items):
        raise ValueError(
            f"item indices {item_idx.min()}..{item_idx.max()} outside a catalogue of {n_items}"
        )
