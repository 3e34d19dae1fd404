"""Embeddings whose weights a user has as a file: CLIP's picture tower, and DINOv2.

In: pictures, and the path of a published weight file in the configuration. Out: f32[n, D] of
length 1. Nothing is learnt here and nothing is fetched. What there is to know of each model is a
``Recipe``; ``FileEmbedder`` is an embedder by one.

A file is read by torch's loader that builds tensors and nothing else, since a pickle may run
anything. Every parameter of the network must be in it with its shape, and nothing may be left over
that the recipe does not know: a network with some random layers would answer too, only badly.

Torch is imported when weights are read, not with this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from image_search.config import EmbeddingsConfig, WeightFilesConfig
from image_search.embeddings.base import (
    EmbedderUnavailableError,
    Metric,
    NotFittedError,
    read_settings,
    unit_rows,
    write_settings,
)
from image_search.images.preparing import Images, batches, squares
from ml_platform.data.download import file_digest
from ml_platform.evaluation.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_NAMED = 8
"""Keys that an error names; a file of another model lacks all of some hundred."""


@dataclass(frozen=True)
class View:
    """How a model reads pictures.

    Attributes:
        resize_to: Short side before the middle is cut out.
        side: Of the square.
        mean: Of each channel, of values in 0..1.
        spread: That they are divided by.
    """

    resize_to: int
    side: int
    mean: tuple[float, float, float]
    spread: tuple[float, float, float]


@dataclass(frozen=True)
class Recipe:
    """What there is to know of a family of published weights.

    Attributes:
        name: Key of the registry.
        chosen: From the configuration: the file, or None, and the model's name.
        build: The model's name to a network with attribute ``dim``, its weights random.
        prefix: Of the keys that belong to the network; others are of another tower.
        unused: Keys, without the prefix, that only training needed.
        view: How pictures are prepared.
        source: Where users get files, for errors.
    """

    name: str
    chosen: Callable[[WeightFilesConfig], tuple[Path | None, str]]
    build: Callable[[str], nn.Module]
    prefix: str
    unused: frozenset[str]
    view: View
    source: str


class FileEmbedder:
    """See the module.

    Attributes:
        recipe: What is read, set by each kind below.
    """

    metric: Metric = "cosine"
    recipe: Recipe

    def __init__(self) -> None:
        self.path, self.model, self.batch_size = Path(), "", 1
        self._network: Any = None
        self._sha256 = ""

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.recipe.name

    @property
    def dim(self) -> int:
        """Of the network's output."""
        return int(self._loaded().dim)

    @property
    def fingerprint(self) -> str:
        """By the weights, the model and the preparation."""
        self._loaded()
        return f"{self.name} {self.model} {self._sha256} {self.recipe.view} bicubic"

    def fit(
        self,
        images: Images,
        labels: np.ndarray | None,
        config: EmbeddingsConfig,
        seed: int,
        progress: Progress,
    ) -> Self:
        """Reads the configured file; pictures, labels and seed change nothing.

        Raises:
            EmbedderUnavailableError: If no file is configured, or it is not there.
            ValueError: If it does not hold this model's weights.
        """
        path, model = self.recipe.chosen(config.weight_files)
        if path is None:
            raise EmbedderUnavailableError(
                f"{self.name} needs a weight file and none is configured: set "
                f"embeddings.weight_files.{self.name} to the path of one ({self.recipe.source}), "
                "or leave the name out of embeddings.names"
            )
        return self._open(path, model, config.pretrained_batch)

    def embed(self, images: Images) -> np.ndarray:
        """f32[n, D].

        Raises:
            NotFittedError: Before ``fit`` or ``load``.
        """
        import torch

        network = self._loaded()
        out = np.empty((len(images), self.dim), dtype=np.float32)
        begin = 0
        with torch.inference_mode():
            for batch in batches(images, self.batch_size):
                out[begin : begin + len(batch)] = network(prepared(batch, self.recipe.view)).numpy()
                begin += len(batch)
        return unit_rows(out)

    def save(self, folder: Path) -> None:
        """The settings; the weights stay where they are, named by their checksum."""
        self._loaded()
        write_settings(
            folder,
            self.name,
            path=str(self.path),
            model=self.model,
            batch_size=self.batch_size,
            sha256=self._sha256,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As saved.

        Raises:
            EmbedderUnavailableError: If the file is gone, or is another than at ``save``.
        """
        settings = read_settings(folder, cls.recipe.name)
        made = cls()
        made._open(Path(settings["path"]), settings["model"], settings["batch_size"])
        if made._sha256 != settings["sha256"]:
            raise EmbedderUnavailableError(
                f"{folder} was made with weights of sha256 {settings['sha256']}, {made.path} has "
                f"{made._sha256}: put the first file back, or train again"
            )
        return made

    def _open(self, path: Path, model: str, batch_size: int) -> Self:
        if not path.is_file():
            raise EmbedderUnavailableError(
                f"{self.name}: there is no weight file {path}; see {self.recipe.source}"
            )
        network = self.recipe.build(model)
        fill(network, read_tensors(path), path, model, self.recipe)
        self._network = network.eval()
        self.path, self.model, self.batch_size = path, model, batch_size
        self._sha256 = file_digest(path)
        return self

    def _loaded(self) -> Any:
        if self._network is None:
            raise NotFittedError(f"{self.name} has read no weights yet: call fit or load first")
        return self._network


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Key -> tensor of a weight file, or of a training checkpoint's ``state_dict``.

    Raises:
        ValueError: If the file is not one that torch saved, or holds more than tensors.
    """
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a weight file that torch reads without running its content "
            f"({type(error).__name__}). TorchScript archives and .safetensors are not read: take "
            "the published .pt, .pth or .bin, or save the state_dict of what you have"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(torch.is_tensor(v) for v in found.values()):
        raise ValueError(f"{path} holds {type(found).__name__}, expected keys with tensors")
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def fill(
    network: nn.Module, state: Mapping[str, torch.Tensor], path: Path, model: str, recipe: Recipe
) -> None:
    """Copies a file's tensors into the network.

    Raises:
        ValueError: If a key is missing, of another shape or unknown; names them.
    """
    wanted = network.state_dict()
    start = len(recipe.prefix)
    given = {key[start:]: v for key, v in state.items() if key.startswith(recipe.prefix)}
    found = {key: value for key, value in given.items() if key not in recipe.unused}
    wrong = {
        "missing": sorted(set(wanted) - set(found)),
        "unknown": sorted(set(found) - set(wanted)),
        "of another shape": [
            f"{key} {list(found[key].shape)} instead of {list(value.shape)}"
            for key, value in wanted.items()
            if key in found and found[key].shape != value.shape
        ],
    }
    faults = [_named(what, keys, recipe.prefix) for what, keys in wrong.items() if keys]
    if faults:
        raise ValueError(f"{path} does not hold the weights of {recipe.name} {model}: "
                         + "; ".join(faults))  # fmt: skip
    network.load_state_dict(found)


def _named(what: str, keys: list[str], prefix: str) -> str:
    shown = ", ".join(prefix + key for key in keys[:MOST_NAMED])
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return f"{what}: {shown}{more}"


def prepared(images: Images, view: View) -> torch.Tensor:
    """f32[n, 3, S, S] as the view says."""
    import torch

    cut = squares(images, view.side, 3, resize_to=view.resize_to)
    mean, spread = (np.array(part, dtype=np.float32) for part in (view.mean, view.spread))
    values = (cut.astype(np.float32) / np.float32(255) - mean) / spread
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def _build_open_clip(model: str) -> nn.Module:
    from image_search.embeddings.open_clip import SIZES, OpenClipTower

    return OpenClipTower(SIZES[model])


def _build_dinov2(model: str) -> nn.Module:
    from image_search.embeddings.dinov2 import SIZES, DinoTower

    return DinoTower(SIZES[model])


OPEN_CLIP = Recipe(
    name="open_clip",
    chosen=lambda config: (config.open_clip, config.open_clip_model),
    build=_build_open_clip,
    prefix="visual.",
    unused=frozenset(),
    view=View(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    source="github.com/mlfoundations/open_clip, docs/PRETRAINED.md",
)
DINOV2 = Recipe(
    name="dinov2",
    chosen=lambda config: (config.dinov2, config.dinov2_model),
    build=_build_dinov2,
    prefix="",
    unused=frozenset({"mask_token"}),
    view=View(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    source="github.com/facebookresearch/dinov2, section Pretrained models",
)


class OpenClip(FileEmbedder):
    """CLIP's picture tower."""

    recipe = OPEN_CLIP


class DinoV2(FileEmbedder):
    """DINOv2."""

    recipe = DINOV2
