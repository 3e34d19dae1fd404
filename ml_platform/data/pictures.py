"""Public sets of photographs as encoded files, and ``load_pictures``, the one call to get them.

In: a name. Out: ``PictureSet``: N encoded pictures (the bytes of a JPEG file each) with class,
split and file name. Nothing is decoded here: who decodes decides on limits and sizes.

- ``clothing-small``: 3,781 photographs of clothes in ten classes with a split in three
  (A. Grigorev, "Clothing dataset (subset)", github.com/alexeygrigorev/clothing-dataset-small, CC0).

Two editions of the same photographs. A mirror holds one parquet file with copies of at most 256
pixels a side, proved by its checksum. The owner's archive holds the photographs in their first
size; nobody publishes a checksum of it, so what is proved is that it holds the same names in the
same classes and splits, by ``names_sha256``, which both editions share. ``PictureSet.sha256`` is of
names and bytes, so a result says which edition it stands on. Both go through ``editions``.

Legend: N pictures, K classes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_platform.data.download import CorruptFileError
from ml_platform.data.editions import obtain_either
from ml_platform.data.raw_files import RawSpec
from ml_platform.data.sources import default_cache_dir, folder_lock

SPLITS = ("train", "validation", "test")
MEMBER_BYTES = 1 << 26
"""A photograph of the archive that claims to be larger is refused before it is unpacked."""

Row = tuple[str, str, str, bytes]
"""Split, class, file name, encoded picture."""


@dataclass(frozen=True)
class PictureSet:
    """Encoded pictures, ordered by split, class and name.

    Attributes:
        encoded: N files as bytes.
        label: i16[N], position in ``label_names``.
        label_names: The K classes, sorted.
        split: u8[N], position in SPLITS.
        names: N file names.
        sha256: Of splits, classes, names and bytes.
        source: Who served the files: cache, mirror or owner.
        licence: The owner's terms in a sentence.
    """

    name: str
    encoded: Sequence[bytes]
    label: np.ndarray
    label_names: tuple[str, ...]
    split: np.ndarray
    names: tuple[str, ...]
    sha256: str
    source: str
    licence: str

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True)
class PictureSpec:
    """What the registry knows: terms, the two editions, the checksum of the names."""

    licence: str
    mirrored: RawSpec
    owned: RawSpec
    archive_folder: str
    names_sha256: str


_PARQUET = "clothing_256.parquet"
_ARCHIVE = "master.zip"
_CLOTHING = PictureSpec(
    licence="A. Grigorev and contributors: CC0 1.0, public domain dedication.",
    mirrored=RawSpec(
        folder="clothing-small",
        files={
            _PARQUET: ("sha256:6e04f84275cf59997bccd240137c3f9a58aca9014773281cc9fc5c65b1fff2ec",)
        },
    ),
    owned=RawSpec(
        folder="clothing-dataset-small",
        files={_ARCHIVE: ()},
        files_url="https://github.com/alexeygrigorev/clothing-dataset-small/archive/refs/heads",
    ),
    archive_folder="clothing-dataset-small-master",
    names_sha256="bf2c157944551dad9061448d2711ff6033420d8bfd9a321a4dc45e5f1c7372cb",
)

PICTURES: dict[str, PictureSpec] = {"clothing-small": _CLOTHING}


def load_pictures(name: str = "clothing-small", *, cache_dir: Path | None = None) -> PictureSet:
    """Loads a set of photographs from the first source that has it.

    Args:
        name: A key of PICTURES.
        cache_dir: Where files are kept; by default ``sources.default_cache_dir()``.

    Raises:
        ValueError: For a name that is not in the registry.
        DatasetUnavailableError: No source has it; the message lists them all.
        CorruptFileError: A file cannot be read, or does not hold the registry's pictures.
    """
    if name not in PICTURES:
        raise ValueError(f"unknown picture set {name!r}; there are {', '.join(PICTURES)}")
    spec = PICTURES[name]
    folder = (cache_dir or default_cache_dir()) / name
    with folder_lock(folder):
        raw = obtain_either(name, spec.mirrored, spec.owned, folder)
        (path,) = raw.paths.values()
        rows = sorted(_rows_of(path, spec), key=lambda row: (SPLITS.index(row[0]), *row[1:3]))
    _check_names(rows, spec, path)
    return _as_set(name, rows, raw.source, spec.licence)


def names_sha256(rows: Iterable[Row]) -> str:
    """Checksum of which pictures there are: splits, classes and names, whatever the bytes."""
    lines = sorted(f"{split}/{label}/{name}\n" for split, label, name, _ in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _rows_of(path: Path, spec: PictureSpec) -> list[Row]:
    rows = _read_parquet(path) if path.suffix == ".parquet" else _read_archive(path, spec)
    unknown = sorted({row[0] for row in rows} - set(SPLITS))
    if unknown:
        raise CorruptFileError(f"{path} has splits {unknown}, expected {list(SPLITS)}")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    """The mirror's table: columns split, label, name, jpeg."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["split", "label", "name", "jpeg"])
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptFileError(f"{path} cannot be read as a table of pictures: {error}") from error
    columns = [table[name].to_pylist() for name in ("split", "label", "name", "jpeg")]
    return list(zip(*columns, strict=True))


def _read_archive(path: Path, spec: PictureSpec) -> list[Row]:
    """The owner's archive: ``<folder>/<split>/<class>/<name>.jpg``; other files are passed over."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                (*place, _member(archive, info, path))
                for info in archive.infolist()
                if (place := _place_of(info.filename, spec.archive_folder)) is not None
            ]
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise CorruptFileError(f"{path} cannot be read as an archive: {error}") from error


def _place_of(member: str, folder: str) -> tuple[str, str, str] | None:
    parts = member.split("/")
    if len(parts) != 4 or parts[0] != folder or not parts[3].lower().endswith(".jpg"):
        return None
    return parts[1], parts[2], parts[3]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    if info.file_size > MEMBER_BYTES:
        raise CorruptFileError(
            f"{path}: {info.filename} claims {info.file_size:,} bytes, limit {MEMBER_BYTES:,}"
        )
    return archive.read(info)


def _check_names(rows: Sequence[Row], spec: PictureSpec, path: Path) -> None:
    found = names_sha256(rows)
    if spec.names_sha256 and found != spec.names_sha256:
        raise CorruptFileError(
            f"{path}: its {len(rows):,} pictures have names with sha256 {found}, the registry "
            f"expects {spec.names_sha256}; remove the file and load again, or set "
            "MLSD_DATA_MIRROR to a folder that holds the edition with a known checksum"
        )


def _as_set(name: str, rows: Sequence[Row], source: str, licence: str) -> PictureSet:
    """The rows, already in order, as columns."""
    label_names = tuple(sorted({row[1] for row in rows}))
    digest = hashlib.sha256()
    for split, label, file, encoded in rows:
        digest.update(f"{split}/{label}/{file} {len(encoded)}\n".encode())
        digest.update(encoded)
    return PictureSet(
        name=name,
        encoded=[row[3] for row in rows],
        label=np.array([label_names.index(row[1]) for row in rows], dtype=np.int16),
        label_names=label_names,
        split=np.array([SPLITS.index(row[0]) for row in rows], dtype=np.uint8),
        names=tuple(row[2] for row in rows),
        sha256=digest.hexdigest(),
        source=source,
        licence=licence,
    )
