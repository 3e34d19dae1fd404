"""Fits every source of recall on the log before a moment; saves and loads the result.

In: catalogue, users, log, the moment, the whole ``Config``. Out: a ``Retriever`` that knows nothing
of what happened at or after that moment.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from ml_algorithms.matrix_factorization.ials import ImplicitALS
from ml_platform.evaluation.progress import Progress, Silent
from shorts_recommendation.config import Config, RetrievalConfig
from shorts_recommendation.log import Catalogue, ImpressionLog, Users
from shorts_recommendation.retrieval.collaborative import (
    Neighbours,
    fit_factors,
    fit_neighbours,
    index_factors,
    long_view_matrix,
)
from shorts_recommendation.retrieval.encoder import Encoder, make_encoder
from shorts_recommendation.retrieval.index import VideoIndex, choose_index
from shorts_recommendation.retrieval.lists import foreign_discount
from shorts_recommendation.retrieval.pairs import Pairs, training_pairs
from shorts_recommendation.retrieval.sources import Retriever
from shorts_recommendation.retrieval.training import TrainedTower, train_two_tower
from shorts_recommendation.retrieval.two_tower import unit_profile

TUNING_QUERIES = 400
"""User vectors of the latest training pairs: what the index is chosen on."""


class Tables(Protocol):
    """What recall is fitted on; ``data.ShortsData`` is one."""

    @property
    def catalogue(self) -> Catalogue:
        """All videos, also those uploaded later."""

    @property
    def users(self) -> Users:
        """All users."""

    @property
    def log(self) -> ImpressionLog:
        """In time order."""


def fit_retriever(
    data: Tables,
    log_until: int,
    config: Config,
    seed: int,
    progress: Progress | None = None,
) -> Retriever:
    """Fits all sources on what happened before ``log_until`` (Unix seconds)."""
    return fit_with_tower(data, log_until, config, seed, progress)[0]


def fit_with_tower(
    data: Tables,
    log_until: int,
    config: Config,
    seed: int,
    progress: Progress | None = None,
) -> tuple[Retriever, TrainedTower]:
    """``fit_retriever``, and the trainable towers that incremental updates go on from.

    Raises:
        ValueError: If the log has no long view before ``log_until``.
    """
    progress = progress or Silent()
    tower_config = config.two_tower
    with progress.stage("retrieval: training pairs", 1):
        pairs = training_pairs(
            data.log,
            data.catalogue,
            until_s=log_until,
            length=tower_config.history_length,
            decay=config.state.profile_decay,
            most=tower_config.max_pairs,
        )
    n_steps = tower_config.epochs * max(1, len(pairs) // min(tower_config.batch_size, len(pairs)))
    with progress.stage("retrieval: two towers", n_steps) as step:
        tower = train_two_tower(
            pairs,
            data.catalogue,
            data.users,
            tower_config,
            until_s=log_until,
            seed=seed,
            step=step,
        )
    with progress.stage("retrieval: collaborative", 1):
        neighbours, factors, factor_index = _collaborative(data, log_until, config.retrieval, seed)
    with progress.stage("retrieval: index", 1):
        encoder = make_encoder(tower, len(data.catalogue))
        exists = np.flatnonzero(data.catalogue.upload_s < log_until).astype(np.int32)
        vectors = np.zeros((len(data.catalogue), encoder.dim), dtype=np.float32)
        vectors[exists] = encoder.update(tower, exists)
        index, measured = choose_index(
            config.retrieval.index,
            vectors[exists],
            exists,
            tuning_queries(tower, encoder, pairs),
            int(config.retrieval.search_depth * config.retrieval.vector_quota),
        )
    retriever = Retriever(
        catalogue=data.catalogue,
        config=config.retrieval,
        encoder=encoder,
        vectors=vectors,
        index=index,
        neighbours=neighbours,
        factors=factors,
        factor_index=factor_index,
        n_languages=int(max(data.users.language.max(), data.catalogue.language.max())) + 1,
        foreign=foreign_discount(data.log, data.users, data.catalogue, log_until),
        indexed_until_s=log_until - 1,
        measured=measured,
    )
    return retriever, tower


def _collaborative(
    data: Tables, log_until: int, config: RetrievalConfig, seed: int
) -> tuple[Neighbours | None, ImplicitALS | None, VideoIndex | None]:
    matrix = long_view_matrix(data.log, log_until, len(data.users), len(data.catalogue))
    if config.collaborative == "item_item":
        return fit_neighbours(matrix, config), None, None
    factors = fit_factors(matrix, config, seed)
    depth = int(config.search_depth * config.collaborative_quota)
    return None, factors, index_factors(factors, depth)


def tuning_queries(tower: TrainedTower, encoder: Encoder, pairs: Pairs) -> np.ndarray:
    """User vectors f32[Q, D] of the latest pairs: requests as they come, none of a test day."""
    rows = np.arange(max(0, len(pairs) - TUNING_QUERIES), len(pairs))
    history = pairs.history[rows]
    with torch.inference_mode():
        vectors = tower.model.users(
            torch.from_numpy(encoder.inputs[np.maximum(history, 0)]),
            torch.from_numpy(history >= 0),
            tower.attributes[pairs.user_idx[rows].astype(np.int64)],
            torch.from_numpy(unit_profile(pairs.tag_profile[rows])),
        )
    return np.ascontiguousarray(vectors.numpy())
