"""What every notebook opens first: one world, one trained system, and where both come from.

In: nothing, or the folder of a bundle in the environment variable NOTEBOOK_BUNDLE. Out: a ``Desk``.

    NOTEBOOK_BUNDLE   that bundle, and the world it was trained on (``make notebooks`` sets it)
    otherwise         small models on a small world, trained once (half a minute) and kept

The small system is kept under ``artifacts/notebooks/systems`` and trained again when its
configuration, its world or the source code has changed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import rich.console
import torch

from ml_platform.docs.notebook_desk import BUNDLE_VARIABLE, fingerprint, made_once, notebooks_in
from ml_platform.evaluation.plot_style import show
from ml_platform.evaluation.progress import Progress, Silent
from shorts_recommendation.artifacts import SYSTEM_FOLDER
from shorts_recommendation.bundle import load_bundle, save_bundle
from shorts_recommendation.commands import Run
from shorts_recommendation.config import Config, load_config
from shorts_recommendation.data import ShortsData, load_data
from shorts_recommendation.evaluation.funnel import FunnelScores, score_funnel
from shorts_recommendation.evaluation.retrieval_queries import Queries, session_queries
from shorts_recommendation.pipeline import train_system
from shorts_recommendation.recommender import Recommender

__all__ = ["BUNDLE_VARIABLE", "Desk", "notebooks", "open_desk", "show"]

SOURCES = SYSTEM_FOLDER / "notebooks"
ARTIFACTS = SYSTEM_FOLDER / "artifacts"
SMALL = SYSTEM_FOLDER / "configs" / "notebooks.yaml"
QUERIES = 300
MOST_PAIRS = 100_000


@dataclass(frozen=True)
class Desk:
    """What lies ready.

    Attributes:
        data: The world, its log, all windows.
        recommender: The trained system; states and counters stand at the end of the log.
        bundle: Its folder.
    """

    data: ShortsData
    recommender: Recommender
    bundle: Path

    @property
    def config(self) -> Config:
        """What the system was trained with."""
        return self.recommender.config

    @property
    def light(self) -> Config:
        """The same with towers that train while the reader waits, also on a full run's world."""
        few = {"max_pairs": min(MOST_PAIRS, self.config.two_tower.max_pairs), "epochs": 1}
        return self.config.model_copy(
            update={"two_tower": self.config.two_tower.model_copy(update=few)}
        )

    @property
    def run(self) -> Run:
        """A command's context that prints nothing, for studies that ask for one."""
        return Run(self.config, self.bundle.parent, rich.console.Console(quiet=True))

    @cached_property
    def console(self) -> rich.console.Console:
        """Prints the package's tables under a cell."""
        return rich.console.Console(width=110)

    def queries(self, most: int = QUERIES) -> Queries:
        """First requests of at most so many sessions of the test days, drawn by the seed."""
        windows, items = self.data.windows, self.recommender.items
        return session_queries(
            self.data, items, self.config, windows.validation_end, windows.end, most=most
        )

    @cached_property
    def funnel(self) -> FunnelScores:
        """What every model says of every candidate of ``queries()``."""
        return score_funnel(self.recommender, self.data, self.queries(), Silent())

    def __str__(self) -> str:
        data = self.data
        size = "SMALL models: full numbers are in results/.\n" * self.config.quick
        return (
            "SYNTHETIC world: it shows how things work and proves nothing about real people.\n"
            f"{size}{data.name}, {len(data.log):,} impressions in {self.config.world.days} days; "
            f"system {self.recommender.version}, configuration {self.config.name!r}"
        )


def notebooks() -> list[Path]:
    """The committed notebooks, in reading order."""
    return notebooks_in(SOURCES)


def open_desk() -> Desk:
    """The desk; prints what it is."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    given = os.environ.get(BUNDLE_VARIABLE)
    bundle = Path(given) if given else trained_bundle(load_config(SMALL), ARTIFACTS)
    recommender = load_bundle(bundle)
    desk = Desk(load_data(recommender.config), recommender, bundle)
    print(desk)
    return desk


def bundle_config(bundle: Path) -> Config:
    """The configuration that a bundle was trained with."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    return Config.model_validate(manifest["config"])


def trained_bundle(config: Config, artifacts: Path, progress: Progress | None = None) -> Path:
    """Folder of a bundle of this configuration, world and code; trained where there is none."""
    progress = progress or Silent()
    data = load_data(config, progress=progress)

    def train(bundle: Path) -> None:
        shutil.rmtree(bundle, ignore_errors=True)  # of older code
        save_bundle(train_system(data, config, progress).recommender, bundle)

    here = Path(__file__).parent
    wanted = fingerprint(f"{config.model_dump_json()} {data.sha256}", here.parent, here)
    return made_once(artifacts / "notebooks" / "systems" / config.name, wanted, train)
