"""What the rollout demonstration needs: a world, a dated production model, three candidates.

In: sizes and a seed. Out: four registered bundles, the event log that production has kept since its
training, and the truth to compare decisions with.

- production was trained on the first fifth of the history. All that happened since stands in the
  event log, so its users' histories are complete; only its models are old.
- *better* was trained on all of it, the events of the log included, and says so
  (``trained_through``): its live state begins after them.
- *slow* is better again, with a real pause in every request. No file shows that.
- *bad* is better with the sign of its ranker turned round: the classic slip of a loss that became
  a gain. It loads, its checksums are right, its index belongs to its towers; no check of files
  finds it.

Generated data: what it shows is what the rollout does, not how good a model is on people.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import orjson

from ml_platform.data.datasets import Dataset
from ml_platform.operations.registry import ModelRegistry
from ml_platform.serving.event_log import EventLog, LoggedEvent
from video_recommendation.bundle import check_bundle, load_bundle, save_bundle
from video_recommendation.config import Config
from video_recommendation.data import system_data
from video_recommendation.pipeline import train_system
from video_recommendation.ranking.lambdarank import LambdaRanker
from video_recommendation.recommender import Recommender
from video_recommendation.serving.protocol import RecommendedItem
from video_recommendation.simulation.world import World, WorldConfig

OLD_SHARE = 0.2
EVENTS = "events.sqlite"
CANDIDATES = ("better", "slow", "bad")


@dataclass(frozen=True)
class Stage:
    """All that stands ready before the first request.

    Attributes:
        world: The users and their truth.
        data_sha256: Of the history.
        registry: Holds all bundles; production is an alias.
        versions: "production", "better", "slow", "bad" -> version.
        events: The event log to begin with; each rollout copies it.
        delay_ms: Pause of the slow candidate.
    """

    world: World
    data_sha256: str
    registry: ModelRegistry
    versions: dict[str, str]
    events: Path
    delay_ms: float

    def recommender(self, name: str) -> Recommender:
        """A loaded and warmed-up version; the slow one as slow as it is."""
        recommender = load_bundle(self.registry.path(self.versions[name]))
        recommender.warm_up()
        return SlowRecommender.of(recommender, self.delay_ms) if name == "slow" else recommender

    def copy_events(self, folder: Path) -> Path:
        """A data folder that begins with production's event log."""
        folder.mkdir(parents=True)
        shutil.copy(self.events, folder / EVENTS)
        return folder


class SlowRecommender(Recommender):
    """A recommender with a pause in every request."""

    delay_s = 0.0

    @staticmethod
    def of(recommender: Recommender, delay_ms: float) -> SlowRecommender:
        """The same models, later."""
        slow = SlowRecommender.__new__(SlowRecommender)
        slow.__dict__.update(recommender.__dict__)
        slow.delay_s = delay_ms / 1e3
        return slow

    def recommend(self, **request: Any) -> Sequence[RecommendedItem]:
        """See ``Recommender.recommend``."""
        time.sleep(self.delay_s)
        return super().recommend(**request)


def set_stage(
    config: Config,
    world_config: WorldConfig,
    folder: Path,
    *,
    delay_ms: float,
    step: Callable[[int], None],
) -> Stage:
    """Trains production and the candidates, and registers them.

    Args:
        config: Of both models.
        world_config: The users.
        folder: Takes the bundles, the registry and the event log.
        delay_ms: Pause of the slow candidate.
        step: Told of each of the four models.
    """
    world = World(world_config)
    history = world.dataset()
    cut = int(np.quantile(history.interactions["timestamp"], OLD_SHARE))
    log_id, seq = _log_since(history, cut, folder / EVENTS)
    old = train_system(system_data(until(history, cut), config.data), config).recommender
    step(1)
    better = train_system(system_data(history, config.data), config).recommender
    better.trained_through = {log_id: seq}
    step(1)
    bundles = {"production": old, "better": better, "bad": with_wrong_sign(better)}
    registry = ModelRegistry(folder / "registry", check_bundle)
    versions = {}
    for name, recommender in bundles.items():
        save_bundle(recommender, folder / name)
        versions[name] = registry.register(folder / name, note=name)
    versions["slow"] = versions["better"]  # the same files: what makes it slow is not in them
    registry.promote(versions["production"], note="trained on the first fifth of the history")
    step(2)
    return Stage(world, history.sha256, registry, versions, folder / EVENTS, delay_ms)


def until(history: Dataset, cut: int) -> Dataset:
    """The history up to a second, with all users and items."""
    rows = history.interactions
    return replace(history, interactions=rows[rows["timestamp"] <= cut].reset_index(drop=True))


def with_wrong_sign(recommender: Recommender) -> Recommender:
    """The same system whose LambdaMART ranker prefers what it should avoid."""
    ranker = recommender.lambda_ranker().booster
    booster = lgb.Booster(model_str=ranker.model_to_string())
    for tree in booster.dump_model()["tree_info"]:
        for leaf in range(tree["num_leaves"]):
            value = booster.get_leaf_output(tree["tree_index"], leaf)
            booster.set_leaf_output(tree["tree_index"], leaf, -value)
    bad = Recommender.__new__(Recommender)
    bad.__dict__.update(recommender.__dict__)
    bad.rankers = {**recommender.rankers, "lambdarank": LambdaRanker(booster)}
    return bad


def _log_since(history: Dataset, cut: int, path: Path) -> tuple[str, int]:
    """Writes the later events as the API would; returns the log's id and its last number."""
    rows = history.interactions
    later = rows[rows["timestamp"] > cut].sort_values("timestamp", kind="stable")
    path.parent.mkdir(parents=True, exist_ok=True)
    with EventLog(path) as log:
        events = [_event(number, row) for number, row in enumerate(later.itertuples())]
        for begin in range(0, len(events), 500):
            log.append(events[begin : begin + 500])
        found = log.log_id, log.last_seq()
    with_wal = path.with_name(f"{path.name}-wal")
    if with_wal.exists() and with_wal.stat().st_size:
        raise RuntimeError(f"{with_wal} still holds events: the log cannot be copied as one file")
    return found


def _event(number: int, row: Any) -> LoggedEvent:
    body = {
        "user_id": int(row.user_id),
        "item_id": int(row.item_id),
        "event_type": "rating",
        "rating": float(row.rating),
        "timestamp": int(row.timestamp),
    }
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return LoggedEvent(f"history-{number}", text, int(row.timestamp))
