"""The whole evaluation of a trained system, as numbers: what the report prints and docs quote.

In: data, a trained system, the config. Out: an ``Evaluation`` with its tables, and a ``Results``
file filled from it. Order: retrieval and baselines, funnel replay, calibration, re-ranking sweep,
slices, the plain temporal split, the index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.data.splits import next_event_queries, temporal_batch_queries
from ml_platform.evaluation.classification_metrics import (
    expected_calibration_error,
    reliability_curve,
)
from ml_platform.evaluation.progress import Progress
from video_recommendation.config import Config, IndexConfig
from video_recommendation.data import SystemData
from video_recommendation.evaluation.baselines import Scorer, baselines, oracle_scorer
from video_recommendation.evaluation.lists import Table
from video_recommendation.evaluation.ranking import Replay, candidate_metrics, replay
from video_recommendation.evaluation.reranking import SweepPoint, sweep
from video_recommendation.evaluation.retrieval import (
    evaluate_merge,
    evaluate_scorer,
    source_scorers,
    tune,
)
from video_recommendation.features import SCHEMA
from video_recommendation.pipeline import Trained, with_live_counter
from video_recommendation.ranking.calibration import Calibrator, fit_calibrator, logistic
from video_recommendation.recommender import Recommender
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.index import IndexMeasurement, measure_index

TUNING_METRIC = "recall@100"
INDEX_QUERIES = 1000
HEAD_SHARE = 0.2
COLD_EVENTS = 20
BATCH_ROWS = (
    "random",
    "popularity",
    "recent_popularity",
    "item_knn",
    "ease",
    "ials",
    "two_tower",
)


@dataclass(frozen=True)
class Calibration:
    """Reliability of one reading of the score: ECE, and a curve of (predicted, observed, rows)."""

    ece: float
    curve: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """All that was measured offline.

    Attributes:
        retrieval: One row per source and baseline, and "merged".
        ranking: One row per stage's order: prerank, lambdarank, mmoe, final, with ease beside.
        candidates: ranker -> per-query AUC and NDCG@10 against the candidates, with users.
        pool: Facts of the merged pool.
        settings: What tuning chose for each baseline.
        calibration: "raw", "platt", "isotonic" on the test window.
        sweep: Re-ranking points; sweep_users their clusters.
        slices: slice name -> table.
        batch: The plain temporal split.
        index: Measurements on the bundle's own vectors.
        gain: Feature importance (share of split gain).
        shap: Mean |SHAP| per feature on a sample.
        replay: The funnel.
    """

    retrieval: Table
    ranking: Table
    candidates: dict[str, dict[str, np.ndarray]]
    pool: dict[str, float]
    settings: dict[str, dict[str, float]]
    calibration: dict[str, Calibration]
    sweep: list[SweepPoint]
    sweep_users: np.ndarray
    slices: dict[str, Table]
    batch: Table
    index: list[IndexMeasurement]
    gain: dict[str, float]
    shap: dict[str, float]
    replay: Replay
    queries: Queries


def evaluate_system(
    data: SystemData, trained: Trained, config: Config, progress: Progress
) -> Evaluation:
    """Runs everything on the test window."""
    recommender = live_recommender(trained.recommender, data)
    log, windows = data.log, data.windows
    queries = next_event_queries(log, windows.validation_end, None)
    resamples = config.evaluation.resamples
    protocol = protocol_line(data, config, queries)
    scorers, settings = tuned_baselines(data, trained, config, progress)
    scorers |= source_scorers(recommender)
    with progress.stage("retrieval table, test window", len(scorers) + 1) as step:
        rows = {}
        for name, scorer in scorers.items():
            rows[name] = evaluate_scorer(scorer, log, queries)
            step(1)
        rows["merged"], pool = evaluate_merge(recommender, log, queries)
    retrieval = Table(rows, queries.user_idx, protocol, resamples)
    with progress.stage("replay of the funnel, test window", len(queries)) as step:
        result = replay(recommender, log, queries, step)
    shared = {
        name: _without_recall_100(rows[name]) for name in ("ease", "ease_recency", "two_tower")
    }
    ranking = Table(shared | result.per_query, queries.user_idx, protocol, resamples)
    with progress.stage("re-ranking sweep", 1):
        n_queries = config.evaluation.sweep_queries
        points, chosen = sweep(
            recommender, result, log, queries, n_queries=n_queries, seed=config.seed
        )
    with progress.stage("slices, batch split, index, importance", 4) as step:
        slices = _slices(data, scorers, result, queries, config)
        step(1)
        batch = _batch_table(data, recommender, scorers, config)
        step(1)
        index = _index_table(recommender, data, queries, config)
        step(1)
        shap = _mean_shap(recommender, result)
    return Evaluation(
        retrieval=retrieval,
        ranking=ranking,
        candidates={
            name: candidate_metrics(result, name, queries.user_idx) for name in result.score
        },
        pool=pool,
        settings=settings,
        calibration=_calibration(trained, result, config),
        sweep=points,
        sweep_users=queries.user_idx[chosen],
        slices=slices,
        batch=batch,
        index=index,
        gain=recommender.lambda_ranker().gain(),
        shap=shap,
        replay=result,
        queries=queries,
    )


def live_recommender(recommender: Recommender, data: SystemData) -> Recommender:
    """The same models with counters that know all events up to each request, as the server has."""
    return Recommender(
        version=recommender.version,
        config=recommender.config,
        catalogue=recommender.catalogue,
        users=recommender.users,
        log=recommender.log,
        proposer=with_live_counter(recommender.proposer, data),
        preranker=recommender.preranker,
        rankers=recommender.rankers,
        calibrator=recommender.calibrator,
    )


def tuned_baselines(
    data: SystemData, trained: Trained, config: Config, progress: Progress
) -> tuple[dict[str, Scorer], dict[str, dict[str, float]]]:
    """Baselines with knobs chosen on validation, refitted on all events before the test window."""
    windows, log = data.windows, data.log
    validation = next_event_queries(log, windows.train_end, windows.validation_end)
    known = log.select(log.timestamp < windows.validation_end)
    counter = trained.selection.retriever.counter
    scorers: dict[str, Scorer] = {}
    settings: dict[str, dict[str, float]] = {}
    family = baselines(counter, config.seed)
    with progress.stage("baselines, tuned on validation", len(family)) as step:
        for baseline in family:
            setting = tune(baseline, data, validation, TUNING_METRIC)
            settings[baseline.name] = setting
            scorers[baseline.name] = baseline.fit(known, setting)
            step(1)
    if data.oracle is not None:
        scorers["oracle"] = oracle_scorer(data.oracle)
    return scorers, settings


def protocol_line(data: SystemData, config: Config, queries: Queries) -> str:
    """What a number of the primary protocol means, in one line."""
    share = config.data.fractions[2]
    return (
        f"{caveat(data, config)}{data.name}, next-event: last {share:.0%} of time, "
        f"{len(queries)} queries of {len(np.unique(queries.user_idx))} users (one per user and "
        f"second; tied events are one query), full catalogue of {data.log.n_items} items, seen "
        f"items masked, models frozen at the window's start, live histories and counters, "
        f"tie seed {config.data.tie_seed}, 95% bootstrap by user"
    )


def caveat(data: SystemData, config: Config) -> str:
    """What every protocol of a quick run or of generated data begins with."""
    quick = "QUICK RUN, not a result; " if config.quick else ""
    synthetic = "SYNTHETIC data; " if data.synthetic else ""
    return quick + synthetic


def _without_recall_100(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: column for name, column in values.items() if name != "recall@100"}


def _calibration(trained: Trained, result: Replay, config: Config) -> dict[str, Calibration]:
    """Maps fitted on the choosing part of validation, judged on the test window."""
    held_out = trained.ranking.held_out_score, trained.ranking.held_out_watched
    maps: dict[str, Calibrator | None] = {
        "raw": None,
        "platt": fit_calibrator(*held_out, "platt"),
        "isotonic": fit_calibrator(*held_out, "isotonic"),
    }
    scores = result.score[config.ranking.ranker]
    found = {}
    for name, fitted in maps.items():
        probability = logistic(scores) if fitted is None else fitted.probability(scores)
        curve = reliability_curve(result.watched, probability, bins=15)
        found[name] = Calibration(
            ece=expected_calibration_error(result.watched, probability, bins=15),
            curve=(curve.predicted, curve.observed, curve.count),
        )
    return found


def _slices(
    data: SystemData,
    scorers: dict[str, Scorer],
    result: Replay,
    queries: Queries,
    config: Config,
) -> dict[str, Table]:
    """Cold and warm requests; head and tail items (by popularity before the test window)."""
    names = ("recent_popularity", "ease", "two_tower")
    whole = {
        name: _without_recall_100(evaluate_scorer(scorers[name], data.log, queries))
        for name in names
    }
    whole |= {name: result.per_query[name] for name in ("lambdarank", "final")}
    table = Table(
        {
            name: {"hr@10": values["hr@10"], "ndcg@10": values["ndcg@10"]}
            for name, values in whole.items()
        },
        queries.user_idx,
        "",
        config.evaluation.resamples,
    )
    length = queries.history_end - queries.history_begin
    before = data.log.timestamp < data.windows.validation_end
    known_user = np.bincount(data.log.user_idx[before], minlength=data.log.n_users) > 0
    counts = np.bincount(data.log.item_idx[before], minlength=data.log.n_items)
    head = counts >= np.quantile(counts[counts > 0], 1 - HEAD_SHARE)
    ptr, items = queries.relevant(data.log)
    owner = np.repeat(np.arange(len(queries)), np.diff(ptr))
    any_tail = np.bincount(owner, weights=~head[items], minlength=len(queries)) > 0
    parts = {
        f"history under {COLD_EVENTS} events": length < COLD_EVENTS,
        f"history of {COLD_EVENTS} or more": length >= COLD_EVENTS,
        "user new in the test window": ~known_user[queries.user_idx],
        "user known before": known_user[queries.user_idx],
        "only head items relevant": ~any_tail,
        "a tail item relevant": any_tail,
    }
    return {
        name: table.subset(
            mask, f"{caveat(data, config)}slice of the test window: {name}; {mask.sum()} queries"
        )
        for name, mask in parts.items()
        if mask.any()
    }


def _batch_table(
    data: SystemData, recommender: Recommender, scorers: dict[str, Scorer], config: Config
) -> Table:
    """Plain global temporal split: one query a user at the cut, user state frozen there."""
    queries = temporal_batch_queries(data.log, data.windows.validation_end)
    wanted: list[str] = [name for name in BATCH_ROWS if name in scorers]
    rows = {name: evaluate_scorer(scorers[name], data.log, queries) for name in wanted}
    result = replay(recommender, data.log, queries)
    rows["merged"], _ = evaluate_merge(recommender, data.log, queries)
    rows["lambdarank"] = result.per_query["lambdarank"]
    warm = queries.history_end > queries.history_begin
    table = Table(rows, queries.user_idx, "", config.evaluation.resamples)
    protocol = (
        f"{caveat(data, config)}{data.name}, plain global temporal split: {len(queries)} users "
        f"with events after the 90% cut, {int(warm.sum())} of them with a history; user state "
        "frozen at the cut, full catalogue, seen items masked, 95% bootstrap by user"
    )
    return table.subset(np.ones(len(queries), dtype=bool), protocol)


def _index_table(
    recommender: Recommender, data: SystemData, queries: Queries, config: Config
) -> list[IndexMeasurement]:
    chosen = np.random.default_rng(config.seed).permutation(len(queries))[:INDEX_QUERIES]
    batch = batch_of_queries(data.log, queries.subset(np.sort(chosen)))
    user_vectors = recommender.proposer.encoder.encode(batch)
    vectors = recommender.proposer.retriever.item_vectors
    kinds = ("flat", "ivf", "hnsw", "pq")
    configs = [IndexConfig(**{**config.index.model_dump(), "kind": kind}) for kind in kinds]
    enough = [c for c in configs if c.kind != "pq" or len(vectors) >= 256]
    return [measure_index(vectors, user_vectors, c, k=min(100, len(vectors))) for c in enough]


def _mean_shap(recommender: Recommender, result: Replay) -> dict[str, float]:
    """Mean |SHAP| per feature over a sample of ranked candidates, largest first."""
    features = result.blocks[0][1].features
    rows = np.random.default_rng(0).permutation(len(features))[:2000]
    contributions = recommender.lambda_ranker().contributions(features[rows])[:, :-1]
    mean = np.abs(contributions).mean(axis=0)
    return {SCHEMA.names[i]: float(mean[i]) for i in np.argsort(-mean, kind="stable")}
