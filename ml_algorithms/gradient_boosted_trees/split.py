"""The best split of a node, read off its histogram: second-order gain, missing values, categories.

In: a histogram f64[F, B, 3] of (sum g, sum h, rows). Out: for each feature the best gain and cut.

The loss of a leaf that outputs w is, to second order, G w + (H + l2) w^2 / 2 with G and H the sums
of gradients and hessians (Chen and Guestrin, KDD 2016, equations 5 to 7; with h = 1 it is CART's
squared error, ``cart.py``). Its minimum is w = -G / (H + l2), worth G^2 / (2 (H + l2)), and so

    gain = G_L^2 / (H_L + l2) + G_R^2 / (H_R + l2) - G^2 / (H + l2)        (the 1/2 is left out)

Missing values: every cut is tried twice, with the missing rows on the left and on the right (KDD
2016, algorithm 3); the side is part of the model. Categories: 2^(K-1) partitions exist, but sorted
by g / h the best one is a prefix (Fisher, 1958, for squared error), so K cuts are enough. That
fits noise where categories are rare, hence LightGBM's guards: ``cat_smooth`` in the order,
``cat_l2`` on top of l2, ``min_rows_per_group`` new rows from cut to cut, at most
``max_categories`` of them on one side; up to ``MAX_ONE_VS_REST`` categories are cut one against the
rest.

Monotone constraints: a leaf's output is clipped to the bounds that its ancestors set, and a cut
whose outputs are in the wrong order is refused (LightGBM's "basic" method). With clipped outputs
the gain must be computed from the outputs, not by the formula above.

Everything here is plain loops compiled by numba; ``numeric_split_numpy`` is a vectorised twin.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

EPSILON = 1e-12
MAX_ONE_VS_REST = 4


class Limits(NamedTuple):
    """What a split must respect; a plain tuple of numbers, so that compiled code takes it."""

    l2: float = 0.0
    min_rows: float = 20.0
    min_hessian: float = 1e-3
    cat_smooth: float = 10.0
    cat_l2: float = 10.0
    max_categories: int = 32
    min_rows_per_group: float = 100.0


@numba.njit(cache=True)
def leaf_output(g: float, h: float, l2: float, low: float, high: float) -> float:
    """-g / (h + l2), clipped to [low, high]."""
    return min(max(-g / (h + l2 + EPSILON), low), high)


@numba.njit(cache=True)
def leaf_gain(g: float, h: float, l2: float, output: float) -> float:
    """Twice the loss that a leaf of this output removes; g^2 / (h + l2) at the free optimum."""
    return -(2.0 * g * output + (h + l2) * output * output)


@numba.njit(cache=True)
def pair_gain(
    left: tuple[float, float, float],
    total: tuple[float, float, float],
    l2: float,
    limits: Limits,
    monotone: int,
    low: float,
    high: float,
) -> float:
    """Gain of the two leaves together, -inf where a limit or the constraint forbids the cut."""
    g, h, n = left
    g_right, h_right, n_right = total[0] - g, total[1] - h, total[2] - n
    if n < limits.min_rows or n_right < limits.min_rows:
        return -np.inf
    if h < limits.min_hessian or h_right < limits.min_hessian:
        return -np.inf
    out_left = leaf_output(g, h, l2, low, high)
    out_right = leaf_output(g_right, h_right, l2, low, high)
    if monotone * (out_right - out_left) < 0:
        return -np.inf
    return leaf_gain(g, h, l2, out_left) + leaf_gain(g_right, h_right, l2, out_right)


@numba.njit(cache=True)
def numeric_split(
    cells: np.ndarray,
    n_bins: int,
    total: tuple[float, float, float],
    limits: Limits,
    monotone: int,
    low: float,
    high: float,
) -> tuple[float, int, bool]:
    """The best cut of one numeric feature.

    Args:
        cells: [B, 3], the feature's histogram; the last row is the missing bin.
        n_bins: Bins in use.
        total: (g, h, rows) of the node.
        limits: Of the split.
        monotone: +1 the output must not fall with the feature, -1 not rise, 0 free.
        low: Lower bound of outputs in this node.
        high: Upper bound.

    Returns:
        (gain of the pair, last bin on the left, whether missing goes left).
    """
    missing = cells[-1]
    best, best_bin, best_side = -np.inf, -1, False
    for side in range(2):
        missing_left = side == 1
        if missing_left and missing[2] == 0:
            break  # nothing is missing: the second pass would repeat the first
        g, h, n = (missing[0], missing[1], missing[2]) if missing_left else (0.0, 0.0, 0.0)
        # With the last bin on the left only missing rows are on the right: a cut of its own.
        stop = n_bins if (missing[2] > 0 and not missing_left) else n_bins - 1
        for b in range(stop):
            g, h, n = g + cells[b, 0], h + cells[b, 1], n + cells[b, 2]
            gain = pair_gain((g, h, n), total, limits.l2, limits, monotone, low, high)
            if gain > best:
                best, best_bin, best_side = gain, b, missing_left
    if missing[2] == 0 and best_bin >= 0:  # unseen here: follow the majority
        n_left = cells[: best_bin + 1, 2].sum()
        best_side = 2 * n_left > total[2]
    return best, best_bin, best_side


def numeric_split_numpy(
    cells: np.ndarray, n_bins: int, total: tuple[float, float, float], limits: Limits
) -> tuple[float, int, bool]:
    """``numeric_split`` without constraint, as whole arrays: all cuts x both sides at once."""
    left = np.cumsum(cells[:n_bins], axis=0)  # [cuts, 3]
    sides = np.stack([left, left + cells[-1]])  # missing right, missing left
    right = np.asarray(total) - sides
    small = (np.minimum(sides, right)[..., 2] < limits.min_rows) | (
        np.minimum(sides, right)[..., 1] < limits.min_hessian
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = sum(part[..., 0] ** 2 / (part[..., 1] + limits.l2) for part in (sides, right))
    gain = np.where(small, -np.inf, gain)
    gain[1, -1] = -np.inf  # everything left
    if cells[-1, 2] == 0:
        gain[1], gain[0, -1] = -np.inf, -np.inf
    side, cut = np.unravel_index(int(gain.argmax()), gain.shape)
    if not np.isfinite(gain[side, cut]):
        return -np.inf, -1, False
    missing_left = bool(side == 1) if cells[-1, 2] else bool(2 * left[cut, 2] > total[2])
    return float(gain[side, cut]), int(cut), missing_left


@numba.njit(cache=True)
def categorical_split(
    cells: np.ndarray,
    n_bins: int,
    total: tuple[float, float, float],
    limits: Limits,
    low: float,
    high: float,
) -> tuple[float, np.ndarray]:
    """The best set of categories for the left side; missing and unseen ones go right.

    Returns:
        (gain of the pair, bool[B] of the bins on the left).
    """
    chosen = np.zeros(cells.shape[0], dtype=np.bool_)
    best = -np.inf
    if n_bins <= MAX_ONE_VS_REST:
        for b in range(n_bins):
            one = (cells[b, 0], cells[b, 1], cells[b, 2])
            gain = pair_gain(one, total, limits.l2, limits, 0, low, high)
            if gain > best:
                best = gain
                chosen[:] = False
                chosen[b] = True
        return best, chosen
    used = np.flatnonzero(cells[:n_bins, 2] >= max(limits.cat_smooth, 1.0))
    score = cells[used, 0] / (cells[used, 1] + limits.cat_smooth)
    order = used[np.argsort(score)]
    longest = min(limits.max_categories, (len(order) + 1) // 2)
    for direction in range(2):
        walk = order if direction == 0 else order[::-1]
        g, h, n, new_rows = 0.0, 0.0, 0.0, 0.0
        for position in range(longest):
            cell = cells[walk[position]]
            g, h, n, new_rows = g + cell[0], h + cell[1], n + cell[2], new_rows + cell[2]
            if n < limits.min_rows or h < limits.min_hessian:
                continue
            if total[2] - n < max(limits.min_rows, limits.min_rows_per_group):
                break
            if new_rows < limits.min_rows_per_group:
                continue
            new_rows = 0.0
            l2 = limits.l2 + limits.cat_l2
            gain = pair_gain((g, h, n), total, l2, limits, 0, low, high)
            if gain > best:
                best = gain
                chosen[:] = False
                chosen[walk[: position + 1]] = True
    return best, chosen


@numba.njit(cache=True)
def best_of_features(
    histogram: np.ndarray,
    n_bins: np.ndarray,
    categorical: np.ndarray,
    monotone: np.ndarray,
    allowed: np.ndarray,
    total: tuple[float, float, float],
    limits: Limits,
    low: float,
    high: float,
) -> tuple[float, int, int, bool, np.ndarray]:
    """The best split of a node.

    Args:
        histogram: [F, B, 3].
        n_bins: i64[F].
        categorical: bool[F].
        monotone: i64[F].
        allowed: bool[F], features that this tree may use.
        total: (g, h, rows) of the node.
        limits: Of the split.
        low: Lower bound of outputs in this node.
        high: Upper bound.

    Returns:
        (gain over the unsplit leaf, feature or -1, last bin on the left or -1 for a categorical
        split, whether missing goes left, bool[B] bins on the left of a categorical split).
    """
    output = leaf_output(total[0], total[1], limits.l2, low, high)
    unsplit = leaf_gain(total[0], total[1], limits.l2, output)
    best, feature, cut, side = 0.0, -1, -1, False
    chosen = np.zeros(histogram.shape[1], dtype=np.bool_)
    for f in range(histogram.shape[0]):
        if not allowed[f]:
            continue
        if categorical[f]:
            gain, bins = categorical_split(histogram[f], n_bins[f], total, limits, low, high)
            if gain - unsplit > best + EPSILON:
                best, feature, cut, side, chosen = gain - unsplit, f, -1, False, bins
        else:
            gain, b, left = numeric_split(
                histogram[f], n_bins[f], total, limits, monotone[f], low, high
            )
            if gain - unsplit > best + EPSILON:
                best, feature, cut, side = gain - unsplit, f, b, left
    return best, feature, cut, side, chosen
