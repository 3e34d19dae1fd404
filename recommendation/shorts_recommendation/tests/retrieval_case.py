"""A small world that the retrieval tests share: two kinds of taste, visible in content and tags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import Config
from shorts_recommendation.counters import counters_until
from shorts_recommendation.items import fit_projection, make_items
from shorts_recommendation.log import DAY_S, Catalogue, ImpressionLog, Users

START_S = 1_600_041_600 - 1_600_041_600 % DAY_S
N_USERS, N_VIDEOS, N_EVENTS, DAYS = 200, 500, 9000, 8
KINDS = 4


@dataclass(frozen=True)
class Case:
    """What ``fit_retriever`` asks for."""

    catalogue: Catalogue
    users: Users
    log: ImpressionLog
    kind_of_video: np.ndarray
    kind_of_user: np.ndarray


def small_config(**retrieval) -> Config:
    """Quotas of 100 candidates and towers that train in a second."""
    quotas = {
        "n_candidates": 100,
        "vector_quota": 40,
        "collaborative_quota": 25,
        "tag_quota": 20,
        "trending_quota": 10,
        "fresh_quota": 5,
        "list_length": 200,
        "factors": 8,
        "index": "flat",
    }
    towers = {
        "embedding_dim": 16,
        "content_dim": 16,
        "batch_size": 128,
        "n_uniform": 64,
        "epochs": 6,
        "learning_rate": 5e-3,
    }
    return Config.model_validate({"retrieval": quotas | retrieval, "two_tower": towers})


def make_case(seed: int = 0) -> Case:
    """Users watch through what is of their kind, and little else; anything may be shown."""
    rng = np.random.default_rng(seed)
    kind_of_video = rng.integers(0, KINDS, N_VIDEOS)
    kind_of_user = rng.integers(0, KINDS, N_USERS)
    centres = rng.normal(size=(KINDS, 48))
    content = 1.5 * centres[kind_of_video] + rng.normal(size=(N_VIDEOS, 48))
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    tags = np.stack([kind_of_video, KINDS + rng.integers(0, 6, N_VIDEOS)], axis=1)
    tags = np.pad(tags, ((0, 0), (0, 1)), constant_values=-1)
    old = rng.random(N_VIDEOS) < 0.6
    upload_s = START_S + np.where(old, -10 * DAY_S, rng.integers(0, DAYS * DAY_S, N_VIDEOS))
    catalogue = Catalogue(
        video_ids=np.arange(N_VIDEOS) + 1000,
        creator_idx=rng.integers(0, 40, N_VIDEOS).astype(np.int32),
        tags=tags.astype(np.int16),
        language=(kind_of_video % 2).astype(np.int16),
        duration_s=rng.uniform(5, 60, N_VIDEOS).astype(np.float32),
        upload_s=upload_s.astype(np.int64),
        content=content.astype(np.float32),
    )
    users = Users(
        user_ids=np.arange(N_USERS) + 10,
        language=(kind_of_user % 2).astype(np.int16),
        age_group=rng.integers(0, 5, N_USERS).astype(np.int16),
        device=rng.integers(0, 3, N_USERS).astype(np.int16),
    )
    return Case(
        catalogue,
        users,
        _log(catalogue, kind_of_video, kind_of_user, rng),
        kind_of_video,
        kind_of_user,
    )


def _log(catalogue, kind_of_video, kind_of_user, rng) -> ImpressionLog:
    timestamp = START_S + np.sort(rng.choice(DAYS * DAY_S, N_EVENTS, replace=False))
    user = rng.integers(0, N_USERS, N_EVENTS)
    video = np.array([rng.choice(np.flatnonzero(catalogue.upload_s <= t)) for t in timestamp])
    likes_it = kind_of_video[video] == kind_of_user[user]
    long_view = rng.random(N_EVENTS) < np.where(likes_it, 0.8, 0.05)
    # A session is what a user does in six hours.
    session = user * 1000 + (timestamp - START_S) // 21_600
    nothing = np.zeros(N_EVENTS, dtype=bool)
    return ImpressionLog(
        user_idx=user.astype(np.int32),
        video_idx=video.astype(np.int32),
        timestamp=timestamp.astype(np.int64),
        session_id=session.astype(np.int64),
        position=np.zeros(N_EVENTS, dtype=np.int16),
        watch_s=np.where(long_view, catalogue.duration_s[video], 1.0).astype(np.float32),
        long_view=long_view,
        skip=~long_view,
        like=nothing,
        share=nothing,
        follow=nothing,
        propensity=np.ones(N_EVENTS, dtype=np.float32),
        strategy=np.zeros(N_EVENTS, dtype=np.int8),
    )


def snapshot_at(case: Case, now_s: int):
    return counters_until(
        case.catalogue, case.log, now_s, half_lives_h=(2.0, 24.0, 168.0), period_s=900
    ).snapshot


def items_of(case: Case):
    return make_items(case.catalogue, fit_projection(case.catalogue.content, seed=0, dim=32))
