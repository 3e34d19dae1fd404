"""A served system as a process of its own, for load tests: start, wait until ready, stop.

In: a command line that serves on a port. Out: its address once ``/readyz`` answers 200. The
server's libraries get one thread each from the start, and this process's import path; an outside
store (``REDIS_URL``) is hidden unless it is asked for.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ServerProcess:
    """A running service: address, process, seconds from its start to being ready."""

    url: str
    pid: int
    start_s: float


@contextmanager
def running_server(
    command: Sequence[str],
    port: int,
    *,
    output: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[ServerProcess]:
    """Runs a command that serves on a loopback port; stops it afterwards.

    Args:
        command: With the program first.
        port: Where it will listen.
        output: File for what it prints.
        environment: More variables.
        timeout_s: Longest wait for ``/readyz``.

    Raises:
        RuntimeError: if it ends or is not ready in time; with the end of its output.
    """
    begin = time.perf_counter()
    process = start_server(
        command,
        port,
        output=output,
        environment={**server_environment(), **(environment or {})},
        timeout_s=timeout_s,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        yield ServerProcess(url, process.pid, time.perf_counter() - begin)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_server(
    command: Sequence[str],
    port: int,
    *,
    output: Path,
    environment: Mapping[str, str],
    timeout_s: float = START_TIMEOUT_S,
) -> subprocess.Popen[bytes]:
    """Starts a command that serves on a loopback port; it is ready, and the caller's to stop.

    Args:
        command: With the program first.
        port: Where it will listen.
        output: File that what it prints is added to.
        environment: All of it.
        timeout_s: Longest wait for ``/readyz``.

    Raises:
        RuntimeError: if it ends or is not ready in time; with the end of its output. It is stopped.
    """
    with output.open("ab") as sink:
        process = subprocess.Popen(
            list(command), env=dict(environment), stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}", output, timeout_s=timeout_s)
    except BaseException:  # an interrupt, too, must leave no server behind
        process.kill()
        process.wait()
        raise
    return process


def wait_until_ready(
    process: subprocess.Popen[bytes], url: str, output: Path, *, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Returns once ``/readyz`` answers 200.

    Raises:
        RuntimeError: if the process ends or is not ready in time; with the end of its output.
    """
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=1.0):
                return
        except (urllib.error.URLError, OSError):  # not listening yet, or 503: still catching up
            pass
        ended = process.poll() is not None
        if ended or time.monotonic() > give_up:
            state = f"ended with {process.returncode}" if ended else "is not ready"
            tail = output.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the server {state} after start; the end of its output:\n{tail}")
        time.sleep(0.05)


def server_environment() -> dict[str, str]:
    """One thread for each library from the start, this process's import path, no outside store."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment.pop("REDIS_URL", None)
    return {**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def free_port(run: int = 1) -> int:
    """A loopback port that nobody listens on now, the first of a run of such ports.

    It lies below the numbers that the system gives to outgoing connections (from 32768 on Linux,
    49152 elsewhere), so that no client takes one of the run before the server does.

    Args:
        run: Ports needed: 1, and one more for each worker with a port of its own.

    Raises:
        RuntimeError: if no run of that length is free.
    """
    for _ in range(200):
        first = random.randrange(20_000, 32_000 - run)
        if all(map(_is_free, range(first, first + run))):
            return first
    raise RuntimeError(f"no {run} consecutive loopback ports between 20000 and 32000 are free")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
