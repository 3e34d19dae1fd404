"""What one training leaves on disk, and the searcher that it makes.

In: a trained system. Out: a folder, and from it a ``Searcher``. The manifest checks every file
(ml_platform/operations/bundle_manifest.py).

    embedder/        the picture embedding that is served
    text/            the dual encoder, where there is one
    catalogue.npz    items by row
    vectors_image.npy, vectors_text.npy    f32[N, D] by row
    thumbnails/      small encoded pictures
    ranker/, rerank.npz, styles.npz        where there are any

Indexes are built when a bundle is loaded: exact ones of this size in milliseconds, and a server
replays later adds and deletes into them anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_search.attributes import Attributes
from image_search.catalogue import ATTRIBUTE_COLUMNS, Catalogue
from image_search.config import Config
from image_search.embeddings.base import Embedder
from image_search.embeddings.registry import load_embedder
from image_search.growing import GrowingRows
from image_search.retrieval.index import build_index
from image_search.searcher import Searcher, Space, SpaceName, TextEncoder
from image_search.thumbnails import Thumbnails
from ml_platform.operations.bundle_manifest import checked_manifest, write_manifest

FORMAT = 1
"""Raised with every change of what a bundle holds; another one is refused."""


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of.

    Attributes:
        catalogue: Items by row.
        embedder: Of pictures, served.
        vectors: Space -> f32[N, D] by row.
        text: The dual encoder, or None.
        thumbnails: By row.
    """

    catalogue: Catalogue
    embedder: Embedder
    vectors: dict[SpaceName, np.ndarray]
    text: TextEncoder | None
    thumbnails: Thumbnails


def save_bundle(parts: Parts, folder: Path, config: Config, facts: dict[str, Any]) -> str:
    """Writes the bundle into a new folder; returns its version.

    Raises:
        FileExistsError: If the folder exists.
    """
    for name in ("embedder", "thumbnails"):
        (folder / name).mkdir(parents=True)
    parts.embedder.save(folder / "embedder")
    parts.thumbnails.save(folder / "thumbnails")
    save_catalogue(parts.catalogue, folder)
    for name, vectors in parts.vectors.items():
        np.save(folder / f"vectors_{name}.npy", vectors)
    return write_manifest(folder, config.model_dump(mode="json"), format_number=FORMAT, facts=facts)


def load_searcher(folder: Path) -> Searcher:
    """Checks every file of a bundle, loads it, builds the indexes.

    Raises:
        BundleError: If it is missing, damaged, or of another format.
    """
    manifest = checked_manifest(folder, format_number=FORMAT)
    config = Config.model_validate(manifest["config"])
    return make_searcher(load_parts(folder), config, version=manifest["version"])


def load_parts(folder: Path) -> Parts:
    """The parts of a bundle that has been checked."""
    names: tuple[SpaceName, ...] = ("image", "text")
    kept = {name: folder / f"vectors_{name}.npy" for name in names}
    return Parts(
        catalogue=load_catalogue(folder),
        embedder=load_embedder(folder / "embedder"),
        vectors={name: np.load(path) for name, path in kept.items() if path.exists()},
        text=None,
        thumbnails=Thumbnails.load(folder / "thumbnails"),
    )


def make_searcher(parts: Parts, config: Config, *, version: str) -> Searcher:
    """Puts the parts together; deleted items are in no index."""
    rows = np.flatnonzero(parts.catalogue.alive)
    spaces = {
        name: Space(build_index(config.index.kind, vectors[rows], rows), GrowingRows(vectors))
        for name, vectors in parts.vectors.items()
    }
    return Searcher(
        catalogue=parts.catalogue,
        embedder=parts.embedder,
        spaces=spaces,
        text=parts.text,
        candidates=config.index.candidates,
        thumbnails=parts.thumbnails,
        version=version,
    )


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Writes ``catalogue.npz``."""
    attributes = catalogue.attributes
    columns = {name: getattr(attributes, name) for name in ATTRIBUTE_COLUMNS}
    np.savez(
        folder / "catalogue.npz",
        item_id=catalogue.item_id,
        label=catalogue.label,
        label_names=np.array(catalogue.label_names),
        alive=catalogue.alive,
        seed=catalogue.seed,
        **columns,
    )


def load_catalogue(folder: Path) -> Catalogue:
    """Reads what ``save_catalogue`` wrote."""
    with np.load(folder / "catalogue.npz", allow_pickle=False) as kept:
        return Catalogue(
            item_id=kept["item_id"],
            label=kept["label"],
            label_names=tuple(str(name) for name in kept["label_names"]),
            attributes=Attributes(**{name: kept[name] for name in ATTRIBUTE_COLUMNS}),
            alive=kept["alive"],
            seed=int(kept["seed"]),
        )
