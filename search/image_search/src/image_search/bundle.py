"""What one training leaves on disk, and the searcher that it makes.

In: a trained system. Out: a folder, and from it a ``Searcher``. The manifest checks every file
(ml_platform/operations/bundle_manifest.py).

    embedder/        the picture embedding that is served
    text/            the dual encoder, where there is one
    catalogue.npz    items by row
    vectors_image.npy, vectors_text.npy    f32[N, D] by row
    thumbnails/      small encoded pictures
    ranker/          ranker and what it reads, where there is a log to learn from
    page/            hashes and small thumbnails, for near-duplicates
    styles/          of the users that the log knows

Indexes are built when a bundle is loaded: exact ones of this size in milliseconds, and a server
replays later adds and deletes into them anyway.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from image_search.attributes import Attributes
from image_search.catalogue import ATTRIBUTE_COLUMNS, Catalogue
from image_search.config import Config
from image_search.embeddings.base import Embedder
from image_search.embeddings.registry import load_embedder
from image_search.growing import GrowingRows
from image_search.personalisation.blending import Personaliser
from image_search.personalisation.styles import Directions, StyleStore
from image_search.ranking.base import Ranker
from image_search.ranking.features import CandidateFeatures
from image_search.ranking.fitting import load_ranker, save_ranker
from image_search.reranking.page import Page
from image_search.retrieval.index import build_index
from image_search.searcher import Searcher, Space, SpaceName
from image_search.text.dual_encoder import DualEncoder
from image_search.thumbnails import Thumbnails
from ml_platform.operations.bundle_manifest import checked_manifest, write_manifest

FORMAT = 1
"""Raised with every change of what a bundle holds; another one is refused."""


class Saved(Protocol):
    """A part that has a folder of its own."""

    def save(self, folder: Path) -> None:
        """Writes everything that its ``load`` needs into an existing folder."""


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of.

    Attributes:
        catalogue: Items by row.
        embedder: Of pictures, served.
        vectors: Space -> f32[N, D] by row.
        thumbnails: By row.
        page: Finds near-duplicates and diversifies.
        text: The dual encoder, or None: the pictures have no classes to make captions of.
        ranking: A ranker and its features, or None: by similarity.
        styles: Of users, or None: nobody is known.
    """

    catalogue: Catalogue
    embedder: Embedder
    vectors: dict[SpaceName, np.ndarray]
    thumbnails: Thumbnails
    page: Page
    text: DualEncoder | None = None
    ranking: tuple[Ranker, CandidateFeatures] | None = None
    styles: StyleStore | None = None


def save_bundle(parts: Parts, folder: Path, config: Config, facts: dict[str, Any]) -> str:
    """Writes the bundle into a new folder; returns its version.

    Raises:
        FileExistsError: If the folder exists.
    """
    saved: dict[str, Saved | None] = {
        "embedder": parts.embedder,
        "thumbnails": parts.thumbnails,
        "page": parts.page,
        "text": parts.text,
        "styles": parts.styles,
    }
    for name, part in saved.items():
        if part is not None:
            (folder / name).mkdir(parents=True)
            part.save(folder / name)
    if parts.ranking is not None:
        (folder / "ranker").mkdir()
        save_ranker(*parts.ranking, folder / "ranker")
    save_catalogue(parts.catalogue, folder)
    for name, vectors in parts.vectors.items():
        np.save(folder / f"vectors_{name}.npy", vectors)
    return write_manifest(folder, config.model_dump(mode="json"), format_number=FORMAT, facts=facts)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a bundle says of itself, once every file is what was saved.

    Raises:
        BundleError: If it is missing, damaged, or of another format.
    """
    return checked_manifest(folder, format_number=FORMAT)


def load_searcher(folder: Path) -> Searcher:
    """Checks every file of a bundle, loads it, builds the indexes.

    Raises:
        BundleError: As ``read_manifest``.
    """
    manifest = read_manifest(folder)
    config = Config.model_validate(manifest["config"])
    return make_searcher(_load_parts(folder, config), config, version=manifest["version"])


def served_space(folder: Path) -> tuple[Embedder, np.ndarray]:
    """The picture embedding of a checked bundle and its items' vectors f32[N, D], by row."""
    return load_embedder(folder / "embedder"), np.load(folder / "vectors_image.npy")


def _load_parts(folder: Path, config: Config) -> Parts:
    names: tuple[SpaceName, ...] = ("image", "text")
    kept = {name: folder / f"vectors_{name}.npy" for name in names}
    catalogue = load_catalogue(folder)
    styles, ranker, text = (folder / name for name in ("styles", "ranker", "text"))
    return Parts(
        catalogue=catalogue,
        embedder=load_embedder(folder / "embedder"),
        vectors={name: np.load(path) for name, path in kept.items() if path.exists()},
        thumbnails=Thumbnails.load(folder / "thumbnails"),
        page=Page.load(folder / "page", config.reranking),
        text=DualEncoder.load(text) if text.exists() else None,
        ranking=load_ranker(ranker, catalogue) if ranker.exists() else None,
        styles=StyleStore.load(styles, config.personalisation) if styles.exists() else None,
    )


def make_searcher(parts: Parts, config: Config, *, version: str) -> Searcher:
    """Puts the parts together; deleted items are in no index."""
    rows = np.flatnonzero(parts.catalogue.alive)
    spaces = {
        name: Space(
            build_index(config.index.kind, vectors[rows], rows, config.index, config.seed),
            GrowingRows(vectors),
        )
        for name, vectors in parts.vectors.items()
    }
    ranker, features = parts.ranking or (None, None)
    searcher = Searcher(
        catalogue=parts.catalogue,
        embedder=parts.embedder,
        spaces=spaces,
        text=parts.text,
        candidates=config.index.candidates,
        ranker=ranker,
        features=features,
        rerank=parts.page,
        thumbnails=parts.thumbnails,
        version=version,
    )
    searcher.on_add.append(lambda row, picture, vector: parts.page.append([picture]))
    if parts.styles is not None:
        parts.styles.shift(time.time())  # as if the log had ended now
        searcher.personalise = personaliser_of(parts.styles, searcher)
    return searcher


def personaliser_of(styles: StyleStore, searcher: Searcher) -> Personaliser:
    """Styles over a searcher's items; an item that is added later has no class there."""
    items, space = searcher.catalogue, searcher.spaces["image"]
    directions = Directions.of(space.vectors, items.label, len(items.label_names))
    return Personaliser(styles, directions, lambda rows: space.vectors[rows])


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
