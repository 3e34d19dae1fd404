"""The embedding that the service has, with its vectors of the gallery, for the studies here.

In: a ``Run`` and its pictures. Out: a fitted embedder and f32[G, D]: those of the last bundle where
it was trained on these very pictures, else fitted now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from image_search.embeddings.base import Embedder
from image_search.embeddings.vectors import embed_rows
from image_search.images.image_set import ImageSet, owner_rows

if TYPE_CHECKING:
    from image_search.commands import Run


def served(run: Run, images: ImageSet) -> tuple[Embedder, np.ndarray]:
    """The embedder, and its vectors of ``owner_rows(images).gallery``."""
    from image_search.bundle import read_manifest, served_space
    from image_search.pipeline import fit_embedder, served_name
    from ml_platform.operations.bundle_manifest import MANIFEST

    rows, name = owner_rows(images).gallery, served_name(images, run.config)
    folder = run.latest_bundle
    if (folder / MANIFEST).exists():
        facts = read_manifest(folder)
        embedder, vectors = served_space(folder)
        same = facts["images_sha256"] == images.sha256 and embedder.name == name
        if same and len(vectors) == len(rows):
            run.console.print(f"  vectors of the bundle {facts['version']}", highlight=False)
            return embedder, vectors
    embedder = fit_embedder(name, images, rows, run.config, run.progress)
    return embedder, embed_rows(embedder, images, rows, progress=run.progress, what="gallery")
