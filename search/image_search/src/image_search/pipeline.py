"""Training, in order: what there is of it so far is one step, the embeddings.

In: an image set and the configuration. Out: ``Trained``. Fitting sees the gallery (split 0) and its
labels only: neither validation nor query pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_search.config import Config
from image_search.embeddings.base import Embedder
from image_search.embeddings.registry import load_embedder, make_embedder
from image_search.images.image_set import ImageSet, Selection, owner_rows
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import write_atomic


@dataclass(frozen=True)
class Trained:
    """What training leaves: the embedders by name, in the order of the configuration."""

    embedders: dict[str, Embedder]


def train_system(images: ImageSet, config: Config, progress: Progress) -> Trained:
    """Fits every configured embedder on the gallery."""
    return Trained(fit_embedders(images, owner_rows(images).gallery, config, progress))


def fit_embedders(
    images: ImageSet, rows: np.ndarray, config: Config, progress: Progress
) -> dict[str, Embedder]:
    """Fits every configured embedder on the pictures at ``rows`` i64[n].

    An embedder that learns opens its own stages of ``progress``; the floors have nothing to show.

    Raises:
        EmbedderUnavailableError: If one needs a package that is not installed.
    """
    whole = images.images
    pictures = whole[rows] if isinstance(whole, np.ndarray) else Selection(whole, rows)
    labels = images.label[rows] if images.labelled else None
    fitted: dict[str, Embedder] = {}
    for name in config.embeddings.names:
        embedder = make_embedder(name)
        fitted[name] = embedder.fit(pictures, labels, config.embeddings, config.seed, progress)
    return fitted


def save_trained(trained: Trained, folder: Path, images: ImageSet) -> None:
    """Writes every embedder into ``folder/<name>`` and, last, what they were fitted on."""
    for name, embedder in trained.embedders.items():
        (folder / name).mkdir(parents=True)
        embedder.save(folder / name)
    manifest = {"embedders": list(trained.embedders), "images_sha256": images.sha256}
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def load_trained(folder: Path) -> Trained:
    """Reads what ``save_trained`` wrote.

    Raises:
        FileNotFoundError: If training did not end there.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{folder} holds no trained embedders; run make train first")
    names = json.loads(manifest.read_text())["embedders"]
    return Trained({name: load_embedder(folder / name) for name in names})
