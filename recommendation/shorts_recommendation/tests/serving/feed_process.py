"""A real uvicorn process over the tiny recommender."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ml_platform.serving.server_process import server_environment, start_server

PROGRAM = Path(__file__).parent / "tiny_feed.py"


def start(
    data_dir: Path, port: int, *, redis_url: str | None = None, workers: int = 1
) -> subprocess.Popen:
    """Start the tiny recommender under uvicorn and wait until it is ready."""
    environment = {**os.environ, **server_environment()}
    environment.pop("REDIS_URL", None)
    if redis_url:
        environment["REDIS_URL"] = redis_url
    arguments = ["--data-dir", data_dir, "--port", port, "--workers", workers]
    return start_server(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        port,
        output=data_dir / "server.log",
        environment=environment,
    )
