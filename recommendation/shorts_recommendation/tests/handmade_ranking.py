"""A small log with a known taste, for the tests of ranking: quick to make, easy to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import Config, StateConfig
from shorts_recommendation.features import TrainingRows, replay
from shorts_recommendation.items import ItemTable, fit_projection, make_items
from shorts_recommendation.log import LONG_VIEW_S, SKIP_S, Catalogue, ImpressionLog, Users, Windows
from shorts_recommendation.state import UserStates

DAY = 86_400
START = 1_700_000_000 - 1_700_000_000 % DAY
PER_SESSION = 8


@dataclass(frozen=True)
class Handmade:
    """Tables, the truth behind them, and what the lead's code makes of them."""

    catalogue: Catalogue
    users: Users
    log: ImpressionLog
    windows: Windows
    items: ItemTable
    rows: TrainingRows
    states: UserStates
    interest: np.ndarray  # f32[U, V], the true probability of a long view


def handmade(
    n_users: int = 120,
    n_videos: int = 300,
    n_sessions: int = 10,
    *,
    content_dim: int = 64,
    seed: int = 0,
) -> Handmade:
    """Uniformly shown videos; interest = logistic of taste times content."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(n_users, 4))
    trait = rng.normal(size=(n_videos, 4))
    mixing = rng.normal(size=(4, content_dim))
    content = trait @ mixing + rng.normal(size=(n_videos, content_dim))
    content = (content / np.linalg.norm(content, axis=1, keepdims=True)).astype(np.float32)
    interest = 1 / (1 + np.exp(-(taste @ trait.T) * 1.2)).astype(np.float32)
    catalogue = _catalogue(rng, trait, content)
    users = Users(
        user_ids=np.arange(n_users, dtype=np.int64),
        language=rng.integers(0, 2, n_users).astype(np.int16),
        age_group=rng.integers(0, 5, n_users).astype(np.int16),
        device=rng.integers(0, 3, n_users).astype(np.int16),
    )
    log = _log(rng, interest, catalogue, n_sessions)
    state = StateConfig(history_length=16, seen_length=64)
    items = make_items(catalogue, fit_projection(catalogue.content, seed=0))
    rows, states = replay(catalogue, users, items, log, state)
    windows = Windows(START, START + 7 * DAY, START + 9 * DAY, START + 10 * DAY)
    return Handmade(catalogue, users, log, windows, items, rows, states, interest)


def handmade_config(**ranking: object) -> Config:
    """A configuration that trains in a second or two."""
    small = {"d_model": 32, "n_layers": 2, "n_heads": 2, "window": 32, "epochs": 2}
    return Config.model_validate(
        {
            "state": {"history_length": 16, "seen_length": 64},
            "ranking": {**small, "batch_size": 8, "duration_groups": 5, **ranking},
        }
    )


def _catalogue(rng: np.random.Generator, trait: np.ndarray, content: np.ndarray) -> Catalogue:
    n = len(trait)
    tags = np.full((n, 3), -1, dtype=np.int16)
    tags[:, 0] = np.abs(trait).argmax(axis=1) * 2 + (trait[:, 0] > 0)
    return Catalogue(
        video_ids=np.arange(n, dtype=np.int64),
        creator_idx=rng.integers(0, max(2, n // 10), n).astype(np.int32),
        tags=tags,
        language=rng.integers(0, 2, n).astype(np.int16),
        duration_s=rng.uniform(5, 60, n).astype(np.float32),
        upload_s=np.full(n, START - DAY, dtype=np.int64),
        content=content,
    )


def _log(
    rng: np.random.Generator, interest: np.ndarray, catalogue: Catalogue, n_sessions: int
) -> ImpressionLog:
    n_users, n_videos = interest.shape
    n = n_users * n_sessions * PER_SESSION
    user = np.repeat(np.arange(n_users), n_sessions * PER_SESSION)
    session = np.arange(n) // PER_SESSION
    position = np.arange(n) % PER_SESSION
    video = rng.integers(0, n_videos, n)
    day = session % n_sessions
    time_s = START + day * DAY + (user * 37) % 20_000 + position * 40
    duration = catalogue.duration_s[video]
    likes_it = rng.random(n) < interest[user, video]
    share = np.where(likes_it, rng.uniform(0.7, 1.2, n), rng.uniform(0.0, 0.5, n))
    watch_s = (share * duration).astype(np.float32)
    long_view = (watch_s >= duration) | (watch_s >= LONG_VIEW_S)
    order = np.argsort(time_s, kind="stable")
    log = ImpressionLog(
        user_idx=user.astype(np.int32),
        video_idx=video.astype(np.int32),
        timestamp=time_s.astype(np.int64),
        session_id=session.astype(np.int64),
        position=position.astype(np.int16),
        watch_s=watch_s,
        long_view=long_view,
        skip=(watch_s < SKIP_S) & ~long_view,
        like=likes_it & (rng.random(n) < 0.2),
        share=likes_it & (rng.random(n) < 0.03),
        follow=likes_it & (rng.random(n) < 0.02),
        propensity=np.full(n, 1 / n_videos, dtype=np.float32),
        strategy=np.full(n, 3, dtype=np.int8),
    )
    return log.select(order)
