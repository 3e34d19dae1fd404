"""Per-query metrics of lists or of full-catalogue scores; means and paired differences of them.

In: scores f32[Q, I] (or lists i32[Q, K]) and the queries they answer. Out: for each metric one
value per query, so that every later interval resamples users and every comparison is paired.

The metrics of the primary protocol, full catalogue, seen items masked:

- hr@10: any relevant item in the first 10 (a query is one second of one user, with 2.07 relevant
  items on average on MovieLens-100K, so this is higher than with single events);
- ndcg@10, map@10: IDCG and AP over min(10, relevant);
- recall@100 and recall@10: share of the relevant items found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.ranking_metrics import (
    average_precision_at,
    hit_matrix,
    hit_rate_at,
    ndcg_at,
    recall_at,
)
from ml_platform.evaluation.top_k import top_k
from video_recommendation.requests import RequestBatch

LIST_LENGTH = 100
PerQuery = dict[str, np.ndarray]


def list_metrics(
    scores: np.ndarray, batch: RequestBatch, log: InteractionLog, queries: Queries
) -> PerQuery:
    """Metrics of full-catalogue scores f32[Q, I]; the requests' histories are masked."""
    lists, _ = top_k(scores, LIST_LENGTH, seen=(batch.owner, batch.item_idx))
    return metrics_of_lists(lists, log, queries)


def metrics_of_lists(lists: np.ndarray, log: InteractionLog, queries: Queries) -> PerQuery:
    """Metrics of lists i32[Q, K], -1 padding; recall@100 only where K is at least 100."""
    ptr, items = queries.relevant(log)
    n_relevant = np.diff(ptr)
    hits = hit_matrix(lists, ptr, items)
    values = {
        "hr@10": hit_rate_at(hits, 10),
        "ndcg@10": ndcg_at(hits, n_relevant, 10),
        "map@10": average_precision_at(hits, n_relevant, 10),
        "recall@10": recall_at(hits, n_relevant, 10),
    }
    if lists.shape[1] >= LIST_LENGTH:
        values["recall@100"] = recall_at(hits, n_relevant, LIST_LENGTH)
    return values


@dataclass(frozen=True)
class Table:
    """Per-query metrics of several variants on the same queries.

    Attributes:
        rows: variant -> metric -> f64[Q].
        users: i32[Q], clusters of the bootstrap.
        protocol: One line that says how the numbers came about.
        resamples: Of the bootstrap.
    """

    rows: dict[str, PerQuery]
    users: np.ndarray
    protocol: str
    resamples: int

    def mean(self, variant: str, metric: str) -> Estimate:
        """Mean over queries, 95% interval clustered by user."""
        return bootstrap_mean(self.rows[variant][metric], self.users, resamples=self.resamples)

    def difference(self, variant: str, baseline: str, metric: str) -> Estimate:
        """Paired difference of means, 95% interval clustered by user."""
        return bootstrap_difference(
            self.rows[variant][metric],
            self.rows[baseline][metric],
            self.users,
            resamples=self.resamples,
        )

    def subset(self, mask: np.ndarray, protocol: str) -> Table:
        """The same variants on a part of the queries."""
        rows = {
            variant: {metric: values[mask] for metric, values in metrics.items()}
            for variant, metrics in self.rows.items()
        }
        return Table(rows, self.users[mask], protocol, self.resamples)
