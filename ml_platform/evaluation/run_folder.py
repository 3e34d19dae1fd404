"""Where a run leaves things: ``artifacts/<run>/`` and ``artifacts/latest``.

A run is written into a folder of its own; ``latest`` is moved to it as the last step, so an
interrupted run leaves the last complete one in place.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path


def new_run_folder(artifacts: Path, name: str) -> Path:
    """An empty folder for a run, named by configuration and local time."""
    folder = artifacts / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=False)
    return folder


def publish(folder: Path) -> Path:
    """Points ``latest`` at a complete run; returns the link."""
    link = folder.parent / "latest"
    draft = folder.parent / f".latest-{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder.name, target_is_directory=True)
    os.replace(draft, link)
    return link
