"""Small tables with random content, for tests that need shapes and not a world."""

from __future__ import annotations

import numpy as np

from shorts_recommendation.items import ItemTable, fit_projection, make_items
from shorts_recommendation.log import Catalogue, ImpressionLog, Users

START_S = 1_600_000_000 - 1_600_000_000 % 86_400


def make_catalogue(n: int = 120, *, n_tags: int = 12, seed: int = 0) -> Catalogue:
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(n, 768)).astype(np.float32)
    tags = np.stack([rng.permutation(n_tags)[:3] for _ in range(n)]).astype(np.int16)
    tags[::3, 2] = -1
    return Catalogue(
        video_ids=np.arange(n, dtype=np.int64) + 1000,
        creator_idx=rng.integers(0, n // 6, n).astype(np.int32),
        tags=tags,
        language=rng.integers(0, 3, n).astype(np.int16),
        duration_s=rng.uniform(5, 90, n).astype(np.float32),
        upload_s=(START_S - rng.integers(0, 5 * 86_400, n)).astype(np.int64),
        content=content / np.linalg.norm(content, axis=1, keepdims=True),
    )


def make_users(n: int = 30, *, seed: int = 0) -> Users:
    rng = np.random.default_rng(seed)
    return Users(
        user_ids=np.arange(n, dtype=np.int64) + 10,
        language=rng.integers(0, 3, n).astype(np.int16),
        age_group=rng.integers(0, 5, n).astype(np.int16),
        device=rng.integers(0, 3, n).astype(np.int16),
    )


def make_items_of(catalogue: Catalogue) -> ItemTable:
    return make_items(catalogue, fit_projection(catalogue.content, seed=0))


def make_log(catalogue: Catalogue, users: Users, n: int = 900, *, seed: int = 0) -> ImpressionLog:
    """Users watch random videos at random seconds of three days; positions and ids are made up."""
    rng = np.random.default_rng(seed)
    timestamp = START_S + np.sort(rng.choice(3 * 86_400, n, replace=False))
    video = rng.integers(0, len(catalogue), n).astype(np.int32)
    watch_s = (catalogue.duration_s[video] * rng.uniform(0, 1.6, n)).astype(np.float32)
    skip = watch_s < 3
    long_view = ~skip & (watch_s >= np.minimum(catalogue.duration_s[video], 18))
    return ImpressionLog(
        user_idx=rng.integers(0, len(users), n).astype(np.int32),
        video_idx=video,
        timestamp=timestamp.astype(np.int64),
        session_id=np.arange(n, dtype=np.int64),
        position=np.zeros(n, dtype=np.int16),
        watch_s=watch_s,
        long_view=long_view,
        skip=skip,
        like=long_view & (rng.random(n) < 0.2),
        share=long_view & (rng.random(n) < 0.05),
        follow=long_view & (rng.random(n) < 0.05),
        propensity=np.full(n, 1 / len(catalogue), dtype=np.float32),
        strategy=np.full(n, 3, dtype=np.int8),
    )
