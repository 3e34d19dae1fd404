"""Start the API under uvicorn: one bundle, one or several processes, each with a computing thread.

In: a loaded recommender and settings. Out: a server that runs until SIGTERM or Ctrl-C and then
finishes the requests in flight.

Several workers are forked after the bundle is loaded: its arrays are never written, so the
processes share one copy of them. They share the listening socket, the durable log and the store
too; each keeps the users' states itself and follows the log (`shared.SharedSeq`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from ml_platform.serving.store import open_store
from shorts_recommendation.monitoring.attach import watch_feed
from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

# Python's default lets the computing thread keep the interpreter for 5 ms while the event loop has
# requests to answer that need a tenth of that.
SWITCH_INTERVAL_S = 0.0005


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
        port: TCP port; 0 for any free one, which uvicorn prints.
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
    children = []
    for worker in range(settings.workers):
        child = os.fork()
        if child == 0:
            mine = replace(settings, worker=worker, redis_url=url)
            _run(recommender, mine, listener=listener, bundle=bundle)
            os._exit(0)  # what the parent owns is the parent's to close
        children.append(child)
    signal.signal(signal.SIGTERM, lambda *_: _tell(children, signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: _tell(children, signal.SIGTERM))
    try:
        for child in children:
            os.waitpid(child, 0)
    finally:
        if store is not None:
            store.close()


def _tell(children: list[int], number: signal.Signals) -> None:
    for child in children:
        try:
            os.kill(child, number)
        except ProcessLookupError:
            logger.info("worker %d has ended already", child)


def _run(
    recommender: Recommender,
    settings: ServingSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    listener: socket.socket | None = None,
    bundle: Path | None = None,
) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        watch_feed(create_app(recommender, settings), bundle),
        host=host,
        port=port,
        loop="auto",  # uvloop and httptools where they are installed
        http="auto",
        access_log=False,  # /metrics counts; a line for each request costs more than parsing it
        log_level="info",
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listener] if listener else None)
