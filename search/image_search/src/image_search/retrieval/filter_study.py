"""A filter before, during or after the search: what is found, how fast, how many pages end short.

In: ``StudyVectors`` with classes and SYNTHETIC prices. Out: ``Filtered``, one a filter and way.

Filters: a band of prices that lets 50%, 10%, 1%, .1% through, which has little to do with the
picture; the query's own class, which goes with it; another class, which goes against it: the
nearest things are all barred.

Ways: ``before`` (filtering.py); ``flat``, ``ivf``, ``hnsw`` during, each as it serves (more cells,
a wider walk, everything compared where few pass); ``hnsw_plain``, a filtered walk of the usual
width; ``flat_after``, ``ivf_after``, ``hnsw_after``, which fetch ten pages and drop.

Recall is against the exact neighbours that pass. A page is short if it has fewer results than the
10 asked for, or than pass.

Legend: G gallery, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from image_search.config import IndexConfig
from image_search.retrieval.filtering import after, before
from image_search.retrieval.graph import HnswIndex
from image_search.retrieval.grid_study import BUILD_THREADS, FIRST, found_share
from image_search.retrieval.index import FlatIndex, build_index
from image_search.retrieval.inverted import IvfIndex
from image_search.retrieval.study_vectors import StudyVectors
from image_search.retrieval.timing import one_thread, single_ms
from ml_algorithms.nearest_neighbour.faiss_threads import faiss_threads
from ml_platform.evaluation.progress import Progress

Way = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(queries f32[q, D], allowed bool[G]) -> rows i64[q, FIRST]."""


@dataclass(frozen=True)
class Filtered:
    """One way under one filter.

    Attributes:
        filter: Its name, "price_0.1" for instance.
        passing: Share of the gallery that passes, mean over the queries.
        way: See the module.
        recall: f64[Q].
        short: f64[Q], 1 where the page ended short.
        ms: f64[Q], of single queries.
    """

    filter: str
    passing: float
    way: str
    recall: np.ndarray
    short: np.ndarray
    ms: np.ndarray


def measure_filters(
    vectors: StudyVectors, config: IndexConfig, seed: int, progress: Progress
) -> list[Filtered]:
    """Every way under every filter."""
    ways = ways_of(vectors, config, seed)
    filters = filters_of(vectors, config.study.selectivities, config.study.filter_queries)
    made: list[Filtered] = []
    with progress.stage("filters", len(filters)) as advance, one_thread():
        for name, groups in filters.items():
            made += [_measured(vectors, name, groups, way, ways[way]) for way in ways]
            advance(1)
    return made


def ways_of(vectors: StudyVectors, config: IndexConfig, seed: int) -> dict[str, Way]:
    """The ways by name, over indexes of the configured sizes."""
    gallery, rows = vectors.gallery, np.arange(len(vectors.gallery))
    plain = config.model_copy(update={"reduce": "none"})
    fetch = FIRST * config.study.over_fetch
    with faiss_threads(BUILD_THREADS):
        flat = build_index("flat", gallery, rows, plain, seed)
        ivf = build_index("ivf_flat", gallery, rows, plain, seed)
        hnsw = build_index("hnsw", gallery, rows, plain, seed)
    if not (
        isinstance(flat, FlatIndex) and isinstance(ivf, IvfIndex) and isinstance(hnsw, HnswIndex)
    ):
        raise TypeError("these three kinds are built as they are, without re-scoring")
    return {
        "before": lambda q, allowed: before(q, gallery, allowed, FIRST)[0],
        "flat": lambda q, allowed: flat.search(q, FIRST, allowed=allowed)[0],
        "ivf": lambda q, allowed: ivf.search(q, FIRST, allowed=allowed)[0],
        "hnsw": lambda q, allowed: hnsw.search(q, FIRST, allowed=allowed)[0],
        "hnsw_plain": lambda q, allowed: hnsw.during(q, FIRST, allowed, widen=False)[0],
        "flat_after": lambda q, allowed: after(flat, q, allowed, FIRST, fetch=fetch)[0],
        "ivf_after": lambda q, allowed: after(ivf, q, allowed, FIRST, fetch=fetch)[0],
        "hnsw_after": lambda q, allowed: after(hnsw, q, allowed, FIRST, fetch=fetch)[0],
    }


Groups = list[tuple[np.ndarray, np.ndarray]]
"""Pairs (queries i64[q], allowed bool[G]): queries that share a filter."""


def filters_of(
    vectors: StudyVectors, selectivities: tuple[float, ...], n_queries: int
) -> dict[str, Groups]:
    """Filter's name -> who asks with which; the first ``n_queries`` ask."""
    asks = np.arange(min(n_queries, len(vectors.queries)))
    made: dict[str, Groups] = {
        f"price_{share:g}": [(asks, price_band(vectors.price, share))] for share in selectivities
    }
    classes = np.unique(vectors.label)
    own, other = [], []
    for place, k in enumerate(classes):
        chosen = asks[vectors.query_label[asks] == k]
        if len(chosen):
            own.append((chosen, vectors.label == k))
            other.append((chosen, vectors.label == classes[(place + 1) % len(classes)]))
    return made | {"own_class": own, "other_class": other}


def price_band(price: np.ndarray, share: float) -> np.ndarray:
    """bool[G]: the band around the median that holds this share of the items, at least one."""
    wanted = max(1, round(share * len(price)))
    begin = (len(price) - wanted) // 2
    allowed = np.zeros(len(price), dtype=bool)
    allowed[np.argsort(price, kind="stable")[begin : begin + wanted]] = True
    return allowed


def _swapped(work: Way, allowed: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return work(queries, allowed)


def _measured(vectors: StudyVectors, name: str, groups: Groups, way: str, work: Way) -> Filtered:
    recall, short, ms, passing = [], [], [], []
    for asks, allowed in groups:
        queries = vectors.queries[asks]
        truth = before(queries, vectors.gallery, allowed, FIRST)[0]
        found = work(queries, allowed)
        recall.append(found_share(found, truth))
        short.append((found >= 0).sum(axis=1) < (truth >= 0).sum(axis=1))
        timed = single_ms(partial(_swapped, work, allowed), queries, single=len(queries))
        ms.append(timed)
        passing.append(np.full(len(asks), allowed.mean()))
    joined = (np.concatenate(parts) for parts in (recall, short, ms, passing))
    recalls, shorts, times, shares = joined
    return Filtered(name, float(shares.mean()), way, recalls, shorts.astype(np.float64), times)
