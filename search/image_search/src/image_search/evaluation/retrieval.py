"""Retrieval judged by class: search the whole gallery exactly, compare the classes found.

In: gallery f32[G, D] and queries f32[Q, D] with their classes. Out: one value per query and metric.

    R@k    1 if any of the first k results has the query's class (metric learning's "recall"; the
           hit rate of ``ml_platform.evaluation.ranking_metrics``);
    P@10   share of the first ten with the query's class;
    mAP@R  mean over the first R results of precision at each hit, R = number of gallery pictures of
           the query's class: K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality
           Check", ECCV 2020. It is 1 only if all R come first, and unlike R@1 it sees
           what happens behind the first result;
    V@10   1 if the class that most of the first ten have is the query's, the nearest deciding
           between equals. It judges the vectors as a classifier by neighbours does, and is what a
           service that shows the voted category first could reach.

The query's own picture is excluded, from results and from R, where ``self_match`` names its place
in the gallery. Equal similarities are ordered by a fixed pseudo-random order (``top_k``).

The G x Q similarities never exist at once: queries go block by block, those of one R together, and
memory is some five times ``block_bytes`` whatever Q is.

Legend: G gallery, Q queries, D dimension, K classes, b queries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from image_search.embeddings.base import Metric
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.progress import Progress, Silent
from ml_platform.evaluation.ranking_metrics import (
    average_precision_at,
    hit_rate_at,
    precision_at,
)
from ml_platform.evaluation.top_k import top_k

CUTS = (1, 5, 10)
SHOWN = 10
METRICS = (*(f"recall@{k}" for k in CUTS), f"precision@{SHOWN}", "map@r", f"vote@{SHOWN}")


@dataclass(frozen=True)
class RetrievalScores:
    """What each query got.

    Attributes:
        values: Metric of METRICS -> f64[Q].
        label: i[Q], the queries' classes.
        neighbours: i32[Q, 10], gallery rows, best first; -1 where there are fewer.
        n_gallery: G.
    """

    values: dict[str, np.ndarray]
    label: np.ndarray
    neighbours: np.ndarray
    n_gallery: int

    def __len__(self) -> int:
        return len(self.label)

    def estimate(self, metric: str, *, resamples: int = 1000, seed: int = 0) -> Estimate:
        """Mean over the queries with its 95% bootstrap interval, queries resampled."""
        return bootstrap_mean(self.values[metric], resamples=resamples, seed=seed)

    def per_class(
        self, metric: str, *, resamples: int = 1000, seed: int = 0
    ) -> dict[int, Estimate]:
        """The same for each class that has queries, by its number."""
        return {
            int(k): bootstrap_mean(
                self.values[metric][self.label == k], resamples=resamples, seed=seed
            )
            for k in np.unique(self.label)
        }


def retrieval_scores(
    gallery: np.ndarray,
    gallery_label: np.ndarray,
    queries: np.ndarray,
    query_label: np.ndarray,
    *,
    self_match: np.ndarray | None = None,
    metric: Metric = "cosine",
    block_bytes: int = 64 << 20,
    progress: Progress | None = None,
    name: str = "search",
) -> RetrievalScores:
    """Searches exactly and scores every query.

    Args:
        gallery: f32[G, D]; rows of length 1 for "cosine".
        gallery_label: i[G].
        queries: f32[Q, D].
        query_label: i[Q].
        self_match: i64[Q], each query's own row in the gallery, -1 where it is not in it; None:
            no query is.
        metric: "cosine" compares by inner product, "l2" by Euclidean distance.
        block_bytes: Of the similarities held at once.
        progress: Told of every query.
        name: Of the stage.

    Raises:
        ValueError: On shapes that do not fit, or a query whose class has no other picture in the
            gallery: its metrics are undefined.
    """
    gallery_label, query_label = np.asarray(gallery_label), np.asarray(query_label)
    own = np.full(len(queries), -1) if self_match is None else np.asarray(self_match)
    _check(gallery, gallery_label, queries, query_label, own)
    relevant = _relevant(gallery_label, query_label, own)
    values = {metric_name: np.empty(len(queries)) for metric_name in METRICS}
    neighbours = np.empty((len(queries), SHOWN), dtype=np.int32)
    penalty = np.einsum("ij,ij->i", gallery, gallery) if metric == "l2" else None
    rows = max(1, block_bytes // (4 * len(gallery)))
    with (progress or Silent()).stage(name, len(queries)) as advance:
        for r, block in _blocks(relevant, rows):
            similarity = _similarity(queries[block], gallery, penalty)
            there = np.flatnonzero(own[block] >= 0)
            similarity[there, own[block[there]]] = -np.inf
            found, _ = top_k(similarity, max(r, SHOWN))
            neighbours[block] = found[:, :SHOWN]
            hits = (gallery_label[found] == query_label[block, None]) & (found >= 0)
            for metric_name, scored in _scored(hits, r).items():
                values[metric_name][block] = scored
            voted = vote(gallery_label[found[:, :SHOWN]], found[:, :SHOWN] >= 0)
            values[f"vote@{SHOWN}"][block] = voted == query_label[block]
            advance(len(block))
    return RetrievalScores(values, query_label, neighbours, len(gallery))


def vote(label: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The class that most results have; between equals, that of the nearest.

    Args:
        label: i[b, k], classes of the results, best first.
        there: bool[b, k], whether there is a result; the first always is.

    Returns:
        i[b].
    """
    votes = ((label[:, :, None] == label[:, None, :]) & there[:, None, :]).sum(axis=2)
    chosen = np.where(there, votes, 0).argmax(axis=1)  # the first of equals
    found: np.ndarray = label[np.arange(len(label)), chosen]
    return found


