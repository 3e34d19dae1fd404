"""A data set in two editions: a mirror's, whose checksums are known, and its owner's.

In: a ``RawSpec`` for each. Out: ``RawFiles`` of the first that can be had. A mirror may keep other
files than the owner publishes (smaller copies, another format). What the two have in common, and
how that is proved, is the data set's own matter.
"""

from __future__ import annotations

from pathlib import Path

from ml_platform.data.download import DatasetUnavailableError
from ml_platform.data.raw_files import RawFiles, RawSpec
from ml_platform.data.sources import obtain


def obtain_either(name: str, mirrored: RawSpec, owned: RawSpec, folder: Path) -> RawFiles:
    """The mirror's edition (or its cached copy), else the owner's.

    Args:
        name: As in the registry, for messages.
        mirrored: The edition that is looked for first.
        owned: The other; it is cached in ``owner/``, so that neither takes the other's place.
        folder: The data set's cache folder; hold its ``folder_lock``.

    Raises:
        DatasetUnavailableError: Lists every source of both and its answer.
    """
    try:
        return obtain(name, mirrored, folder)
    except DatasetUnavailableError as no_mirror:
        below = folder / "owner"
        below.mkdir(exist_ok=True)
        try:
            return obtain(f"{name}, the owner's edition,", owned, below)
        except DatasetUnavailableError as no_owner:
            raise DatasetUnavailableError(f"{no_mirror}\n{no_owner}") from no_owner
