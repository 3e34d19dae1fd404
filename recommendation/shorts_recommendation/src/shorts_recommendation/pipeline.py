"""The table of contents: world -> recall -> rankers -> pre-ranker -> bundle.

``train_system`` follows one rule about time, with windows train < validation < test:

1. features of every impression are computed as the service would have, a moment before it;
2. the rankers learn on the training days; epochs, calibration and the value's weights are chosen on
   the validation days;
3. recall is fitted on both: no ranker reads a recall score, so nothing leaks from one to the other;
4. the pre-ranker imitates the ranker on requests of the last hours of validation.

States and counters of the bundle are those after the whole log: that is data, not a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.progress import Progress, Silent
from ml_platform.operations.reference_profile import ReferenceProfile
from shorts_recommendation.config import Config
from shorts_recommendation.content_projection import fit_basis
from shorts_recommendation.counters import CounterSnapshot, VideoCounters, counters_until
from shorts_recommendation.data import ShortsData
from shorts_recommendation.features import cross_features, replay, requests_at
from shorts_recommendation.items import ItemTable, items_known_at
from shorts_recommendation.monitoring.reference import build_reference
from shorts_recommendation.ranking.fitting import Fit, fit_transformer
from shorts_recommendation.ranking.prerank import PreRanker, fit_prerank
from shorts_recommendation.ranking.trees import TreeRanker, fit_trees
from shorts_recommendation.recommender import Recommender
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.retrieval.fitting import fit_with_tower
from shorts_recommendation.retrieval.sources import Retriever
from shorts_recommendation.retrieval.training import TrainedTower

DISTIL_HOURS = 6
BATCH = 64  # requests at a time where nobody waits


@dataclass(frozen=True)
class Trained:
    """A trained system and what training decided on the way.

    Attributes:
        recommender: What is saved and served.
        transformer: The network, its sequences and its choices.
        trees: Option B.
        tower: The trainable towers, for incremental updates.
        reference: Features and values of what it would have shown at the end of validation.
    """

    recommender: Recommender
    transformer: Fit
    trees: TreeRanker
    tower: TrainedTower
    reference: ReferenceProfile


def train_system(data: ShortsData, config: Config, progress: Progress | None = None) -> Trained:
    """Trains everything; see the module's docstring for the rule about time."""
    progress = progress or Silent()
    seed, windows = config.seed, data.windows
    items = items_known_at(data.catalogue, windows.train_end, seed=seed)
    with progress.stage("features, point in time", len(data.log)) as step:
        rows, states = replay(
            data.catalogue,
            data.users,
            items,
            data.log,
            config.state,
            only_users=_ranker_users(data, config),
            on_progress=step,
        )
    retriever, tower = fit_with_tower(data, windows.validation_end, config, seed, progress)
    fit = fit_transformer(
        data.catalogue, data.log, rows, windows, config, seed=seed, progress=progress
    )
    trees = _fit_trees(fit, data, config, progress)
    chosen = config.ranking.model_copy(update={"value_weights": fit.value_weights})
    config = config.model_copy(update={"ranking": chosen})
    requests, snapshot = _last_requests(data, items, config)
    with progress.stage("pre-ranker: distilled", 1):
        preranker = _fit_prerank(requests, snapshot, items, retriever, fit, config)
    recommender = Recommender(
        version="unsaved",
        config=config,
        catalogue=data.catalogue,
        users=data.users,
        items=items,
        retriever=retriever,
        encoder=fit.ranker,
        rankers={"transformer": fit.ranker, "lightgbm": trees},
        preranker=preranker,
        basis=fit_basis(
            data.catalogue.content,
            config.reranking.projected_dim,
            seed=seed,
            among=data.catalogue.upload_s < windows.train_end,
        ),
        states=states,
        counters=_counters(data, config, windows.end),
        data_end=windows.end,
    )
    with progress.stage("monitor: reference of training", 1):
        reference = build_reference(recommender.with_config(), requests, snapshot)
    return Trained(recommender, fit, trees, tower, reference)


def _ranker_users(data: ShortsData, config: Config) -> np.ndarray | None:
    """bool[U]: whose impressions the rankers see; None for everybody's."""
    limit = config.ranking.max_impressions
    if len(data.log) <= limit:
        return None
    n_events = np.bincount(data.log.user_idx, minlength=len(data.users))
    order = np.random.default_rng(config.seed).permutation(len(data.users))
    chosen = np.zeros(len(data.users), dtype=np.bool_)
    chosen[order[np.cumsum(n_events[order]) <= limit]] = True
    return chosen


def _fit_trees(fit: Fit, data: ShortsData, config: Config, progress: Progress) -> TreeRanker:
    sequences, windows = fit.sequences, data.windows
    learn = sequences.time_s < windows.train_end
    check = ~learn & (sequences.time_s < windows.validation_end)
    return fit_trees(sequences, learn, check, config.ranking, seed=config.seed, progress=progress)


def _last_requests(
    data: ShortsData, items: ItemTable, config: Config
) -> tuple[RequestBatch, CounterSnapshot]:
    """Requests of the last hours of validation, and the counters from before all of them."""
    now_s = data.windows.validation_end
    since_s = now_s - DISTIL_HOURS * 3600
    first, end = np.searchsorted(data.log.timestamp, [since_s, now_s])
    n = min(config.ranking.distil_requests, int(end - first))
    chosen = np.random.default_rng(config.seed).choice(int(end - first), n, replace=False)
    batch = requests_at(data.users, items, data.log, config.state, first + np.sort(chosen))
    return batch, _counters(data, config, since_s).snapshot


def _fit_prerank(
    batch: RequestBatch,
    snapshot: CounterSnapshot,
    items: ItemTable,
    retriever: Retriever,
    fit: Fit,
    config: Config,
) -> PreRanker:
    """Distils on the candidates of these requests."""
    videos = in_batches(batch, lambda part, _: retriever.propose(part, snapshot).videos)
    cross = in_batches(batch, lambda part, at: cross_features(part, videos[at], snapshot, items))
    return fit_prerank(
        fit.ranker,
        batch,
        videos,
        cross,
        snapshot.features,
        config.ranking.value_weights,
        seed=config.seed,
    )


def in_batches(
    batch: RequestBatch, function: Callable[[RequestBatch, slice], np.ndarray]
) -> np.ndarray:
    """``function(part, rows)`` over parts of a batch, joined."""
    parts = [slice(i, i + BATCH) for i in range(0, len(batch), BATCH)]
    return np.concatenate([function(batch.take(at), at) for at in parts])


def _counters(data: ShortsData, config: Config, until_s: int) -> VideoCounters:
    state = config.state
    return counters_until(
        data.catalogue,
        data.log,
        until_s,
        half_lives_h=state.counter_half_lives_h,
        period_s=state.counter_period_s,
    )
