"""Histograms: N sorted values become 255 bins, and finding a split no longer depends on N.

In: features f64[N, F], NaN where missing. Out: bin numbers u8[N, F], and for the rows of a node a
histogram f64[F, B, 3] of (sum of gradients, sum of hessians, rows) by bin.

Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017, algorithm
1; Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016, section 3 for quantile
cuts. Bins are made once, before the first tree. After that:

- building a node's histogram is one pass over its rows, O(n F), a table lookup and three additions
  each (``accumulate``, compiled by numba; ``accumulate_numpy`` is the same in numpy);
- finding the best cut is a scan over bins, O(F B), however many rows there are (``split.py``);
- a parent's histogram is the sum of its children's, so only the smaller child is built and the
  larger is ``parent - smaller``: at most half of the rows are touched on each level.

Bin ``B - 1 = max_bins`` of every feature is kept for missing values. Departures from LightGBM: one
size of bin numbers (u8), no bundling of exclusive features, counts are counted and not estimated
from hessians, zero has no bin of its own.

Legend: N rows, F features, B bins of a feature with the missing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

MIN_ROWS_IN_BIN = 3


@dataclass(frozen=True)
class Bins:
    """How values become bin numbers.

    Attributes:
        edges: for each feature the upper ends of its bins but the last, ascending; empty for a
            categorical feature, whose category is its bin.
        n_bins: i64[F], bins that the feature uses, the missing one not counted.
        categorical: bool[F].
        max_bins: number of the bin that holds missing values.
    """

    edges: tuple[np.ndarray, ...]
    n_bins: np.ndarray
    categorical: np.ndarray
    max_bins: int

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Bin numbers u8[N, F]; NaN and unknown categories go to the missing bin.

        Raises:
            ValueError: If the number of columns is another than at ``fit_bins``.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.edges):
            raise ValueError(f"expected [N, {len(self.edges)}] features, got {features.shape}")
        binned = np.full(features.shape, self.max_bins, dtype=np.uint8)
        for column, edges in enumerate(self.edges):
            x = features[:, column]
            if self.categorical[column]:
                known = (x >= 0) & (x < self.n_bins[column])
                binned[known, column] = x[known].astype(np.uint8)
            else:
                present = ~np.isnan(x)
                binned[present, column] = np.searchsorted(edges, x[present], side="left")
        return binned


def fit_bins(features: np.ndarray, *, max_bins: int = 255, categorical: Sequence[int] = ()) -> Bins:
    """Chooses bins that hold about equally many rows, without cutting through equal values.

    Args:
        features: [N, F], NaN where missing, no infinity.
        max_bins: Bins of a feature at most, 2 to 255.
        categorical: Positions of features whose values are category codes 0, 1, ...

    Raises:
        ValueError: On a value that cannot be binned, or a ``max_bins`` that does not fit u8.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"need [N, F] features with N >= 1, got {features.shape}")
    if not 2 <= max_bins <= 255:
        raise ValueError(f"max_bins must lie in 2..255 (255 is for missing), got {max_bins}")
    if np.isinf(features).any():
        raise ValueError("a feature is infinite; clip it, or make it NaN if it is unknown")
    is_category = np.zeros(features.shape[1], dtype=np.bool_)
    is_category[list(categorical)] = True
    edges, n_bins = [], []
    for column in range(features.shape[1]):
        values = features[~np.isnan(features[:, column]), column]
        if is_category[column]:
            edges.append(np.empty(0))
            n_bins.append(_count_categories(values, column, max_bins))
        else:
            edges.append(_edges(values, max_bins))
            n_bins.append(len(edges[-1]) + 1)
    return Bins(tuple(edges), np.array(n_bins, dtype=np.int64), is_category, max_bins)


def _count_categories(values: np.ndarray, column: int, max_bins: int) -> int:
    if (values < 0).any() or (values != np.floor(values)).any():
        raise ValueError(f"categorical feature {column} holds a value that is no code 0, 1, ...")
    n = int(values.max(initial=0.0)) + 1
    if n > max_bins:
        raise ValueError(
            f"categorical feature {column} has codes up to {n - 1}, at most {max_bins} fit; merge "
            "rare categories, or replace them by a target encoding fitted on the training rows"
        )
    return n


def _edges(values: np.ndarray, max_bins: int) -> np.ndarray:
    """Upper bin ends: midpoints between neighbouring distinct values, chosen greedily.

    A bin is closed when it holds its share of the rows that are left, so a value that alone is
    that frequent gets a bin of its own and the others share what remains.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= max_bins and counts.min(initial=MIN_ROWS_IN_BIN) >= MIN_ROWS_IN_BIN:
        return (distinct[1:] + distinct[:-1]) / 2
    ends = counts.cumsum()  # rows up to and with each distinct value
    # A bin is closed before a frequent value too: it must not share one with its left neighbours.
    before_big = np.flatnonzero(counts * max_bins >= ends[-1]) - 1
    closed: list[int] = []
    rows, bins_left, last = 0, max_bins, len(counts) - 2
    while bins_left > 1:
        share = max(MIN_ROWS_IN_BIN, (int(ends[-1]) - rows) / bins_left)
        position = int(np.searchsorted(ends, rows + share))
        if bins_left > 2:
            enough = int(np.searchsorted(ends, rows + MIN_ROWS_IN_BIN))
            ahead = before_big[int(np.searchsorted(before_big, enough)) :]
            position = min(position, int(ahead[0])) if len(ahead) else position
        if position > last:
            break
        closed.append(position)
        rows, bins_left = int(ends[position]), bins_left - 1
    at = np.array(closed, dtype=np.int64)
    return (distinct[at] + distinct[at + 1]) / 2


def accumulate_numpy(
    binned: np.ndarray, rows: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, n_slots: int
) -> np.ndarray:
    """The histogram of ``rows``, f64[F, n_slots, 3]: the definition, and the twin for the tests."""
    histogram = np.empty((binned.shape[1], n_slots, 3))
    for feature in range(binned.shape[1]):
        of_row = binned[rows, feature]
        histogram[feature, :, 0] = np.bincount(of_row, gradient[rows], n_slots)
        histogram[feature, :, 1] = np.bincount(of_row, hessian[rows], n_slots)
        histogram[feature, :, 2] = np.bincount(of_row, minlength=n_slots)
    return histogram


@numba.njit(cache=True)
def accumulate(
    binned: np.ndarray, rows: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, n_slots: int
) -> np.ndarray:
    """``accumulate_numpy``, compiled: rows outside, so that a row's bins are read in one go."""
    n_features = binned.shape[1]
    histogram = np.zeros((n_features, n_slots, 3))
    for position in range(rows.shape[0]):
        row = rows[position]
        g, h = gradient[row], hessian[row]
        for feature in range(n_features):
            cell = histogram[feature, binned[row, feature]]
            cell[0] += g
            cell[1] += h
            cell[2] += 1.0
    return histogram
