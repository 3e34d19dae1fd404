"""Expected NDCG@10 against a sample of negatives, computed exactly from one full ranking.

In: a scorer and queries. Out: ``Places``, from which the full metric and the expectation of the
sampled one follow. Every relevant item is judged alone, against the negatives of its query, as in
the usual protocol with one positive.

With r of N negatives above the item, the number of them in a sample of n distinct ones has the
hypergeometric distribution; if they are drawn by popularity with replacement, the binomial one,
with the share of popularity that is above the item. So nothing is drawn, and what flips is not
noise: Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020, reason about
expectations in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, hypergeom

from ml_platform.data.interactions import Queries
from ml_platform.evaluation.top_k import tie_order
from video_recommendation.data import SystemData
from video_recommendation.evaluation.baselines import Scorer
from video_recommendation.evaluation.retrieval import blocks

K = 10
DISCOUNT = 1.0 / np.log2(np.arange(2, K + 2))


@dataclass(frozen=True)
class Places:
    """Where each of R relevant items stands among the negatives of its query.

    Attributes:
        above: i64[R], negatives ranked above it.
        negatives: i64[R], unseen items of the catalogue that are not relevant to the query.
        mass_above: f64[R], share of the negatives' popularity that is above it.
        users: i32[R], clusters.
    """

    above: np.ndarray
    negatives: np.ndarray
    mass_above: np.ndarray
    users: np.ndarray

    def full(self) -> np.ndarray:
        """NDCG@10 f64[R] against all negatives."""
        return np.where(self.above < K, DISCOUNT[np.minimum(self.above, K - 1)], 0.0)

    def sampled(self, n: int) -> np.ndarray:
        """Expected NDCG@10 f64[R] against n distinct negatives drawn uniformly.

        Where there are no n negatives, against all of them.
        """
        size = np.minimum(n, self.negatives)[:, None]
        place = np.arange(K)
        chance = hypergeom.pmf(place, self.negatives[:, None], self.above[:, None], size)
        return np.asarray(chance @ DISCOUNT)

    def sampled_by_popularity(self, n: int) -> np.ndarray:
        """Expected NDCG@10 f64[R] against n negatives drawn by popularity, with replacement."""
        return np.asarray(binom.pmf(np.arange(K), n, self.mass_above[:, None]) @ DISCOUNT)


def places(scorer: Scorer, data: SystemData, queries: Queries, popularity: np.ndarray) -> Places:
    """Ranks every unseen item for every query; equal scores fall in the catalogue's tie order."""
    place_of = tie_order(data.log.n_items)[1]
    above, negatives, mass, users = [], [], [], []
    for part, batch in blocks(data.log, queries):
        scores = np.asarray(scorer(batch), dtype=np.float32)
        ptr, item = part.relevant(data.log)
        owner = np.repeat(np.arange(len(part)), np.diff(ptr))
        allowed = np.ones(scores.shape, dtype=bool)
        allowed[batch.owner, batch.item_idx] = False
        allowed[owner, item] = False
        own, others = scores[owner, item][:, None], scores[owner]
        tie_above = (others == own) & (place_of < place_of[item][:, None])
        negative = allowed[owner]
        better = negative & ((others > own) | tie_above)
        above.append(better.sum(axis=1))
        negatives.append(negative.sum(axis=1))
        mass.append((better @ popularity) / np.maximum(negative @ popularity, 1e-12))
        users.append(part.user_idx[owner])
    return Places(*(np.concatenate(column) for column in (above, negatives, mass, users)))
