"""A trained system as a folder that is saved, checked and loaded as a whole.

In: a folder of files that a system has written. Out: ``manifest.json`` beside them, with the
format, the configuration and the SHA-256 of every other file; the version is a hash of those, so
two equal bundles have one name. A missing, damaged or foreign file is refused by name before it is
used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class BundleError(RuntimeError):
    """A bundle is missing, damaged, or of another format; the message says which file and why."""


def write_manifest(
    folder: Path, config: Mapping[str, Any], *, format_number: int, facts: Mapping[str, Any]
) -> str:
    """Describes every file below ``folder``; returns the version.

    Args:
        folder: Complete but for its manifest.
        config: The configuration, as JSON.
        format_number: Of what a bundle of this system holds; raised with every change of it.
        facts: What else the manifest says; no part of the version.
    """
    files = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    content = json.dumps([format_number, config, sorted(files.items())], sort_keys=True)
    version = hashlib.sha256(content.encode()).hexdigest()[:12]
    manifest = {"format": format_number, "version": version, **facts}
    manifest |= {"config": config, "files": files}
    draft = folder / f".{MANIFEST}"
    draft.write_text(json.dumps(manifest, indent=1))
    os.replace(draft, folder / MANIFEST)
    return version


def checked_manifest(folder: Path, *, format_number: int) -> dict[str, Any]:
    """The manifest, once every file is what was saved.

    Raises:
        BundleError: With the first thing that is wrong.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise BundleError(f"no bundle in {folder}; run make train or make e2e first") from None
    except json.JSONDecodeError as error:
        raise BundleError(f"{path} is damaged ({error}); train again") from error
    if manifest.get("format") != format_number:
        raise BundleError(
            f"{folder} has format {manifest.get('format')}, this code reads {format_number}; "
            "train again"
        )
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; train again")
        if _sha256(file) != digest:
            raise BundleError(f"{file} is not what was saved (SHA-256 differs); train again")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
