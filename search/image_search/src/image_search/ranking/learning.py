"""What a ranker learns from: logged pages as tables, in the order of time.

In: the log, the served space (index, item vectors, query vectors), the catalogue's features. Out:
``Lessons``, n pages of K items with the features that serving would have computed, point in time.

- The context of a query (its neighbours, see ``features``) is what the served index finds for it
  today: the old system's candidates are not kept by anyone. Items that were listed later stand
  among the neighbours, so these features are of the catalogue's present state.
- Age and counters are those of the page's day (``counters``).
- A query's own item is left out of its candidates.

Legend: n pages, K places, Q queries, C candidates, D dimension, N items, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_search.clicks.log import ClickLog
from image_search.clicks.simulate import Clicks
from image_search.ranking.counters import DailyCounters
from image_search.ranking.features import CandidateFeatures, QueryContext
from image_search.retrieval.index import VectorIndex

CHUNK = 512
"""Pages at once: their item vectors are some megabytes."""


@dataclass(frozen=True)
class Neighbourhood:
    """What the served space says of the log's queries.

    Attributes:
        asked: i64[Q], rows of the image set, ascending.
        vectors: f32[Q, D].
        rows: i64[Q, C], candidates of the index, -1 padded.
        similarity: f32[Q, C], -inf padded.
        items: f32[N, D].
    """

    asked: np.ndarray
    vectors: np.ndarray
    rows: np.ndarray
    similarity: np.ndarray
    items: np.ndarray

    def place(self, query_row: np.ndarray) -> np.ndarray:
        """i64: where each query stands in ``asked``.

        Raises:
            ValueError: If one does not.
        """
        at = np.minimum(np.searchsorted(self.asked, query_row), len(self.asked) - 1)
        if (self.asked[at] != query_row).any():
            strange = query_row[np.argmax(self.asked[at] != query_row)]
            raise ValueError(f"no vector for the query picture {strange}")
        return at


def find_neighbours(
    index: VectorIndex,
    items: np.ndarray,
    asked: np.ndarray,
    vectors: np.ndarray,
    own: np.ndarray,
    candidates: int,
) -> Neighbourhood:
    """Searches the served index once for every query.

    Args:
        index: Over ``items``.
        items: f32[N, D].
        asked: i64[Q], ascending.
        vectors: f32[Q, D].
        own: i64[Q], the query's own row, -1: none.
        candidates: C.
    """
    rows, similarity = index.search(vectors, min(candidates + 1, len(items)))
    mine = rows == own[:, None]
    rows, similarity = np.where(mine, -1, rows), np.where(mine, np.float32(-np.inf), similarity)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :candidates]
    return Neighbourhood(
        asked=asked,
        vectors=vectors,
        rows=np.take_along_axis(rows, order, axis=1),
        similarity=np.take_along_axis(similarity, order, axis=1),
        items=items,
    )


@dataclass(frozen=True)
class Lessons:
    """Logged pages, ready to learn from or to judge on.

    Attributes:
        features: f32[n, K, F].
        query: i64[n], places in ``neighbours``.
        rows: i64[n, K].
        clicked: bool[n, K].
        examination: f64[K].
        neighbours: Vectors of queries and items.
    """

    features: np.ndarray
    query: np.ndarray
    rows: np.ndarray
    clicked: np.ndarray
    examination: np.ndarray
    neighbours: Neighbourhood

    def __len__(self) -> int:
        return len(self.query)

    @property
    def theta(self) -> np.ndarray:
        """f64[n, K]: the chance of a look at each impression."""
        return np.broadcast_to(self.examination, self.clicked.shape)

    @property
    def place(self) -> np.ndarray:
        """i64[n, K]: 0 for the first place of a page."""
        return np.broadcast_to(np.arange(self.clicked.shape[1]), self.clicked.shape)


def lessons(
    clicks: Clicks,
    pages: np.ndarray,
    neighbours: Neighbourhood,
    features: CandidateFeatures,
    daily: DailyCounters,
) -> Lessons:
    """Features of logged pages, as of their time.

    Args:
        clicks: The log; of the truth only the items' ages are read, which the catalogue has too.
        pages: i64[n] of the log.
        neighbours: Of the log's queries.
        features: Over the catalogue.
        daily: Of the whole log.
    """
    log: ClickLog = clicks.log.take(pages)
    query = neighbours.place(log.query_row)
    unique, back = np.unique(query, return_inverse=True)
    context = features.context(neighbours.rows[unique], neighbours.similarity[unique])
    parts = []
    for begin in range(0, len(log), CHUNK):
        part = slice(begin, begin + CHUNK)
        shown, time_s = log.shown[part], log.time_s[part]
        similarity = shown_similarity(neighbours, query[part], shown)
        moment = features.then(shown, time_s, clicks.truth.age_at(shown, time_s), daily)
        own: QueryContext = context.take(back[part])
        parts.append(features.table(own, shown, similarity, moment))
    table = np.concatenate(parts) if parts else np.empty((0, 0, 0), dtype=np.float32)
    return Lessons(table, query, log.shown, log.clicked, log.examination, neighbours)


def shown_similarity(neighbours: Neighbourhood, query: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """f32[n, K]: the served similarity of logged items to their queries."""
    return np.einsum("nd,nkd->nk", neighbours.vectors[query], neighbours.items[shown])
