"""What wraps every request: its id, its size limit, its metrics, and the last catch.

Written as plain ASGI. Starlette's BaseHTTPMiddleware would run each request in an extra task and
copy its body through a queue; at serving rates that shows.

In: an ASGI app. Out: the same app, whose responses carry ``X-Request-ID``, whose bodies are bounded
and whose unexpected exceptions become a 500 that says nothing about the inside and a log entry
that says everything.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_platform.serving.errors import detail_response
from ml_platform.serving.metrics import ServiceMetrics

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # anything else could forge log lines
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
REQUEST_ID_HEADER = "X-Request-ID"


class BodyTooLargeError(HTTPException):
    """The body passed the limit. An HTTPException, which FastAPI lets through its body reader."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413, f"body is larger than {max_bytes} bytes")


class RequestMiddleware:
    """Request id, body limit, metrics, last catch.

    Args:
        app: The wrapped app.
        metrics: Receives one count for each request.
        max_body_bytes: Larger bodies are refused with 413, before they are in memory.
        max_in_flight: API requests ("/v1/...") beyond as many are refused with 503 at once. Under
            more load than the process can carry this keeps the accepted ones on time; without
            it all of them would be late. Health checks and metrics are always answered.
    """

    def __init__(
        self, app: ASGIApp, metrics: ServiceMetrics, max_body_bytes: int, max_in_flight: int
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.max_in_flight = max_in_flight
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"], state["started"] = request_id, started
        response = _Sender(send, request_id)
        self._in_flight += 1  # the event loop runs one coroutine at a time: no lock
        try:
            if self._in_flight > self.max_in_flight and scope["path"].startswith("/v1/"):
                await self._answer(response, scope, receive, 503, "", "overloaded; retry later")
                return
            self._check_length(headers)
            await self.app(scope, self._limited(receive), response)
        except BodyTooLargeError as error:  # before the app; inside it the app's handler answers
            await self._answer(response, scope, receive, 413, "body", error.detail)
        except Exception:  # the last catch: logged in full, answered without detail
            logger.exception("unhandled error, request_id=%s", request_id)
            if response.status is not None:
                raise  # half a response is out: only the server can end the connection
            await self._answer(response, scope, receive, 500, "", "internal error")
        finally:
            self._in_flight -= 1
            method = scope["method"] if scope["method"] in _METHODS else "other"
            elapsed_s = time.perf_counter() - started
            self.metrics.request_finished(method, _route(scope), response.status or 500, elapsed_s)

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_body_bytes:
            raise BodyTooLargeError(self.max_body_bytes)

    def _limited(self, receive: Receive) -> Receive:
        """Count what arrives: a chunked body announces no length."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise BodyTooLargeError(self.max_body_bytes)
            return message

        return limited

    async def _answer(
        self, send: _Sender, scope: Scope, receive: Receive, status: int, field: str, reason: str
    ) -> None:
        await detail_response(status, field, reason)(scope, receive, send)


class _Sender:
    """The response's way out: adds the request id, remembers the status."""

    def __init__(
        self, send: Callable[[MutableMapping[str, Any]], Awaitable[None]], request_id: str
    ) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._request_id
        await self._send(message)


def _request_id(headers: Headers) -> str:
    """The caller's id when it is harmless, else a new one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    if given and _REQUEST_ID.fullmatch(given):
        return given
    # As many random bits as a UUID. Asking the system for them at each request would give up the
    # interpreter, and under load it takes a while to get it back.
    return f"{random.getrandbits(128):032x}"


def _route(scope: Scope) -> str:
    """The route's template; one name for all paths that no route serves."""
    return getattr(scope.get("route"), "path", "unmatched")
