"""What every notebook opens first: one data set, one trained system, and where both come from.

In: nothing, or the folder of a bundle in the environment variable NOTEBOOK_BUNDLE. Out: a ``Desk``.

Three systems are possible, and the desk says which one it is:

    NOTEBOOK_BUNDLE   that bundle, and the data it was trained on (``make notebooks`` sets it)
    otherwise         small models on MovieLens-100K, trained once (about half a minute) and kept
    no MovieLens      the same on generated data, where it cannot be had; said in every caveat

The small system is kept under ``artifacts/notebooks/systems`` and trained again when its
configuration, its data or the source code has changed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ml_platform.data.download import DatasetUnavailableError
from ml_platform.data.interactions import Queries
from ml_platform.data.splits import next_event_queries
from ml_platform.docs.notebook_desk import BUNDLE_VARIABLE, fingerprint, made_once, notebooks_in
from ml_platform.evaluation.plot_style import show
from ml_platform.evaluation.progress import Progress, Silent
from ml_platform.evaluation.results import Results
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.bundle import load_bundle, save_bundle
from video_recommendation.config import Config, load_config
from video_recommendation.data import SystemData, load_data
from video_recommendation.evaluation.run import live_recommender, protocol_line
from video_recommendation.labs.funnel import every_nth
from video_recommendation.pipeline import time_ordered, train_system
from video_recommendation.recommender import Recommender

__all__ = ["BUNDLE_VARIABLE", "Desk", "notebooks", "open_desk", "show"]

SOURCES = SYSTEM_FOLDER / "notebooks"
ARTIFACTS = SYSTEM_FOLDER / "artifacts"
CONFIGS = SYSTEM_FOLDER / "configs"
SMALL, GENERATED = CONFIGS / "notebooks.yaml", CONFIGS / "smoke.yaml"
LIGHT_DIM, LIGHT_EPOCHS, LIGHT_BATCH = 32, 3, 1024


@dataclass(frozen=True)
class Desk:
    """What lies ready.

    Attributes:
        data: All windows of the data set.
        recommender: The trained system with live counters, as the server has it.
        bundle: Its folder, for what starts a server.
    """

    data: SystemData
    recommender: Recommender
    bundle: Path

    @property
    def config(self) -> Config:
        """What the system was trained with."""
        return self.recommender.config

    @property
    def light(self) -> Config:
        """The same with towers small enough to train while the reader waits."""
        two_tower = self.config.two_tower.model_copy(
            update={
                "embedding_dim": min(LIGHT_DIM, self.config.two_tower.embedding_dim),
                "history_length": min(20, self.config.two_tower.history_length),
                "batch_size": min(LIGHT_BATCH, 2 * self.config.two_tower.batch_size),
                "max_epochs": LIGHT_EPOCHS,
                "learning_rate": 4e-3,
            }
        )
        return self.config.model_copy(update={"two_tower": two_tower})

    @cached_property
    def test_queries(self) -> Queries:
        """Every query of the test window, in time order."""
        return time_ordered(
            next_event_queries(self.data.log, self.data.windows.validation_end, None)
        )

    def queries(self, most: int) -> Queries:
        """At most so many queries of the test window, evenly spaced in time."""
        return every_nth(self.test_queries, most)

    def protocol(self, queries: Queries) -> str:
        """What a number over these queries means, in one line."""
        return protocol_line(self.data, self.config, queries)

    def published(self, key: str) -> str:
        """A number of the committed full run, with its interval: results/e2e.json."""
        metric = Results.read(SYSTEM_FOLDER / "results" / "e2e.json")[key]
        if metric.low is None or metric.high is None:
            return f"{metric.value:.3f}"
        return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"

    def __str__(self) -> str:
        data, log = self.data, self.data.log
        kind = "SYNTHETIC data: it shows how things work and proves nothing. " * data.synthetic
        size = "SMALL models: full numbers are in results/. " * self.config.quick
        return (
            f"{kind}{size}\n{data.name}: {len(log):,} interactions of {log.n_users:,} users with "
            f"{log.n_items:,} items; system {self.recommender.version}, "
            f"configuration {self.config.name!r}"
        ).strip()


def notebooks() -> list[Path]:
    """The committed notebooks, in reading order."""
    return notebooks_in(SOURCES)


def open_desk() -> Desk:
    """The desk; prints what it is."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    given = os.environ.get(BUNDLE_VARIABLE)
    bundle = Path(given) if given else small_system(ARTIFACTS)
    recommender = load_bundle(bundle)
    data = load_data(recommender.config.data)
    live = live_recommender(recommender, data)
    live.reference = recommender.reference
    desk = Desk(data, live, bundle)
    print(desk)
    return desk


def small_system(artifacts: Path, progress: Progress | None = None) -> Path:
    """Folder of the small system's bundle: on MovieLens, or on generated data where it must be."""
    config = load_config(SMALL)
    try:
        data = load_data(config.data)
    except DatasetUnavailableError as error:
        print(f"SYNTHETIC data instead of {config.data.dataset}: {error}")
        config = load_config(GENERATED)
        data = load_data(config.data)
    return trained_bundle(config, data, artifacts, progress)


def trained_bundle(
    config: Config, data: SystemData, artifacts: Path, progress: Progress | None = None
) -> Path:
    """Folder of a bundle of this configuration, data and code; trained where there is none."""
    folder = artifacts / "notebooks" / "systems" / f"{config.name}-{data.name}"

    def train(bundle: Path) -> None:
        save_bundle(train_system(data, config, progress or Silent()).recommender, bundle)

    here = Path(__file__).parent
    wanted = fingerprint(f"{config.model_dump_json()} {data.sha256}", here.parent, here)
    return made_once(folder, wanted, train)
