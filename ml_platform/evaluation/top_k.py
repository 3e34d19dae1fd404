"""Exact top-k lists from a block of scores: seen items masked, ties broken deterministically.

In: `scores` f32[B, I], one row per query over the full catalogue. Out: the k best item indices
and their scores, best first. Legend: B queries in the block, I items, K list length.

Why ties need care: items with equal scores are common (popularity counts, cold items, constant
or saturated models). Breaking such ties by item id or by position lets the order of the source
file leak into the metric, and leaving them to `argpartition` makes the list depend on the
library's version. Here equal scores are ordered by one fixed pseudo-random permutation of the
catalogue: the same for every query, every model and every run.
"""

from functools import lru_cache

import numpy as np

PADDING = -1  # the item index of an empty place in a list


def top_k(
    scores: np.ndarray,
    k: int,
    *,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
    tie_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of every row, best first.

    Cost: O(B I) for the selection, O(B K log K) for the order, and one copy of the block. For
    more queries than fit in memory, call it block by block: rows do not depend on each other.

    Args:
        scores: [B, I]; higher is better. -inf means "not a candidate". Not changed.
        k: List length, at least 1.
        seen: Pairs to leave out, as two arrays of equal length: rows in 0..B-1, items in 0..I-1.
        tie_seed: Seed of the item order that decides between equal scores.

    Returns:
        Items i32[B, k] and scores f32[B, k]. Where a row has fewer than k candidates left, the
        remaining places hold item -1 and score -inf.

    Raises:
        ValueError: On NaN scores, a wrong shape, k < 1, or `seen` outside the block.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be [B, I], got shape {scores.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    n_rows, n_items = scores.shape
    item_of, place_of = tie_order(n_items, tie_seed)
    # Columns are laid out in tie order, so that "first among equals" below is the tie rule.
    block = np.take(np.asarray(scores, dtype=np.float32), item_of, axis=1)
    if np.isnan(block).any():
        row, place = np.argwhere(np.isnan(block))[0]
        raise ValueError(f"NaN score in row {row} for item {item_of[place]}: the model diverged")
    if seen is not None:
        rows, items = _checked_pairs(seen, n_rows, n_items)
        block[rows, place_of[items]] = -np.inf

    width = min(k, n_items)
    places = _best_places(block, width)
    values = np.take_along_axis(block, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    chosen = item_of[np.take_along_axis(places, order, axis=1)]

    items_out = np.full((n_rows, k), PADDING, dtype=np.int32)
    values_out = np.full((n_rows, k), -np.inf, dtype=np.float32)
    items_out[:, :width] = np.where(values == -np.inf, PADDING, chosen)
    values_out[:, :width] = values
    return items_out, values_out


def _best_places(block: np.ndarray, width: int) -> np.ndarray:
    """Columns of each row's `width` largest values, ascending; of equals, the first. [B, width]."""
    n_rows, n_items = block.shape
    if width == n_items:
        return np.broadcast_to(np.arange(n_items), block.shape)
    threshold = np.partition(block, n_items - width, axis=1)[:, n_items - width, None]
    keep = block >= threshold
    crowded = np.flatnonzero(keep.sum(axis=1) > width)  # rows with a tie across the border
    if len(crowded):
        equal = block[crowded] == threshold[crowded]
        spare = width - (keep[crowded].sum(axis=1) - equal.sum(axis=1))
        too_many = equal & (np.cumsum(equal, axis=1, dtype=np.int32) > spare[:, None])
        keep[crowded] &= ~too_many
    return np.nonzero(keep)[1].reshape(n_rows, width)


@lru_cache(maxsize=4)
def tie_order(n_items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The fixed order of equal scores: the item at each place, and the place of each item, [I]."""
    item_of = np.random.default_rng(seed).permutation(n_items).astype(np.int32)
    place_of = np.argsort(item_of)
    item_of.setflags(write=False)
    place_of.setflags(write=False)
    return item_of, place_of


def _checked_pairs(
    seen: tuple[np.ndarray, np.ndarray], n_rows: int, n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """`seen`, once it is known that no index would wrap around or miss the block."""
    rows, items = (np.asarray(part) for part in seen)
    if rows.shape != items.shape or rows.ndim != 1:
        raise ValueError(f"seen must be two equally long arrays, got {rows.shape}, {items.shape}")
    for name, part, size in (("row", rows, n_rows), ("item", items, n_items)):
        if len(part) and (part.min() < 0 or part.max() >= size):
            raise ValueError(
                f"seen {name}s must lie in 0..{size - 1}, got {part.min()}..{part.max()}"
            )
    return rows, items
