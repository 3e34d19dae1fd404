"""Lab: a new tower meets yesterday's index.

The two-tower model is trained again: same data, same code, another seed, the same quality. The
deployment copies the new tower and forgets the index. Both hold unit vectors of the same length, so
every request is answered, as fast as ever. But a training run fixes its vector space only up to
what leaves all dot products as they are, any rotation for instance: a user vector of one run and an
item vector of another have nothing to say to each other.

Shen, Xiong, Xia and Soatto, "Towards Backward-Compatible Representation Learning", CVPR 2020, train
new models so that old vectors stay usable. In: the run's data set. Out: a ``LabReport``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np

from ml_platform.data.interactions import Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom, Value, dots
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.ranking_metrics import hit_matrix, recall_at
from video_recommendation.bundle_checks import BundleError, check_index
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.labs.funnel import FunnelSettings, every_nth, small_two_tower
from video_recommendation.pipeline import make_proposer, time_ordered, with_live_counter
from video_recommendation.recommender import Proposer
from video_recommendation.requests import RequestBatch, batch_of_queries
from video_recommendation.retrieval.index import search_one_by_one
from video_recommendation.retrieval.sources import SOURCES, Candidates

SETTINGS = FunnelSettings(test_queries=1500)
DEPTH = 100  # cut of the recall; a smaller quota of the source cuts earlier
TIMED_QUERIES = 500
TWO_TOWER = SOURCES.index("two_tower")


@dataclass(frozen=True)
class Probe:
    """What is seen of one proposer.

    Attributes:
        source_recall: Recall@DEPTH f64[Q] of the two-tower source.
        pool_recall: Recall f64[Q] of the pool of all five sources.
        self_retrieval: Share of items whose own vector finds the item first.
        p50_ms: Median latency of an index search.
        answered: Share of requests with a full list.
        chance: The same recall of random unseen items.
        refusal: What the bundle's check says; empty when it accepts.
    """

    source_recall: np.ndarray
    pool_recall: np.ndarray
    self_retrieval: float
    p50_ms: float
    answered: float
    chance: float
    refusal: str


def run(run: Run) -> LabReport:
    """The lab on the data of the run."""
    return measure(run.load(), run.config, run.progress)


def measure(
    data: SystemData, config: Config, progress: Progress, settings: FunnelSettings = SETTINGS
) -> LabReport:
    """Trains two versions; serves the second with its own index and with the first one's."""
    versions = []
    for number, name in enumerate(("yesterday's version", "today's version")):
        with progress.stage(f"healthy: {name}, seed {config.seed + number}", 1):
            versions.append(version(data, config, settings, config.seed + number))
    yesterday, today = versions
    test = next_event_queries(data.log, data.windows.validation_end, None)
    queries = every_nth(time_ordered(test), settings.test_queries)
    mixed = with_index(today, yesterday.retriever.index)
    found = {}
    for name, proposer in (("healthy", yesterday), ("broken", mixed), ("fixed", today)):
        with progress.stage(f"{name}: {len(queries)} requests", 1):
            found[name] = probe(data, queries, proposer)
    users, broken = queries.user_idx, found["broken"]
    return LabReport(
        source=Source.of(data),
        protocol=(
            f"{data.name}: two-tower of {settings.epochs} epochs, {len(queries)} test queries, "
            f"full catalogue of {data.log.n_items} items"
        ),
        main=Comparison(
            "New tower, old index",
            {
                "healthy": "healthy: yesterday's pair",
                "broken": "broken: new tower, old index",
                "fixed": "fixed: today's pair",
            },
            symptoms(found, users),
        ),
        alarm=(
            f"self-retrieval {broken.self_retrieval:.1%} "
            f"(healthy {found['healthy'].self_retrieval:.1%}); and the bundle would not have "
            f"loaded: {broken.refusal or 'ACCEPTED'}"
        ),
        figure=dots(
            "Who sees it: the source, or the pool of five sources?",
            "recall with 95% interval",
            {
                name: {
                    "two-tower source, recall@100": bootstrap_mean(seen.source_recall, users),
                    "pool of five sources": bootstrap_mean(seen.pool_recall, users),
                }
                for name, seen in found.items()
            },
        ),
    )


