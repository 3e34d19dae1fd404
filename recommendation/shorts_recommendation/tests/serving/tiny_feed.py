"""A recommender small enough to check by hand: long views of a day, less what was seen or is held.

    python tiny_feed.py --data-dir FOLDER --port PORT     serves it, for tests that kill processes

Video v has the external id 10 v + 1, creator v % 10, main tag v % 6, and 120 - v long views:
without any event the feed of everybody begins 1, 11, 21. The session embedding adds its dot product
with the content, so that what a user watches changes what comes next.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from shorts_recommendation.config import Config, ServingConfig
from shorts_recommendation.counters import CounterSnapshot, VideoCounters
from shorts_recommendation.items import fit_projection, make_items
from shorts_recommendation.log import Catalogue, Users
from shorts_recommendation.new_video import NewVideo
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.serving.settings import ServingSettings
from shorts_recommendation.state import UserStates

DATA_END = 1_700_000_100  # 100 s into a period of the counters' grid
N_USERS, N_VIDEOS, DIM = 40, 120, 48
SOURCES = ("popular", "session")
NEW_VIDEO = tuple(f.name for f in fields(NewVideo))


@dataclass(frozen=True)
class TinySlate:
    video_idx: np.ndarray
    value: np.ndarray
    sources: np.ndarray
    reasons: list[str]
    propensity: np.ndarray
    stage_ms: dict[str, float]


@dataclass
class TinyRecommender:
    version: str = "tiny-1"
    data_end: int = DATA_END
    compute_s: float = 0.0
    """Seconds that a call sleeps: what a heavier model would take."""
    fail: Exception | None = None
    batches: list[int] = field(default_factory=list)
    encoded: int = 0
    prepared: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    poison: set[int] = field(default_factory=set)
    """Ids of videos that the index cannot take."""
    added_at_once: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.config = Config()
        v = np.arange(N_VIDEOS)
        tags = np.full((N_VIDEOS, 3), -1, dtype=np.int16)
        tags[:, 0] = v % 6
        content = rng.normal(size=(N_VIDEOS, DIM)).astype(np.float32)
        content /= np.linalg.norm(content, axis=1, keepdims=True)
        self.catalogue = Catalogue(
            video_ids=10 * v + 1,
            creator_idx=(v % 10).astype(np.int32),
            tags=tags,
            language=np.zeros(N_VIDEOS, np.int16),
            duration_s=np.full(N_VIDEOS, 20.0, np.float32),
            upload_s=np.full(N_VIDEOS, DATA_END - 86_400, np.int64),
            content=content,
        )
        zeros = np.zeros(N_USERS, np.int16)
        self.users = Users(np.arange(N_USERS, dtype=np.int64) + 1, zeros, zeros, zeros)
        self._projection = fit_projection(content, seed=0)
        self.items = make_items(self.catalogue, self._projection)
        self.base = (N_VIDEOS - v).astype(np.float32)

    def new_states(self, capacity: int) -> UserStates:
        zeros = np.zeros(capacity, np.int16)
        users = Users(np.arange(capacity, dtype=np.int64) + 1, zeros, zeros, zeros)
        return UserStates(users, self.items, self.config.state)

    def new_counters(self) -> VideoCounters:
        counters = VideoCounters(N_VIDEOS, (2.0, 24.0), 900, DATA_END - 900)
        columns = np.zeros((N_VIDEOS, 4), np.float32)
        columns[:, 0] = columns[:, 1] = self.base[:N_VIDEOS]
        counters.add(np.arange(N_VIDEOS), np.full(N_VIDEOS, DATA_END - 200, np.int64), columns)
        counters.advance(DATA_END)
        return counters

    def source_names(self) -> Sequence[str]:
        return SOURCES

    def prepare(self, snapshot: CounterSnapshot) -> None:
        self.prepared.append(snapshot.as_of_s)

    def encode(self, batch: RequestBatch) -> np.ndarray:
        self.encoded += len(batch)
        return 50.0 * batch.session @ self.items.content.T[:, :N_VIDEOS]

    def recommend(
        self,
        batch: RequestBatch,
        snapshot: CounterSnapshot,
        k: int,
        *,
        recent: np.ndarray,
        encoded: np.ndarray,
    ) -> list[TinySlate]:
        begin = time.perf_counter()
        self.batches.append(len(batch))
        self.threads.add(threading.current_thread().name)
        if self.compute_s:
            time.sleep(self.compute_s)
        if self.fail is not None:
            raise self.fail
        values = np.tile(self.base, (len(batch), 1))
        values[:, :N_VIDEOS] += encoded
        rank_ms = (time.perf_counter() - begin) * 1e3
        slates = []
        for i in range(len(batch)):
            value = values[i].copy()
            hidden = np.concatenate([batch.seen[i], recent[i]])
            value[hidden[hidden >= 0]] = -np.inf
            order = np.argsort(-value, kind="stable")[:k]
            order = order[np.isfinite(value[order])].astype(np.int32)
            session = bool(np.any(batch.session[i]))
            slates.append(
                TinySlate(
                    order,
                    value[order],
                    np.full(len(order), 1 + 2 * session, np.uint8),
                    ["relevance"] * len(order),
                    np.ones(len(order), np.float32),
                    {"rank": rank_ms},
                )
            )
        return slates

    def count_exposures(self, videos: np.ndarray) -> None:
        self.exposed = getattr(self, "exposed", 0) + len(videos)

    def add_videos(self, videos: Sequence[NewVideo]) -> list[int]:
        self.added_at_once.append(len(videos))
        for video in videos:
            if video.video_id in self.poison:
                raise ValueError(f"video {video.video_id} breaks the index")
        return [self.add_video(**{f: getattr(v, f) for f in NEW_VIDEO}) for v in videos]

    def add_video(
        self,
        *,
        video_id: int,
        creator_idx: int,
        tags: np.ndarray,
        language: int,
        duration_s: float,
        content: np.ndarray,
        upload_s: int,
    ) -> int:
        old = self.catalogue
        unit = (content / np.linalg.norm(content)).astype(np.float32)
        self.catalogue = replace(
            old,
            video_ids=np.append(old.video_ids, video_id),
            creator_idx=np.append(old.creator_idx, np.int32(creator_idx)),
            tags=np.concatenate([old.tags, tags[None]]),
            language=np.append(old.language, np.int16(language)),
            duration_s=np.append(old.duration_s, np.float32(duration_s)),
            upload_s=np.append(old.upload_s, upload_s),
            content=np.concatenate([old.content, unit[None]]),
        )
        self.items = make_items(self.catalogue, self._projection)
        self.base = np.append(self.base, np.float32(119.5))  # fresh: just below the first video
        return len(old)

    def reseed(self, stream: int) -> None:
        pass

    def warm_up(self) -> None:
        pass


def serving_config(**more: object) -> ServingConfig:
    """Deadlines that no machine misses, no waiting for company, no slates made at the start."""
    calm = {"deadline_ms": 2000.0, "batch_wait_ms": 0.0, "ahead_at_start": 0}
    return ServingConfig().model_copy(update={**calm, **more})


def main() -> None:
    from shorts_recommendation.serving.server import serve

    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--serving", default="{}")
    options = parser.parse_args()
    changes = {"deadline_ms": 2000.0, **json.loads(options.serving)}
    config = Config().serving.model_copy(update=changes)
    url = os.environ.get("REDIS_URL") or None
    settings = ServingSettings(
        options.data_dir, config, redis_url=url, refresh_s=0.1, workers=options.workers
    )
    recommender = TinyRecommender(compute_s=float(os.environ.get("TINY_COMPUTE_S", "0")))
    serve(recommender, settings, port=options.port)


if __name__ == "__main__":
    main()
