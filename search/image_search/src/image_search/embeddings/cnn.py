"""Embeddings of a small network trained here, by one of four losses.

In: pictures. Out: f32[n, D] of length 1, D = 128, whose leading 16, 32 or 64 numbers, brought to
length 1 again, are embeddings too.

    cnn_supcon   supervised contrastive     cnn_simclr   two views of a picture, no classes
    cnn_proxy    cosine softmax             cnn_joint    supcon and views together

What each loss is stands in ``contrastive``, how it is trained in ``cnn_training``. With
``flip_average`` a picture's vector is the mean of its own and its mirror image's, brought to
length 1: twice the work for a vector that does not depend on which way a shoe points.

The network is folded once for inference (``cnn_network.folded``). It is saved as tensors only and
read by torch's loader that builds nothing else; the fingerprint is the digest of the weights.

Legend: n pictures, S side, C channels, D dimension.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from image_search.config import CnnConfig, EmbeddingsConfig
from image_search.embeddings.base import (
    SETTINGS_FILE,
    Metric,
    NotFittedError,
    read_settings,
    unit_rows,
    write_settings,
)
from image_search.images.preparing import Images, batches, channels_of, squares
from ml_platform.evaluation.progress import Progress

if TYPE_CHECKING:
    from image_search.embeddings.cnn_network import Network
    from image_search.embeddings.cnn_training import Method

WEIGHTS_FILE = "network.pt"
METHODS: dict[str, Method] = {
    "cnn_supcon": "supcon",
    "cnn_proxy": "proxy",
    "cnn_simclr": "simclr",
    "cnn_joint": "joint",
}
"""Key of the registry -> loss."""
BATCH = 256
"""Pictures embedded at once: the first layer's outputs then fit the caches."""


class Cnn:
    """See the module.

    Attributes:
        training: What the last ``fit`` took: seconds, steps, threads, precision, loss; empty after
            ``load``.
    """

    metric: Metric = "cosine"

    def __init__(self, method: Method) -> None:
        self.method: Method = method
        self.training: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self._network: Network | None = None
        self._quick: Network | None = None
        self._digest = ""

    @property
    def name(self) -> str:
        """By the method."""
        return f"cnn_{self.method}"

    @property
    def dim(self) -> int:
        """D."""
        return int(self._fitted("dim"))

    @property
    def dims(self) -> tuple[int, ...]:
        """The lengths at which a vector may be cut."""
        return tuple(self._fitted("dims"))

    @property
    def fingerprint(self) -> str:
        """By the weights, the side and the mirror."""
        kept = " ".join(f"{key}={self._fitted(key)}" for key in ("side", "channels", "flip"))
        return f"{self.name} {self._digest} {kept}"

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Trains on the pictures; nothing changes here if it is interrupted.

        Raises:
            ValueError: If the method learns from classes and there are none.
        """
        from image_search.embeddings.cnn_training import train_network

        cnn, channels = config.cnn, channels_of(images)
        made = train_network(
            squares(images, cnn.side, channels), labels, self.method, cnn, seed, progress
        )
        self._settings = _settings(cnn, channels)
        self.training = {
            key: getattr(made, key) for key in ("seconds", "steps", "threads", "precision", "loss")
        }
        self._take(made.network)
        return self

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D]."""
        import torch

        from image_search.embeddings.cnn_network import as_input

        out = np.empty((len(images), self.dim), dtype=np.float32)
        begin = 0
        with torch.inference_mode():
            for batch in batches(images, BATCH):
                seen = as_input(squares(batch, self._settings["side"], self._settings["channels"]))
                out[begin : begin + len(batch)] = self._vectors(seen).numpy()
                begin += len(batch)
        return unit_rows(out)

    def without_mirror(self) -> Cnn:
        """The same network, whose vectors are those of the pictures alone."""
        made = Cnn(self.method)
        made._settings = self._settings | {"flip": False}
        made._network, made._quick, made._digest = self._network, self._quick, self._digest
        return made

    def save(self, folder: Path) -> None:
        """Settings and tensors."""
        import torch

        self._fitted("dim")
        if self._network is not None:
            torch.save(self._network.state_dict(), folder / WEIGHTS_FILE)
        write_settings(folder, self.name, digest=self._digest, **self._settings)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved, whichever of the four losses it was trained by.

        Raises:
            ValueError: If the weights are not those that were saved.
        """
        import torch

        from image_search.embeddings.cnn_network import Network

        method = method_in(folder)
        made = cls(method)
        settings = read_settings(folder, made.name)
        digest = settings.pop("digest")
        made._settings = settings
        network = Network(settings["channels"], settings["width"], settings["dim"])
        network.load_state_dict(
            torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True)
        )
        made._take(network.eval())
        if made._digest != digest:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} holds weights of digest {made._digest}, saved were "
                f"{digest}: train again"
            )
        return made

    def _vectors(self, seen: Any) -> Any:
        """f32[b, D] of f32[b, C, S, S], not of length 1 unless mirrored."""
        import torch
        from torch.nn.functional import normalize

        quick = self._quick
        if quick is None:
            raise NotFittedError(f"{self.name} is not trained")
        if not self._settings["flip"]:
            return quick(seen)
        both = normalize(quick(torch.cat([seen, seen.flip(3)])))
        return both[: len(seen)] + both[len(seen) :]

    def _take(self, network: Network) -> None:
        from image_search.embeddings.cnn_network import folded

        self._network, self._quick = network, folded(network)
        digest = hashlib.sha256()
        for name, value in network.state_dict().items():
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        self._digest = digest.hexdigest()[:24]

    def _fitted(self, key: str) -> Any:
        if not self._settings:
            raise NotFittedError(f"{self.name} is not trained")
        return self._settings[key]


def method_in(folder: Path) -> Method:
    """The loss of the network that was saved here.

    Raises:
        ValueError: If the folder holds another embedder.
    """
    name = json.loads((folder / SETTINGS_FILE).read_text()).get("name")
    if name not in METHODS:
        raise ValueError(f"{folder} holds the embedder {name!r}, not one of {', '.join(METHODS)}")
    return METHODS[name]


def _settings(cnn: CnnConfig, channels: int) -> dict[str, Any]:
    return {
        "side": cnn.side,
        "channels": channels,
        "width": cnn.width,
        "dim": cnn.dims[-1],
        "dims": list(cnn.dims),
        "flip": cnn.flip_average,
    }
