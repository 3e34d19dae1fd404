"""TreeSHAP: which feature moved this prediction, and by how much, exactly and in polynomial time.

In: a ``Forest`` and features f64[N, F]. Out: f64[N, F + 1]: a contribution for each feature, and in
the last column the expected score; a row sums to the prediction.

The Shapley value of feature i is its effect on the prediction, averaged over all orders in which
features can become known:

    phi_i = sum over S without i of |S|! (F - |S| - 1)! / F! * ( f(S + i) - f(S) )

``f(S)`` needs a meaning for "the other features are unknown". Path-dependent TreeSHAP (Lundberg,
Erion and Lee, "Consistent Individualized Feature Attribution for Tree Ensembles",
arXiv:1802.03888, algorithm 1) walks the tree: at a split on a known feature it follows the row, at
one on an unknown feature it takes both sides, weighted by the training rows (``cover``) that went
there. Summing over 2^F sets is exponential. Algorithm 2 carries all sets at once down each path:
for every path length it keeps the weight of the sets of each size, ``extend`` adds a split,
``unwind`` takes one out. Time O(N T L D^2) with T trees, L leaves, D depth.

What it answers: how *this model* came to its score. The expectation is over the tree's own splits,
not over the world: two correlated features share credit by which one the trees happened to use.
"""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numba
import numpy as np

from ml_algorithms.gradient_boosted_trees.forest import LEAF, Forest, goes_left


def tree_shap(forest: Forest, features: np.ndarray) -> np.ndarray:
    """Contributions f64[N, F + 1] of the forest's score; the last column is its expectation.

    Args:
        forest: With ``cover`` of the training rows.
        features: [N, F], NaN where missing.

    Raises:
        ValueError: If the forest splits on a feature that is not there.
    """
    features = np.ascontiguousarray(features, np.float64)
    if features.ndim != 2 or forest.feature.max() >= features.shape[1]:
        raise ValueError(
            f"the forest splits on feature {forest.feature.max()}, features are {features.shape}"
        )
    contributions = np.zeros((features.shape[0], features.shape[1] + 1))
    contributions[:, -1] = sum(expected_value(forest, root) for root in forest.roots.tolist())
    depth = int(forest.depths().max()) + 2
    for row in range(len(features)):
        _add_row(
            features[row], forest.roots, forest.feature, forest.threshold, forest.missing_left,
            forest.left, forest.right, forest.value, forest.cover, forest.category_set,
            forest.categories, depth, contributions[row],
        )  # fmt: skip
    return contributions


def expected_value(forest: Forest, root: int) -> float:
    """The tree's mean output over its training rows."""
    total, waiting = 0.0, [root]
    while waiting:
        node = waiting.pop()
        if forest.feature[node] == LEAF:
            total += float(forest.value[node] * forest.cover[node] / forest.cover[root])
        else:
            waiting += [int(forest.left[node]), int(forest.right[node])]
    return total


def conditional_expectation(forest: Forest, root: int, row: np.ndarray, known: set[int]) -> float:
    """f(S): the tree's output for a row f64[F] of which only ``known`` features are known."""
    feature = int(forest.feature[root])
    if feature == LEAF:
        return float(forest.value[root])
    left, right = int(forest.left[root]), int(forest.right[root])
    if feature in known:
        turn = goes_left(
            row[feature], root, forest.threshold, forest.missing_left, forest.category_set,
            forest.categories,
        )  # fmt: skip
        return conditional_expectation(forest, left if turn else right, row, known)
    share = float(forest.cover[left] / forest.cover[root])
    return share * conditional_expectation(forest, left, row, known) + (
        1.0 - share
    ) * conditional_expectation(forest, right, row, known)


def brute_force_shap(forest: Forest, row: np.ndarray) -> np.ndarray:
    """The definition, summed over all 2^F sets: f64[F + 1] of one row. For tests and small F."""
    n = len(row)

    def f(known: tuple[int, ...]) -> float:
        chosen = set(known)
        return sum(conditional_expectation(forest, r, row, chosen) for r in forest.roots.tolist())

    contributions = np.zeros(n + 1)
    contributions[-1] = f(())
    for feature in range(n):
        others = [other for other in range(n) if other != feature]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for known in combinations(others, size):
                contributions[feature] += weight * (f((*known, feature)) - f(known))
    return contributions


