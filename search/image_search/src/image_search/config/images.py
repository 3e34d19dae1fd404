"""Which pictures, and what is accepted of them (images/)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from ml_platform.evaluation.configuration import Stage

DatasetName = Literal["fashion-mnist", "clothing", "shapes", "folder"]


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
