"""Two editions of a set: which is taken, where it is kept, what is said when neither is there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data.download import DatasetUnavailableError
from ml_platform.data.editions import obtain_either
from ml_platform.data.raw_files import RawFiles, RawSpec
from ml_platform.data.sources import folder_lock

SMALL, LARGE = b"small copies", b"as the owner has it"
MIRRORED = RawSpec("toy", {"small.bin": (f"sha256:{hashlib.sha256(SMALL).hexdigest()}",)})


def owned(url: str) -> RawSpec:
    return RawSpec("toy-owned", {"large.bin": ()}, files_url=url)


def get(address: str, folder: Path) -> RawFiles:
    with folder_lock(folder):
        return obtain_either("toy", MIRRORED, owned(address), folder)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mirror" / "toy" / "small.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(SMALL)
    monkeypatch.setenv("MLSD_DATA_MIRROR", str(tmp_path / "mirror"))
    return path


def test_the_mirror_comes_first_and_then_its_cached_copy(
    mirror: Path, tmp_path: Path, file_server: Any
) -> None:
    file_server.files["large.bin"] = LARGE
    address = file_server.url("large.bin").rsplit("/", 1)[0]
    first = get(address, tmp_path / "cache")
    mirror.unlink()
    second = get(address, tmp_path / "cache")
    assert (first.source, second.source) == ("mirror", "cache")
    assert second.paths["small.bin"].read_bytes() == SMALL
    assert file_server.ranges == []  # the owner was never asked


def test_the_owner_is_asked_once_and_kept_beside_the_mirrors_edition(
    mirror: Path, tmp_path: Path, file_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_server.files["large.bin"] = LARGE
    address = file_server.url("large.bin").rsplit("/", 1)[0]
    with monkeypatch.context() as alone:
        alone.delenv("MLSD_DATA_MIRROR")
        found = [get(address, tmp_path / "cache") for _ in range(2)]
    assert [raw.source for raw in found] == ["owner", "cache"]
    assert found[1].paths["large.bin"].read_bytes() == LARGE
    assert len(file_server.ranges) == 1
    assert get(address, tmp_path / "cache").source == "mirror"


def test_without_either_both_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLSD_DATA_MIRROR", raising=False)
    with pytest.raises(DatasetUnavailableError) as failure:
        get("http://127.0.0.1:9", tmp_path / "cache")
    message = str(failure.value)
    assert "toy is not available here" in message
    assert "toy, the owner's edition, is not available here" in message
    assert "toy/ with small.bin" in message
    assert "toy-owned/ with large.bin" in message
