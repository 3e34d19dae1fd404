"""A bundle changed by somebody who also makes its checksums right again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from video_recommendation.bundle import content_version
from video_recommendation.bundle_checks import make_lineage


def change_manifest(folder: Path, *, version: bool = True, **changes: Any) -> None:
    """What somebody does who edits a manifest; with ``version`` the version is made to fit."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    if version:
        content.pop("version")
        content = {"version": content_version(content), **content}
    path.write_text(json.dumps(content))


def rewrite_checksums(folder: Path, *, lineage: bool = False) -> None:
    """Makes every checksum and the version right again, as a script would; also the lineage."""
    manifest = json.loads((folder / "manifest.json").read_text())
    sha256 = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]
    }
    changes: dict[str, Any] = {"files": sha256}
    if lineage:
        vectors = np.load(folder / "arrays.npz")["item_vectors"]
        changes["lineage"] = make_lineage(sha256, vectors)
    change_manifest(folder, **changes)
