"""Ranking metrics over the full catalogue, one value per query.

In: `recommended` i32[Q, K], item indices best first (-1 = an empty place), and the relevant items
of every query as a ragged pair, `relevant_ptr` i64[Q + 1] and `relevant_items` i32[R]: query q's
are `relevant_items[relevant_ptr[q]:relevant_ptr[q + 1]]`. Out: f64[Q], never a mean, so that one
array serves the mean, its user-clustered interval (`intervals`) and every slice.
Legend: Q queries, K list length, R relevant items of all queries together.

    hits = hit_matrix(recommended, relevant_ptr, relevant_items)
    n_relevant = np.diff(relevant_ptr)
    ndcg = ndcg_at(hits, n_relevant, 10)

Conventions, the same in every metric (h_i = 1 if the item at rank i is relevant, n = number of
relevant items of the query):
- A query without relevant items has no defined recall, NDCG or AP. Counting it as 0 or as 1 would
  move the mean by the share of such queries, so it is refused; drop these queries first.
- k beyond the lists' length is refused: recall@100 of 50 items is not recall@100. Lists of short
  catalogues are padded with -1, which counts as a miss.
- NDCG's ideal list holds min(k, n) relevant items, and AP is divided by min(k, n), so that a
  perfect list scores 1 at every k. trec_eval agrees on NDCG (`ndcg_cut`), but its `map_cut`
  divides by n: a query with n > k can then never reach 1. Multiply by min(k, n) / n to compare.
- Lists come from the full catalogue. Metrics over sampled negatives do not preserve the order of
  models, not even in expectation (Krichene & Rendle, KDD 2020).
- Ties are settled before, by `top_k`.
"""

import numpy as np

from ml_platform.evaluation.top_k import top_k

__all__ = [
    "average_precision_at",
    "gain_matrix",
    "graded_ndcg_at",
    "hit_matrix",
    "hit_rate_at",
    "ideal_gain_matrix",
    "ndcg_at",
    "precision_at",
    "recall_at",
    "reciprocal_rank_at",
    "top_k",
]

# A table of this many cells (4 MiB of bool) stays in a core's cache while queries look up in it.
TABLE_CELLS = 1 << 22


def hit_matrix(
    recommended: np.ndarray, relevant_ptr: np.ndarray, relevant_items: np.ndarray
) -> np.ndarray:
    """Which recommended items are relevant.

    Cost: O(Q K + R), by a lookup table over blocks of queries.

    Args:
        recommended: i32[Q, K], -1 where a list is shorter than K.
        relevant_ptr: i64[Q + 1], ascending, from 0 to R.
        relevant_items: i32[R], each item at most once per query.

    Returns:
        bool[Q, K].

    Raises:
        ValueError: On shapes that do not fit, a query without relevant items, an item relevant
            twice to one query, or a relevant item recommended twice in one list (a hit would
            count double).
    """
    ones = np.ones(len(relevant_items), dtype=np.bool_)
    return _look_up(recommended, relevant_ptr, relevant_items, ones)


def gain_matrix(
    recommended: np.ndarray,
    relevant_ptr: np.ndarray,
    relevant_items: np.ndarray,
    relevant_gains: np.ndarray,
) -> np.ndarray:
    """The gain of every recommended item, 0 where it is not relevant: `hit_matrix` with grades.

    Args:
        recommended: i32[Q, K], as in `hit_matrix`.
        relevant_ptr: i64[Q + 1], as in `hit_matrix`.
        relevant_items: i32[R], as in `hit_matrix`.
        relevant_gains: f[R], positive. Either the grade itself (Järvelin & Kekäläinen 2002) or
            2**grade - 1, common in learning to rank; a result must say which.

    Returns:
        f64[Q, K].

    Raises:
        ValueError: As `hit_matrix`; on gains that are not positive and finite.
    """
    gains = np.asarray(relevant_gains, dtype=np.float64)
    if gains.shape != np.shape(relevant_items):
        raise ValueError(f"{len(gains)} gains for {len(relevant_items)} relevant items")
    if not np.all((gains > 0) & np.isfinite(gains)):
        raise ValueError("gains must be positive and finite; leave out items that gain nothing")
    return _look_up(recommended, relevant_ptr, relevant_items, gains)


