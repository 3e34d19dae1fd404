"""A searcher over generated shapes, small enough for every test; also as a server process."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_search.catalogue import gallery_catalogue
from image_search.config import EmbeddingsConfig, ServingConfig
from image_search.embeddings.base import unit_rows
from image_search.embeddings.registry import make_embedder
from image_search.growing import GrowingRows
from image_search.images.image_set import GALLERY, ImageSet
from image_search.images.shapes import shapes
from image_search.retrieval.index import build_index
from image_search.searcher import Searcher, Space, SpaceName
from image_search.text.tokens import Lexicon
from image_search.thumbnails import Thumbnails
from ml_platform.evaluation.progress import Silent
from ml_platform.serving.server_process import server_environment, start_server

TOKEN = "a-token-for-tests-only"
WORDS = ("circle", "cross", "ring", "square", "triangle")


class WordVectors:
    """The shapes' names and colours, counted: a text tower that can be checked by hand."""

    dim = len(WORDS)
    lexicon = Lexicon((*WORDS, "red", "blue"), ("a",))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = [[float(text.lower().count(word)) for word in WORDS] for text in texts]
        if unread := [text for text in texts if "hat" in text.split()]:
            raise ValueError(f"{unread[0]!r} names no shape; known are {', '.join(WORDS)}")
        return unit_rows(np.array(rows, np.float32))

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return unit_rows(np.ones((len(images), self.dim), np.float32))


def calm(**more: object) -> ServingConfig:
    """A service's configuration with a deadline that no machine misses."""
    return ServingConfig.model_validate({"deadline_ms": 20_000.0, **more})


def make_test_searcher(
    images: ImageSet | None = None, *, text: bool = True, embedding: str = "pixels_cosine"
) -> Searcher:
    """The gallery of the generated shapes, by pixels, with a text tower of counted words."""
    images = images or shapes(20, seed=3)[0]
    gallery = np.flatnonzero(images.split == GALLERY)
    pictures = [images.images[int(row)] for row in gallery]
    embedder = make_embedder(embedding).fit(pictures, None, EmbeddingsConfig(), 0, Silent())
    rows = np.arange(len(gallery))
    vectors: dict[SpaceName, np.ndarray] = {"image": embedder.embed(pictures)}
    if text:
        names = [images.label_names[k] for k in images.label[gallery]]
        vectors["text"] = WordVectors().embed_texts(names)
    return Searcher(
        catalogue=gallery_catalogue(images, gallery, seed=0),
        embedder=embedder,
        spaces={
            name: Space(build_index("flat", part, rows), GrowingRows(part))
            for name, part in vectors.items()
        },
        text=WordVectors() if text else None,
        candidates=50,
        thumbnails=Thumbnails.of(pictures, Silent()),
        version="test-1",
    )


def start(
    folder: Path, port: int, *, serving: ServingConfig | None = None, token: str | None = TOKEN
) -> subprocess.Popen[bytes]:
    """The searcher as a real server process, ready; its journal in ``folder``."""
    environment = {**os.environ, **server_environment()}
    environment.pop("IMAGE_SEARCH_ADMIN_TOKEN", None)
    if token:
        environment["IMAGE_SEARCH_ADMIN_TOKEN"] = token
    config = (serving or calm()).model_dump_json()
    return start_server(
        [sys.executable, __file__, str(folder), str(port), config],
        port,
        output=folder / "server.log",
        environment=environment,
    )


def main() -> None:
    from image_search.serving.server import admin_token, one_thread, serve_searcher
    from image_search.serving.settings import ServingSettings

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("config")
    options = parser.parse_args()
    one_thread()
    settings = ServingSettings(
        ServingConfig.model_validate_json(options.config),
        options.folder,
        admin_token=admin_token(),
    )
    serve_searcher(make_test_searcher(), settings, port=options.port)


if __name__ == "__main__":
    main()
