"""A trained network and oriented gradients in one vector: what its classes need, and the rest.

In: pictures. Out: f32[n, D + P] of length 1: the network's vector (D = 128), then the gradients
times a weight a, each part of length 1 before:

    inner product of two rows = (cosine of the network + a^2 cosine of the gradients) / (1 + a^2)

    cnn_proxy_hog   beside cnn_proxy, the gradients' first P = 128 principal components
    cnn_joint_hog   beside cnn_joint, all gradients (P = 1,296 at 28 pixels)

A network learns to forget what its classes do not need, and a new class may need just that; edges
and their places forget nothing of the kind. Among the classes of training they help as well: the
network puts pictures of one class close together, and the gradients order them. Components are
short, but they are those of the pictures of the fit: on classes that it has not seen they lose part
of what all gradients give. ``embedding-choices`` measures both. The network comes first, so the
leading 16 to 128 numbers are still its short vectors.

Mean and axes are those of at most 10,000 pictures of the fit, spread evenly.

Legend: n pictures, D of the network, P of the gradients, F of all gradients.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from image_search.config import EmbeddingsConfig
from image_search.embeddings.base import (
    SETTINGS_FILE,
    Metric,
    NotFittedError,
    read_settings,
    unit_rows,
    write_settings,
)
from image_search.embeddings.cnn import Cnn
from image_search.embeddings.hog import Hog
from image_search.images.image_set import Selection
from image_search.images.preparing import Images
from ml_platform.evaluation.progress import Progress

if TYPE_CHECKING:
    from image_search.embeddings.cnn_training import Method

NETWORK, GRADIENTS, AXES = "network", "gradients", "axes.npz"
MOST = 10_000
"""Pictures that the axes are found on."""


class CnnWithHog:
    """See the module."""

    metric: Metric = "cosine"

    def __init__(self, method: Method) -> None:
        self._reduced = method == "proxy"
        self._network, self._gradients = Cnn(method), Hog()
        self._mean, self._axes = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
        self._weight = 0.0

    @property
    def name(self) -> str:
        """By the network's loss."""
        return f"{self._network.name}_hog"

    @property
    def dim(self) -> int:
        """D + P."""
        return self._network.dim + (self._axes.shape[1] if self._reduced else self._gradients.dim)

    @property
    def fingerprint(self) -> str:
        """By the network's weights, the cells and the axes."""
        hog = self._gradients
        digest = hashlib.sha256(self._mean.tobytes() + self._axes.tobytes()).hexdigest()[:24]
        cells = f"{hog.side} {hog.cell} {hog.block} {hog.orientations} {hog.channels}"
        return f"{self.name} {self._network.fingerprint} hog {cells} {digest} {self._weight}"

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Trains the network, then finds the axes where gradients are reduced.

        Raises:
            ValueError: If the pictures have no classes.
        """
        return self.beside(
            self._network.fit(images, labels, config, seed, progress), images, config, progress
        )

    def beside(
        self, network: Cnn, images: Images, config: EmbeddingsConfig, progress: Progress
    ) -> Self:
        """Puts gradients beside a network that is trained already; ``images`` are those of its fit.

        Raises:
            ValueError: If the network was trained by another loss.
        """
        if network.method != self._network.method:
            raise ValueError(f"{self.name} beside a network {network.name}")
        self._network = network
        self._gradients.fit(images, None, config, 0, progress)
        if self._reduced:
            rows = np.linspace(0, len(images) - 1, min(MOST, len(images))).astype(np.int64)
            some = images[rows] if isinstance(images, np.ndarray) else Selection(images, rows)
            learnt = self._gradients.embed(some)
            self._mean, self._axes = principal_axes(learnt, config.cnn.hog_dim)
        self._weight = config.cnn.hog_weight
        return self

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D + P]."""
        if not self._weight:
            raise NotFittedError(f"{self.name} is not trained")
        gradients = self._gradients.embed(images)
        if self._reduced:
            gradients = (gradients - self._mean) @ self._axes
        return side_by_side(self._network.embed(images), gradients, self._weight)

    def save(self, folder: Path) -> None:
        """Each part in a folder of its own, and the axes."""
        for name, part in ((NETWORK, self._network), (GRADIENTS, self._gradients)):
            (folder / name).mkdir()
            part.save(folder / name)
        np.savez(folder / AXES, mean=self._mean, axes=self._axes)
        write_settings(folder, self.name, weight=self._weight)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved, beside whichever network.

        Raises:
            ValueError: If the folder holds another embedder, or other weights.
        """
        name = json.loads((folder / SETTINGS_FILE).read_text()).get("name")
        if not (folder / NETWORK).is_dir():
            raise ValueError(f"{folder} holds the embedder {name!r}, which has no network beside")
        network = Cnn.load(folder / NETWORK)
        made = cls(network.method)
        made._weight = float(read_settings(folder, made.name)["weight"])
        made._network, made._gradients = network, Hog.load(folder / GRADIENTS)
        with np.load(folder / AXES, allow_pickle=False) as kept:
            made._mean, made._axes = kept["mean"], kept["axes"]
        return made


def principal_axes(vectors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean f32[F] and the ``most`` directions f32[F, P] of largest variance around it."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, ::-1][:, :most]
    return mean.astype(np.float32), np.ascontiguousarray(axes, dtype=np.float32)


def side_by_side(first: np.ndarray, second: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """f32[n, D + P] of length 1; inner products are (cos + weight^2 cos) / (1 + weight^2)."""
    return unit_rows(np.concatenate([unit_rows(first), weight * unit_rows(second)], axis=1))
