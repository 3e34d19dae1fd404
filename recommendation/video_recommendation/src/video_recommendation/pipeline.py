"""The table of contents: data -> retrieval -> ranking -> bundle -> evaluation.

``train_system`` follows one rule about time. With windows train < validation < test:

1. retrieval is fitted on train and stops early by its recall on validation;
2. rankers learn on validation events, from candidates of the retrieval of step 1: labels are later
   than anything the retriever knew. The last part of validation chooses sizes and calibrates;
3. retrieval is fitted again on train + validation, for as many epochs as step 1 chose, and meets
   the rankers of step 2. That is the bundle. Nothing has seen the test window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from feature_engineering.counters import EventCounter
from ml_platform.data.interactions import Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.progress import Progress, Silent
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.lists import list_metrics
from video_recommendation.features import FeatureBuilder, fit_item_statistics
from video_recommendation.monitoring.reference import build_reference
from video_recommendation.ranking.calibration import Calibrator, fit_calibrator
from video_recommendation.ranking.examples import Examples, build_examples
from video_recommendation.ranking.lambdarank import LambdaRanker, fit_lambdarank
from video_recommendation.ranking.mmoe import MMoERanker, fit_mmoe
from video_recommendation.ranking.prerank import PreRanker, fit_prerank, keep_best
from video_recommendation.recommender import Proposer, Recommender
from video_recommendation.requests import batch_of_queries
from video_recommendation.retrieval.index import build_index
from video_recommendation.retrieval.sources import Retriever, fit_item_item
from video_recommendation.retrieval.training import (
    Epoch,
    RequestEncoder,
    best_epoch_count,
    item_vectors,
    train_two_tower,
)
from video_recommendation.retrieval.two_tower import TwoTower


@dataclass(frozen=True)
class RankingParts:
    """What step 2 gives: models refitted on the whole validation window, and how they were chosen.

    Attributes:
        preranker: Refitted.
        rankers: "lambdarank" and "mmoe", refitted.
        calibrator: Of the configured ranker, fitted on the choosing part.
        held_out_score: f64[C], scores of the choosing part by the ranker that had not seen it.
        held_out_watched: bool[C], their outcomes.
        held_out: The rows of both: the pre-ranker's survivors of the last requests.
        n_trees: Chosen by early stopping.
        mmoe_epochs: Chosen by NDCG@10 on the choosing part.
    """

    preranker: PreRanker
    rankers: dict[str, LambdaRanker | MMoERanker]
    calibrator: Calibrator
    held_out_score: np.ndarray
    held_out_watched: np.ndarray
    held_out: Examples
    n_trees: int
    mmoe_epochs: int


@dataclass(frozen=True)
class Trained:
    """A trained system and what training decided on the way."""

    recommender: Recommender
    selection: Proposer
    """The retrieval of step 1, for tuning baselines on the same window."""
    epochs: list[Epoch]
    ranking: RankingParts


def train_system(data: SystemData, config: Config, progress: Progress | None = None) -> Trained:
    """Trains everything; see the module's docstring for the rule about time."""
    progress = progress or Silent()
    windows = data.windows
    with progress.stage(
        "retrieval, fitted on the training window", config.two_tower.max_epochs
    ) as step:
        selection, epochs = _select_retrieval(data, config, step)
    queries = time_ordered(next_event_queries(data.log, windows.train_end, windows.validation_end))
    with progress.stage("ranking rows, from the validation window", len(queries)) as step:
        examples = build_examples(data.log, queries, selection.propose, on_progress=step)
    with progress.stage("pre-ranker, LambdaMART, MMoE", config.ranking.mmoe_epochs * 2) as step:
        parts = train_rankers(examples, config, step)
    n_epochs = best_epoch_count(epochs)
    with progress.stage("retrieval again, on 90% of time", n_epochs) as step:
        proposer = _refit_retrieval(data, config, n_epochs, step)
    recommender = Recommender(
        version="unsaved",
        config=config,
        catalogue=data.catalogue,
        users=data.users,
        log=data.log.select(data.log.timestamp < windows.validation_end),
        proposer=proposer,
        preranker=parts.preranker,
        rankers=parts.rankers,
        calibrator=parts.calibrator,
    )
    chosen_by = queries.subset(np.arange(len(queries) - len(parts.held_out.group), len(queries)))
    recommender.reference = build_reference(
        recommender, parts.held_out, parts.held_out_score, chosen_by
    )
    return Trained(recommender, selection, epochs, parts)


def with_live_counter(proposer: Proposer, data: SystemData) -> Proposer:
    """The proposer with counters that know all events, each request reading those before it.

    This is what the server has: frozen models, live counters.
    """
    counter = EventCounter(data.log.item_idx, data.log.timestamp, n_items=data.log.n_items)
    return replace(proposer, retriever=replace(proposer.retriever, counter=counter))


