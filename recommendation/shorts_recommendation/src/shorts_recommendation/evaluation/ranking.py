"""The ranking tables, by two protocols.

(L) *logged*: every session of the test days, its shown impressions re-ordered by each model.
    Gain: 0 skip, 1 watched, 2 long view, 3 like, share or follow. It is what any company can
    measure, and it only compares what the logging policy chose to show. AUC, calibration, slices
    by place in the session; the ``uniform`` slice keeps the impressions that were drawn uniformly
    from the catalogue and is free of the policy's choice.
(T) *truth*: whole candidate lists of test requests. Gain: the true expected satisfaction of
    ``World.expected``, linear, which only a simulator has. ``satisfaction`` is the mean of the ten
    first, and ``share_of_oracle`` its ratio to that of the oracle's order of the same candidates.
    What recall lost before is in neither; ``share_of_catalogue_oracle`` has it too.

No model saw the test days; probabilities were calibrated on the validation days. Intervals resample
users whole. Ties are broken by a fixed permutation.

Legend: R logged rows, Q requests, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.classification_metrics import (
    ReliabilityCurve,
    expected_calibration_error,
    reliability_curve,
)
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean, bootstrap_ratio
from ml_platform.evaluation.ranking_metrics import graded_ndcg_at
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.top_k import top_k
from shorts_recommendation.evaluation.logged_metrics import (
    auc_estimate,
    calibration_error,
    mean_reliability,
)
from shorts_recommendation.log import STRATEGIES
from shorts_recommendation.ranking.heads import BINARY, TASKS, Heads
from shorts_recommendation.ranking.value import session_ndcg

K = 10
PLACES = (("place0", 0, 1), ("place1_4", 1, 5), ("place5", 5, 10_000))
"""Slices by place in the session: first, next four, the rest."""
REFERENCE = "transformer"
"""Whose paired differences to the others are recorded."""


@dataclass(frozen=True)
class LoggedRows:
    """Test impressions, R rows.

    Attributes:
        user, session: i64[R].
        gains: f32[R], ``value.grades``.
        labels: f32[R, 5], columns of TASKS.
        position: i[R], place in the session.
        strategy: i8[R], of the logging policy.
    """

    user: np.ndarray
    session: np.ndarray
    gains: np.ndarray
    labels: np.ndarray
    position: np.ndarray
    strategy: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class TruthTable:
    """Protocol T, one value a request.

    Attributes:
        ndcg: Model to f64[Q].
        satisfaction: Model to f64[Q], mean over the first ten.
        users: i32[Q].
        n_candidates: Mean length of the candidate lists.
    """

    ndcg: dict[str, np.ndarray]
    satisfaction: dict[str, np.ndarray]
    users: np.ndarray
    n_candidates: float

    def means(self) -> dict[str, float]:
        """Model to mean NDCG@10."""
        return {name: float(values.mean()) for name, values in self.ndcg.items()}


def truth_table(
    satisfaction: np.ndarray,
    videos: np.ndarray,
    scores: Mapping[str, np.ndarray],
    users: np.ndarray,
    *,
    seed: int = 0,
) -> TruthTable:
    """Protocol T for any candidates: ``random`` and ``oracle`` are added.

    Args:
        satisfaction: f32[Q, C], ``World.expected(...).satisfaction`` of the candidates.
        videos: i32[Q, C], -1 padded.
        scores: Model to f32[Q, C]; places with -inf come last (what the pre-ranker cut off).
        users: i32[Q].
        seed: Of the random order.

    Raises:
        ValueError: If a request has no candidate or shapes differ.
    """
    there = videos >= 0
    if not there.any(axis=1).all():
        raise ValueError(f"request {int(there.any(axis=1).argmin())} has no candidate")
    gain = np.where(there, satisfaction, 0.0)
    shuffled = np.random.default_rng(seed).random(videos.shape, dtype=np.float32)
    rows = {**scores, "random": shuffled, "oracle": gain}
    width = min(K, videos.shape[1])
    ndcg, mean = {}, {}
    for name, score in rows.items():
        if score.shape != videos.shape:
            raise ValueError(f"{name}: scores {score.shape} for candidates {videos.shape}")
        masked = np.where(there, score, -np.inf).astype(np.float32)
        best, _ = top_k(masked, width)
        found = np.where(best >= 0, np.take_along_axis(gain, np.maximum(best, 0), axis=1), 0.0)
        ndcg[name] = graded_ndcg_at(found, gain, width)
        mean[name] = found.sum(axis=1) / np.maximum((best >= 0).sum(axis=1), 1)
    return TruthTable(ndcg, mean, users, float(there.sum(axis=1).mean()))


def record_truth(
    results: Results,
    table: TruthTable,
    *,
    protocol: str,
    resamples: int = 1000,
    suffix: str = "",
) -> None:
    """Writes ``ranking/<model>/truth_ndcg@10`` and ``truth_satisfaction``, and paired differences.

    ``share_of_oracle`` is the ratio of mean satisfaction of the ten first, ours over the oracle's.
    """
    oracle = table.satisfaction["oracle"]
    words = f"{protocol}; gain = true expected satisfaction; n = {len(table.users)} requests"
    for name, values in table.ndcg.items():
        for metric, per_query in (
            ("truth_ndcg@10", values),
            ("truth_satisfaction", table.satisfaction[name]),
        ):
            estimate = bootstrap_mean(per_query, table.users, resamples=resamples)
            results.add(f"ranking/{name}/{metric}{suffix}", estimate, protocol=words)
        share = bootstrap_ratio(table.satisfaction[name], oracle, table.users, resamples=resamples)
        results.add(f"ranking/{name}/share_of_oracle{suffix}", share, protocol=words)
        if name not in (REFERENCE, "oracle") and REFERENCE in table.ndcg:
            gap = bootstrap_difference(
                table.ndcg[REFERENCE], values, table.users, resamples=resamples
            )
            key = f"ranking/{REFERENCE}_minus_{name}/truth_ndcg@10{suffix}"
            results.add(key, gap, protocol=f"paired by request; {words}")


def record_logged(
    results: Results,
    rows: LoggedRows,
    heads: Mapping[str, Heads],
    scores: Mapping[str, np.ndarray],
    *,
    protocol: str,
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Writes protocol L.

    Args:
        results: Where to.
        rows: The test impressions.
        heads: Model to calibrated heads f32[R]: AUC and calibration by task.
        scores: Order name to f32[R]: models by value, and baselines.
        protocol: Split and data, in words.
        resamples: Of the bootstrap.
        seed: Of the bootstrap and of the random order.
    """
    shuffled = np.random.default_rng(seed).random(len(rows))
    ndcg = {}
    for name, score in {**scores, "random": shuffled}.items():
        ndcg[name], first = session_ndcg(score, rows.gains, rows.session, K)
        words = (
            f"{protocol}; sessions with unequal grades (0 skip .. 3 like), shown rows re-ordered"
        )
        estimate = bootstrap_mean(ndcg[name], rows.user[first], resamples=resamples, seed=seed)
        results.add(f"ranking/{name}/logged_ndcg@10", estimate, protocol=words)
    for name, predicted in heads.items():
        _record_heads(results, rows, name, predicted, protocol, resamples, seed)
    for name in sorted(set(ndcg) - {REFERENCE}) if REFERENCE in ndcg else ():
        gap = bootstrap_difference(
            ndcg[REFERENCE], ndcg[name], rows.user[first], resamples=resamples, seed=seed
        )
        key = f"ranking/{REFERENCE}_minus_{name}/logged_ndcg@10"
        results.add(key, gap, protocol=f"{protocol}; paired by session")