@numba.njit(cache=True)
def extend(weight: np.ndarray, length: int, share_unknown: float, follows: float) -> None:
    """Adds a split to a path of ``length`` entries (the new entry's weight is already there).

    Args:
        weight: f64[D], weight of the sets of each size; written.
        length: Entries before this one.
        share_unknown: Share of the training rows that go this way: what an unknown feature counts.
        follows: 1 if the row goes this way, else 0: what a known feature counts.
    """
    weight[length] = 1.0 if length == 0 else 0.0
    for i in range(length - 1, -1, -1):
        weight[i + 1] += follows * weight[i] * (i + 1) / (length + 1)
        weight[i] = share_unknown * weight[i] * (length - i) / (length + 1)


@numba.njit(cache=True)
def unwind(weight: np.ndarray, last: int, share_unknown: float, follows: float) -> None:
    """Takes a split out of a path whose last entry is ``last``: ``extend`` backwards."""
    following = weight[last]
    for i in range(last - 1, -1, -1):
        if follows != 0:
            before = weight[i]
            weight[i] = following * (last + 1) / ((i + 1) * follows)
            following = before - weight[i] * share_unknown * (last - i) / (last + 1)
        else:
            weight[i] = weight[i] * (last + 1) / (share_unknown * (last - i))


@numba.njit(cache=True)
def unwound_sum(weight: np.ndarray, last: int, share_unknown: float, follows: float) -> float:
    """Sum of the weights that ``unwind`` would leave, without changing them."""
    total, following = 0.0, weight[last]
    for i in range(last - 1, -1, -1):
        if follows != 0:
            one = following * (last + 1) / ((i + 1) * follows)
            total += one
            following = weight[i] - one * share_unknown * (last - i) / (last + 1)
        else:
            total += weight[i] * (last + 1) / (share_unknown * (last - i))
    return total


@numba.njit(cache=True)
def _add_row(
    row: np.ndarray,
    roots: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    missing_left: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    value: np.ndarray,
    cover: np.ndarray,
    category_set: np.ndarray,
    categories: np.ndarray,
    depth: int,
    out: np.ndarray,
) -> None:
    """Adds the contributions of all trees to one row; a path is a row of four small tables."""
    on = np.empty((depth, depth), dtype=np.int64)  # [level, entry]: the split's feature
    share = np.empty((depth, depth))
    follow = np.empty((depth, depth))
    weight = np.empty((depth, depth))
    # Waiting nodes: number, level, entries of the parent's path, and the split that leads there.
    node_of = np.empty(2 * depth, dtype=np.int64)
    level_of = np.empty(2 * depth, dtype=np.int64)
    length_of = np.empty(2 * depth, dtype=np.int64)
    split_of = np.empty(2 * depth, dtype=np.int64)
    share_of, follow_of = np.empty(2 * depth), np.empty(2 * depth)
    for root in roots:
        node_of[0], level_of[0], length_of[0], split_of[0] = root, 0, 0, -1
        share_of[0], follow_of[0] = 1.0, 1.0
        waiting = 1
        while waiting > 0:
            waiting -= 1
            node, level, length = node_of[waiting], level_of[waiting], length_of[waiting]
            if level > 0:
                for i in range(length):
                    on[level, i], share[level, i] = on[level - 1, i], share[level - 1, i]
                    follow[level, i], weight[level, i] = follow[level - 1, i], weight[level - 1, i]
            arrived, s, o = split_of[waiting], share_of[waiting], follow_of[waiting]
            # A feature met before on this path: take its entry out, its shares multiply.
            for i in range(1, length):
                if on[level, i] == arrived:
                    s, o = s * share[level, i], o * follow[level, i]
                    unwind(weight[level], length - 1, share[level, i], follow[level, i])
                    for j in range(i, length - 1):
                        on[level, j], share[level, j] = on[level, j + 1], share[level, j + 1]
                        follow[level, j] = follow[level, j + 1]
                    length -= 1
                    break
            on[level, length], share[level, length], follow[level, length] = arrived, s, o
            extend(weight[level], length, s, o)
            if feature[node] < 0:
                for i in range(1, length + 1):
                    total = unwound_sum(weight[level], length, share[level, i], follow[level, i])
                    out[on[level, i]] += total * (follow[level, i] - share[level, i]) * value[node]
                continue
            turn = goes_left(
                row[feature[node]], node, threshold, missing_left, category_set, categories
            )
            for child, here in ((left[node], turn), (right[node], not turn)):
                node_of[waiting], level_of[waiting] = child, level + 1
                length_of[waiting], split_of[waiting] = length + 1, feature[node]
                share_of[waiting] = cover[child] / cover[node]
                follow_of[waiting] = 1.0 if here else 0.0
                waiting += 1
