"""One shape for every refusal: ``{"detail": [{"field", "reason", "value"?}]}``.

In: validation errors and HTTP exceptions of FastAPI. Out: JSON responses. `field` is a dotted path
as the client wrote it ("user_id", "events.3.rating"), without the framework's prefixes; `value`
repeats what was refused, shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MAX_DETAILS = 20  # a batch of 500 bad events is told about its first 20
MAX_VALUE_CHARACTERS = 100
_PLACES = frozenset({"body", "query", "path", "header"})


class Problem(BaseModel):
    """One refused field."""

    field: str
    """Dotted path to the field; "body" or "" when it is not about one field."""
    reason: str
    """What was wrong and, where it helps, what is allowed."""
    value: Any = None
    """The refused value, shortened; absent when there was none."""


class Problems(BaseModel):
    """The body of every 4xx and 5xx response."""

    detail: list[Problem]


class ProblemError(Exception):
    """Raise in a handler to refuse a request with named fields."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__(f"{status}: {[p.reason for p in problems]}")
        self.status = status
        self.problems = list(problems)


class OrjsonResponse(Response):
    """JSON by orjson: NaN becomes null, numpy scalars and arrays are understood."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Bytes of the body."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def problems_response(status: int, problems: Sequence[Problem]) -> OrjsonResponse:
    """A refusal with its details."""
    detail = [p.model_dump(exclude_none=True) for p in problems[:MAX_DETAILS]]
    headers = {"Retry-After": "1"} if status == 503 else None
    return OrjsonResponse({"detail": detail}, status_code=status, headers=headers)


def detail_response(status: int, field: str, reason: str) -> OrjsonResponse:
    """A refusal with one detail and no value."""
    return problems_response(status, [Problem(field=field, reason=reason)])


def install_error_handlers(app: FastAPI) -> None:
    """Give the app's validation errors, HTTP errors and `ProblemError` the common shape."""
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ProblemError, _on_problem)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    problems = [_problem(e) for e in cast(RequestValidationError, error).errors()]
    return problems_response(422, problems)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    refusal = cast(HTTPException, error)  # Starlette types every handler for Exception
    response = detail_response(refusal.status_code, "", str(refusal.detail))
    response.headers.update(refusal.headers or {})
    return response


async def _on_problem(_: Request, error: Exception) -> Response:
    problem = cast(ProblemError, error)
    return problems_response(problem.status, problem.problems)


def _problem(error: dict[str, Any]) -> Problem:
    """One pydantic error in our shape."""
    location = error["loc"]
    if error["type"] == "json_invalid":
        return Problem(field="body", reason=f"not valid JSON: {error['ctx']['error']}")
    # Tags of a discriminated union are written by their models as "<tag>"; a client never sent one.
    parts = [str(p) for p in location if not (isinstance(p, str) and p.startswith("<"))]
    if len(parts) > 1 and parts[0] in _PLACES:
        parts = parts[1:]
    value = None if error["type"] == "missing" else shorten(error.get("input"))
    return Problem(field=shorten(".".join(parts)), reason=error["msg"], value=value)


def shorten(value: Any) -> Any:
    """A refused value, safe to print back: scalars as they are, the rest as a short text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < 2**53 else f"{value:.6g}"  # beyond that JSON readers round
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be serialised
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "..."
