"""A folder and its manifest: the version, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_platform.operations.bundle_manifest import BundleError, checked_manifest, write_manifest


def bundle(folder: Path, content: str = "weights", **config: object) -> str:
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "a.bin").write_text(content)
    return write_manifest(folder, config, format_number=3, facts={"images": "shapes"})


def test_a_bundle_that_was_not_touched_is_accepted(tmp_path: Path) -> None:
    version = bundle(tmp_path / "a", k=1)
    manifest = checked_manifest(tmp_path / "a", format_number=3)
    assert manifest["version"] == version
    assert manifest["images"] == "shapes"
    assert manifest["config"] == {"k": 1}
    assert list(manifest["files"]) == ["part/a.bin"]


def test_the_version_names_content_and_configuration(tmp_path: Path) -> None:
    first = bundle(tmp_path / "a", k=1)
    assert bundle(tmp_path / "b", k=1) == first
    assert bundle(tmp_path / "c", k=2) != first
    assert bundle(tmp_path / "d", "other weights", k=1) != first


def test_what_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    bundle(tmp_path / "a")
    file = tmp_path / "a" / "part" / "a.bin"
    file.write_text("weighty")
    with pytest.raises(BundleError, match=r"a\.bin is not what was saved"):
        checked_manifest(tmp_path / "a", format_number=3)
    file.unlink()
    with pytest.raises(BundleError, match=r"a\.bin is missing"):
        checked_manifest(tmp_path / "a", format_number=3)


def test_another_format_and_no_manifest_are_refused(tmp_path: Path) -> None:
    bundle(tmp_path / "a")
    with pytest.raises(BundleError, match="has format 3, this code reads 4"):
        checked_manifest(tmp_path / "a", format_number=4)
    with pytest.raises(BundleError, match="run make train"):
        checked_manifest(tmp_path / "nothing", format_number=3)
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()))[:-2])
    with pytest.raises(BundleError, match="is damaged"):
        checked_manifest(tmp_path / "a", format_number=3)
