"""Writes the log: the audience meets the logging policy, hour after hour.

In: a world and a seed. Out: an ``ImpressionLog`` in time order, in memory or as parquet parts. Time
runs in blocks of hours. Within a block the simulation goes in rounds: in each, every user with an
open session sees one video; users are independent of each other (popularity is exogenous), so the
rows of a block are sorted by time at its end. What is carried between blocks is one row of state
for each user, so the memory of ``stream_log`` depends on users and catalogue, not on impressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from ml_platform.evaluation.progress import Progress, Silent
from shorts_recommendation.log import ImpressionLog
from shorts_recommendation.world.audience import Audience
from shorts_recommendation.world.logging_policy import HOUR_S, HourTables, LoggingPolicy
from shorts_recommendation.world.world import World

ROWS_PER_BLOCK = 250_000  # expected impressions between two sorts
_DTYPES = {
    "user_idx": np.int32,
    "video_idx": np.int32,
    "timestamp": np.int64,
    "session_id": np.int64,
    "position": np.int16,
    "watch_s": np.float32,
    "long_view": np.bool_,
    "skip": np.bool_,
    "like": np.bool_,
    "share": np.bool_,
    "follow": np.bool_,
    "propensity": np.float32,
    "strategy": np.int8,
}


def log_blocks(
    world: World, seed: int, progress: Progress | None = None, rows_per_block: int = ROWS_PER_BLOCK
) -> Iterator[ImpressionLog]:
    """The log in parts of some hours, in time order; parts may be empty."""
    simulation = _Simulation(world, seed)
    hours = (world.end_s - world.start_s) // HOUR_S
    rows = len(world.users) * world.config.impressions_per_user
    step = int(np.clip(rows_per_block * hours // max(rows, 1), 1, 24))
    with (progress or Silent()).stage("log", hours) as advance:
        for begin in range(0, hours, step):
            length = min(step, hours - begin)
            yield simulation.block(world.start_s + begin * HOUR_S, length)
            advance(length)


def generate_log(world: World, seed: int, progress: Progress | None = None) -> ImpressionLog:
    """The whole log in memory; the same world and seed give the same log."""
    return concatenate(list(log_blocks(world, seed, progress)))


def stream_log(
    world: World,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
    rows_per_block: int = ROWS_PER_BLOCK,
) -> list[Path]:
    """Writes the log as ``log-00000.parquet`` and so on, in time order; returns the paths."""
    from shorts_recommendation.world.storage import write_part

    paths: list[Path] = []
    for part in log_blocks(world, seed, progress, rows_per_block):
        if len(part):
            paths.append(write_part(part, folder / f"log-{len(paths):05d}.parquet"))
    return paths


def concatenate(parts: list[ImpressionLog]) -> ImpressionLog:
    """One log of parts that follow each other in time."""
    columns: dict[str, np.ndarray] = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts] or [np.empty(0)]).astype(
            _DTYPES[f.name], copy=False
        )
        for f in fields(ImpressionLog)
    }
    return ImpressionLog(**columns)


class _Simulation:
    """State of all users between blocks."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.audience = Audience(world, seed)
        self.policy = LoggingPolicy(world, seed)
        n = len(world.users)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
        self._clock = self.audience.first_visits_s()  # next video, or next visit
        self._watching = np.zeros(n, np.bool_)
        self._session = np.zeros(n, np.int64)
        self._n_sessions = 0

    def block(self, begin_s: int, hours: int) -> ImpressionLog:
        """All impressions that begin within these hours."""
        tables = self.policy.tables(begin_s, hours)
        end_s = begin_s + hours * HOUR_S
        due = np.flatnonzero(self._clock < end_s).astype(np.int32)
        rounds = []
        while len(due):
            rounds.append(self._round(tables, due))
            due = due[self._clock[due] < end_s]
        log = concatenate(rounds)
        return log.select(np.argsort(log.timestamp, kind="stable"))

    def _round(self, tables: HourTables, users: np.ndarray) -> ImpressionLog:
        """One impression of each user."""
        now = self._clock[users]
        self._open(users[~self._watching[users]])
        video, strategy, propensity = self.policy.choose(tables, users, now)
        position = self.audience.place[users].astype(np.int16)
        seen = self.audience.watch(users, video, now)
        self.policy.observe(users, video, seen.long_view)
        swipe = 1 + self._rng.integers(0, 2, len(users))  # seconds between two videos
        then = now + np.ceil(seen.watch_s).astype(np.int64) + swipe
        self._clock[users] = then
        left = users[seen.leaves]
        self._watching[left] = False
        self._clock[left] = self.audience.next_visit_s(left, then[seen.leaves])
        return ImpressionLog(
            users, video, now, self._session[users], position, seen.watch_s, seen.long_view,
            seen.skip, seen.like, seen.share, seen.follow, propensity, strategy,
        )  # fmt: skip

    def _open(self, users: np.ndarray) -> None:
        self.audience.open_sessions(users, self._clock[users])
        self._watching[users] = True
        self._session[users] = self._n_sessions + np.arange(len(users))
        self._n_sessions += len(users)
