"""Near-duplicates that are really there: within the gallery, and between test queries and gallery.

In: ``Looks`` of both, a ``Rule``. Out: groups of near-duplicates, and what they are worth to a
score: a query whose near-duplicate stands in the gallery is answered by recognising the picture,
not the thing on it. Data sets cut at random from one crawl have such queries; B. Barz, J. Denzler,
"Do We Train on Test Data? Purging CIFAR of Near-Duplicates", Journal of Imaging 2020, found 3.3%
and 10% of the test pictures of CIFAR-10 and CIFAR-100 to have one in the training set.

Legend: G gallery, Q queries, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from image_search.reranking.near_duplicates import Looks, Rule, find
from image_search.retrieval.index import FlatIndex
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean


@dataclass(frozen=True)
class Leakage:
    """What near-duplicates in the gallery are worth to Recall@1.

    Attributes:
        leaks: bool[Q], queries with a near-duplicate in the gallery.
        right: bool[Q], queries whose first result has their class.
        pairs: i64[P, 2], (query, gallery place).
    """

    leaks: np.ndarray
    right: np.ndarray
    pairs: np.ndarray

    def recall(self, which: np.ndarray | None = None, *, resamples: int, seed: int) -> Estimate:
        """Recall@1 over the queries bool[Q], or all, with a 95% interval by query.

        Raises:
            ValueError: If no query is left.
        """
        right = self.right if which is None else self.right[which]
        return bootstrap_mean(right.astype(np.float64), resamples=resamples, seed=seed)


def leakage(
    gallery: Looks,
    gallery_label: np.ndarray,
    queries: Looks,
    query_label: np.ndarray,
    rule: Rule,
) -> Leakage:
    """Finds the leaking queries and judges the first result of all by class.

    Args:
        gallery: G pictures; the queries are not among them.
        gallery_label: i[G].
        queries: Q pictures.
        query_label: i[Q].
        rule: What a near-duplicate is.
    """
    pairs = find(queries, gallery, rule)
    leaks = np.zeros(len(queries), dtype=bool)
    leaks[pairs[:, 0]] = True
    index = FlatIndex(gallery.embedding.shape[1])
    index.add(np.arange(len(gallery)), gallery.embedding)
    first, _ = index.search(queries.embedding, 1)
    return Leakage(leaks, gallery_label[first[:, 0]] == query_label, pairs)


def groups(pairs: np.ndarray, n: int) -> np.ndarray:
    """i64[n]: the group of each of n pictures, those joined by a chain of pairs i64[P, 2] alike."""
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
