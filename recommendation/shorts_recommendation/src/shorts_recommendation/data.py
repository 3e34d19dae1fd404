"""The world and its log, cached: every stage starts here.

In: the configuration. Out: ``ShortsData``. The first call generates (seconds) and keeps the result
under ``default_cache_dir()/shorts_world/<key>``; the key is a hash of the world's configuration,
the seed and the source of the generator, so that a change of any makes a new world. A folder
appears by one rename under a lock, so a killed process leaves nothing half made; a damaged one is
named in the log, removed and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data.sources import default_cache_dir, folder_lock
from ml_platform.evaluation.progress import Progress, Silent
from shorts_recommendation.config import Config
from shorts_recommendation.log import DAY_S, Catalogue, ImpressionLog, Users, Windows
from shorts_recommendation.world.generate import stream_log
from shorts_recommendation.world.storage import (
    DamagedWorldError,
    content_sha256,
    read_world,
    write_world,
)
from shorts_recommendation.world.world import World, make_world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShortsData:
    """What stages read.

    Attributes:
        world: the truth; for simulation and the oracle's row only.
        catalogue, users, log: what a model may see. Mind the time: a video exists from its upload.
        windows: the cuts between train, validation and test.
        name: for tables.
        sha256: of the content of catalogue and log.
        synthetic: true; quality here proves mechanics.
    """

    world: World
    catalogue: Catalogue
    users: Users
    log: ImpressionLog
    windows: Windows
    name: str
    sha256: str
    synthetic: bool = True


def windows_of(config: Config, start_s: int) -> Windows:
    """The cuts between train, validation and test, at midnights of the log."""
    train_end = start_s + config.data.train_days * DAY_S
    validation_end = train_end + config.data.validation_days * DAY_S
    return Windows(start_s, train_end, validation_end, start_s + config.world.days * DAY_S)


def world_key(config: Config) -> str:
    """The name of the cached folder: what decides the content, hashed."""
    digest = hashlib.sha256()
    digest.update(json.dumps(config.world.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(f"seed {config.seed}".encode())
    here = Path(__file__).parent
    sources = [p for p in sorted((here / "world").glob("*.py")) if p.stem in _GENERATOR]
    for source in [*sources, here / "log.py"]:  # log.py says what a long view is
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


_GENERATOR = ("audience", "drawing", "generate", "logging_policy", "response", "storage", "world")


def load_data(
    config: Config, *, cache_dir: Path | None = None, progress: Progress | None = None
) -> ShortsData:
    """The world of this configuration and its log, from the cache or made now.

    Args:
        config: ``config.world``, ``config.seed`` and ``config.data`` count.
        cache_dir: Root of the cache; ``default_cache_dir()`` if None.
        progress: Told of the generation.
    """
    shelf = (cache_dir or default_cache_dir()) / "shorts_world"
    folder = shelf / world_key(config)
    with folder_lock(shelf):
        if folder.exists():
            try:
                world, log = read_world(folder)
            except DamagedWorldError as error:
                logger.warning("cached world removed and made again: %s", error)
                shutil.rmtree(folder)
        if not folder.exists():
            _make(config, shelf, folder, progress or Silent())
            world, log = read_world(folder)
    return ShortsData(
        world=world,
        catalogue=world.catalogue,
        users=world.users,
        log=log,
        windows=windows_of(config, world.start_s),
        name=f"simulated world, {len(world.users):,} users x {len(world.catalogue):,} videos",
        sha256=content_sha256(world.catalogue, log),
    )


def _make(config: Config, shelf: Path, folder: Path, progress: Progress) -> None:
    """Generates into a temporary folder and publishes it by one rename; hold the shelf's lock."""
    with tempfile.TemporaryDirectory(prefix=".filling-", dir=shelf) as scratch:
        filled = Path(scratch) / "world"
        filled.mkdir()
        with progress.stage("world", 1) as advance:
            world = make_world(config.world, config.seed)
            advance(1)
        write_world(world, filled, stream_log(world, filled, config.seed, progress))
        filled.rename(folder)
