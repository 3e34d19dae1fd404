"""One decision tree from first principles: every split point of every feature is tried.

In: features f64[N, F] without missing values, target f64[N]. Out: a ``Node``, whose predictions
are f64[N].

Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees" (CART), 1984: cut where
the two sides are as pure as can be. Purity here is the sum of squared distances to the side's
mean, which for targets of 0 and 1 is N p (1 - p), half of the Gini impurity times N: one criterion
serves both tasks.

The trick that makes it affordable: sorted by one feature, moving a row from right to left changes
the sums, not the rows. With S = sum of y and n = rows, sum (y - mean)^2 = sum y^2 - S^2 / n, and
sum y^2 does not depend on the cut. So

    gain(cut) = S_left^2 / n_left + S_right^2 / n_right - S^2 / n

is all that one scan over prefix sums must compute: O(F N log N) for a node, the log for sorting.
Boosting keeps this formula and puts gradients in the place of y (``split.py``); histograms remove
the sort (``histogram.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """``x[feature] <= threshold`` goes left; ``gain`` is the fall of the squared error."""

    feature: int
    threshold: float
    gain: float


@dataclass(frozen=True)
class Node:
    """A leaf (no split) or an inner node; ``value`` is the mean target of its rows."""

    value: float
    n_rows: int
    split: Split | None = None
    left: Node | None = None
    right: Node | None = None

    @property
    def n_leaves(self) -> int:
        """Leaves below, itself if it is one."""
        if self.left is None or self.right is None:
            return 1
        return self.left.n_leaves + self.right.n_leaves


def best_split(features: np.ndarray, target: np.ndarray, *, min_rows: int = 1) -> Split | None:
    """The cut that lowers the squared error most, over all features and all cut points.

    Cost: O(F N log N).

    Args:
        features: [N, F], finite.
        target: [N].
        min_rows: Rows that each side must keep.

    Returns:
        The best split; None where no cut lowers the error. Ties go to the lower feature, then to
        the lower threshold.
    """
    best: Split | None = None
    total, n_rows = float(target.sum()), len(target)
    for feature in range(features.shape[1]):
        order = np.argsort(features[:, feature], kind="stable")
        x, left_sum = features[order, feature], np.cumsum(target[order])[:-1]
        n_left = np.arange(1, n_rows)
        gain = left_sum**2 / n_left + (total - left_sum) ** 2 / (n_rows - n_left)
        gain -= total**2 / n_rows
        # Between equal values there is no cut: no threshold separates them.
        allowed = (x[1:] > x[:-1]) & (n_left >= min_rows) & (n_rows - n_left >= min_rows)
        gain = np.where(allowed, gain, -np.inf)
        if not len(gain):
            continue
        cut = int(gain.argmax())
        if gain[cut] > max(1e-12, best.gain if best else 0.0):
            best = Split(feature, float((x[cut] + x[cut + 1]) / 2), float(gain[cut]))
    return best


def fit_cart(
    features: np.ndarray, target: np.ndarray, *, max_depth: int, min_rows: int = 1
) -> Node:
    """Grows a tree, each node greedily.

    Args:
        features: [N, F], finite.
        target: [N], numbers, or 0 and 1.
        max_depth: Splits on a path at most; 0 gives one leaf.
        min_rows: Rows that a leaf must hold.

    Raises:
        ValueError: On no rows, shapes that differ, or values that are not finite.
    """
    features, target = np.asarray(features, np.float64), np.asarray(target, np.float64)
    if features.ndim != 2 or target.shape != features.shape[:1] or not len(target):
        raise ValueError(f"need [N, F] and [N] with N >= 1: {features.shape}, {target.shape}")
    if not (np.isfinite(features).all() and np.isfinite(target).all()):
        raise ValueError("fit_cart needs finite values; histogram.py handles missing ones")
    return _grow(features, target, max_depth, min_rows)


def _grow(features: np.ndarray, target: np.ndarray, depth: int, min_rows: int) -> Node:
    value, n_rows = float(target.mean()), len(target)
    split = best_split(features, target, min_rows=min_rows) if depth > 0 else None
    if split is None:
        return Node(value, n_rows)
    left = features[:, split.feature] <= split.threshold
    return Node(
        value,
        n_rows,
        split,
        _grow(features[left], target[left], depth - 1, min_rows),
        _grow(features[~left], target[~left], depth - 1, min_rows),
    )


def predict_cart(node: Node, features: np.ndarray) -> np.ndarray:
    """The value of the leaf that each row falls into, f64[N]."""
    if node.split is None or node.left is None or node.right is None:
        return np.full(len(features), node.value)
    left = features[:, node.split.feature] <= node.split.threshold
    predicted = np.empty(len(features))
    predicted[left] = predict_cart(node.left, features[left])
    predicted[~left] = predict_cart(node.right, features[~left])
    return predicted
