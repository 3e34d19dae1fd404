"""From a request's bytes to an engine's answer, with every refusal named and counted.

In: a request. Out: a ``Query`` with its picture decoded, and the milliseconds that took. The API
and the page share this. Statuses:

    408  the body arrives too slowly
    413  too many bytes or pixels          415  not a JPEG, PNG or WebP; not a form or JSON
    422  broken, empty, a wrong field      503  too much to do; Retry-After says when
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from image_search.images.decoding import ImageError
from image_search.searcher import RetrievalError, TextUnavailableError
from image_search.serving.decoder import DecoderBusyError
from image_search.serving.engine import SearchEngine
from image_search.serving.fetching import FetchError, FetchLimits, fetch
from image_search.serving.queries import Query, fields_of_form, read_json, read_query, refusal
from image_search.serving.settings import Found, OverloadedError, UnreadableError
from image_search.serving.uploads import Form, FormError, HeldError, read_form
from ml_platform.serving.errors import Problem, ProblemError

MAX_JSON_BYTES = 64 * 1024
_STATUS = {"too_many_bytes": 413, "too_many_pixels": 413, "kind": 415}
Take = Callable[[int], None]


async def search_request(engine: SearchEngine, request: Request) -> tuple[Query, dict[str, float]]:
    """Reads, checks and decodes a search.

    Returns:
        The query, and milliseconds of reading and decoding.

    Raises:
        ProblemError: With the status and every reason.
    """
    begin = time.perf_counter()
    with engine.held.hold() as take:
        kind = content_type(request).partition(";")[0].strip().lower()
        image: bytes | None = None
        if kind == "application/json":
            given = read_json(await _read_small(engine, request, take))
        elif kind == "multipart/form-data":
            form = await read_form_of(engine, request, take)
            given, image = fields_of_form(form.fields), form.image
        else:
            reason = "send multipart/form-data with a picture, or application/json"
            raise refusal("content-type", reason, kind[:100], status=415)
        query = to_query(engine, given, with_image=image is not None)
        read = time.perf_counter()
        if query.kind == "url":
            image = await fetched(engine, query.url)
        if image is not None:
            picture = await decoded(engine, image, request.state.started)
            query = replace(query, picture=picture)
    end = time.perf_counter()
    return query, {"read": (read - begin) * 1e3, "decode": (end - read) * 1e3}


def to_query(engine: SearchEngine, given: dict[str, Any], *, with_image: bool) -> Query:
    """The checked query; see ``read_query``."""
    return read_query(
        given,
        with_image=with_image,
        label_names=engine.searcher.catalogue.label_names,
        page=engine.config.page,
        most=engine.config.most,
    )


async def ask(engine: SearchEngine, query: Query, started: float) -> Found:
    """The engine's answer within what is left of the deadline.

    Raises:
        ProblemError: 404, 422 or 503.
    """
    try:
        return await engine.search(query, left_s(engine, started))
    except OverloadedError as error:
        raise busy(engine, "overload", error) from None
    except RetrievalError as error:
        raise busy(engine, "retrieval", error) from None
    except TextUnavailableError as error:
        raise refusal("text", str(error)) from None
    except UnreadableError as error:
        engine.metrics.refused.labels("words").inc()
        raise refusal("text", str(error)) from None
    except KeyError:
        raise refusal("item_id", "no such item", query.item_id, status=404) from None


async def read_form_of(engine: SearchEngine, request: Request, take: Take) -> Form:
    """The form of a request.

    Raises:
        ProblemError: 422 for what is none, 503 while too much is being read.
    """
    try:
        async with asyncio.timeout(engine.config.upload_timeout_s):
            return await read_form(_chunks(request), content_type(request), take)
    except TimeoutError:
        raise _slow(engine) from None
    except ClientDisconnect:
        raise _gone(engine) from None
    except FormError as error:
        engine.metrics.refused.labels("form").inc()
        raise refusal("body", str(error)) from None
    except HeldError as error:
        raise busy(engine, "overload", error) from None


async def decoded(engine: SearchEngine, image: bytes, started: float) -> np.ndarray:
    """The picture u8[H, W, 3].

    Raises:
        ProblemError: With the status of the reason.
    """
    try:
        return await engine.decoder.decode(image, left_s(engine, started))
    except ImageError as error:
        engine.metrics.refused.labels(error.reason).inc()
        raise refusal("image", str(error), status=_STATUS.get(error.reason, 422)) from None
    except DecoderBusyError as error:
        raise busy(engine, "deadline", error) from None


async def fetched(engine: SearchEngine, url: str) -> bytes:
    """The bytes at an address, where the configuration allows it.

    Raises:
        ProblemError: 422 with the reason.
    """
    if not engine.config.url_images:
        engine.metrics.refused.labels("url").inc()
        reason = (
            "this service fetches no addresses: one that did could be sent to places that only it "
            "can reach. Send the picture itself as multipart/form-data"
        )
        raise refusal("image_url", reason)
    limits = FetchLimits(engine.config.upload_bytes, engine.config.url_timeout_s)
    try:
        return await asyncio.get_running_loop().run_in_executor(
            engine.fetchers, partial(fetch, url, limits)
        )
    except FetchError as error:
        engine.metrics.refused.labels("url").inc()
        raise refusal("image_url", str(error)) from None


def busy(engine: SearchEngine, reason: str, error: Exception) -> ProblemError:
    """503, which the platform sends with Retry-After; counted."""
    engine.metrics.refused.labels(reason).inc()
    return ProblemError(503, [Problem(field="", reason=str(error))])


def left_s(engine: SearchEngine, started: float) -> float:
    """Seconds until the request's deadline."""
    return engine.config.deadline_ms / 1e3 - (time.perf_counter() - started)


def content_type(request: Request) -> str:
    """The header, "" without one."""
    return request.headers.get("content-type", "")


async def _read_small(engine: SearchEngine, request: Request, take: Take) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(engine.config.upload_timeout_s):
            async for chunk in request.stream():
                take(len(chunk))
                body += chunk
                if len(body) > MAX_JSON_BYTES:
                    raise refusal("body", f"JSON of more than {MAX_JSON_BYTES} bytes", status=413)
    except TimeoutError:
        raise _slow(engine) from None
    except ClientDisconnect:
        raise _gone(engine) from None
    except HeldError as error:
        raise busy(engine, "overload", error) from None
    return bytes(body)


def _slow(engine: SearchEngine) -> ProblemError:
    """408: whoever sends so slowly holds memory and a place in line from the others."""
    engine.metrics.refused.labels("slow").inc()
    reason = f"the body did not arrive within {engine.config.upload_timeout_s:g} s"
    return refusal("body", reason, status=408)


def _gone(engine: SearchEngine) -> ProblemError:
    """The client hung up in the middle of its body; nobody reads this answer."""
    engine.metrics.refused.labels("gone").inc()
    return refusal("body", "the body ended before its announced length", status=400)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def first_reason(problems: Sequence[Problem]) -> str:
    """What a page says of a refusal."""
    one = problems[0]
    return f"{one.field}: {one.reason}" if one.field not in ("", "body") else one.reason