def _scored(hits: np.ndarray, r: int) -> dict[str, np.ndarray]:
    """Metrics by hits bool[b, >= r] of a block whose queries all have ``r`` relevant."""
    scored = {f"recall@{k}": hit_rate_at(hits, k) for k in CUTS}
    scored[f"precision@{SHOWN}"] = precision_at(hits, SHOWN)
    scored["map@r"] = average_precision_at(hits, np.full(len(hits), r), r)
    return scored


def _similarity(queries: np.ndarray, gallery: np.ndarray, penalty: np.ndarray | None) -> np.ndarray:
    """f32[b, G], larger is nearer: the inner product, or 2 q.g - |g|^2 (order of distance)."""
    products = queries @ gallery.T
    if penalty is None:
        return products
    products *= 2
    products -= penalty
    return products


def _blocks(relevant: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(R, queries with that R), at most ``rows`` queries each."""
    for r in np.unique(relevant):
        same = np.flatnonzero(relevant == r)
        for begin in range(0, len(same), rows):
            yield int(r), same[begin : begin + rows]


def _relevant(gallery_label: np.ndarray, query_label: np.ndarray, own: np.ndarray) -> np.ndarray:
    """i64[Q]: gallery pictures of the query's class, its own not counted."""
    known, count = np.unique(gallery_label, return_counts=True)
    place = np.minimum(np.searchsorted(known, query_label), len(known) - 1)
    relevant = np.where(known[place] == query_label, count[place], 0)
    relevant -= (own >= 0) & (gallery_label[own] == query_label)
    if (relevant < 1).any():
        query = int((relevant < 1).argmax())
        raise ValueError(
            f"{(relevant < 1).sum()} of {len(relevant)} queries have no other picture of their "
            f"class in the gallery (first: query {query}, class {query_label[query]}); leave "
            "them out"
        )
    return relevant


def _check(
    gallery: np.ndarray,
    gallery_label: np.ndarray,
    queries: np.ndarray,
    query_label: np.ndarray,
    own: np.ndarray,
) -> None:
    if not len(gallery) or not len(queries):
        raise ValueError(f"{len(gallery)} gallery pictures and {len(queries)} queries")
    if gallery.shape[1:] != queries.shape[1:] or gallery.ndim != 2:
        raise ValueError(f"gallery {gallery.shape} and queries {queries.shape} do not fit")
    if len(gallery) != len(gallery_label) or len(queries) != len(query_label):
        raise ValueError(
            f"{len(gallery_label)} labels for {len(gallery)} gallery pictures, "
            f"{len(query_label)} for {len(queries)} queries"
        )
    if own.shape != query_label.shape or own.max() >= len(gallery) or own.min() < -1:
        raise ValueError(
            f"self_match {own.shape} with values {own.min()}..{own.max()} for {len(queries)} "
            f"queries in a gallery of {len(gallery)}"
        )
