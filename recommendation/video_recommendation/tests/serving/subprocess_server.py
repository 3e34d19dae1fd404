"""A real uvicorn process over the tiny recommender."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ml_platform.serving.server_process import server_environment, start_server

PROGRAM = Path(__file__).parent / "tiny_recommender.py"


def start(data_dir: Path, port: int) -> subprocess.Popen:
    """Start the tiny recommender under uvicorn and wait until it is ready."""
    return start_server(
        [sys.executable, str(PROGRAM), str(data_dir), str(port)],
        port,
        output=data_dir / "server.log",
        environment=server_environment(),
    )
