"""The system's own folder in the repository."""

from __future__ import annotations

from pathlib import Path

SYSTEM = "image_search"
SYSTEM_FOLDER = Path(__file__).resolve().parents[2]
"""The package is installed editable, so the folder is two levels above it."""
