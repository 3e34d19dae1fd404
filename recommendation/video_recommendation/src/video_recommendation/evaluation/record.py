"""From an ``Evaluation`` to the results file: every number with its key, interval and protocol.

Keys are ``stage/variant/metric``. The documents quote these keys and nothing else, so this file is
the list of what may be quoted.
"""

from __future__ import annotations

import numpy as np

from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.results import Results
from video_recommendation.data import SystemData
from video_recommendation.evaluation.lists import Table
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.pipeline import Trained
from video_recommendation.serving.load_session import LoadSession

RETRIEVAL_METRICS = ("hr@10", "ndcg@10", "recall@100", "recall@10")
RANKING_METRICS = ("hr@10", "ndcg@10", "map@10", "recall@10")
AIMS = (
    ("two_tower", "ease", "recall@100", "retrieval"),
    ("two_tower", "ease_recency", "recall@100", "retrieval"),
    ("merged", "ease", "recall@100", "retrieval"),
    ("final", "ease", "hr@10", "ranking"),
    ("final", "ease_recency", "hr@10", "ranking"),
    ("final", "two_tower", "hr@10", "ranking"),
    ("lambdarank", "mmoe", "hr@10", "ranking"),
    ("lambdarank", "prerank", "ndcg@10", "ranking"),
    ("mmoe", "prerank", "ndcg@10", "ranking"),
    ("final", "lambdarank", "ndcg@10", "ranking"),
)
"""Paired differences that the documents argue from: (variant, baseline, metric, table)."""


def record(results: Results, data: SystemData, trained: Trained, found: Evaluation) -> None:
    """Adds every number of the evaluation to the results."""
    _data_facts(results, data, found)
    _training_facts(results, trained)
    record_table(results, "retrieval", found.retrieval, RETRIEVAL_METRICS)
    record_table(results, "ranking", found.ranking, RANKING_METRICS)
    record_table(
        results, "batch_split", found.batch, ("hr@10", "ndcg@10", "recall@100"), optional=True
    )
    for name, table in found.slices.items():
        record_table(results, f"slice_{name.replace(' ', '_')}", table, ("hr@10", "ndcg@10"))
    for variant, baseline, metric, stage in AIMS:
        table = found.retrieval if stage == "retrieval" else found.ranking
        difference = table.difference(variant, baseline, metric)
        key = f"{stage}_difference/{variant}_minus_{baseline}/{metric}"
        results.add(key, difference, protocol=f"paired difference; {table.protocol}")
    batch = found.batch.difference("lambdarank", "recent_popularity", "ndcg@10")
    results.add(
        "batch_split_difference/lambdarank_minus_recent_popularity/ndcg@10",
        batch,
        protocol=f"paired difference; {found.batch.protocol}",
    )
    unclustered = bootstrap_mean(found.ranking.rows["final"]["hr@10"])
    results.add(
        "ranking/final/hr@10_if_queries_were_independent",
        unclustered,
        protocol=f"for comparison only: bootstrap over queries; {found.ranking.protocol}",
    )
    for name, value in found.pool.items():
        results.add(
            f"pool/merged/{name}", value, n=len(found.queries), protocol=found.retrieval.protocol
        )
    _candidates(results, found)
    _calibration(results, found)
    _sweep(results, found)
    _index(results, found)
    _funnel(results, found)
    for kind, shares in (("gain", found.gain), ("mean_abs_shap", found.shap)):
        for name, value in shares.items():
            results.add(
                f"importance/{name}/{kind}", value, protocol="LambdaMART of the bundle, test window"
            )


def _data_facts(results: Results, data: SystemData, found: Evaluation) -> None:
    queries = found.queries
    facts = {
        "interactions": len(data.log),
        "users": data.log.n_users,
        "items": data.log.n_items,
        "test_queries": len(queries),
        "test_events": int((queries.relevant_end - queries.history_end).sum()),
        "test_users": len(np.unique(queries.user_idx)),
    }
    for name, value in facts.items():
        results.add(f"data/{data.name}/{name}", float(value), protocol="count")


def _training_facts(results: Results, trained: Trained) -> None:
    protocol = "chosen on the validation window"
    chosen = {
        "two_tower/epochs": int(np.argmax([e.validation_recall for e in trained.epochs])) + 1,
        "two_tower/validation_recall@100": max(e.validation_recall for e in trained.epochs),
        "two_tower/seconds_per_epoch": float(np.median([e.seconds for e in trained.epochs])),
        "lambdarank/trees": trained.ranking.n_trees,
        "mmoe/epochs": trained.ranking.mmoe_epochs,
    }
    for key, value in chosen.items():
        results.add(f"training/{key}", float(value), protocol=protocol)


