"""What the desks of the systems' notebooks share: the notebooks of a folder, a system trained once.

In: a folder, and whatever decides what a trained system is (its configuration, its data, the source
code). Out: paths. Nothing heavy is imported here: every notebook's kernel reads this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ml_platform.evaluation.results import write_atomic

BUNDLE_VARIABLE = "NOTEBOOK_BUNDLE"
"""Environment variable of the kernels: the folder of the bundle that a desk opens."""


def notebooks_in(folder: Path) -> list[Path]:
    """The committed notebooks, in reading order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def fingerprint(text: str, package: Path, leave_out: Path) -> str:
    """Changes with the text and with the source of a package.

    Args:
        text: Configuration and checksum of the data.
        package: Folder of the source code.
        leave_out: Folder in it whose files train nothing.
    """
    digest = hashlib.sha256(text.encode())
    for path in sorted(package.rglob("*.py")):
        if path.parent != leave_out:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def made_once(folder: Path, wanted: str, make: Callable[[Path], object]) -> Path:
    """``folder/bundle``, made by ``make(bundle)`` unless it stands there with this fingerprint.

    The fingerprint is written last, so an interrupted training leaves none and is begun again.
    """
    bundle, stamp = folder / "bundle", folder / "made_from"
    if not (stamp.is_file() and stamp.read_text() == wanted and bundle.is_dir()):
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        make(bundle)
        write_atomic(stamp, wanted)
    return bundle
