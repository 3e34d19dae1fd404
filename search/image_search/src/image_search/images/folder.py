"""A folder of somebody's own pictures: what can be read is indexed, what cannot is listed.

In: a folder. Out: an ``ImageSet`` whose pictures are decoded when they are asked for. Files count
by their ending (jpg, jpeg, png, webp, in any case); what is inside is decided by the content
(``decoding``). Every file is decoded once here, so that a broken one is named now and not in the
middle of a run; broken ones are skipped, counted and listed with their reason.

The order is that of the paths, part by part, whatever the file system says. Hidden files and
folders are left out, links to folders are not followed, and what is no plain file (a pipe, a
device) is not opened. Where every picture lies in a folder of its own below, those folders' names
are the classes; otherwise the pictures have none, and can be searched but not judged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image_search.images.decoding import ImageError, Limits, decode
from image_search.images.image_set import GALLERY, UNLABELLED, ImageSet
from ml_platform.evaluation.progress import Progress, Silent

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class EmptyFolderError(ValueError):
    """A folder has no picture that can be read."""


class TooManyFilesError(ValueError):
    """A folder holds more pictures than the configuration allows."""


class FilePictures(Sequence[np.ndarray]):
    """Pictures in files, u8[H, W, 3], decoded at each access and never kept."""

    def __init__(self, paths: Sequence[Path], limits: Limits, side: int | None) -> None:
        self.paths, self.limits, self.side = list(paths), limits, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int | slice) -> Any:
        """The picture at ``place``.

        Raises:
            ImageError: If the file has changed since it was listed and is none any more.
            OSError: If it is gone.
        """
        if isinstance(place, slice):
            return FilePictures(self.paths[place], self.limits, self.side)
        path = self.paths[place]
        return decode(read_limited(path, self.limits.max_bytes), self.limits, side=self.side)


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The file's bytes, at most one more than the limit, so that a giant is never read whole."""
    with path.open("rb") as stream:
        return stream.read(max_bytes + 1)


def picture_files(folder: Path, *, most: int) -> list[Path]:
    """All candidates below ``folder``, ordered by their path's parts.

    Raises:
        NotADirectoryError: If there is no such folder.
        TooManyFilesError: If there are more than ``most``.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder {folder} to read pictures from")
    found: list[Path] = []
    for path in _walk(folder):
        found.append(path)
        if len(found) > most:
            raise TooManyFilesError(
                f"{folder} holds more than {most:,} pictures; name a smaller folder or raise "
                "images.max_files"
            )
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(here) / name
            if not name.startswith(".") and path.suffix.lower() in ENDINGS and path.is_file():
                yield path


def read_folder(
    folder: Path,
    limits: Limits | None = None,
    *,
    side: int | None = 256,
    most: int = 1_000_000,
    progress: Progress | None = None,
) -> ImageSet:
    """Lists, checks and opens a folder of pictures.

    Args:
        folder: Where they are, at any depth.
        limits: What is accepted of a file.
        side: As in ``decode``.
        most: More files than this are refused.
        progress: Told of every file.

    Raises:
        NotADirectoryError: If there is no such folder.
        EmptyFolderError: If no picture in it can be read; says what was wrong with those found.
        TooManyFilesError: If there are more files than ``most``.
    """
    limits = limits or Limits()
    candidates = picture_files(folder, most=most)
    digest, good, broken = hashlib.sha256(), [], {}
    with (progress or Silent()).stage("pictures of the folder", len(candidates)) as advance:
        for path in candidates:
            name = path.relative_to(folder).as_posix()
            try:
                data = read_limited(path, limits.max_bytes)
                decode(data, limits, side=side)
            except (ImageError, OSError) as error:
                broken[name] = str(error)
            else:
                good.append(path)
                digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
                digest.update(hashlib.sha256(data).digest())
            advance(1)
    if not good:
        raise EmptyFolderError(_nothing_found(folder, broken))
    label, label_names = _classes(good, folder)
    return ImageSet(
        name=f"folder {folder.resolve().name}",
        images=FilePictures(good, limits, side),
        label=label,
        label_names=label_names,
        split=np.full(len(good), GALLERY, dtype=np.uint8),
        item_id=np.arange(len(good), dtype=np.int64),
        sha256=digest.hexdigest(),
        terms="The user's own pictures.",
        synthetic=False,
        source=str(folder),
        broken=broken,
    )


def _nothing_found(folder: Path, broken: dict[str, str]) -> str:
    endings = ", ".join(sorted(ending[1:] for ending in ENDINGS))
    if not broken:
        return f"{folder} holds no file that ends in {endings}"
    name, reason = next(iter(broken.items()))
    return f"none of the {len(broken)} files in {folder} is a picture; {name}: {reason}"


def _classes(paths: Sequence[Path], folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes by the first folder below, where every picture lies in one and there are two."""
    parts = [path.relative_to(folder).parts for path in paths]
    names = sorted({part[0] for part in parts if len(part) > 1})
    if len(names) < 2 or any(len(part) == 1 for part in parts):
        return np.full(len(paths), UNLABELLED, dtype=np.int16), ()
    return np.array([names.index(part[0]) for part in parts], dtype=np.int16), tuple(names)
