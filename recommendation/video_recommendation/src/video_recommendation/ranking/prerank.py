"""The pre-ranker: a logistic regression that cuts the pool to what the ranker can afford.

In: f32[C, P] features that retrieval has anyway. Out: scores f32[C] and the rows to keep. A linear
model costs one small matrix product for the whole pool; its job is not the order of the list but
not to lose what the ranker would have put first (its recall of the ranker's input is in the
results).

Options: cut by the two-tower score alone (free, but blind to what only another source knows), a
small GBDT (better, about as dear as the ranker itself at this pool size), this. Wang et al.,
"COLD: Towards the Next Generation of Pre-Ranking System", DLP-KDD 2020, weigh the same choice at
Alibaba.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from video_recommendation.ranking.examples import Examples


@dataclass(frozen=True)
class PreRanker:
    """score = x @ weight + bias, on raw features."""

    weight: np.ndarray
    bias: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Log-odds of a watch f32[C] from pre-rank features f32[C, P]."""
        return features @ self.weight + np.float32(self.bias)


def fit_prerank(examples: Examples, *, seed: int) -> PreRanker:
    """Fits on all rows; features are standardised for the solver, and folded back."""
    mean = examples.prerank_features.mean(axis=0)
    scale = np.maximum(examples.prerank_features.std(axis=0), 1e-6)
    model = LogisticRegression(C=1.0, max_iter=200, random_state=seed)
    model.fit((examples.prerank_features - mean) / scale, examples.watched)
    weight = (model.coef_[0] / scale).astype(np.float32)
    return PreRanker(weight=weight, bias=float(model.intercept_[0] - weight @ mean))


def keep_best(scores: np.ndarray, ptr: np.ndarray, keep: int) -> np.ndarray:
    """Ascending rows of the ``keep`` best of each request; all rows of a smaller one.

    Args:
        scores: f32[C].
        ptr: i64[Q + 1].
        keep: At most so many per request; of equal scores the earlier rows.
    """
    if len(ptr) == 2:  # one live request: no need to sort by request
        if len(scores) <= keep:
            return np.arange(len(scores))
        return np.sort(np.argsort(-scores, kind="stable")[:keep])
    owner = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    order = np.lexsort((-scores, owner))
    place = np.arange(len(scores)) - ptr[owner]  # within the request, in sorted order
    return np.sort(order[place < keep])
