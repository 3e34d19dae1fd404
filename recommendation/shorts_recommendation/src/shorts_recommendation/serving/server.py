"""Start the API under uvicorn: one bundle, one or several processes, each with a computing thread.

In: a loaded recommender and settings. Out: a server that runs until SIGTERM or Ctrl-C and then
finishes the requests in flight.

Several workers are forked after the bundle is loaded: its arrays are never written, so the
processes share one copy of them. They share the listening socket, the durable log and the store
too; each keeps the users' states itself and follows the log (`shared.SharedSeq`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import uvicorn
from prometheus_client import start_http_server

from ml_platform.serving.store import open_store
from shorts_recommendation.monitoring.attach import watch_feed
from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

# Python's default lets the computing thread keep the interpreter for 5 ms while the event loop has
# requests to answer that need a tenth of that.
SWITCH_INTERVAL_S = 0.0005
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""
STOP_WITHIN_S = 15.0
"""For workers to finish what is in flight; uvicorn takes 10 s at most."""


def serve(
    recommender: Recommender,
    settings: ServingSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    bundle: Path | None = None,
) -> None:
    """Serve until told to stop.

    Args:
        recommender: The loaded bundle, warmed up.
        settings: Folder, store, knobs; ``settings.workers`` processes.
        bundle: Its folder, for the monitor's reference of training.
        host: Interface; loopback unless told otherwise, for the API has no authentication.
        port: TCP port; 0 for any free one, which uvicorn prints. With several workers, worker w
            answers ``/metrics`` on ``port + 1 + w`` too.

    Raises:
        OSError: A port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if settings.workers == 1:
        _run(recommender, settings, host, port, bundle=bundle)
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        _fork(recommender, settings, listener, bundle)


def _fork(
    recommender: Recommender,
    settings: ServingSettings,
    listener: socket.socket,
    bundle: Path | None,
) -> None:
    """Runs the workers and waits for them; the store, where it is embedded, is this process's."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    (settings.data_dir / "committed.bin").unlink(missing_ok=True)
    store = None if settings.redis_url else open_store(None, settings.data_dir)
    url = settings.redis_url
    if store is not None and store.server is not None:
        url = f"unix://{store.server.socket_path}"
    with _TermRaises():  # from here on a signal ends what has been started so far, too
        children: list[int] = []
        try:
            for worker in range(settings.workers):
                mine = replace(settings, worker=worker, redis_url=url)
                children.append(_start(recommender, mine, listener, bundle))
            ended = _wait_for_any(children)
        except SystemExit:
            ended = 0
        finally:
            _stop(children)
            if store is not None:
                store.close()
    if ended:
        # Half a service answers half of it: worker 0 publishes what all others count. Whoever
        # started this process starts it again.
        raise SystemExit(1)


def _start(
    recommender: Recommender,
    settings: ServingSettings,
    listener: socket.socket,
    bundle: Path | None,
) -> int:
    """Forks one worker; returns its process id."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:  # nothing of the parent's stack may run here: what it owns is the parent's to close
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _die_with(parent)
        recommender.reseed(settings.worker)
        _run(recommender, settings, listener=listener, bundle=bundle)
        code = 0
    except BaseException:
        logger.exception("worker %d ended", settings.worker)
    finally:
        os._exit(code)


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends, by ``kill -9`` too (Linux)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        logger.warning("this system cannot tie a worker to its parent's life")
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _wait_for_any(children: list[int]) -> int:
    """Waits until a worker ends; returns its process id."""
    while True:
        child, status = os.waitpid(-1, 0)
        if child in children:  # not the store's guard
            children.remove(child)
            logger.error("worker with process id %d ended, status %d", child, status)
            return child


def _stop(children: list[int]) -> None:
    """Ask, wait a while, kill."""
    for child in children:
        os.kill(child, signal.SIGTERM)  # not waited for yet: the number is still its own
    give_up_s = time.monotonic() + STOP_WITHIN_S
    for child in children:
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > give_up_s:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.01)


class _TermRaises:
    """SIGTERM and Ctrl-C raise SystemExit in this process while it lasts; once."""

    def __enter__(self) -> None:
        self._before = [signal.signal(n, self._handle) for n in (signal.SIGTERM, signal.SIGINT)]

    def __exit__(self, *_: object) -> None:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), self._before, strict=True):
            signal.signal(number, handler)

    @staticmethod
    def _handle(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)


def _run(
    recommender: Recommender,
    settings: ServingSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    listener: socket.socket | None = None,
    bundle: Path | None = None,
) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app = watch_feed(create_app(recommender, settings), bundle)
    if listener is not None:
        # Whoever asks the shared socket for /metrics gets those of any worker: scrape these ports.
        address, shared_port = listener.getsockname()[:2]
        own_port = shared_port + 1 + settings.worker
        start_http_server(own_port, address, app.state.metrics.registry)
        logger.info("worker %d: metrics on port %d", settings.worker, own_port)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="auto",  # uvloop and httptools where they are installed
        http="auto",
        access_log=False,  # /metrics counts; a line for each request costs more than parsing it
        log_level="info",
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listener] if listener else None)
