"""From a ranked pool to the list that is shown: diversity, rules, exploration.

In: the ranked candidates of one request. Out: the rows of the list in order, with the place and
propensity of the exploration item. The ranker scores items one by one, so it happily puts ten
sequels of one film on top; a list is judged as a whole. Three steps:

1. Relevance (scaled to 0..1, plus a small boost for fresh items) against similarity to what is
   already in the list: MMR (Carbonell and Goldstein, SIGIR 1998) or a greedy DPP (Chen et al.,
   NeurIPS 2018), both from ml_algorithms.diversity.
2. A cap on items of one first genre: a rule that a person can read, and that product people ask
   for; it may be lifted only when the pool has nothing else.
3. One exploration slot: an item drawn uniformly from outside the list (within the cap), its
   propensity returned so that it can be logged. Without it the next model learns only from what
   this one chose.

The seen filter is not here: retrieval never proposes a seen item, and the request path checks it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr, rescale
from video_recommendation.config import RerankingConfig

SPARE = 10
"""Items picked beyond k, so that the genre cap has something to fall back on."""
DPP_RIDGE = 1e-3
"""Keeps the kernel of rank below k positive definite."""


@dataclass(frozen=True)
class RankedList:
    """Rows of the request's candidates, best first.

    Attributes:
        rows: i64[<= k].
        exploration_place: 0-based place of the exploration item in ``rows``, -1 for none.
        propensity: Probability with which that item was drawn; 1.0 without one.
    """

    rows: np.ndarray
    exploration_place: int
    propensity: float


@dataclass(frozen=True)
class Pool:
    """The ranked candidates of one request, best first.

    Attributes:
        rows: i64[C], rows of the request's candidates.
        score: f[C], descending.
        fresh: bool[C], younger than the fresh window.
        first_genre: i64[C], code of the first genre, -1 for none.
        similarity: f[P, P] of the first P = min(C, pool) rows, in 0..1.
    """

    rows: np.ndarray
    score: np.ndarray
    fresh: np.ndarray
    first_genre: np.ndarray
    similarity: np.ndarray


def rerank(pool: Pool, config: RerankingConfig, *, k: int, rng: np.random.Generator) -> RankedList:
    """Builds the list.

    Args:
        pool: Ranked candidates.
        config: Method, trade-off and rules.
        k: Length of the list.
        rng: Draws the exploration item; seed it by the request for a repeatable list.
    """
    order = diversify(pool, config, k=k + SPARE)
    rest = np.setdiff1d(np.arange(len(pool.rows)), order)  # ascending: the ranker's order
    cap = max(1, round(config.genre_cap * k / config.k))
    chosen = cap_genres(np.concatenate([order, rest]), pool.first_genre, cap=cap, k=k)
    return explore(pool, chosen, config, cap=cap, k=k, rng=rng)


def diversify(pool: Pool, config: RerankingConfig, *, k: int) -> np.ndarray:
    """Positions i64[<= k] in the pool, in list order; the ranker's order with method "none"."""
    n_pool = len(pool.similarity)
    if config.method == "none" or n_pool == 0:
        return np.arange(min(k, len(pool.rows)))
    relevance = rescale(pool.score[:n_pool]) + config.freshness_boost * pool.fresh[:n_pool]
    if config.method == "mmr":
        return mmr(relevance, pool.similarity, k=min(k, n_pool), trade_off=config.trade_off)
    # At trade_off 1 the kernel would ignore similarity altogether and is not defined.
    trade_off = min(config.trade_off, 0.999)
    kernel = trade_off_kernel(relevance, pool.similarity, trade_off=trade_off)
    ridge = DPP_RIDGE * np.diag(np.diag(kernel))
    picked = greedy_dpp(kernel + ridge, min(k, n_pool))
    rest = np.setdiff1d(np.arange(n_pool), picked)  # ascending: the ranker's order
    return np.concatenate([picked, rest])[:k]


def cap_genres(order: np.ndarray, first_genre: np.ndarray, *, cap: int, k: int) -> np.ndarray:
    """The first k of ``order`` with at most ``cap`` of one genre; filled up when that is too few.

    Args:
        order: Positions in the pool, in list order.
        first_genre: Genre code of every position of the pool; -1 (none) is not capped.
        cap: Most of one genre.
        k: Length.
    """
    counts: dict[int, int] = {}
    kept, held_back = [], []
    for position in order:
        genre = int(first_genre[position])
        if genre >= 0 and counts.get(genre, 0) >= cap:
            held_back.append(position)
            continue
        counts[genre] = counts.get(genre, 0) + 1
        kept.append(position)
        if len(kept) == k:
            break
    return np.array((kept + held_back)[:k], dtype=np.int64)


def explore(
    pool: Pool,
    chosen: np.ndarray,
    config: RerankingConfig,
    *,
    cap: int,
    k: int,
    rng: np.random.Generator,
) -> RankedList:
    """Puts one uniformly drawn item into the exploration slot.

    It takes the place of the list's last item. The draw is from the items outside the list whose
    first genre is not at its cap: fresh ones first, then the best-ranked others, at most
    ``exploration_pool`` in all. Uniform, because then the propensity is 1 / n exactly and an
    off-policy estimate needs no model of the draw.
    """
    rows = pool.rows[chosen]
    slot = config.exploration_slot
    outside = np.setdiff1d(np.arange(len(pool.rows)), chosen)
    outside = outside[~_at_cap(pool.first_genre, chosen[:-1], cap)[outside]]
    if slot < 0 or slot >= min(k, len(chosen)) or not len(outside):
        return RankedList(rows, -1, 1.0)
    # A stable sort by "not fresh" keeps the ranker's order within both groups.
    order = outside[np.argsort(~pool.fresh[outside], kind="stable")]
    eligible = order[: config.exploration_pool]
    drawn = pool.rows[rng.choice(eligible)]
    rows = np.insert(rows, slot, drawn)[: len(chosen)]
    return RankedList(rows, slot, 1.0 / len(eligible))


def _at_cap(first_genre: np.ndarray, chosen: np.ndarray, cap: int) -> np.ndarray:
    """bool[C]: one more item of this position's genre would break the cap."""
    capped = first_genre >= 0
    genres = first_genre[chosen]
    counts = np.bincount(genres[genres >= 0], minlength=first_genre.max(initial=0) + 1)
    return capped & (counts[first_genre] >= cap)
