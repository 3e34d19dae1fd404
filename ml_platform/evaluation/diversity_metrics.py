"""What a set of lists looks like apart from its relevance: variety, novelty, reach.

In: `lists` i32[Q, K], item indices with -1 for empty places, and item vectors, counts or
categories. Out: f64[Q] where a metric belongs to a list, one number where it belongs to all lists.
Legend: Q lists, K list length, I items, D dimensions, C categories, m items actually in a list.

A distance is a statement about its vector space: a result names it (genre space, an embedding),
and never judges a re-ranker only in the space that the re-ranker itself optimises.
"""

from collections.abc import Iterator

import numpy as np

# Gathered vectors held at once, in cells: 2**22 float64 are 32 MiB.
CELLS_PER_BLOCK = 1 << 22


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis, scaled to length 1; a zero vector stays zero. f64[..., D].

    Raises:
        ValueError: If a value is not finite.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("vectors hold values that are not finite")
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def intra_list_distance(vectors: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """ILD = mean over the pairs of a list of (1 - cosine). f64[Q].

    Source: the complement, averaged, of the intra-list similarity of Ziegler, McNee, Konstan &
    Lausen, "Improving recommendation lists through topic diversification", WWW 2005. What it does
    not see: a list of two far-apart groups of near-duplicates has a high ILD (Ohsaka & Togashi,
    "A critical reexamination of intra-list distance and dispersion", SIGIR 2023); so report
    `min_pairwise_distance` with it.

    Over unit vectors the pairs' cosines sum to (|sum v|^2 - sum |v|^2) / 2, so no pair is formed:
    O(Q K D).

    Args:
        vectors: f[I, D]. An all-zero vector (an item without genres) has cosine 0 to every item,
            so its distance to them is 1.
        lists: i32[Q, K], -1 padded, each with at least two items.

    Raises:
        ValueError: If a list has fewer than two items, or an index lies outside the vectors.
    """
    unit, size = unit_rows(vectors), _sizes(lists, len(vectors), at_least=2)
    cosines = np.empty(len(lists))
    for block, gathered in _gathered(unit, lists, lists.shape[1] * vectors.shape[1]):
        total = np.square(gathered.sum(axis=1)).sum(axis=1)
        cosines[block] = (total - np.square(gathered).sum(axis=(1, 2))) / 2
    return 1.0 - cosines / (size * (size - 1) / 2)


def min_pairwise_distance(vectors: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """The smallest 1 - cosine within each list: 0 as soon as two items coincide. f64[Q].

    Called dispersion in Ohsaka & Togashi (SIGIR 2023). Cost: O(Q K^2 D).

    Args:
        vectors: f[I, D], as in `intra_list_distance`.
        lists: i32[Q, K], -1 padded, each with at least two items.

    Raises:
        ValueError: As `intra_list_distance`.
    """
    unit = unit_rows(vectors)
    _sizes(lists, len(vectors), at_least=2)
    width = lists.shape[1]
    not_a_pair = np.tri(width, dtype=bool)  # itself, and each pair's second mention
    smallest = np.empty(len(lists))
    for block, gathered in _gathered(unit, lists, width * (vectors.shape[1] + width)):
        distance = 1.0 - gathered @ gathered.transpose(0, 2, 1)
        empty = lists[block] < 0
        distance[not_a_pair | empty[:, :, None] | empty[:, None, :]] = np.inf
        smallest[block] = np.maximum(distance.min(axis=(1, 2)), 0.0)
    return smallest


def exposure(lists: np.ndarray, n_items: int) -> np.ndarray:
    """How often each item stands in a list. i64[I]; raises ValueError on an index beyond I."""
    _sizes(lists, n_items, at_least=0)
    return np.bincount(lists[lists >= 0], minlength=n_items)


def catalogue_coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue's items that stand in at least one list.

    Source: catalogue coverage in Ge, Delgado-Battenfeld & Jannach, "Beyond accuracy: evaluating
    recommender systems by coverage and serendipity", RecSys 2010. It grows with the number of
    lists, so compare only over the same queries.
    """
    return float((exposure(lists, n_items) > 0).mean())


def gini(amounts: np.ndarray) -> float:
    """Gini coefficient: 0 if all amounts are equal, (n - 1) / n if one has everything.

    G = sum_i (2 i - n - 1) x_i / (n sum x), with x ascending. For the concentration of
    recommendations: `gini(exposure(lists, n_items))`.

    Raises:
        ValueError: On a negative amount, or if all are 0.
    """
    x = np.sort(np.asarray(amounts, dtype=np.float64))
    if not len(x) or x[0] < 0 or x.sum() <= 0:
        raise ValueError("amounts must be non-negative, with at least one above 0")
    rank = np.arange(1, len(x) + 1)
    return float(((2 * rank - len(x) - 1) * x).sum() / (len(x) * x.sum()))


def novelty(lists: np.ndarray, item_users: np.ndarray, n_users: int) -> np.ndarray:
    """Mean self-information of a list's items, -log2 p(i), in bits. f64[Q].

    p(i) is the share of users who interacted with item i in the training window: an item that
    half of them know has 1 bit. Source: the discovery-based item novelty of Vargas & Castells,
    "Rank and relevance in novelty and diversity metrics for recommender systems", RecSys 2011,
    here without their discounts for rank and relevance. An item without users counts as if it had
    one, so that novelty is at most log2(n_users) and cannot be infinite.

    Args:
        lists: i32[Q, K], -1 padded, each with at least one item.
        item_users: i[I], distinct users of each item in the training window.
        n_users: Users in the training window.

    Raises:
        ValueError: If an item has more users than there are, or a list is empty.
    """
    if np.max(item_users, initial=0) > n_users:
        raise ValueError(f"an item has {np.max(item_users)} users, but there are {n_users}")
    size = _sizes(lists, len(item_users), at_least=1)
    bits = -np.log2(np.maximum(item_users, 1) / n_users)
    return np.where(lists >= 0, bits[lists], 0.0).sum(axis=1) / size


def category_entropy(lists: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Shannon entropy, in bits, of the categories in a list: H = -sum_c p_c log2 p_c. f64[Q].

    Every item spreads a weight of 1 evenly over its categories; items without one are left out.
    0 if all items share one category (or none has any), log2(C) if all C are equally present.

    Args:
        lists: i32[Q, K], -1 padded.
        categories: bool or non-negative f[I, C], category membership.

    Raises:
        ValueError: On an index beyond I.
    """
    _sizes(lists, len(categories), at_least=0)
    total = np.sum(categories, axis=1, keepdims=True, dtype=np.float64)
    share = np.divide(categories, total, out=np.zeros(categories.shape), where=total > 0)
    entropy = np.empty(len(lists))
    for block, gathered in _gathered(share, lists, lists.shape[1] * share.shape[1]):
        weight = gathered.sum(axis=1)
        mass = weight.sum(axis=1, keepdims=True)
        p = np.divide(weight, mass, out=np.zeros_like(weight), where=mass > 0)
        entropy[block] = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1)
    return entropy + 0.0  # -0.0 reads badly in a table


def _sizes(lists: np.ndarray, n_items: int, *, at_least: int) -> np.ndarray:
    """Number of items in each list, once it is known to suffice. i64[Q]."""
    if lists.ndim != 2:
        raise ValueError(f"lists must be [Q, K], got shape {lists.shape}")
    if lists.size and not -1 <= lists.min() <= lists.max() < n_items:
        raise ValueError(
            f"item indices must lie in -1..{n_items - 1}, got {lists.min()}..{lists.max()}"
        )
    size = np.asarray((lists >= 0).sum(axis=1))
    if (size < at_least).any():
        short = int((size < at_least).argmax())
        raise ValueError(f"list {short} has {size[short]} items, the metric needs {at_least}")
    return size


def _gathered(
    rows: np.ndarray, lists: np.ndarray, cells_per_list: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of lists with their items' rows, zeros at empty places: (slice, f64[B, K, D])."""
    padded = np.vstack([rows, np.zeros((1, rows.shape[1]))])  # index -1 reads the zero row
    step = max(1, CELLS_PER_BLOCK // max(1, cells_per_list))
    for begin in range(0, len(lists), step):
        block = slice(begin, begin + step)
        yield block, padded[lists[block]]
