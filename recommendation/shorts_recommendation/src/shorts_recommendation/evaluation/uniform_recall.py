"""Recall as a uniform logging policy would have measured it: observable, and free of exposure.

In: lists of Q queries, the long views of their sessions with ``Queries.weight``. Out: one number a
query, f64[Q], whose mean is the recall, ready for ``bootstrap_mean`` and ``bootstrap_difference``.

About 5% of the log's slots were filled uniformly, whatever the user likes. Of what was watched
through there, no share is owed to the policy's taste, so recall of it is an unbiased view that any
platform with such slots has. Counting only those slots leaves few events (662 long views in two
days of 3,000 users). Every impression has a known probability under the whole mixture, so the
indicator "a uniform slot chose it" can be replaced by its conditional probability,

    w = uniform_share / n_existing / propensity          (0 < w <= 1)
    recall@k = sum w [in the first k] / sum w            over all long views

which has the same expectation and less variance (Rao-Blackwell): on those two days the weights are
worth 2,400 equal ones. It is inverse propensity scoring, self-normalised, with uniform as the
target (Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning",
NeurIPS 2015). Nothing has to be clipped: the uniform slots bound the ratio by 1 / uniform_share.

What it measures: long views of a video drawn at random. Most videos are in the long tail, so it
rewards whoever finds a person's taste there, and it counts a video that everybody watches no more
than any other. What it does not see: satisfaction after the view.

The ratio of two sums is made a mean by linearisation: z_q = R + (a_q - R b_q) / mean(b).
"""

from __future__ import annotations

import numpy as np

from ml_platform.evaluation.ranking_metrics import gain_matrix
from shorts_recommendation.evaluation.retrieval_queries import Queries


def uniform_recall_at(lists: np.ndarray, queries: Queries, cuts: tuple[int, ...]) -> np.ndarray:
    """Values f64[len(cuts), Q] whose means are the recalls in the first k of lists i32[Q, C].

    Raises:
        ValueError: If all weights are zero: no slot was uniform, nothing can be said.
    """
    total = _by_query(queries.weight, queries)
    if not total.sum() > 0:
        raise ValueError("no long view has a weight: the log has no uniform slots")
    gains = gain_matrix(lists, queries.ptr, queries.relevant, queries.weight)
    return np.stack([_linearised(gains[:, :k].sum(axis=1), total) for k in cuts])


def effective_events(queries: Queries) -> float:
    """Equal weights that the weights are worth: (sum w)^2 / sum w^2."""
    return float(queries.weight.sum() ** 2 / (queries.weight**2).sum())


def _linearised(found: np.ndarray, total: np.ndarray) -> np.ndarray:
    ratio = found.sum() / total.sum()
    return np.asarray(ratio + (found - ratio * total) / total.mean())


def _by_query(values: np.ndarray, queries: Queries) -> np.ndarray:
    owner = np.repeat(np.arange(len(queries)), queries.n_relevant)
    return np.bincount(owner, weights=values, minlength=len(queries))
