"""Proxies against truth: what each way to the value's weights is worth in the end.

In: the trained system with its ``ValueChoice``, requests of the test days. Out, as
``ranking_value/<way>/<metric>``:

- what chose: ``weight_<head>`` (with the regression's interval), ``effect_<head>`` and
  ``detectable_<head>`` (one deviation more of the head; the smallest that 80% of such logs show),
  ``validation_ndcg@10``, ``validation_return``, ``validation_stay``, ``taken`` (1 or 0);
- what a company never sees: ``truth_ndcg@10`` and ``truth_satisfaction`` of the ten first on the
  test days, and paired differences ``<way>_minus_engagement``. ``like_head`` and ``long_view_head``
  rank by one head, for scale.

``hidden_satisfaction`` says how much the log could show at best: the same two associations on the
training days, of the truth itself in place of a value.

All but the first part is computed after everything is chosen and feeds back into nothing.

Legend: Q requests, C candidates.
"""

from __future__ import annotations

import numpy as np

from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import Results
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.ranking import truth_table
from shorts_recommendation.evaluation.retrieval_queries import Queries, snapshots_of
from shorts_recommendation.features import cross_features
from shorts_recommendation.pipeline import Trained
from shorts_recommendation.ranking.heads import TASKS, Heads
from shorts_recommendation.ranking.proxies import (
    Fitted,
    Impressions,
    association,
    can_fit,
    return_panel,
    stay_panel,
)
from shorts_recommendation.ranking.value import value
from shorts_recommendation.ranking.value_choice import VALUE_HEADS, ValueChoice, Way

REQUESTS = 500
"""Judged by the truth: every way orders the same candidates, so differences are paired."""
BATCH = 32
_REFERENCE = "engagement"


def evaluate_values(
    data: ShortsData,
    trained: Trained,
    queries: Queries,
    results: Results,
    progress: Progress,
    *,
    requests: int = REQUESTS,
) -> None:
    """Records what chose the weights, and what the truth says of every way.

    Args:
        data: The world and its log.
        trained: With ``transformer.value_choice``.
        queries: Of the test days, in time order.
        results: Where to.
        progress: Told of the requests.
        requests: At most so many, evenly spread over ``queries``.
    """
    config = trained.recommender.config
    choice = trained.transformer.value_choice
    note = f"simulated world, seed {config.seed}"
    record_choice(results, choice, protocol=note)
    record_hidden(results, data, trained, protocol=note)
    some = np.unique(np.linspace(0, len(queries) - 1, min(requests, len(queries))).astype(int))
    videos, heads = _candidates(data, trained, queries.take(some), progress)
    batch = queries.batch.take(some)
    satisfaction = data.world.expected(
        batch.user_idx, np.maximum(videos, 0), batch.now_s
    ).satisfaction
    record_values_truth(
        results,
        choice,
        heads,
        videos,
        satisfaction,
        batch.user_idx,
        protocol=f"{note}, test days, {len(some)} first requests of sessions, all candidates of "
        "recall, transformer's heads; gain = true expected satisfaction; 95% bootstrap by user",
        resamples=config.evaluation.resamples,
    )


def record_choice(results: Results, choice: ValueChoice, *, protocol: str) -> None:
    """Writes what a company can see of every way."""
    for name, way in choice.ways.items():
        results.add(
            f"ranking_value/{name}/taken",
            float(name == choice.taken),
            protocol=f"{protocol}; rule of ranking/value_choice.py, which reads no truth",
        )
        _record_weights(results, name, way, protocol)
        days = f"{protocol}; validation days, transformer's heads"
        results.add(
            f"ranking_value/{name}/validation_ndcg@10",
            way.ndcg,
            protocol=f"{days}; sessions re-ordered, grades 0 skip .. 3 like",
        )
        for metric, found, words in (
            ("validation_return", way.sooner, "-log gap to the next session, capped at 24 h"),
            ("validation_stay", way.stays, "probability that the session goes on"),
        ):
            if found is not None:
                results.add(
                    f"ranking_value/{name}/{metric}",
                    found,
                    protocol=f"{days}; {words}; by one deviation of the value within a user, "
                    "95% bootstrap by user",
                )


