"""The photographs: two editions of one set, what is refused, and the real set."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ml_platform.data import pictures
from ml_platform.data.download import CorruptFileError, DatasetUnavailableError
from ml_platform.data.pictures import PICTURES, PictureSpec, load_pictures, names_sha256
from ml_platform.data.raw_files import RawSpec

ROWS = [
    ("test", "hat", "d.jpg", b"four"),
    ("train", "shirt", "b.jpg", b"two"),
    ("train", "hat", "c.jpg", b"three"),
    ("train", "hat", "a.jpg", b"one"),
    ("validation", "shirt", "e.jpg", b"five"),
]


def write_parquet(path: Path, rows: list[tuple[str, str, str, bytes]]) -> None:
    columns = dict(zip(("split", "label", "name", "jpeg"), zip(*rows, strict=True), strict=True))
    parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)


def archive_of(rows: list[tuple[str, str, str, bytes]], folder: str = "toy-main") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{folder}/README.md", "about")
        archive.writestr(f"{folder}/train/hat/notes.txt", "not a picture")
        for split, label, name, encoded in rows:
            archive.writestr(f"{folder}/{split}/{label}/{name}", encoded)
    return buffer.getvalue()


@pytest.fixture
def toy(tmp_path: Path, file_server: Any, monkeypatch: pytest.MonkeyPatch) -> PictureSpec:
    """A registry entry "toy": a mirror with a table, an owner with an archive."""
    mirror = tmp_path / "mirror" / "toy"
    mirror.mkdir(parents=True)
    write_parquet(mirror / "toy.parquet", ROWS)
    digest = hashlib.sha256((mirror / "toy.parquet").read_bytes()).hexdigest()
    file_server.files["main.zip"] = archive_of([(*row[:3], b"big " + row[3]) for row in ROWS])
    spec = PictureSpec(
        licence="free.",
        mirrored=RawSpec("toy", {"toy.parquet": (f"sha256:{digest}",)}),
        owned=RawSpec(
            "toy-owner", {"main.zip": ()}, files_url=f"http://127.0.0.1:{file_server.port}"
        ),
        archive_folder="toy-main",
        names_sha256=names_sha256(ROWS),
    )
    monkeypatch.setitem(PICTURES, "toy", spec)
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(tmp_path / "mirror"))
    return spec


def test_pictures_are_ordered_by_split_class_and_name(toy: PictureSpec, tmp_path: Path) -> None:
    found = load_pictures("toy", cache_dir=tmp_path / "c")
    assert found.names == ("a.jpg", "c.jpg", "b.jpg", "e.jpg", "d.jpg")
    assert found.encoded == [b"one", b"three", b"two", b"five", b"four"]
    assert found.label_names == ("hat", "shirt")
    assert found.label.tolist() == [0, 0, 1, 1, 0]
    assert found.split.tolist() == [0, 0, 0, 1, 2]
    assert (found.label.dtype, found.split.dtype) == (np.int16, np.uint8)
    assert (found.source, len(found)) == ("mirror", 5)
    again = load_pictures("toy", cache_dir=tmp_path / "c")
    assert (again.source, again.sha256) == ("cache", found.sha256)


def test_the_owners_edition_has_the_same_names_and_its_own_checksum(
    toy: PictureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = load_pictures("toy", cache_dir=tmp_path / "a")
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    owned = load_pictures("toy", cache_dir=tmp_path / "b")
    assert (owned.source, owned.names) == ("owner", mirrored.names)
    assert owned.encoded[0] == b"big one"
    assert owned.sha256 != mirrored.sha256
    assert load_pictures("toy", cache_dir=tmp_path / "b").source == "cache"


def test_an_archive_that_lacks_a_picture_is_refused(
    toy: PictureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files["main.zip"] = archive_of(ROWS[1:])
    with pytest.raises(CorruptFileError, match=r"main\.zip: its 4 pictures have names"):
        load_pictures("toy", cache_dir=tmp_path / "c")


def test_a_split_of_another_name_is_refused(
    toy: PictureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files["main.zip"] = archive_of([*ROWS, ("extra", "hat", "z.jpg", b"")])
    with pytest.raises(CorruptFileError, match=r"splits \['extra'\]"):
        load_pictures("toy", cache_dir=tmp_path / "c")


def test_a_picture_that_unpacks_to_too_much_is_refused(
    toy: PictureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    monkeypatch.setattr(pictures, "MEMBER_BYTES", 1000)
    file_server.files["main.zip"] = archive_of([*ROWS[1:], (*ROWS[0][:3], bytes(1001))])
    with pytest.raises(CorruptFileError, match=r"d\.jpg claims 1,001 bytes"):
        load_pictures("toy", cache_dir=tmp_path / "c")


def test_damaged_files_are_named(
    toy: PictureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    path = tmp_path / "mirror" / "toy" / "toy.parquet"
    path.write_bytes(b"not a table")
    anything = replace(toy, mirrored=RawSpec("toy", {"toy.parquet": (
        f"sha256:{hashlib.sha256(b'not a table').hexdigest()}",
    )}))  # fmt: skip
    monkeypatch.setitem(PICTURES, "toy", anything)
    with pytest.raises(CorruptFileError, match=r"toy\.parquet cannot be read as a table"):
        load_pictures("toy", cache_dir=tmp_path / "c")
    monkeypatch.setitem(PICTURES, "toy", toy)
    file_server.files["main.zip"] = b"not an archive"
    with pytest.raises(CorruptFileError, match=r"main\.zip cannot be read as an archive"):
        load_pictures("toy", cache_dir=tmp_path / "d")


def test_offline_every_source_is_listed(
    toy: PictureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_server: Any
) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR")
    file_server.files.clear()
    with pytest.raises(DatasetUnavailableError) as failure:
        load_pictures("toy", cache_dir=tmp_path / "c")
    for part in ("MLSD_DATA_MIRROR is not set", "main.zip", "404"):
        assert part in str(failure.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown picture set 'x'; there are clothing-small"):
        load_pictures("x")


def test_every_entry_of_the_registry_is_complete() -> None:
    for spec in PICTURES.values():
        assert spec.licence.endswith(".")
        assert all(spec.mirrored.files.values())
        assert spec.owned.files_url.startswith("https://")
        assert len(spec.names_sha256) == 64


@pytest.mark.real_data
def test_clothing_small() -> None:
    try:
        found = load_pictures("clothing-small")
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    assert np.bincount(found.split).tolist() == [3_068, 341, 372]
    assert len(found.label_names) == 10
    assert all(np.unique(found.label[found.split == part]).size == 10 for part in range(3))
    assert all(encoded[:3] == b"\xff\xd8\xff" for encoded in found.encoded)
    assert "CC0" in found.licence
