"""A serving process that may be killed and started again over the same data folder.

In: the command that serves and a data folder. Out: a process that is ready, its address, and the
seconds from its start to the first 200 of ``/readyz``. Leaving the context ends it and the store it
keeps, whatever happened before.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from ml_platform.serving.server_process import (
    free_port,
    server_environment,
    wait_until_ready,
)

STOP_S = 15.0
FULL_MODULE = "video_recommendation.serving.run"
LIGHT_MODULE = "video_recommendation.reliability.light_server"


class ServerProcess:
    """One server. Use as a context manager; `start` before asking it anything.

    Args:
        module: The module that serves: `FULL_MODULE` or `LIGHT_MODULE`.
        arguments: Its arguments: a bundle's folder, or ``--registry`` and its root.
        data_dir: Event log, request log and store; kept between starts.
        redis_url: A store outside of the process; the embedded one by default.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        data_dir: Path,
        *,
        redis_url: str | None = None,
    ) -> None:
        self.data_dir = data_dir
        self._command = [sys.executable, "-m", module, *arguments, "--data-dir", str(data_dir)]
        self._redis_url = redis_url
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> float:
        """Starts it; returns the seconds until it was ready.

        Raises:
            RuntimeError: if it ends or is not ready in time; with the end of its output.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        port, output = free_port(), self.data_dir / "server.log"
        environment = server_environment()
        if self._redis_url:
            environment["REDIS_URL"] = self._redis_url
        self.url = f"http://127.0.0.1:{port}"
        begin = time.perf_counter()
        with output.open("ab") as sink:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(port)],
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        wait_until_ready(self._process, self.url, output)
        return time.perf_counter() - begin

    def kill(self) -> None:
        """``kill -9`` of the serving process itself."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ends it in order, or by force where it does not end."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._remove_socket_folder()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def store_socket(self) -> Path:
        """The socket of its embedded store."""
        record = json.loads((self.data_dir / "store.json").read_text())
        return Path(record["socket"])

    def _remove_socket_folder(self) -> None:
        """What a killed server left in the temporary folder; the next start would remove it."""
        try:
            folder = self.store_socket().parent
        except FileNotFoundError:  # it ended in order, or kept no store
            return
        if folder.name.startswith("mlsd-store-"):
            shutil.rmtree(folder, ignore_errors=True)


def store_client(socket: Path) -> redis.Redis:
    """An administrator's connection to a store."""
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5.0)


def store_pid(socket: Path) -> int:
    """The process id of the store behind a socket.

    Raises:
        redis.RedisError: It does not answer.
    """
    with store_client(socket) as client:
        return int(client.info("server")["process_id"])  # type: ignore[index]


def get_json(url: str) -> dict[str, Any]:
    """One GET with the answer's body.

    Raises:
        urllib.error.URLError: No answer, or another status than 2xx.
    """
    with urllib.request.urlopen(url, timeout=5.0) as response:
        content: dict[str, Any] = json.load(response)
    return content


def post_json(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """One POST: status and body.

    Raises:
        urllib.error.URLError: No answer, or another status than 2xx.
    """
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5.0) as response:
        return response.status, json.load(response)
