"""From five predictions to one number: the value by which a list is ordered.

    value = sum over heads of weight * calibrated prediction

A sum and not a product of powers, because the heads are calibrated: a weight is then an exchange
rate ("one like is worth two long views"), which a product does not have.

Who sets the weights. ``value_choice`` compares four ways and takes one by a rule. Here stands the
oldest of them, ``choose_weights``: of a small grid, the combination that orders the validation
sessions best by what people did there (grade 0 skip, 1 watched, 2 long view, 3 like, share or
follow). Long views are common and likes are rare, so these grades are made of watching, and what
draws people in without pleasing them wins.

A real team tunes the rates in online experiments on a slow metric (days active, survey answers),
under guardrails on skips and reports, with a long-term holdback that never sees the change, and
with far fewer degrees of freedom than one would like: one experiment answers for one combination.
Agarwal et al., "Online Parameter Selection for Web-based Ranking Problems" (KDD 2018) automate that
search with Bayesian optimisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from ml_platform.evaluation.ranking_metrics import graded_ndcg_at
from shorts_recommendation.ranking.heads import TASKS, Heads

GRID: dict[str, tuple[float, ...]] = {
    "long_view": (1.0,),
    "watch": (0.0, 0.5, 1.0, 2.0),
    "like": (0.0, 1.0, 2.0, 4.0),
    "skip": (0.0, -0.5, -1.0, -2.0),
}


def value(heads: Heads, weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of heads, f32 of their shape.

    Raises:
        ValueError: If a weight names no head.
    """
    unknown = sorted(set(weights) - set(TASKS))
    if unknown:
        raise ValueError(f"ranking.value_weights names {unknown}; heads are {', '.join(TASKS)}")
    total = np.zeros_like(heads.long_view)
    for task, weight in weights.items():
        if weight:
            total += np.float32(weight) * getattr(heads, task)
    return total


def grades(long_view: np.ndarray, skip: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """What a person did, f32[N]: 0 skip, 1 watched, 2 long view, 3 like, share or follow."""
    grade = np.where(skip, 0.0, 1.0)
    grade = np.where(long_view, 2.0, grade)
    return np.where(strong, 3.0, grade).astype(np.float32)


def session_ndcg(
    scores: np.ndarray, gains: np.ndarray, session: np.ndarray, k: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """NDCG@k of each session re-ordered by score.

    Ties are broken by a fixed permutation, never by the order in which videos were shown: that
    order is the logging policy's own.

    Args:
        scores: f[N].
        gains: f[N], at least 0.
        session: [N].
        k: Cut-off; shorter sessions are judged whole.

    Returns:
        NDCG f64[S] of the sessions with at least two impressions whose gains are not all equal (no
        order could be wrong otherwise), and the first row i64[S] of each.
    """
    tie = np.random.default_rng(0).permutation(len(scores))
    _, first, number = np.unique(session, return_index=True, return_inverse=True)
    count = np.bincount(number)
    order = np.lexsort((tie, -scores, number))
    place = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    table = np.zeros((len(count), max(int(count.max(initial=1)), k)))
    table[number[order], place] = gains[order]
    low = np.full(len(count), np.inf)
    np.minimum.at(low, number, gains)
    judged = (count >= 2) & (table.max(axis=1) > low)
    return graded_ndcg_at(table[judged], table[judged], k), first[judged]


def choose_weights(
    heads: Heads, gains: np.ndarray, session: np.ndarray, default: Mapping[str, float]
) -> tuple[dict[str, float], float]:
    """The engagement way: weights by session NDCG@10 on validation rows.

    Of the combinations that are within one standard error of the best (paired by session), the one
    nearest to ``default`` is taken: on few sessions the best of 64 is mostly luck.

    Args:
        heads: Predictions of the rows.
        gains: f32[N], ``grades``.
        session: [N].
        default: Where to stay without evidence.

    Returns:
        The weights and the mean NDCG that they reach.
    """
    combinations = [dict(zip(GRID, rates, strict=True)) for rates in product(*GRID.values())]
    ndcg = np.stack([session_ndcg(value(heads, w), gains, session)[0] for w in combinations])
    if ndcg.shape[1] < 2:
        return dict(default), float(ndcg[0].mean()) if ndcg.size else 0.0
    best = int(ndcg.mean(axis=1).argmax())
    behind = ndcg[best] - ndcg  # [combinations, sessions]
    error = behind.std(axis=1, ddof=1) / np.sqrt(ndcg.shape[1])
    near = np.flatnonzero(behind.mean(axis=1) <= error)
    distance = [sum(abs(combinations[i][t] - default.get(t, 0.0)) for t in GRID) for i in near]
    chosen = int(near[int(np.argmin(distance))])
    return combinations[chosen], float(ndcg[chosen].mean())
