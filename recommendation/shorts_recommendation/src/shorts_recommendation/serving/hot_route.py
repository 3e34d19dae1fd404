"""One route without the framework's request handling: a path, a method, a coroutine.

The framework's way to an endpoint (two levels of routers, dependency solving, exit stacks) takes
longer than a cached feed does. This route stands before the others and calls the coroutine at once;
middleware and error handlers are the same. The framework keeps a route of the same path for the
OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send


class HotRoute(BaseRoute):
    """A GET on one exact path.

    Args:
        path: As clients write it; the label in the metrics.
        endpoint: Makes the response.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self.path, self.endpoint = path, endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Full for this path and GET, else none: other methods are the framework's to refuse."""
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] == "GET":
            return Match.FULL, {"route": self, "endpoint": self.endpoint}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)