def record_table(
    results: Results,
    stage: str,
    table: Table,
    metrics: tuple[str, ...],
    *,
    optional: bool = False,
) -> None:
    """Adds mean and interval of each metric of each row; ``optional`` skips metrics a row lacks."""
    for variant, values in table.rows.items():
        for metric in metrics:
            if optional and metric not in values:
                continue
            results.add(
                f"{stage}/{variant}/{metric}", table.mean(variant, metric), protocol=table.protocol
            )


def _candidates(results: Results, found: Evaluation) -> None:
    protocol = (
        f"against the ranked candidates, queries with both outcomes; {found.ranking.protocol}"
    )
    for ranker, values in found.candidates.items():
        for metric in ("auc", "ndcg@10"):
            estimate = bootstrap_mean(values[metric], values["user"])
            results.add(f"candidates/{ranker}/{metric}", estimate, protocol=protocol)
        overall = auc(found.replay.watched, found.replay.score[ranker])
        results.add(
            f"candidates/{ranker}/auc_all_rows",
            overall,
            n=len(found.replay.watched),
            protocol=protocol,
        )


def _calibration(results: Results, found: Evaluation) -> None:
    for name, calibration in found.calibration.items():
        results.add(
            f"calibration/{name}/ece",
            calibration.ece,
            n=len(found.replay.watched),
            protocol="15 equal-mass bins, fitted on validation, judged on the test candidates",
        )


def _sweep(results: Results, found: Evaluation) -> None:
    protocol = f"lists of 10, sample of {len(found.sweep_users)} queries; {found.ranking.protocol}"
    relevance = found.sweep[0]
    for point in found.sweep:
        for metric, values in point.values.items():
            estimate = _mean_of_finite(values, found.sweep_users)
            results.add(f"reranking/{point.name}/{metric}", estimate, protocol=protocol)
        results.add(
            f"reranking/{point.name}/coverage@10",
            point.coverage,
            n=len(found.sweep_users),
            protocol=protocol,
        )
        if point is not relevance:
            lost = bootstrap_difference(
                point.values["ndcg@10"], relevance.values["ndcg@10"], found.sweep_users
            )
            results.add(f"reranking_difference/{point.name}/ndcg@10", lost, protocol=protocol)


def _mean_of_finite(values: np.ndarray, users: np.ndarray) -> Estimate:
    """A list of one item has no distance: such lists are left out of that mean."""
    finite = np.isfinite(values)
    return bootstrap_mean(values[finite], users[finite])


def _index(results: Results, found: Evaluation) -> None:
    for m in found.index:
        protocol = f"{m.n_vectors} item vectors, real user vectors as queries, k=100, one thread"
        for metric in ("recall", "build_s", "bytes_per_vector", "p50_ms", "p99_ms"):
            name = "recall@100" if metric == "recall" else metric
            results.add(f"index/{m.kind}/{name}", getattr(m, metric), protocol=protocol)


def _funnel(results: Results, found: Evaluation) -> None:
    for stage, size in found.replay.sizes.items():
        results.add(f"funnel/{stage}/items", size, protocol="mean per request, test window")
    for stage, value in found.replay.stage_ms.items():
        results.add(
            f"funnel/{stage}/batch_ms",
            value,
            protocol="per request, in blocks of 1,024 (throughput)",
        )


def record_load(results: Results, stage: str, variant: str, session: LoadSession) -> None:
    """Adds what clients saw and what each stage took."""
    load = session.load
    protocol = (
        f"one worker, open loop, {load.arrivals} arrivals at {load.offered_qps:g} a second for "
        f"{load.seconds:g} s from a second process on the same machine, full path uncached"
    )
    for metric in ("achieved_qps", "error_rate", "p50_ms", "p90_ms", "p99_ms", "max_ms"):
        value = getattr(load, metric)
        if value is not None:
            results.add(f"{stage}/{variant}/{metric}", float(value), n=load.n, protocol=protocol)
    results.add(
        f"{stage}/{variant}/degraded_share", session.degraded_share, n=load.n, protocol=protocol
    )
    for name, latency in session.stages.items():
        for metric in ("p50_ms", "p99_ms"):
            key = f"{stage}_stage/{variant}_{name}/{metric}"
            results.add(key, getattr(latency, metric), n=latency.n, protocol=protocol)