def slices(rows: LoggedRows) -> dict[str, np.ndarray]:
    """Named masks bool[R]: places in the session, and the uniform exploration of the policy."""
    found = {name: (rows.position >= a) & (rows.position < b) for name, a, b in PLACES}
    return {**found, "uniform": rows.strategy == STRATEGIES.index("uniform")}


def reliability(rows: LoggedRows, heads: Heads, task: str) -> ReliabilityCurve:
    """Prediction against outcome of one head in ten bins of equal mass."""
    label, predicted = _with_label(rows, heads, task)
    if task in BINARY:
        return reliability_curve(label, predicted)
    return mean_reliability(label, predicted)


def _record_heads(
    results: Results,
    rows: LoggedRows,
    name: str,
    heads: Heads,
    protocol: str,
    resamples: int,
    seed: int,
) -> None:
    parts = slices(rows)
    for task in TASKS:
        label, predicted = _with_label(rows, heads, task)
        words = f"{protocol}; impressions as shown"
        if task in BINARY:
            if label.min() == label.max():
                continue  # AUC is not defined where nobody, or everybody, did it
            estimate = auc_estimate(label, predicted, rows.user, resamples=resamples, seed=seed)
            results.add(f"ranking/{name}/auc_{task}", estimate, protocol=words)
            error = expected_calibration_error(label, predicted)
        else:
            error = calibration_error(mean_reliability(label, predicted))
            correlation = float(np.corrcoef(label, predicted)[0, 1])
            key = f"ranking/{name}/correlation_{task}"
            results.add(key, correlation, protocol=words, n=len(label))
        key = f"ranking/{name}/ece_{task}"
        results.add(key, error, protocol=f"{words}; 10 bins of equal mass", n=len(label))
    label, predicted = _with_label(rows, heads, "long_view")
    for part, mask in parts.items():
        if 0 < label[mask].sum() < mask.sum():
            estimate = auc_estimate(
                label[mask], predicted[mask], rows.user[mask], resamples=resamples, seed=seed
            )
            key = f"ranking/{name}/auc_long_view_{part}"
            results.add(key, estimate, protocol=f"{protocol}; slice {part}")


def _with_label(rows: LoggedRows, heads: Heads, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of the rows that have a label for a task."""
    label = rows.labels[:, TASKS.index(task)]
    has = np.isfinite(label)
    predicted = np.asarray(getattr(heads, task), dtype=np.float64)[has]
    return label[has].astype(np.float64), predicted
