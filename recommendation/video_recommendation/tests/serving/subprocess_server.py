"""A real uvicorn process over the tiny recommender."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2

PROGRAM = Path(__file__).parent / "tiny_recommender.py"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(data_dir: Path, port: int) -> subprocess.Popen:
    """Start the tiny recommender under uvicorn and wait until it is ready."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment.pop("REDIS_URL", None)
    with (data_dir / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(data_dir), str(port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    end = time.monotonic() + 20
    while True:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return process
        except httpx2.TransportError:
            pass
        assert process.poll() is None, (data_dir / "server.log").read_text()
        assert time.monotonic() < end, "server did not become ready"
        time.sleep(0.05)