def make_proposer(data: SystemData, config: Config, model: TwoTower, end: int) -> Proposer:
    """Everything around a trained two-tower model that is fitted on events before ``end``."""
    known = data.log.select(data.log.timestamp < end)
    vectors = item_vectors(model)
    retriever = Retriever(
        item_vectors=vectors,
        index=build_index(vectors, config.index),
        inverse_temperature=float(model.inverse_temperature.detach()),
        item_item=fit_item_item(known, config.item_item),
        counter=EventCounter(known.item_idx, known.timestamp, n_items=data.log.n_items),
        config=config.retrieval,
    )
    statistics = fit_item_statistics(known, config.ranking.like_threshold)
    builder = FeatureBuilder(data.catalogue, data.users, statistics)
    return Proposer(RequestEncoder(model, data.users), retriever, builder)


def train_rankers(
    examples: Examples, config: Config, step: Callable[[int], None] = lambda _: None
) -> RankingParts:
    """Chooses sizes on the last part of the window, calibrates there, and refits on all of it."""
    ranking, seed = config.ranking, config.seed
    n_queries = len(examples.ptr) - 1
    cut = round(n_queries * (1 - ranking.choose_fraction))
    learn, choose = examples.queries(0, cut), examples.queries(cut, n_queries)
    preranker = fit_prerank(learn, seed=seed)
    learn, choose = (_survivors(part, preranker, ranking.prerank_keep) for part in (learn, choose))
    trial = fit_lambdarank(learn, ranking, seed=seed, choose=choose)
    n_trees = max(1, trial.booster.best_iteration)
    mmoe_scores: list[float] = []
    mmoe_trials: list[np.ndarray] = []

    def judge(_: int, __: float, model: MMoERanker) -> None:
        scores = model.score(choose.features)
        mmoe_trials.append(scores)
        mmoe_scores.append(candidate_ndcg(choose, scores))
        step(1)

    fit_mmoe(learn, ranking, seed=seed, epochs=ranking.mmoe_epochs, on_epoch=judge)
    mmoe_epochs = int(np.argmax(mmoe_scores)) + 1
    held_out = {
        "lambdarank": trial.score(choose.features),
        "mmoe": mmoe_trials[mmoe_epochs - 1],
    }[ranking.ranker]
    survivors = _survivors(examples, preranker, ranking.prerank_keep)
    mmoe = fit_mmoe(survivors, ranking, seed=seed, epochs=mmoe_epochs, on_epoch=lambda *_: step(1))
    return RankingParts(
        preranker=fit_prerank(examples, seed=seed),
        rankers={
            "lambdarank": fit_lambdarank(survivors, ranking, seed=seed, n_trees=n_trees),
            "mmoe": mmoe,
        },
        calibrator=fit_calibrator(held_out, choose.watched, "isotonic"),
        held_out_score=np.asarray(held_out, dtype=np.float64),
        held_out_watched=choose.watched,
        held_out=choose,
        n_trees=n_trees,
        mmoe_epochs=mmoe_epochs,
    )


def candidate_ndcg(examples: Examples, scores: np.ndarray) -> float:
    """Mean NDCG@10 against the candidates, over queries with a watched candidate."""
    values = [
        (scores[a:b], examples.watched[a:b])
        for a, b in zip(examples.ptr[:-1], examples.ptr[1:], strict=True)
        if examples.watched[a:b].any()
    ]
    gains = []
    for score, watched in values:
        hits = watched[np.argsort(-score, kind="stable")[:10]]
        discount = 1 / np.log2(np.arange(2, len(hits) + 2))
        gains.append((hits * discount).sum() / discount[: min(10, watched.sum())].sum())
    return float(np.mean(gains))


def time_ordered(queries: Queries) -> Queries:
    """The same queries in time order."""
    return queries.subset(np.argsort(queries.timestamp, kind="stable"))


def _select_retrieval(
    data: SystemData, config: Config, step: Callable[[int], None]
) -> tuple[Proposer, list[Epoch]]:
    windows = data.windows
    queries = next_event_queries(data.log, windows.train_end, windows.validation_end)
    batch = batch_of_queries(data.log, queries)

    def validate(model: TwoTower) -> float:
        vectors = RequestEncoder(model, data.users).encode(batch)
        scores = vectors @ item_vectors(model).T
        return float(list_metrics(scores, batch, data.log, queries)["recall@100"].mean())

    model, epochs = train_two_tower(
        data.catalogue,
        data.users,
        data.log,
        windows.train_end,
        config.two_tower,
        seed=config.seed,
        validate=validate,
        on_epoch=lambda *_: step(1),
    )
    proposer = make_proposer(data, config, model, windows.train_end)
    return with_live_counter(proposer, data), epochs


def _refit_retrieval(
    data: SystemData, config: Config, n_epochs: int, step: Callable[[int], None]
) -> Proposer:
    end = data.windows.validation_end
    model, _ = train_two_tower(
        data.catalogue,
        data.users,
        data.log,
        end,
        config.two_tower,
        seed=config.seed,
        epochs=n_epochs,
        on_epoch=lambda *_: step(1),
    )
    return make_proposer(data, config, model, end)


def _survivors(examples: Examples, preranker: PreRanker, keep: int) -> Examples:
    """What the ranker will see at serving: the pre-ranker's choice."""
    scores = preranker.score(examples.prerank_features)
    return examples.take(keep_best(scores, examples.ptr, keep))
