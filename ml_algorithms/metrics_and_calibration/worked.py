"""The page's worked examples, small enough for paper: the inputs, and what the functions say.

In: nothing. Out: ``worked_examples()``, each value by the name under which the page quotes it. The
tests hold the same values worked out by hand.
"""

from __future__ import annotations

import numpy as np

from ml_algorithms.metrics_and_calibration.averaging import gauc, macro_values
from ml_algorithms.metrics_and_calibration.calibration import (
    pool_adjacent_violators,
    undo_down_sampling,
)
from ml_algorithms.metrics_and_calibration.calibration_measures import brier_parts
from ml_algorithms.metrics_and_calibration.sampled import expected_ndcg
from ml_platform.evaluation.classification_metrics import auc, expected_calibration_error, log_loss
from ml_platform.evaluation.ranking_metrics import (
    average_precision_at,
    hit_matrix,
    ndcg_at,
    precision_at,
    recall_at,
    reciprocal_rank_at,
)

# A list of five; items 7, 8 and 9 are relevant, 9 is missing from the list.
LIST = np.array([[3, 7, 1, 8, 2]], dtype=np.int32)
RELEVANT = np.array([7, 8, 9], dtype=np.int32)
# Eight rows: the model says 0.9 or 0.1, and three of four, one of four, come true.
LABELS = np.array([1, 1, 1, 0, 1, 0, 0, 0])
PROBABILITIES = np.array([0.9] * 4 + [0.1] * 4)
# Two users, who like three of four and one of four: both lists are upside down, but the first
# user's scores are higher.
USERS = np.array([0] * 4 + [1] * 4)
USER_LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1])
USER_SCORES = np.array([0.8, 0.7, 0.6, 0.9, 0.4, 0.3, 0.2, 0.1])


def worked_examples() -> dict[str, float]:
    """Every number of the page's worked examples."""
    hits = hit_matrix(LIST, np.array([0, 3]), RELEVANT)
    n_relevant = np.array([3])
    parts = brier_parts(LABELS, PROBABILITIES, bins=2)
    pooled = pool_adjacent_violators(np.array([0.0, 1.0, 0.0, 1.0, 1.0]), np.ones(5))
    return {
        "list/precision@5": float(precision_at(hits, 5)[0]),
        "list/recall@5": float(recall_at(hits, n_relevant, 5)[0]),
        "list/ndcg@5": float(ndcg_at(hits, n_relevant, 5)[0]),
        "list/ndcg@2": float(ndcg_at(hits, n_relevant, 2)[0]),
        "list/ap@5": float(average_precision_at(hits, n_relevant, 5)[0]),
        "list/rr@5": float(reciprocal_rank_at(hits, 5)[0]),
        "rows/auc": auc(LABELS, PROBABILITIES),
        "rows/log_loss": log_loss(LABELS, PROBABILITIES),
        "rows/ece": expected_calibration_error(LABELS, PROBABILITIES, bins=2),
        "rows/brier": parts.score,
        "rows/reliability": parts.reliability,
        "rows/resolution": parts.resolution,
        "rows/uncertainty": parts.uncertainty,
        "users/auc": auc(USER_LABELS, USER_SCORES),
        "users/gauc": gauc(USER_LABELS, USER_SCORES, USERS),
        "users/micro": float(np.mean([1.0, 1.0, 1.0, 0.0])),
        "users/macro": float(
            macro_values(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])).mean()
        ),
        "pav/second": float(pooled[1]),
        "down_sampling/corrected": float(undo_down_sampling(np.array([0.5]), 0.1)[0]),
        "sampled/ndcg@10": float(expected_ndcg(np.array([101]), 1000, 100, 10)[0]),
    }
