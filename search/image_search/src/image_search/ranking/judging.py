"""How good an order is, by the known truth. SYNTHETIC.

In: searches (users with pictures), candidates of the served index, scores. Out: one number a
search, and estimates with intervals by query picture.

- NDCG@10: the gain of an item is its attraction to that user (the chance of a click by who looks);
  the ideal list is the best ten of the same candidates. Random order has far more than 0, since the
  candidates are all alike: read it against the random row.
- expected clicks: of the page of K first, looks by place included.
- click AUC: on logged pages of the test days, score against click. It is what one has without a
  truth, and the places are in it.

Legend: n searches, C candidates, K places, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from image_search.clicks.truth import Truth
from image_search.ranking.base import Ranker
from image_search.ranking.features import CandidateFeatures
from image_search.ranking.learning import Lessons, Neighbourhood
from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.ranking_metrics import graded_ndcg_at

NDCG_AT = 10
METRICS = ("ndcg@10", "expected_clicks")
CHUNK = 256


@dataclass(frozen=True)
class Searches:
    """Searches to judge by, and everything that is known of their candidates.

    Attributes:
        user_idx: i64[n].
        query_row: i64[n], rows of the image set.
        vectors: f32[n, D] of the queries.
        rows: i64[n, C], candidates, -1 padded.
        similarity: f32[n, C].
        features: f32[n, C, F].
        items: f32[N, D].
        attraction: f32[n, C] to that user, 0 where there is no candidate.
        anyone: f32[n, C] to nobody known.
        examination: f64[K].
    """

    user_idx: np.ndarray
    query_row: np.ndarray
    vectors: np.ndarray
    rows: np.ndarray
    similarity: np.ndarray
    features: np.ndarray
    items: np.ndarray
    attraction: np.ndarray
    anyone: np.ndarray
    examination: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def scores(self, ranker: Ranker) -> np.ndarray:
        """f32[n, C], -inf where there is no candidate."""
        parts = []
        for begin in range(0, len(self), CHUNK):
            part = slice(begin, begin + CHUNK)
            items = self.items[np.maximum(self.rows[part], 0)]
            parts.append(ranker.score(self.features[part], self.vectors[part], items))
        return np.where(self.rows >= 0, np.concatenate(parts), np.float32(-np.inf))

    def measure(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Metric -> f64[n] of the order by these scores."""
        width = min(len(self.examination), self.rows.shape[1])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        drawn = np.take_along_axis(self.attraction, order, axis=1).astype(np.float64)
        at = min(NDCG_AT, width)
        return {
            "ndcg@10": graded_ndcg_at(drawn, self.attraction.astype(np.float64), at),
            "expected_clicks": drawn @ self.examination[:width],
        }

    def estimate(self, values: np.ndarray, resamples: int, seed: int) -> Estimate:
        """The mean, with an interval by query picture."""
        return bootstrap_mean(values, self.query_row, resamples=resamples, seed=seed)

    def difference(self, a: np.ndarray, b: np.ndarray, resamples: int, seed: int) -> Estimate:
        """Mean of a - b on the same searches, with an interval by query picture."""
        return bootstrap_difference(a, b, self.query_row, resamples=resamples, seed=seed)


def searches_of(
    user_idx: np.ndarray,
    query_row: np.ndarray,
    neighbours: Neighbourhood,
    features: CandidateFeatures,
    truth: Truth,
) -> Searches:
    """Gathers the candidates of searches, with features and truth of the log's end."""
    at = neighbours.place(query_row)
    rows, similarity = neighbours.rows[at], neighbours.similarity[at]
    context = features.context(rows, similarity)
    nobody = np.full_like(user_idx, -1)
    return Searches(
        user_idx=user_idx,
        query_row=query_row,
        vectors=neighbours.vectors[at],
        rows=rows,
        similarity=similarity,
        features=features.table(context, rows, similarity, features.now(rows)),
        items=neighbours.items,
        attraction=truth.attraction(user_idx, query_row, rows),
        anyone=truth.attraction(nobody, query_row, rows),
        examination=truth.examination,
    )


def baseline_scores(
    searches: Searches, features: CandidateFeatures, seed: int
) -> dict[str, np.ndarray]:
    """Orders that nothing was learnt for, and the two that only the truth can give."""
    at, there = np.maximum(searches.rows, 0), searches.rows >= 0
    found = {
        "random": np.random.default_rng(seed).random(at.shape),
        "popularity": features.catalogue.attributes.popularity[at],
        "similarity": searches.similarity,
        "oracle_anyone": searches.anyone,
        "oracle": searches.attraction,
    }
    return {name: np.where(there, score, -np.inf) for name, score in found.items()}


def logged_scores(ranker: Ranker, pages: Lessons) -> np.ndarray:
    """f32[n, K]: logits of logged impressions, as if each stood at the first place."""
    parts = []
    for begin in range(0, len(pages), CHUNK):
        part = slice(begin, begin + CHUNK)
        query = pages.neighbours.vectors[pages.query[part]]
        items = pages.neighbours.items[pages.rows[part]]
        parts.append(ranker.score(pages.features[part], query, items))
    return np.concatenate(parts)


def click_auc(scores: np.ndarray, pages: Lessons) -> float:
    """AUC of scores f[n, K] against clicks, over all impressions."""
    return auc(pages.clicked.ravel(), scores.ravel())


def first_place_auc(scores: np.ndarray, pages: Lessons) -> float:
    """The same over the first places alone, where everybody looks and no place can help."""
    return auc(pages.clicked[:, 0], scores[:, 0])


def predicted_clicks(ranker: Ranker, pages: Lessons, *, looks: bool) -> np.ndarray:
    """f64[n, K]: the chance of a click of logged impressions, times that of a look if ``looks``."""
    chance = expit(logged_scores(ranker, pages).astype(np.float64))
    return chance * pages.theta if looks else chance
