"""The small stack that the labs on ranking break: trained in seconds, on the data of the run.

In: ``SystemData``. Out: a ``Funnel``, which is retrieval fitted on the training window, ranking
rows of the validation window to learn from, and rows of the test window to be judged on. The towers
are smaller than the system's and see fewer epochs, and only a part of the queries is used: the labs
compare variants on the same rows, they do not compete with the system's own results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.progress import Progress
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.lists import metrics_of_lists
from video_recommendation.evaluation.retrieval import lists_by_score
from video_recommendation.features import SCHEMA
from video_recommendation.pipeline import make_proposer, time_ordered, with_live_counter
from video_recommendation.ranking.examples import Examples, build_examples
from video_recommendation.ranking.lambdarank import LambdaRanker, fit_lambdarank
from video_recommendation.recommender import Proposer
from video_recommendation.retrieval.training import train_two_tower
from video_recommendation.retrieval.two_tower import TwoTower

LIST_LENGTH = 10


@dataclass(frozen=True)
class FunnelSettings:
    """How small: what a lab may spend of its minute.

    Attributes:
        embedding_dim: Of the towers.
        epochs: Of the towers.
        train_queries: At most so many queries of the validation window give the ranker's rows.
        test_queries: At most so many queries of the test window judge it.
        n_trees: Of LambdaMART; fixed, because early stopping would cost a second training.
    """

    embedding_dim: int = 32
    epochs: int = 2
    train_queries: int = 2000
    test_queries: int = 1200
    n_trees: int = 80


@dataclass(frozen=True)
class Rows:
    """Ranking rows with the queries they answer, in time order."""

    queries: Queries
    examples: Examples

    @property
    def now(self) -> np.ndarray:
        """i64[C]: the second of the request that each row belongs to."""
        return self.queries.timestamp[self.examples.owner]

    def feature(self, name: str) -> np.ndarray:
        """One feature of every row, f32[C]."""
        return self.examples.features[:, SCHEMA.names.index(name)]

    def with_feature(self, name: str, values: np.ndarray) -> Rows:
        """The same rows with other values f[C] of one feature."""
        features = self.examples.features.copy()
        features[:, SCHEMA.names.index(name)] = values
        return Rows(self.queries, replace(self.examples, features=features))


@dataclass(frozen=True)
class Funnel:
    """Retrieval, rows to learn from, rows to be judged on."""

    proposer: Proposer
    train: Rows
    test: Rows


def build_funnel(
    data: SystemData, config: Config, settings: FunnelSettings, progress: Progress
) -> Funnel:
    """Trains retrieval on the training window and makes both sets of rows."""
    windows = data.windows
    with progress.stage("healthy: two-tower retrieval", settings.epochs) as step:
        model = small_two_tower(data, config, settings, seed=config.seed, on_epoch=step)
    proposer = with_live_counter(make_proposer(data, config, model, windows.train_end), data)
    before = next_event_queries(data.log, windows.train_end, windows.validation_end)
    after = next_event_queries(data.log, windows.validation_end, None)
    parts = []
    for name, queries, most in (
        ("rows to learn from (validation)", before, settings.train_queries),
        ("rows to be judged on (test)", after, settings.test_queries),
    ):
        chosen = every_nth(time_ordered(queries), most)
        with progress.stage(f"healthy: {name}", len(chosen)) as step:
            examples = build_examples(data.log, chosen, proposer.propose, on_progress=step)
        parts.append(Rows(chosen, examples))
    return Funnel(proposer, *parts)


def small_two_tower(
    data: SystemData,
    config: Config,
    settings: FunnelSettings,
    *,
    seed: int,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> TwoTower:
    """A two-tower model of a few seconds, fitted on the training window."""
    small = config.two_tower.model_copy(
        update={
            "embedding_dim": settings.embedding_dim,
            "history_length": 20,
            "batch_size": min(1024, config.two_tower.batch_size * 2),
            "max_epochs": settings.epochs,
            "learning_rate": 4e-3,  # few epochs: larger steps
        }
    )
    model, _ = train_two_tower(
        data.catalogue,
        data.users,
        data.log,
        data.windows.train_end,
        small,
        seed=seed,
        epochs=settings.epochs,
        on_epoch=lambda *_: on_epoch(1),
    )
    return model


def every_nth(queries: Queries, most: int) -> Queries:
    """At most ``most`` queries, evenly spaced: every user and every day stays in."""
    if len(queries) <= most:
        return queries
    return queries.subset(np.linspace(0, len(queries) - 1, most).astype(np.int64))


def fit_ranker(rows: Rows, config: Config, settings: FunnelSettings) -> LambdaRanker:
    """LambdaMART with a fixed number of trees."""
    return fit_lambdarank(rows.examples, config.ranking, seed=config.seed, n_trees=settings.n_trees)


def list_ndcg(log: InteractionLog, rows: Rows, ranker: LambdaRanker) -> np.ndarray:
    """NDCG@10 f64[Q] of the ranker's lists, against all relevant items of each query."""
    scores = ranker.score(rows.examples.features)
    lists = lists_by_score(rows.examples, scores, LIST_LENGTH)
    return metrics_of_lists(lists, log, rows.queries)["ndcg@10"]
