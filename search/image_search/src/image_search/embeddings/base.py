"""What an embedding is here: fitted once, then pictures to rows of numbers.

In: pictures, u8[n, H, W, C] or any sequence of u8[H, W, C]. Out: f32[n, D]. Rows have length 1
where ``metric`` is "cosine", so that an inner product is the cosine; a picture without any content
(all of one grey, say) may give a row of zeros. Only the floor ``pixels_l2`` compares by distance.

Legend: n pictures, H, W, C height, width, channels, D dimension.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np

from image_search.config import EmbeddingsConfig
from image_search.images.preparing import Images
from ml_platform.evaluation.progress import Progress

Metric = Literal["cosine", "l2"]
SETTINGS_FILE = "embedder.json"


class NotFittedError(RuntimeError):
    """An embedder is asked for vectors before ``fit`` or ``load``."""


class EmbedderUnavailableError(RuntimeError):
    """An embedding needs a package or a file that is not here; the message says which."""


class Embedder(Protocol):
    """Pictures to vectors.

    Attributes:
        metric: How its rows are compared.
    """

    metric: Metric

    @property
    def name(self) -> str:
        """Key of the registry (``registry.EMBEDDERS``)."""

    @property
    def dim(self) -> int:
        """D; known once it is fitted."""

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes a vector; "" where vectors are too cheap to keep."""

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Learns what there is to learn; ``labels`` i16[n] or None where nobody knows them."""

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D]."""

    def save(self, folder: Path) -> None:
        """Writes everything that ``load`` needs into an existing folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what ``save`` wrote."""


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """f32[n, D] with rows of length 1; a row of zeros stays one."""
    rows = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def write_settings(folder: Path, name: str, **settings: Any) -> None:
    """Writes ``embedder.json``: the embedder's name and what it was fitted to."""
    (folder / SETTINGS_FILE).write_text(json.dumps({"name": name, **settings}, indent=1) + "\n")


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """The settings of an embedder of this name.

    Raises:
        ValueError: If the folder holds another embedder.
        FileNotFoundError: If it holds none.
    """
    settings: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text())
    if (found := settings.pop("name", None)) != name:
        raise ValueError(f"{folder} holds the embedder {found!r}, not {name!r}")
    return settings
