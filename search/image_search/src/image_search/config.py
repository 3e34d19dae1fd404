"""Every knob of the system, with its default and the reason for it.

One frozen model per stage; unknown keys are refused. A YAML file under ``configs/`` holds only what
differs from these defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ml_platform.evaluation.configuration import Stage, read_config

DatasetName = Literal["fashion-mnist", "clothing", "shapes", "folder"]
EmbeddingName = Literal["pixels_cosine", "pixels_l2", "hog", "efficientnet_lite0"]


class ImagesConfig(Stage):
    """Which pictures, and what is accepted of them (images/)."""

    dataset: DatasetName = "fashion-mnist"
    """70,000 small pictures: large enough that an index matters, small enough for two cores."""
    folder: Path | None = None
    """A user's own pictures; with dataset ``folder`` only (``--images DIR`` sets both)."""
    side: PositiveInt = 256
    """Photographs are shrunk to this on the longer side when they are decoded: what the networks
    here read is smaller, and a full photograph takes fifty times the memory."""
    max_bytes: PositiveInt = 20 << 20
    """Of one encoded picture; photographs of telephones take 2 to 12 MiB."""
    max_pixels: PositiveInt = 40_000_000
    """Of one picture; 120 MB once it is decoded, which is what one request may cost."""
    max_files: PositiveInt = 1_000_000
    """Of a folder: more is taken for a mistake."""
    validation_queries: PositiveInt = 5_000
    """Held out of the gallery for choices, where the data set has no validation split."""
    shapes_per_class: PositiveInt = 40
    """Generated pictures of each class in the gallery; a quarter as many to validate and query."""

    @model_validator(mode="after")
    def _folder_goes_with_its_name(self) -> ImagesConfig:
        if (self.folder is not None) != (self.dataset == "folder"):
            raise ValueError(
                f"dataset {self.dataset!r} with folder {self.folder}: name a folder with dataset "
                "'folder' and with no other (--images DIR does both)"
            )
        return self


class EmbeddingsConfig(Stage):
    """How pictures become vectors (embeddings/)."""

    names: tuple[EmbeddingName, ...] = ("pixels_cosine", "pixels_l2", "hog")
    """What ``train`` fits and ``evaluate`` measures, side by side."""
    pixels_side: PositiveInt = 28
    """The side of Fashion-MNIST, whose pictures so stay as they are."""
    hog_side: PositiveInt = 28
    hog_cell: PositiveInt = 4
    """Pixels of a cell's side: seven by seven cells of a small picture. Not tuned yet."""
    hog_block: PositiveInt = 2
    """Cells of a block's side, as in the paper."""
    hog_orientations: PositiveInt = 9
    """Over 180 degrees, as in the paper."""
    pretrained_batch: PositiveInt = 4
    """Pictures that the pretrained network embeds at once. On a processor more are slower: the
    first layers' outputs of 64 pictures outgrow the caches and cost page faults (one run on a
    shared machine: 23 ms of processor a picture in batches of 4, 93 ms in batches of 64)."""

    @model_validator(mode="after")
    def _cells_fit(self) -> EmbeddingsConfig:
        if self.hog_side // self.hog_cell < self.hog_block:
            raise ValueError(
                f"hog_side {self.hog_side} holds {self.hog_side // self.hog_cell} cells of "
                f"{self.hog_cell}: fewer than a block of {self.hog_block}"
            )
        if len(set(self.names)) != len(self.names) or not self.names:
            raise ValueError(f"names must be one or more, each once; got {self.names}")
        return self


class EvaluationConfig(Stage):
    """Queries, classes and intervals (evaluation/)."""

    resamples: int = Field(default=1000, ge=100)
    block_bytes: int = Field(default=64 << 20, ge=1 << 10)
    """Of similarities held at once; the search as a whole takes some five times as much."""
    max_queries: PositiveInt | None = None
    """Take so many queries, drawn by the seed; None: all."""
    unseen_share: float = Field(default=0.5, gt=0, lt=1)
    """Of the classes, those that no training sees: .5 is every second one."""


class Config(Stage):
    """The whole system."""

    name: str = "default"
    quick: bool = False
    """A quick run says so in every table and never refreshes results/."""
    seed: int = 0
    images: ImagesConfig = ImagesConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(path: Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of this system; see ``read_config`` for the errors."""
    return read_config(Config, path, overrides)
