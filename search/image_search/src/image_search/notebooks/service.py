"""Notebook 07: the service in a thread of the kernel, and a client that keeps what came back."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import numpy as np
import uvicorn

from image_search.bundle import load_searcher
from image_search.config import ServingConfig
from image_search.notebooks.desk import Desk
from image_search.serving.app import create_app
from image_search.serving.server import clicks_of, warm_up
from image_search.serving.settings import ServingSettings
from image_search.serving.traffic import BOUNDARY, form_body
from ml_platform.operations import drift_watch
from ml_platform.serving.server_process import ServerProcess, free_port


@dataclass(frozen=True)
class Reply:
    """What a service answered: status, parsed body, milliseconds as the client saw them."""

    status: int
    body: Any
    ms: float


@contextmanager
def service_of(
    desk: Desk, config: ServingConfig | None = None, *, token: str | None = None
) -> Iterator[ServerProcess]:
    """Serves the desk's bundle from a thread of this process, on a free port; stops it afterwards.

    A thread ends with its kernel, whatever becomes of a cell. The bundle is loaded anew, so that
    what is added or deleted there stays there. Its watch over drift says nothing meanwhile: a
    hundred pictures again and again are no traffic.

    Args:
        desk: Whose bundle.
        config: Limits and lanes; None: as configured.
        token: Of the admin routes; None: they are closed.
    """
    begin, port = time.perf_counter(), free_port()
    searcher = load_searcher(desk.bundle)
    settings = ServingSettings(
        config or desk.config.serving,
        desk.scratch / f"state-{port}",
        side=desk.config.images.side,
        admin_token=token,
        on_click=clicks_of(searcher),
    )
    warm_up(searcher)
    app = create_app(searcher, settings)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
    )
    thread = Thread(target=server.run, daemon=True)
    drift = logging.getLogger(drift_watch.__name__)
    level = drift.level
    drift.setLevel(logging.ERROR)
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        if not server.started:
            raise RuntimeError(f"the service on port {port} did not start")
        yield ServerProcess(f"http://127.0.0.1:{port}", os.getpid(), time.perf_counter() - begin)
    finally:
        server.should_exit = True
        thread.join()
        drift.setLevel(level)


def ask_json(server: ServerProcess, path: str, fields: Mapping[str, object] | None = None) -> Reply:
    """GET, or POST of a JSON body where there are fields."""
    if fields is None:
        return _sent(server, "GET", path)
    body = json.dumps(fields).encode()
    return _sent(server, "POST", path, body, {"Content-Type": "application/json"})


def ask_picture(
    server: ServerProcess,
    data: bytes,
    fields: Mapping[str, str] | None = None,
    *,
    path: str = "/v1/search",
    token: str = "",
) -> Reply:
    """POST of a form with one encoded picture, whatever its bytes are."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **_admin(token)}
    return _sent(server, "POST", path, form_body(dict(fields or {}), data), headers)


def ask_delete(server: ServerProcess, path: str, token: str) -> Reply:
    """DELETE, as an admin."""
    return _sent(server, "DELETE", path, headers=_admin(token))


def _admin(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _sent(
    server: ServerProcess,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30.0)
    begin = time.perf_counter()
    try:
        # Too large a body is refused while it is being sent; the answer is there already.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        status, raw = response.status, response.read()
    finally:
        connection.close()
    return Reply(status, json.loads(raw), 1e3 * (time.perf_counter() - begin))


def pictures_of_hits(desk: Desk, reply: Reply) -> list[np.ndarray]:
    """The pictures of an answer's results, best first."""
    row_of = {int(item): row for row, item in enumerate(desk.images.item_id)}
    return [desk.images.images[row_of[int(hit["item_id"])]] for hit in reply.body["results"]]
