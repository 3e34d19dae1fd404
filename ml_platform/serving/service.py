"""The HTTP shell of a served system: health, readiness, metrics, version, errors.

In: a title, a version, two callables (what keeps it from being ready; version details) and a
lifespan. Out: a FastAPI app to which the system adds its own router. The shell holds no model and
no state of its own besides its metrics.

- ``/healthz``: the process answers. Restarting is the cure when it does not.
- ``/readyz``: 200 when requests may be sent here, else 503 with the reasons.
- ``/metrics``: Prometheus text.
- ``/v1/version``: what exactly is being served.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from ml_platform.serving.errors import (
    OrjsonResponse,
    Problem,
    ProblemError,
    Problems,
    install_error_handlers,
)
from ml_platform.serving.metrics import ServiceMetrics
from ml_platform.serving.middleware import RequestMiddleware

MAX_BODY_BYTES = 512 * 1024  # 500 events of about 250 bytes need 125 KB; four times that
MAX_IN_FLIGHT = 64  # beyond it 503 at once; the ladder has degraded long before


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether requests may be sent here; `reasons` is empty when they may."""

    ready: bool
    reasons: list[str]


def create_service(
    *,
    title: str,
    version: str,
    description: str = "",
    metrics: ServiceMetrics | None = None,
    not_ready: Callable[[], Sequence[str]] = tuple,
    version_info: Callable[[], Mapping[str, Any]] = dict,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> FastAPI:
    """Build the shell.

    Args:
        title: Name in the OpenAPI document.
        version: Version of the API; the served bundle's goes into `version_info`.
        description: Markdown for the OpenAPI document.
        metrics: Shared with the system's stages; a new set when absent.
        not_ready: Reasons why requests should go elsewhere; empty when ready.
        version_info: Extra fields of ``/v1/version``.
        lifespan: Opens and closes the system's resources.
        max_body_bytes: Larger request bodies get 413.
        max_in_flight: API requests beyond as many at a time get 503 at once.
    """
    app = FastAPI(title=title, version=version, description=description, lifespan=lifespan)
    app.router.route_class = JsonRoute
    app.state.metrics = metrics = metrics or ServiceMetrics()
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        max_body_bytes=max_body_bytes,
        max_in_flight=max_in_flight,
    )
    install_error_handlers(app)

    @app.get("/healthz", tags=["operations"], response_model=Health)
    async def healthz() -> Response:
        """Whether the process answers."""
        return OrjsonResponse({"status": "ok"})

    @app.get(
        "/readyz",
        tags=["operations"],
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not ready, with the reasons"}},
    )
    async def readyz() -> Response:
        """Whether requests may be sent here."""
        reasons = list(not_ready())
        status = 503 if reasons else 200
        return OrjsonResponse({"ready": not reasons, "reasons": reasons}, status_code=status)

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text"}},
    )
    async def prometheus() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/version", tags=["operations"], response_model=dict[str, Any])
    async def version_() -> Response:
        """What exactly is being served."""
        return OrjsonResponse({"service": title, "api": version, **version_info()})

    return app


class JsonRequest(Request):
    """A request whose JSON is read by orjson.

    The standard reader accepts NaN and Infinity, and fails with other exceptions than a decode
    error on deep nesting and on digits by the thousand; orjson refuses all of these the same way.
    """

    async def json(self) -> Any:
        """The parsed body; raises json.JSONDecodeError, which FastAPI turns into a 422."""
        body = await self.body()
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, "", error.pos) from None


class JsonRoute(APIRoute):
    """A route that takes bodies as JSON only; another content type is refused with 415."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the content-type check."""
        handler = super().get_route_handler()
        takes_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            content_type = request.headers.get("content-type", "")
            if takes_body and content_type.partition(";")[0].strip().lower() != "application/json":
                reason = "send the body as application/json"
                problem = Problem(field="content-type", reason=reason, value=content_type[:100])
                raise ProblemError(415, [problem])
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route that can refuse with these statuses."""
    return {status: {"model": Problems} for status in statuses}