def record_values_truth(
    results: Results,
    choice: ValueChoice,
    heads: Heads,
    videos: np.ndarray,
    satisfaction: np.ndarray,
    users: np.ndarray,
    *,
    protocol: str,
    resamples: int = 1000,
) -> None:
    """Writes what the truth says of every way.

    Args:
        results: Where to.
        choice: The ways.
        heads: f32[Q, C] each.
        videos: i32[Q, C], -1 padded.
        satisfaction: f32[Q, C], of the world.
        users: i32[Q].
        protocol: Split and data, in words.
        resamples: Of the bootstrap.
    """
    scores = {name: value(heads, way.weights) for name, way in choice.ways.items()}
    scores |= {f"{head}_head": getattr(heads, head) for head in ("like", "long_view")}
    table = truth_table(satisfaction, videos, scores, users)
    for metric, found in (
        ("truth_ndcg@10", table.ndcg),
        ("truth_satisfaction", table.satisfaction),
    ):
        for name, per_query in found.items():
            estimate = bootstrap_mean(per_query, users, resamples=resamples)
            results.add(f"ranking_value/{name}/{metric}", estimate, protocol=protocol)
            if name in choice.ways and name != _REFERENCE:
                gap = bootstrap_difference(per_query, found[_REFERENCE], users, resamples=resamples)
                key = f"ranking_value/{name}_minus_{_REFERENCE}/{metric}"
                results.add(key, gap, protocol=f"paired by request; {protocol}")


def record_hidden(results: Results, data: ShortsData, trained: Trained, *, protocol: str) -> None:
    """Writes what somebody who knew the satisfaction of every video shown would find in the log."""
    sequences, until_s = trained.transformer.sequences, data.windows.train_end
    rows = np.flatnonzero(sequences.time_s < until_s)
    user, time_s = sequences.user_idx[rows], sequences.time_s[rows]
    truth = data.world.expected(user, sequences.video[rows][:, None], time_s).satisfaction
    log = Impressions(user, sequences.session[rows], time_s, truth.astype(np.float64))
    for name, panel in (
        ("train_return", return_panel(log, until_s)),
        ("train_stay", stay_panel(log, until_s)),
    ):
        if can_fit(panel):
            results.add(
                f"ranking_value/hidden_satisfaction/{name}",
                association(panel, np.ones(1)),
                protocol=f"{protocol}; training days; what the log shows of the truth itself (of a "
                "fresh viewer); by one deviation within a user, 95% bootstrap by user",
            )


def _record_weights(results: Results, name: str, way: Way, protocol: str) -> None:
    """Weights, with intervals and power where they come from a regression."""
    for i, head in enumerate(VALUE_HEADS):
        key = f"ranking_value/{name}/weight_{head}"
        if way.fitted is None:
            words = f"{protocol}; grid, validation days"
            results.add(key, way.weights.get(head, 0.0), protocol=words)
            continue
        fitted = way.fitted
        words = (
            f"{protocol}; regression within users, training days, {fitted.rows:,} rows of "
            f"{fitted.users:,} users, 95% bootstrap by user"
        )
        results.add(
            key, scaled_weight(fitted, i), protocol=f"{words}; in units of the largest weight"
        )
        effect = float(fitted.weights[i] * fitted.spread[i])
        results.add(f"ranking_value/{name}/effect_{head}", effect, protocol=words, n=fitted.rows)
        results.add(
            f"ranking_value/{name}/detectable_{head}",
            float(fitted.detectable[i]),
            protocol=f"{words}; smallest effect of one deviation found in 80% of such logs",
            n=fitted.rows,
        )


def scaled_weight(fitted: Fitted, head: int) -> Estimate:
    """A regression's weight and interval, divided by its largest weight in size."""
    size = max(float(np.abs(fitted.weights).max()), 1e-12)
    low, high = float(fitted.low[head] / size), float(fitted.high[head] / size)
    return Estimate(float(fitted.weights[head] / size), low, high, fitted.rows)


def _candidates(
    data: ShortsData, trained: Trained, queries: Queries, progress: Progress
) -> tuple[np.ndarray, Heads]:
    """Recall's candidates i32[Q, C] and the transformer's heads of them."""
    recommender, ranker = trained.recommender, trained.transformer.ranker
    found: list[np.ndarray] = []
    heads: list[Heads] = []
    with progress.stage("values against the truth", len(queries)) as step:
        for snapshot, places in snapshots_of(
            data.log, len(data.catalogue), recommender.config, queries.batch.now_s
        ):
            recommender.prepare(snapshot)
            for start in range(0, len(places), BATCH):
                batch = queries.batch.take(places[start : start + BATCH])
                videos = recommender.retrieve(batch, snapshot).videos
                cross = cross_features(batch, videos, snapshot, recommender.items)
                encoded = ranker.encode(batch)
                found.append(videos)
                heads.append(ranker.score(encoded, batch.user, batch.context, videos, cross))
                step(len(batch))
    joined = {task: np.concatenate([getattr(h, task) for h in heads]) for task in TASKS}
    return np.concatenate(found), Heads(**joined)
