"""The same values, averaged three ways: over rows, over users, within users.

In: one value per query f[Q] and its user; or labels and scores per row. Out: one number.

- micro: the mean over queries. Users with many queries count as often as they come: the mean over
  requests, which is what servers see.
- macro: the mean over users of each user's mean: what people see.
- within: for AUC, the mean over users of the AUC among each user's own rows (GAUC; Zhu et al.,
  "Optimized Cost per Click in Taobao Display Advertising", KDD 2017). An AUC over all rows also
  rewards knowing *which user* likes more things, which orders no list.

Legend: Q queries, N rows, U users.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from ml_platform.evaluation.classification_metrics import auc


def macro_values(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Each user's mean f[U]; their mean is the macro average."""
    _, user_of = np.unique(users, return_inverse=True)
    return np.asarray(np.bincount(user_of, weights=values) / np.bincount(user_of))


def user_aucs(
    labels: np.ndarray, scores: np.ndarray, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUC of every user who has both classes, and the number of their rows. f[U'], i[U'].

    Users whose rows are all of one class have no AUC and are left out: say how many.
    """
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.diff(users[order], prepend=users[order][0] - 1))
    values, rows = [], []
    for mine in np.split(order, starts[1:]):
        ones = int(np.sum(labels[mine]))
        if 0 < ones < len(mine):
            values.append(auc(labels[mine], scores[mine]))
            rows.append(len(mine))
    return np.array(values), np.array(rows)


def gauc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """The users' AUCs, weighted by their numbers of rows.

    Raises:
        ValueError: If no user has both classes.
    """
    values, rows = user_aucs(labels, scores, users)
    if not len(values):
        raise ValueError(f"none of {len(np.unique(users))} users has rows of both classes")
    return float((values * rows).sum() / rows.sum())


def average_rank_of_ties(scores: np.ndarray, item: int) -> tuple[float, int, int]:
    """The rank of an item (1 is best) if ties were averaged, all won, or all lost."""
    average = float(rankdata(-scores, method="average")[item])
    best = int(rankdata(-scores, method="min")[item])
    worst = int(rankdata(-scores, method="max")[item])
    return average, best, worst
