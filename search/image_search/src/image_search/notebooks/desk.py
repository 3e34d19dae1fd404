"""What every notebook opens first: pictures, one trained system, and where both come from.

In: nothing, or the folder of a bundle in the environment variable NOTEBOOK_BUNDLE. Out: a ``Desk``.

    NOTEBOOK_BUNDLE   that bundle, and the pictures it was trained on (``make notebooks`` sets it)
    otherwise         small models on few pictures, trained once (seconds) and kept

The small system is kept under ``artifacts/notebooks/systems`` and trained again when its
configuration, its pictures or the source code has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import rich.console
import torch

from image_search.artifacts import SYSTEM_FOLDER
from image_search.bundle import load_searcher, read_manifest
from image_search.commands import Run
from image_search.config import Config, load_config
from image_search.embeddings.vectors import embed_rows
from image_search.images.datasets import load_images
from image_search.images.image_set import QUERY, ImageSet, Rows, draw_queries, owner_rows
from image_search.pipeline import save_trained, train_system
from image_search.searcher import Searcher
from ml_platform.data.download import DatasetUnavailableError
from ml_platform.docs.notebook_desk import BUNDLE_VARIABLE, fingerprint, made_once, notebooks_in
from ml_platform.evaluation.plot_style import show
from ml_platform.evaluation.progress import Progress, Silent

__all__ = ["BUNDLE_VARIABLE", "Desk", "notebooks", "open_desk", "show"]

SOURCES = SYSTEM_FOLDER / "notebooks"
ARTIFACTS = SYSTEM_FOLDER / "artifacts"
SMALL = SYSTEM_FOLDER / "configs" / "notebooks.yaml"
GALLERY_PICTURES, QUERY_PICTURES = 3_000, 600
"""Of a quick run on a public data set: enough for ten classes to differ, few enough to wait for."""
QUERIES = 600


class _DeskRun(Run):
    """A command's context whose last bundle is the desk's, whatever folder it lies in."""

    bundle: Path

    @property
    def latest_bundle(self) -> Path:
        return self.bundle


@dataclass(frozen=True)
class Desk:
    """What lies ready.

    Attributes:
        images: Gallery and queries.
        searcher: The trained system; its catalogue is the gallery, row by row.
        config: What it was trained with.
        bundle: Its folder.
    """

    images: ImageSet
    searcher: Searcher
    config: Config
    bundle: Path

    @cached_property
    def rows(self) -> Rows:
        """The gallery, and at most so many queries, drawn by the seed."""
        return draw_queries(owner_rows(self.images), QUERIES, self.config.seed)

    @cached_property
    def queries(self) -> np.ndarray:
        """f32[Q, D]: the queries' vectors in the space "image"."""
        return embed_rows(self.searcher.embedder, self.images, self.rows.queries)

    @property
    def gallery(self) -> np.ndarray:
        """f32[G, D]: the gallery's vectors in the space "image"."""
        return self.searcher.spaces["image"].vectors

    @property
    def run(self) -> Run:
        """A command's context that prints nothing, for studies that ask for one."""
        made = _DeskRun(self.config, self.bundle.parent, rich.console.Console(quiet=True))
        made.bundle = self.bundle
        return made

    @cached_property
    def console(self) -> rich.console.Console:
        """Prints the package's tables under a cell."""
        return rich.console.Console(width=110)

    @cached_property
    def scratch(self) -> Path:
        """A folder for what a cell writes; it goes when the kernel does."""
        folder = tempfile.TemporaryDirectory(prefix="image-search-notebook-")
        weakref.finalize(self, folder.cleanup)
        return Path(folder.name)

    def __str__(self) -> str:
        images, size = self.images, ""
        if self.config.quick:
            size = "SMALL models on few pictures: full numbers are in results/.\n"
        if images.synthetic:
            size += "GENERATED SHAPES stand in for photographs: nothing here holds for real ones.\n"
        return (
            "SYNTHETIC prices, clicks and tastes: no shop's data are here.\n"
            f"{size}{images.name}: {len(owner_rows(images).gallery):,} pictures to search, "
            f"{len(self.rows.queries):,} that ask\n"
            f"system {self.searcher.version}, configuration {self.config.name!r}"
        )


def notebooks() -> list[Path]:
    """The committed notebooks, in reading order."""
    return notebooks_in(SOURCES)


def open_desk() -> Desk:
    """The desk; prints what it is.

    Raises:
        ValueError: If the pictures are not those that the bundle was trained on.
    """
    torch.set_num_threads(min(2, torch.get_num_threads()))  # which OMP_NUM_THREADS may lower
    given = os.environ.get(BUNDLE_VARIABLE)
    bundle = Path(given) if given else trained_bundle(load_config(SMALL), ARTIFACTS)
    manifest = read_manifest(bundle)
    config = Config.model_validate(manifest["config"])
    images = pictures_of(config)
    if images.sha256 != manifest["images_sha256"]:
        raise ValueError(
            f"{images.name} is not what {bundle} was trained on: train again, or leave "
            f"{BUNDLE_VARIABLE} away"
        )
    desk = Desk(images, load_searcher(bundle), config, bundle)
    print(desk)
    return desk


def pictures_of(config: Config, progress: Progress | None = None) -> ImageSet:
    """The configured pictures; few of a public data set where the configuration is a quick one."""
    images = load_images(config.images, seed=config.seed, progress=progress)
    public = config.images.dataset in ("fashion-mnist", "clothing")
    return few(images, config.seed) if config.quick and public else images


def few(
    images: ImageSet, seed: int, gallery: int = GALLERY_PICTURES, queries: int = QUERY_PICTURES
) -> ImageSet:
    """At most so many pictures to search and to ask with, drawn by the seed, in their order."""
    rng = np.random.default_rng(seed)
    asks = images.split == QUERY
    drawn = [
        rng.permutation(np.flatnonzero(part))[:most]
        for part, most in ((~asks, gallery), (asks, queries))
    ]
    rows = np.sort(np.concatenate(drawn))
    whole = images.images
    digest = hashlib.sha256(images.sha256.encode() + rows.tobytes()).hexdigest()
    return replace(
        images,
        name=f"{len(rows):,} pictures of {images.name}",
        images=whole[rows] if isinstance(whole, np.ndarray) else [whole[int(r)] for r in rows],
        label=images.label[rows],
        split=images.split[rows],
        item_id=images.item_id[rows],
        sha256=digest,
    )


def reachable(config: Config, progress: Progress | None = None) -> tuple[Config, ImageSet]:
    """The configuration and its pictures; generated shapes where the data set cannot be had."""
    try:
        return config, pictures_of(config, progress)
    except DatasetUnavailableError:
        shapes = config.images.model_copy(update={"dataset": "shapes"})
        fallback = config.model_copy(update={"images": shapes})
        return fallback, pictures_of(fallback, progress)


def bundle_config(bundle: Path) -> Config:
    """The configuration that a bundle was trained with."""
    return Config.model_validate(read_manifest(bundle)["config"])


def trained_bundle(config: Config, artifacts: Path, progress: Progress | None = None) -> Path:
    """Folder of a bundle of this configuration, pictures and code; trained where there is none."""
    progress = progress or Silent()
    config, images = reachable(config, progress)

    def train(bundle: Path) -> None:
        shutil.rmtree(bundle, ignore_errors=True)  # of older code
        save_trained(train_system(images, config, progress), bundle, images, config)

    here = Path(__file__).parent
    wanted = fingerprint(f"{config.model_dump_json()} {images.sha256}", here.parent, here)
    return made_once(artifacts / "notebooks" / "systems" / config.name, wanted, train)