def version(data: SystemData, config: Config, settings: FunnelSettings, seed: int) -> Proposer:
    """Tower, index and the other sources, trained as one."""
    model = small_two_tower(data, config, settings, seed=seed)
    return with_live_counter(make_proposer(data, config, model, data.windows.train_end), data)


def with_index(proposer: Proposer, index: faiss.Index) -> Proposer:
    """The deployment's mistake: the same proposer, another version's index."""
    return replace(proposer, retriever=replace(proposer.retriever, index=index))


def probe(data: SystemData, queries: Queries, proposer: Proposer) -> Probe:
    """Everything that a dashboard, a probe and a check at load time can see."""
    batch = batch_of_queries(data.log, queries)
    retriever, vectors = proposer.retriever, proposer.encoder.encode(batch)
    pool = retriever.retrieve(batch, vectors)
    depth = min(DEPTH, retriever.config.two_tower)
    lists = source_lists(pool, batch, depth)
    ptr, items = queries.relevant(data.log)
    n_relevant, everything = np.diff(ptr), hit_matrix(pool_lists(pool), ptr, items)
    own = retriever.index.search(retriever.item_vectors, 1)[1].ravel()
    _, latency_ms = search_one_by_one(retriever.index, vectors[:TIMED_QUERIES], depth)
    try:
        check_index(retriever.index, retriever.item_vectors)
        refusal = ""
    except BundleError as error:
        refusal = str(error)
    return Probe(
        source_recall=recall_at(hit_matrix(lists, ptr, items), n_relevant, depth),
        pool_recall=recall_at(everything, n_relevant, everything.shape[1]),
        self_retrieval=float((own == np.arange(len(own))).mean()),
        p50_ms=float(np.median(latency_ms)),
        answered=float((lists[:, -1] >= 0).mean()),
        chance=float((depth / (data.log.n_items - batch.lengths)).mean()),
        refusal=refusal,
    )


def source_lists(pool: Candidates, batch: RequestBatch, depth: int) -> np.ndarray:
    """The first ``depth`` items of the two-tower source i32[Q, depth], read off the pool."""
    lists = np.full((len(batch), depth), -1, dtype=np.int32)
    rank = pool.rank[:, TWO_TOWER]
    rows = pool.in_source[:, TWO_TOWER] & (rank < depth)
    lists[pool.owner[rows], rank[rows]] = pool.item_idx[rows]
    return lists


def pool_lists(pool: Candidates) -> np.ndarray:
    """The pool of every request i32[Q, longest], -1 padding; its order means nothing."""
    place = np.arange(len(pool.item_idx)) - pool.ptr[pool.owner]
    lists = np.full((len(pool.ptr) - 1, int(place.max()) + 1), -1, dtype=np.int32)
    lists[pool.owner, place] = pool.item_idx
    return lists


def symptoms(found: dict[str, Probe], users: np.ndarray) -> tuple[Symptom, ...]:
    """The rows of the table, what the dashboards show first."""

    def row(key: str, label: str, read: Callable[[Probe], Any], form: str = ".3f") -> Symptom:
        def value(seen: Probe) -> Value:
            one = read(seen)
            return bootstrap_mean(one, users) if isinstance(one, np.ndarray) else one

        return Symptom(key, label, {name: value(seen) for name, seen in found.items()}, form)

    return (
        row("answered_share", "requests answered with a full list", lambda p: p.answered, ".1%"),
        row("p50_ms", "index search, p50 ms", lambda p: p.p50_ms),
        row("pool_recall", "recall of all five sources", lambda p: p.pool_recall),
        row("recall@100", "recall@100 of the two-tower", lambda p: p.source_recall),
        row("chance", "recall@100 of random items", lambda p: p.chance),
        row("self_retrieval", "items that find themselves", lambda p: p.self_retrieval, ".1%"),
        row("refused", "refused by the bundle's check", lambda p: float(bool(p.refusal)), ".0f"),
    )