def ideal_gain_matrix(relevant_ptr: np.ndarray, relevant_gains: np.ndarray, k: int) -> np.ndarray:
    """Each query's k largest gains in descending order, padded with 0. f64[Q, k]."""
    count = np.diff(relevant_ptr)
    query = np.repeat(np.arange(len(count)), count)
    order = np.lexsort((-relevant_gains, query))
    rank = np.arange(len(query)) - np.asarray(relevant_ptr)[query]
    ideal = np.zeros((len(count), k))
    within = rank < k
    ideal[query[within], rank[within]] = relevant_gains[order][within]
    return ideal


def hit_rate_at(hits: np.ndarray, k: int) -> np.ndarray:
    """HR@k = 1 if any of the first k items is relevant, else 0. f64[Q].

    With one relevant item per query it equals recall@k.
    """
    return np.asarray(_first(hits, k).any(axis=1), dtype=np.float64)


def recall_at(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Recall@k = sum_{i<=k} h_i / n. f64[Q].

    Divided by n, as in trec_eval, not by min(k, n): with n > k even a perfect list stays below 1.
    """
    relevant = _checked_counts(n_relevant, hits)
    return _first(hits, k).sum(axis=1) / relevant


def precision_at(hits: np.ndarray, k: int) -> np.ndarray:
    """Precision@k = sum_{i<=k} h_i / k. f64[Q]; empty places count as misses."""
    return _first(hits, k).sum(axis=1) / k


def ndcg_at(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k = DCG / IDCG, binary gains.

    DCG = sum_{i<=k} h_i / log2(i + 1), and IDCG = sum_{i<=min(k, n)} 1 / log2(i + 1).

    Source: Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS
    20(4), 2002, in the form that discounts every rank by log2(i + 1); their discount with base 2
    leaves rank 2 undiscounted.

    Returns:
        f64[Q] in [0, 1].
    """
    relevant = _checked_counts(n_relevant, hits)
    discount = _discount(k)
    ideal = np.cumsum(discount)[np.minimum(relevant, k) - 1]
    return (_first(hits, k) @ discount) / ideal


def graded_ndcg_at(gains: np.ndarray, ideal_gains: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k with graded gains: sum_{i<=k} g_i / log2(i + 1) over the same sum of the ideal list.

    Args:
        gains: f[Q, K], the gain at each rank (`gain_matrix`).
        ideal_gains: f[Q, J], all gains the query offers, in any order, padded with 0
            (`ideal_gain_matrix`). Gains of items that were not recommended belong in it too.
        k: Cut-off, at most K; J may be smaller.

    Returns:
        f64[Q] in [0, 1].

    Raises:
        ValueError: If a query's ideal gain is 0, or a list gains more than its ideal.
    """
    best_first = -np.sort(-np.asarray(ideal_gains, dtype=np.float64), axis=1)[:, :k]
    ideal = best_first @ _discount(best_first.shape[1])
    if np.any(ideal <= 0):
        raise ValueError(f"query {np.argmax(ideal <= 0)} has no item with gain: drop it first")
    value = (_first(gains, k) @ _discount(k)) / ideal
    if np.any(value > 1 + 1e-9):
        raise ValueError(f"query {np.argmax(value)} gains more than its ideal: gains do not match")
    return value


def average_precision_at(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """AP@k = sum_{i<=k} h_i * precision@i / min(k, n); its mean over queries is MAP@k. f64[Q].

    trec_eval's `map_cut` divides by n instead (module docstring).
    """
    relevant = _checked_counts(n_relevant, hits)
    first = _first(hits, k)
    # Hits are few: visit only them. A hit's precision is its count within the row over its rank.
    query, column = np.nonzero(first)
    hits_before_row = np.concatenate([[0], np.cumsum(first.sum(axis=1))])[query]
    hit_number = np.arange(1, len(query) + 1) - hits_before_row
    total = np.bincount(query, weights=hit_number / (column + 1), minlength=len(first))
    return total / np.minimum(relevant, k)


def reciprocal_rank_at(hits: np.ndarray, k: int) -> np.ndarray:
    """RR@k = 1 / rank of the first relevant item within k, else 0; its mean is MRR@k. f64[Q]."""
    first = _first(hits, k)
    return first.any(axis=1) / (first.argmax(axis=1) + 1.0)


def _discount(k: int) -> np.ndarray:
    """1 / log2(rank + 1) for ranks 1..k."""
    return 1.0 / np.log2(np.arange(2, k + 2))


def _first(matrix: np.ndarray, k: int) -> np.ndarray:
    """The first k columns, if there are as many."""
    if not 1 <= k <= matrix.shape[1]:
        raise ValueError(f"k must lie in 1..{matrix.shape[1]} (the lists' length), got {k}")
    return matrix[:, :k]


def _checked_counts(n_relevant: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """`n_relevant`, once it is known to fit the hits and to be positive everywhere."""
    counts = np.asarray(n_relevant)
    if counts.shape != (len(hits),):
        raise ValueError(f"n_relevant has shape {counts.shape}, hits are for {len(hits)} queries")
    _refuse_empty(counts)
    return counts


def _refuse_empty(counts: np.ndarray) -> None:
    empty = counts < 1
    if empty.any():
        raise ValueError(
            f"{empty.sum()} of {len(counts)} queries have no relevant item (first: query "
            f"{empty.argmax()}); their metrics are undefined, drop them before you recommend"
        )


def _look_up(
    recommended: np.ndarray,
    relevant_ptr: np.ndarray,
    relevant_items: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """The value of every recommended item among its query's relevant items, else 0. [Q, K].

    A table [block of queries, items] is filled with the block's relevant values, read at the
    recommended cells, and wiped where it was filled; so no search and no sort per cell.
    """
    ptr, items = np.asarray(relevant_ptr), np.asarray(relevant_items)
    n_items = _checked_lists(recommended, ptr, items)
    found = np.zeros(recommended.shape, dtype=values.dtype)
    query_of = np.repeat(np.arange(len(recommended)), np.diff(ptr))
    n_rows = max(1, TABLE_CELLS // (n_items + 1))
    # One column more than there are items: index -1, the padding, reads it and it stays 0.
    table = np.zeros((min(n_rows, len(recommended)), n_items + 1), dtype=values.dtype)
    for begin in range(0, len(recommended), n_rows):
        lists = recommended[begin : begin + n_rows]
        span = slice(ptr[begin], ptr[begin + len(lists)])
        cells = (query_of[span] - begin, items[span])
        table[cells] = values[span]
        found[begin : begin + n_rows] = table[np.arange(len(lists))[:, None], lists]
        table[cells] = 0
    _refuse_repeats(recommended, found)
    return found


def _checked_lists(recommended: np.ndarray, ptr: np.ndarray, items: np.ndarray) -> int:
    """Validate the ragged lists; the number of columns the lookup table needs."""
    if recommended.ndim != 2 or ptr.shape != (len(recommended) + 1,):
        raise ValueError(
            f"recommended [Q, K] is {recommended.shape}, relevant_ptr [Q + 1] is {ptr.shape}"
        )
    counts = np.diff(ptr)
    if ptr[0] != 0 or ptr[-1] != len(items) or (counts < 0).any():
        raise ValueError(f"relevant_ptr must ascend from 0 to {len(items)}")
    _refuse_empty(counts)
    lowest = min(recommended.min(initial=0), items.min(initial=0) - 1)
    if lowest < -1:
        raise ValueError(f"item indices must be >= 0 (-1 pads recommended only), got {lowest}")
    n_items = int(max(recommended.max(initial=0), items.max(initial=0))) + 1
    keys = np.sort(np.repeat(np.arange(len(counts)), counts) * n_items + items)
    repeated = np.flatnonzero(keys[1:] == keys[:-1])
    if len(repeated):
        query, item = divmod(int(keys[repeated[0]]), n_items)
        raise ValueError(f"item {item} is relevant twice to query {query}: remove duplicates")
    return n_items


def _refuse_repeats(recommended: np.ndarray, found: np.ndarray) -> None:
    """Refuse lists that name a relevant item twice; misses that repeat cannot inflate a metric."""
    query, column = np.nonzero(found)
    pairs = np.stack([query, recommended[query, column]], axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    same = (pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)
    if same.any():
        row, item = pairs[order[same.argmax()]]
        raise ValueError(f"query {row} recommends item {item} more than once")
