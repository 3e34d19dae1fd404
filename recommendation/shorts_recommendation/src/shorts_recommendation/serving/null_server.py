"""What HTTP alone costs: two handlers that do nothing. ``python -m ... {shell,bare} --port N``.

``shell`` answers a feed's worth of bytes through everything of the real service but its work: the
middleware, the router, the query model. ``bare`` is uvicorn and a coroutine, the least that a
Python server does for a request. Processor time a request of both, under the same load, is the
price of HTTP in ``serving/limit``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import uvicorn
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ml_platform.serving.errors import OrjsonResponse
from ml_platform.serving.service import JsonRoute, create_service
from shorts_recommendation.serving.queries import read_query
from shorts_recommendation.serving.schemas import FeedQuery

BODY = b'{"items":"' + b"x" * 1800 + b'"}'
"""As long as a feed of ten videos."""


def operations() -> dict[str, Any]:
    """What the load's client asks for before and after."""
    return {"cpu_s": time.process_time(), "store_cpu_s": 0.0, "threads_cpu_s": {}}


def shell() -> Any:
    """The platform's app with an empty feed."""
    app = create_service(title="nothing", version="1", max_in_flight=1024)
    router = APIRouter(route_class=JsonRoute)

    @router.get("/v1/feed")
    async def feed(request: Request) -> Response:
        read_query(request, FeedQuery)
        return Response(BODY, media_type="application/json")

    @router.get("/v1/operations")
    async def cost() -> Response:
        return OrjsonResponse(operations())

    app.include_router(router)
    return app


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """One coroutine."""
    if scope["type"] != "http":
        return
    body = BODY
    if scope["path"] == "/v1/operations":
        body = bytes(OrjsonResponse(operations()).body)
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("shell", "bare"))
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = shell() if options.kind == "shell" else bare
    uvicorn.run(app, port=options.port, access_log=False, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
