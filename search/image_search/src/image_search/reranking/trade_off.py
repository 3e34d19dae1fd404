"""What diversity costs: pages of one query at several weights of MMR.

In: queries with candidates, a ``Page``. Out: for each weight, one value per query: label precision
and NDCG of the page (relevant = the query's class), and how much its pictures differ, in two
spaces. The first is the space that MMR itself spreads the page in, where it cannot fail; the
second, thumbnails, it has not seen. Both also without the removal of near-duplicates.

Legend: Q queries, C candidates, K page, D dimension.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from image_search.reranking.page import NO_BITS, NO_COSINE, Page
from image_search.searcher import Ask
from ml_platform.evaluation.diversity_metrics import intra_list_distance
from ml_platform.evaluation.ranking_metrics import ndcg_at, precision_at

MEASURES = ("precision", "ndcg", "distance", "thumbnail_distance", "left_out")


@dataclass(frozen=True)
class Retrieved:
    """Candidates of Q queries.

    Attributes:
        vectors: f32[Q, D] of the queries.
        label: i[Q].
        rows: i64[Q, C], by falling score, without gaps.
        score: f32[Q, C].
    """

    vectors: np.ndarray
    label: np.ndarray
    rows: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def pages_at(
    page: Page, found: Retrieved, gallery: np.ndarray, diversity: float, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pages i32[Q, k] (-1 padded), left-out items i64[Q], milliseconds f64[Q] of each page."""
    shown = np.full((len(found), k), -1, dtype=np.int32)
    left_out, took_ms = np.zeros(len(found), dtype=np.int64), np.zeros(len(found))
    for n in range(len(found)):
        rows = found.rows[n]
        ask = Ask(found.vectors[n], k=k, diversity=diversity)
        vectors = gallery[rows]
        begin = time.perf_counter()
        kept, left_out[n] = page(ask, rows, found.score[n], vectors)
        took_ms[n] = 1e3 * (time.perf_counter() - begin)
        shown[n, : len(kept)] = rows[kept]
    return shown, left_out, took_ms


def judged_pages(
    shown: np.ndarray,
    left_out: np.ndarray,
    found: Retrieved,
    gallery: np.ndarray,
    gallery_label: np.ndarray,
    small: np.ndarray,
) -> dict[str, np.ndarray]:
    """Measure of MEASURES -> f64[Q].

    Args:
        shown: i32[Q, K], -1 padded, two items at least.
        left_out: i64[Q].
        found: Where the pages come from.
        gallery: f32[N, D], the space of the candidates' vectors.
        gallery_label: i[N].
        small: f[N, T], the other space.
    """
    hits = (gallery_label[shown] == found.label[:, None]) & (shown >= 0)
    relevant = (gallery_label[found.rows] == found.label[:, None]).sum(axis=1)
    k = shown.shape[1]
    ndcg = np.zeros(len(shown))
    some = relevant > 0  # a query none of whose candidates is relevant earns nothing
    ndcg[some] = ndcg_at(hits[some], relevant[some], k)
    return {
        "precision": precision_at(hits, k),
        "ndcg": ndcg,
        "distance": intra_list_distance(gallery, shown),
        "thumbnail_distance": intra_list_distance(small, shown),
        "left_out": left_out.astype(np.float64),
    }


def keeping_duplicates(page: Page) -> Page:
    """The same page without removal."""
    return replace(page, hash_bits=NO_BITS, cosine=NO_COSINE)
