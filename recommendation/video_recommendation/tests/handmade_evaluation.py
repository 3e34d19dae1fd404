"""A small ``Evaluation`` made by hand: each model's metrics are a level plus a little noise."""

from __future__ import annotations

import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.serving.load_test import LoadReport
from video_recommendation.evaluation.lists import Table
from video_recommendation.evaluation.ranking import Replay
from video_recommendation.evaluation.reranking import SweepPoint
from video_recommendation.evaluation.run import Calibration, Evaluation
from video_recommendation.retrieval.index import IndexMeasurement
from video_recommendation.retrieval.sources import SOURCES
from video_recommendation.serving.load_session import LoadSession, StageLatency

N_QUERIES, N_USERS = 300, 60
SERVED = LoadSession(
    LoadReport(
        "poisson", 100.0, 99.5, 10.0, 1000, 1000, {}, 0.0, 9.0, 8.1, 12.0, 22.3, 40.0, 1.2, 9
    ),
    {
        name: StageLatency(1.25, 3.5, 1000)
        for name in ("queue", "state", "total", "retrieve", "rank", "recommend", "popularity")
    },
    0.002,
)


def metrics(level: float, rng: np.random.Generator, n: int = N_QUERIES) -> dict[str, np.ndarray]:
    noise = rng.uniform(-0.05, 0.05, n)
    names = ("hr@10", "ndcg@10", "map@10", "recall@10", "recall@100")
    return dict.fromkeys(names, level + noise)


def make_evaluation(
    queries: Queries | None = None,
    *,
    two_tower: float = 0.6,
    merged: float = 0.6,
    final: float = 0.6,
) -> Evaluation:
    """Every model's metrics are its level plus noise; EASE's level is .5."""
    rng = np.random.default_rng(0)
    queries = queries or fake_queries()
    users = np.arange(N_QUERIES) % N_USERS
    levels = {"random": 0.1, "recent_popularity": 0.3, "ease": 0.5, "ials": 0.5}
    levels |= {"co_visitation": 0.55, "ease_recency": 0.56, "two_tower": two_tower}
    retrieval = {name: metrics(level, rng) for name, level in levels.items()}
    retrieval["merged"] = metrics(merged, rng)
    ranking = {name: retrieval[name] for name in ("ease", "ease_recency", "two_tower")}
    ranking |= {name: metrics(0.6, rng) for name in ("prerank", "lambdarank", "mmoe")}
    ranking["final"] = metrics(final, rng)
    table = Table(retrieval, users, "hand-made", 100)
    ranked = Table(ranking, users, "hand-made", 100)
    shown = ("recent_popularity", "ease", "two_tower", "lambdarank", "final")
    sliced = Table({n: (retrieval | ranking)[n] for n in shown}, users, "", 100)
    facts = {f"{fact}_{name}": 0.25 for name in SOURCES for fact in ("recall", "only")}
    among = {"auc": rng.uniform(0.6, 0.9, 50), "ndcg@10": rng.uniform(0, 1, 50)}
    curve = (np.array([0.01, 0.1]), np.array([0.02, 0.09]), np.array([10, 10]))
    return Evaluation(
        retrieval=table,
        ranking=ranked,
        candidates={n: {**among, "user": np.arange(50) % 9} for n in ("lambdarank", "mmoe")},
        pool={"pool_size": 250.0, "pool_recall": 0.8, **facts},
        settings={"random": {}, "ease": {"reg": 300}},
        calibration={
            name: Calibration(ece, curve)
            for name, ece in (("raw", 0.4), ("platt", 0.02), ("isotonic", 0.01))
        },
        sweep=make_sweep(rng),
        sweep_users=users[:40],
        slices={"cold": sliced, "warm": sliced},
        batch=table,
        index=[
            IndexMeasurement("flat", 1682, 1.0, 0.001, 256.0, 0.025, 0.05),
            IndexMeasurement("ivf", 1682, 0.91, 0.01, 270.0, 0.019, 0.06),
        ],
        gain={"ease_score": 0.7, "year": 0.3, "fresh_rank": 0.0},
        shap={"year": 0.2, "ease_score": 0.1, "fresh_rank": 0.0},
        replay=make_replay(ranking),
        queries=queries,
    )


def make_sweep(rng: np.random.Generator) -> list[SweepPoint]:
    def point(method: str, trade_off: float, cost: float) -> SweepPoint:
        names = ("ild_genre@10", "ild_embedding@10", "novelty@10", "hr@10")
        values = {name: 0.5 + cost + rng.uniform(-0.01, 0.01, 40) for name in names}
        values["ild_genre@10"][0] = np.nan  # a list of one item
        return SweepPoint(method, trade_off, {"ndcg@10": np.full(40, 0.2 - cost), **values}, 0.4)

    settings = [("mmr", 0.9), ("mmr", 0.7), ("mmr", 0.3), ("dpp", 0.9), ("dpp", 0.5)]
    return [point("none", 1.0, 0.0), *(point(m, t, (1 - t) / 10) for m, t in settings)]


def make_replay(per_query: dict[str, dict[str, np.ndarray]]) -> Replay:
    return Replay(
        per_query=per_query,
        final_lists=np.zeros((N_QUERIES, 10), np.int32),
        watched=np.arange(N_QUERIES) % 10 == 0,
        score={"lambdarank": np.zeros(N_QUERIES), "mmoe": np.zeros(N_QUERIES)},
        ptr=np.arange(N_QUERIES + 1),
        blocks=[],
        sizes={"catalogue": 1682, "candidates": 250, "ranked": 200, "reranked": 100, "list": 20},
        stage_ms={"retrieve": 1.5, "prerank": 0.1, "rank": 0.3, "rerank": 0.4},
    )


def fake_queries() -> Queries:
    numbers = np.arange(N_QUERIES)
    return Queries(numbers % N_USERS, numbers, numbers, numbers, numbers + 1)
