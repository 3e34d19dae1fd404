"""Growing one tree from gradients: leaf-wise, on histograms.

In: bin numbers u8[N, F], gradients and hessians f64[N] of the rows. Out: a ``Forest`` of one tree,
and the leaf of each row.

Leaf-wise (best-first; Shi, "Best-first Decision Tree Learning", 2007; LightGBM, NeurIPS 2017): of
all leaves, split the one whose best cut gains most, until ``n_leaves`` are there. Depth-wise
(XGBoost's default) splits level by level. With the same number of leaves the first lowers the
training loss more, and goes deep where few rows are: ``max_depth`` and ``min_rows`` are its guards.

Legend: N rows of the table, n rows in a node, F features, B bins with the missing one.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numba
import numpy as np

from ml_algorithms.gradient_boosted_trees.forest import LEAF, Forest
from ml_algorithms.gradient_boosted_trees.histogram import Bins, accumulate
from ml_algorithms.gradient_boosted_trees.split import (
    MAX_ONE_VS_REST,
    Limits,
    best_of_features,
    leaf_output,
)

UNLIMITED = 1 << 30


@dataclass(frozen=True)
class Shape:
    """How a tree may grow."""

    n_leaves: int = 31
    max_depth: int = UNLIMITED
    leaf_wise: bool = True
    min_gain: float = 0.0
    limits: Limits = field(default_factory=Limits)


@dataclass
class _Leaf:
    """A node that may still be split: its rows, its histogram, its best cut."""

    node: int
    depth: int
    rows: np.ndarray
    histogram: np.ndarray
    total: tuple[float, float, float]
    low: float
    high: float
    gain: float = 0.0
    feature: int = LEAF
    cut: int = -1
    missing_left: bool = False
    chosen: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.bool_))


@dataclass
class _Nodes:
    """The tree under construction: a list for each array of ``Forest``."""

    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    missing_left: list[bool] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    cover: list[float] = field(default_factory=list)
    category_set: list[int] = field(default_factory=list)
    categories: list[np.ndarray] = field(default_factory=list)

    def add_leaf(self, value: float, cover: float) -> int:
        self.feature.append(LEAF)
        self.threshold.append(np.nan)
        self.missing_left.append(False)
        self.left.append(-1)
        self.right.append(-1)
        self.value.append(value)
        self.gain.append(0.0)
        self.cover.append(cover)
        self.category_set.append(-1)
        return len(self.feature) - 1


class TreeGrower:
    """Grows trees on one binned table; holds what all trees share."""

    def __init__(self, binned: np.ndarray, bins: Bins, monotone: np.ndarray, shape: Shape) -> None:
        self.binned, self.bins, self.monotone, self.shape = binned, bins, monotone, shape

    def grow(
        self, rows: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, allowed: np.ndarray
    ) -> tuple[Forest, list[tuple[int, np.ndarray]]]:
        """One tree.

        Cost: O(n F) a level for the histograms of the smaller children, O(F B) a leaf for cuts.

        Args:
            rows: i64[n], the rows to learn from.
            gradient: f64[N].
            hessian: f64[N].
            allowed: bool[F], features that this tree may use.

        Returns:
            The tree, and (leaf, its rows) for every leaf.
        """
        nodes = _Nodes()
        histogram = accumulate(self.binned, rows, gradient, hessian, self.bins.max_bins + 1)
        total = (float(gradient[rows].sum()), float(hessian[rows].sum()), float(len(rows)))
        value = leaf_output(total[0], total[1], self.shape.limits.l2, -np.inf, np.inf)
        root = _Leaf(nodes.add_leaf(value, total[2]), 0, rows, histogram, total, -np.inf, np.inf)
        self._find(root, allowed)
        waiting = [(self._priority(root), root.node, root)]
        leaves = 1
        done: list[_Leaf] = []
        while waiting:
            leaf = heapq.heappop(waiting)[2]
            if leaf.feature == LEAF or leaves >= self.shape.n_leaves:
                done.append(leaf)
                continue
            for child in self._split(leaf, nodes, gradient, hessian):
                self._find(child, allowed)
                heapq.heappush(waiting, (self._priority(child), child.node, child))
            leaves += 1
        return self._forest(nodes), [(leaf.node, leaf.rows) for leaf in done]

    def _priority(self, leaf: _Leaf) -> float:
        """Smallest first: the largest gain, or for depth-wise growth the shallowest leaf."""
        return -leaf.gain if self.shape.leaf_wise else float(leaf.depth)

    def _find(self, leaf: _Leaf, allowed: np.ndarray) -> None:
        """Looks for the leaf's best cut; none where the limits forbid all."""
        if leaf.depth >= self.shape.max_depth or leaf.total[2] < 2 * self.shape.limits.min_rows:
            return
        gain, feature, cut, missing_left, chosen = best_of_features(
            leaf.histogram, self.bins.n_bins, self.bins.categorical, self.monotone, allowed,
            leaf.total, self.shape.limits, leaf.low, leaf.high,
        )  # fmt: skip
        if feature >= 0 and gain > self.shape.min_gain:
            leaf.gain, leaf.feature, leaf.cut = gain, feature, cut
            leaf.missing_left, leaf.chosen = missing_left, chosen

    def _split(
        self, leaf: _Leaf, nodes: _Nodes, gradient: np.ndarray, hessian: np.ndarray
    ) -> tuple[_Leaf, _Leaf]:
        """Carries the cut out; builds the smaller child's histogram, subtracts for the other."""
        column, slots = leaf.feature, self.bins.max_bins + 1
        goes_left = np.zeros(slots, dtype=np.bool_)
        if leaf.cut < 0:
            goes_left |= leaf.chosen
        else:
            goes_left[: leaf.cut + 1] = True
            goes_left[-1] = leaf.missing_left
        left_rows, right_rows = partition(self.binned, leaf.rows, column, goes_left)
        small_is_left = len(left_rows) <= len(right_rows)
        small = accumulate(
            self.binned, left_rows if small_is_left else right_rows, gradient, hessian, slots
        )
        large = leaf.histogram - small  # the subtraction trick
        cells = leaf.histogram[column][goes_left].sum(axis=0)
        total_left = (float(cells[0]), float(cells[1]), float(cells[2]))
        total_right = tuple(t - l for t, l in zip(leaf.total, total_left, strict=True))
        histograms = (small, large) if small_is_left else (large, small)
        children = self._children(
            leaf, nodes, (left_rows, right_rows), histograms, (total_left, total_right)
        )
        self._write(leaf, nodes, goes_left, children)
        leaf.histogram = np.empty(0)  # 255 bins x F floats a leaf add up; the children have theirs
        return children

    def _children(
        self,
        leaf: _Leaf,
        nodes: _Nodes,
        rows: tuple[np.ndarray, np.ndarray],
        histograms: tuple[np.ndarray, np.ndarray],
        totals: tuple[tuple[float, float, float], tuple[float, ...]],
    ) -> tuple[_Leaf, _Leaf]:
        """Both children with their outputs and, under a constraint, their bounds."""
        limits = self.shape.limits
        sorted_categories = leaf.cut < 0 and self.bins.n_bins[leaf.feature] > MAX_ONE_VS_REST
        l2 = limits.l2 + (limits.cat_l2 if sorted_categories else 0.0)
        outputs = [leaf_output(t[0], t[1], l2, leaf.low, leaf.high) for t in totals]
        bounds = [(leaf.low, leaf.high), (leaf.low, leaf.high)]
        direction = self.monotone[leaf.feature]
        if direction:
            # All that grows below stays on its side of the middle, whatever it is split by.
            middle = (outputs[0] + outputs[1]) / 2
            below, above = (leaf.low, middle), (middle, leaf.high)
            bounds = [below, above] if direction > 0 else [above, below]
        left, right = (
            _Leaf(
                nodes.add_leaf(outputs[i], totals[i][2]), leaf.depth + 1, rows[i], histograms[i],
                (totals[i][0], totals[i][1], totals[i][2]), *bounds[i],
            )
            for i in range(2)
        )  # fmt: skip
        return left, right

    def _write(
        self, leaf: _Leaf, nodes: _Nodes, goes_left: np.ndarray, children: tuple[_Leaf, _Leaf]
    ) -> None:
        node = leaf.node
        nodes.feature[node], nodes.gain[node] = leaf.feature, leaf.gain
        nodes.left[node], nodes.right[node] = children[0].node, children[1].node
        if leaf.cut < 0:
            nodes.category_set[node] = len(nodes.categories)
            nodes.categories.append(goes_left)
        else:
            edges = self.bins.edges[leaf.feature]
            nodes.threshold[node] = edges[leaf.cut] if leaf.cut < len(edges) else np.inf
            nodes.missing_left[node] = leaf.missing_left

    def _forest(self, nodes: _Nodes) -> Forest:
        slots = self.bins.max_bins + 1
        categories = np.array(nodes.categories, dtype=np.bool_).reshape(-1, slots)
        integers = [nodes.feature, nodes.left, nodes.right, nodes.category_set]
        feature, left, right, sets = (np.array(part, dtype=np.int64) for part in integers)
        return Forest(
            np.zeros(1, dtype=np.int64), feature, np.array(nodes.threshold),
            np.array(nodes.missing_left), left, right, np.array(nodes.value),
            np.array(nodes.gain), np.array(nodes.cover), sets, categories,
        )  # fmt: skip


@numba.njit(cache=True)
def partition(
    binned: np.ndarray, rows: np.ndarray, feature: int, goes_left: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``rows`` whose bin of ``feature`` goes left, and the others, both in order."""
    left, right = np.empty_like(rows), np.empty_like(rows)
    n_left, n_right = 0, 0
    for position in range(rows.shape[0]):
        row = rows[position]
        if goes_left[binned[row, feature]]:
            left[n_left] = row
            n_left += 1
        else:
            right[n_right] = row
            n_right += 1
    return left[:n_left].copy(), right[:n_right].copy()
