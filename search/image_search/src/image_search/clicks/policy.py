"""The logging policy: pages as an older system would have shown them. SYNTHETIC.

In: unit vectors of queries f32[Q, P] and items f32[N, P] of an OLD embedding, which nobody serves
now; a page's query and age limits. Out: pages i64[n, K].

A page holds K of the ``pool`` items that are nearest by the old embedding, ordered by similarity
plus Gumbel noise: a draw without replacement (the Gumbel-top-k trick; W. Kool, H. van Hoof,
M. Welling, "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences
Without Replacement", ICML 2019). Then every place
holds any listed item of the catalogue with probability ``explore``. So a place says something about
the old embedding, not only about the item: that is the bias which a ranker must not learn.

Legend: Q queries, N items, P dimensions, n pages, K places, L of the pool.
"""

from __future__ import annotations

import numpy as np

from image_search.clicks.truth import Truth
from image_search.config import ClicksConfig
from image_search.retrieval.index import FlatIndex

DRAWS = 4
"""Items that are drawn for one explored place: of the first that is listed by then."""
CHUNK = 8192


def pools(
    queries: np.ndarray, items: np.ndarray, own: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest items of every query by the old embedding.

    Args:
        queries: f32[Q, P].
        items: f32[N, P].
        own: i64[Q], the query's own row, which is left out; -1: none.
        size: L; fewer where the catalogue is small.

    Returns:
        Rows i64[Q, L] and similarities f32[Q, L], standardised within the pool; -inf for the own.
    """
    index = FlatIndex(items.shape[1])
    index.add(np.arange(len(items)), items)
    rows, similarity = index.search(queries, min(size + 1, len(items)))
    spread = np.maximum(similarity.std(axis=1, keepdims=True), 1e-6)
    standard = (similarity - similarity.mean(axis=1, keepdims=True)) / spread
    return rows, np.where(rows == own[:, None], -np.inf, standard).astype(np.float32)


def draw_pages(
    query: np.ndarray,
    time_s: np.ndarray,
    pool: tuple[np.ndarray, np.ndarray],
    own: np.ndarray,
    truth: Truth,
    config: ClicksConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pages of n searches.

    Args:
        query: i64[n], positions in the pool.
        time_s: f64[n]; an item that is listed later is not shown.
        pool: As ``pools`` gives it.
        own: i64[Q], as in ``pools``.
        truth: For the items' ages.
        config: Page, noise, exploration.
        rng: Of every draw.

    Returns:
        i64[n, K], no item twice on a page.

    Raises:
        ValueError: If fewer than K items of a pool are listed at the time of a page.
    """
    parts = []
    for begin in range(0, len(query), CHUNK):
        part = slice(begin, begin + CHUNK)
        pages = _exploited(query[part], time_s[part], pool, truth, config, rng)
        parts.append(_explored(pages, time_s[part], own[query[part]], truth, config, rng))
    return np.concatenate(parts)


def _exploited(
    query: np.ndarray,
    time_s: np.ndarray,
    pool: tuple[np.ndarray, np.ndarray],
    truth: Truth,
    config: ClicksConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """i64[n, K] by old similarity and noise."""
    rows, standard = pool[0][query], pool[1][query]
    noise = config.policy_noise * rng.gumbel(size=rows.shape).astype(np.float32)
    keys = np.where(truth.age_at(rows, time_s) >= 0, standard + noise, -np.inf)
    best = np.argpartition(-keys, config.page - 1, axis=1)[:, : config.page]
    order = np.argsort(-np.take_along_axis(keys, best, axis=1), axis=1)
    best = np.take_along_axis(best, order, axis=1)
    if np.isinf(np.take_along_axis(keys, best, axis=1)).any():
        raise ValueError(
            f"fewer than {config.page} items of a pool of {rows.shape[1]} are listed at the time "
            "of a page: enlarge clicks.pool or the catalogue"
        )
    return np.take_along_axis(rows, best, axis=1)


def _explored(
    pages: np.ndarray,
    time_s: np.ndarray,
    own: np.ndarray,
    truth: Truth,
    config: ClicksConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Puts any listed item into some places; a place stays where the draw is not to be had."""
    page, place = np.nonzero(rng.random(pages.shape) < config.explore)
    drawn = rng.integers(len(truth.age_days), size=(len(page), DRAWS))
    listed = truth.age_at(drawn, time_s[page]) >= 0
    chosen = drawn[np.arange(len(page)), listed.argmax(axis=1)]
    fits = listed.any(axis=1) & (chosen != own[page])
    out = pages.copy()
    out[page[fits], place[fits]] = chosen[fits]
    ordered = np.sort(out, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    out[twice] = pages[twice]
    return out
