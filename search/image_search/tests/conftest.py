"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Idle OpenMP threads sleep instead of spinning. Read when the library is loaded, hence up here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves test folders off the path

from image_search.images.image_set import ImageSet
from image_search.images.shapes import shapes


@pytest.fixture(scope="session")
def search_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A real server process over the tiny searcher: its address and process id."""
    from tiny_search import start

    from ml_platform.serving.server_process import free_port

    port = free_port()
    process = start(tmp_path_factory.mktemp("server"), port)
    yield f"http://127.0.0.1:{port}", process.pid
    assert process.poll() is None, "the server has died"
    process.terminate()
    process.wait(15)


@pytest.fixture(scope="session")
def tiny() -> ImageSet:
    """Coloured shapes: 100 in the gallery, 25 to validate, 25 queries."""
    return shapes(20, seed=3)[0]
