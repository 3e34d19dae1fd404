"""Trees as flat arrays: what a fitted model is, and how it scores a row.

In: features f64[N, F], NaN where missing. Out: the sum of all trees' leaf values, f64[N].

A tree of nodes that point to each other misses the cache at every step; arrays of one type each,
node after node, do not. Inner nodes hold feature, threshold, the side of missing values and the
two children; a leaf has feature -1. A categorical node has a row of flags, one a category, in
place of the threshold. Node numbers are those of the whole forest.

Legend: N rows, F features, T trees, M nodes of all trees, K sets of categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

LEAF = -1


@dataclass(frozen=True)
class Forest:
    """T trees, M nodes.

    Attributes:
        roots: i64[T], the first node of each tree.
        feature: i64[M], LEAF for a leaf.
        threshold: f64[M]; ``x <= threshold`` goes left.
        missing_left: bool[M].
        left: i64[M].
        right: i64[M].
        value: f64[M], the output of every node, of inner ones too (before they were split).
        gain: f64[M], 0 for a leaf.
        cover: f64[M], training rows that came by.
        category_set: i64[M], row of ``categories``, -1 for a numeric split.
        categories: bool[K, B], categories that go left.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    gain: np.ndarray
    cover: np.ndarray
    category_set: np.ndarray
    categories: np.ndarray

    @property
    def n_trees(self) -> int:
        """T."""
        return len(self.roots)

    def predict(self, features: np.ndarray, *, n_trees: int | None = None) -> np.ndarray:
        """Sums of leaf values f64[N], of the first ``n_trees`` trees or of all; O(N T depth)."""
        features = np.ascontiguousarray(features, np.float64)
        roots = self.roots if n_trees is None else self.roots[:n_trees]
        return sum_of_leaves(
            features, roots, self.feature, self.threshold, self.missing_left,
            self.left, self.right, self.value, self.category_set, self.categories,
        )  # fmt: skip

    def n_leaves(self) -> int:
        """Leaves of all trees."""
        return int((self.feature == LEAF).sum())

    def depths(self) -> np.ndarray:
        """Splits above each node, i64[M]; children stand after their parents."""
        depth = np.zeros(len(self.feature), dtype=np.int64)
        for node in np.flatnonzero(self.feature != LEAF):
            depth[[self.left[node], self.right[node]]] = depth[node] + 1
        return depth


def concatenate(trees: list[Forest]) -> Forest:
    """One forest of many, node numbers shifted.

    Raises:
        ValueError: Without trees.
    """
    if not trees:
        raise ValueError("a forest needs at least one tree")
    shift = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    sets = np.cumsum([0, *(len(tree.categories) for tree in trees)])

    def join(name: str, by: np.ndarray | None = None) -> np.ndarray:
        parts = [getattr(tree, name) for tree in trees]
        if by is not None:  # -1 (no child, no set) stays -1
            parts = [np.where(p >= 0, p + b, p) for p, b in zip(parts, by[:-1], strict=True)]
        return np.concatenate(parts)

    return Forest(
        join("roots", shift), join("feature"), join("threshold"), join("missing_left"),
        join("left", shift), join("right", shift), join("value"), join("gain"), join("cover"),
        join("category_set", sets), join("categories"),
    )  # fmt: skip


@numba.njit(cache=True)
def goes_left(
    x: float,
    node: int,
    threshold: np.ndarray,
    missing_left: np.ndarray,
    category_set: np.ndarray,
    categories: np.ndarray,
) -> bool:
    """Where a row with value ``x`` turns at ``node``; missing and unknown categories: right."""
    which = category_set[node]
    if which >= 0:
        return (x >= 0) and (x < categories.shape[1]) and categories[which, int(x)]
    if np.isnan(x):
        return missing_left[node]
    return x <= threshold[node]


@numba.njit(cache=True)
def sum_of_leaves(
    features: np.ndarray,
    roots: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    missing_left: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    value: np.ndarray,
    category_set: np.ndarray,
    categories: np.ndarray,
) -> np.ndarray:
    """Walks every row down every tree; arguments as in ``Forest``."""
    total = np.zeros(features.shape[0])
    for row in range(features.shape[0]):
        for root in roots:
            node = root
            while feature[node] >= 0:
                x = features[row, feature[node]]
                turn = goes_left(x, node, threshold, missing_left, category_set, categories)
                node = left[node] if turn else right[node]
            total[row] += value[node]
    return total
