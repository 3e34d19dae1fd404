"""Training, in order: picture embedding, text towers, catalogue, ranker; a bundle.

In: an image set and the configuration. Out: ``Parts``, and a folder that a server loads. Fitting
sees the gallery (split 0) and its labels only: neither validation nor query pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from image_search.bundle import Parts, save_bundle
from image_search.catalogue import gallery_catalogue
from image_search.clicks.simulate import simulate_clicks
from image_search.config import Config, EmbeddingName
from image_search.embeddings.base import Embedder
from image_search.embeddings.registry import make_embedder
from image_search.embeddings.vectors import embed_rows
from image_search.images.image_set import QUERY, ImageSet, Selection, owner_rows
from image_search.personalisation.replay import remembered
from image_search.personalisation.styles import Directions
from image_search.ranking.fitting import train_ranker
from image_search.reranking.page import Page
from image_search.retrieval.index import build_index
from image_search.searcher import SpaceName
from image_search.text.dual_encoder import DualEncoder
from image_search.thumbnails import Thumbnails
from ml_platform.evaluation.progress import Progress

FLOORS: tuple[EmbeddingName, ...] = ("pixels_cosine", "pixels_l2", "hog")
"""What learns nothing."""


def train_system(images: ImageSet, config: Config, progress: Progress) -> Parts:
    """Fits what is served on the gallery, and fills the catalogue.

    Where the pictures have classes there is also a text tower. Where some are set aside as queries,
    and the gallery is larger than a page's pool, there is also a (SYNTHETIC) click log, and with it
    a ranker and the styles of its users.

    Raises:
        EmbedderUnavailableError: If the served embedding needs a package that is not installed.
    """
    gallery = owner_rows(images).gallery
    pictures = pictures_at(images, gallery)
    catalogue = gallery_catalogue(images, gallery, config.seed)
    served = fit_embedder(served_name(images, config), images, gallery, config, progress)
    vectors: dict[SpaceName, np.ndarray] = {
        "image": embed_rows(served, images, gallery, progress=progress, what="gallery")
    }
    text = None
    if images.labelled:
        text = DualEncoder().fit(images, gallery, config.text, config.seed, progress)
        with progress.stage("text: gallery", len(gallery)) as advance:
            vectors["text"] = text.embed_images(pictures)
            advance(len(gallery))
    parts = Parts(
        catalogue=catalogue,
        embedder=served,
        vectors=vectors,
        thumbnails=Thumbnails.of(pictures, progress),
        page=Page.of(config.reranking, pictures),
        text=text,
    )
    asked, enough = (images.split == QUERY).any(), len(gallery) > config.clicks.pool
    if asked and enough and config.ranking.served != "none":
        return with_log(parts, images, config, progress)
    return parts


def with_log(parts: Parts, images: ImageSet, config: Config, progress: Progress) -> Parts:
    """Adds what a click log teaches: the ranker, and the styles of the users. SYNTHETIC."""
    items, vectors = parts.catalogue, parts.vectors["image"]
    clicks = simulate_clicks(images, items, config.clicks, config.seed, progress)
    index = build_index("flat", vectors, np.arange(len(vectors)))
    ranking = train_ranker(images, items, clicks, parts.embedder, index, vectors, config, progress)
    directions = Directions.of(vectors, items.label, len(items.label_names))
    of_items = directions(np.arange(len(items)), vectors)
    styles = remembered(clicks.log, of_items, config.personalisation)
    return replace(parts, ranking=ranking, styles=styles)


def fit_embedder(
    name: str, images: ImageSet, rows: np.ndarray, config: Config, progress: Progress
) -> Embedder:
    """Fits one embedding on the pictures at ``rows`` i64[n].

    An embedder that learns opens its own stages of ``progress``; the floors have nothing to show.

    Raises:
        EmbedderUnavailableError: If it needs a package that is not installed.
    """
    labels = images.label[rows] if images.labelled else None
    pictures = pictures_at(images, rows)
    return make_embedder(name).fit(pictures, labels, config.embeddings, config.seed, progress)


def served_name(images: ImageSet, config: Config) -> EmbeddingName:
    """The picture embedding of the service.

    Small pictures get the network that is trained here. Photographs get the pretrained one, with a
    head where there are classes to train it on.
    """
    if config.embeddings.served is not None:
        return config.embeddings.served
    if are_small(images):
        return "cnn_proxy_hog" if images.labelled else "cnn_simclr"
    return "efficientnet_head" if images.labelled else "efficientnet_lite0"


def compared_names(images: ImageSet, config: Config) -> tuple[EmbeddingName, ...]:
    """The picture embeddings that are measured side by side."""
    if config.embeddings.names is not None:
        return config.embeddings.names
    if not are_small(images):
        return (*FLOORS, "efficientnet_lite0", "efficientnet_head")
    networks: tuple[EmbeddingName, ...] = ("cnn_simclr", "cnn_joint", "cnn_supcon", "cnn_proxy")
    return (*FLOORS, *networks, "cnn_joint_hog", "cnn_proxy_hog")


def are_small(images: ImageSet) -> bool:
    """Whether the pictures are one array of thumbnails rather than photographs to decode."""
    return isinstance(images.images, np.ndarray)


def pictures_at(images: ImageSet, rows: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
    """The pictures at ``rows`` i64[n]: an array where the set is one, else decoded on demand."""
    whole = images.images
    return whole[rows] if isinstance(whole, np.ndarray) else Selection(whole, rows)


def save_trained(parts: Parts, folder: Path, images: ImageSet, config: Config) -> str:
    """Writes the bundle and what it was trained on; returns its version."""
    facts = {"images": images.name, "images_sha256": images.sha256, "synthetic": images.synthetic}
    return save_bundle(parts, folder, config, facts)
