"""A real uvicorn process over the tiny recommender."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ml_platform.serving.server_process import server_environment, wait_until_ready

PROGRAM = Path(__file__).parent / "tiny_recommender.py"


def start(data_dir: Path, port: int) -> subprocess.Popen:
    """Start the tiny recommender under uvicorn and wait until it is ready."""
    output = data_dir / "server.log"
    with output.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(data_dir), str(port)],
            env=server_environment(),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    wait_until_ready(process, f"http://127.0.0.1:{port}", output, timeout_s=20.0)
    return process
