"""The page's routes: GET / and GET, POST /search, as HTML made on the server.

In: the same fields as the API, as a form or an address. Out: one page. A picture comes by POST and
its results are that answer; words and "more like this" are addresses that can be kept, so a form
with words alone is sent on to one (303). Nothing here changes state.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from image_search.serving.asking import (
    ask,
    content_type,
    decoded,
    first_reason,
    read_form_of,
    to_query,
)
from image_search.serving.engine import SearchEngine
from image_search.serving.items import described, hits
from image_search.serving.page import HEADERS, Shown, render
from image_search.serving.queries import fields_of_form, refusal
from image_search.thumbnails import encode_thumbnail, media_type
from ml_platform.serving.errors import ProblemError

page_router = APIRouter(include_in_schema=False)
_DATA = "base64,"
SAMPLE = 12
"""Items of the first page."""


@page_router.get("/")
async def home(request: Request) -> Response:
    """The form, and some items to start from."""
    engine: SearchEngine = request.app.state.engine
    living = np.flatnonzero(engine.searcher.catalogue.alive)
    some = living[np.linspace(0, len(living) - 1, min(SAMPLE, len(living))).astype(np.int64)]
    shown = [described(engine, int(row)) for row in some]
    return _page(request, Shown(kind="sample", results=shown))


@page_router.get("/search")
async def search_by_address(request: Request) -> Response:
    """Results for words or an item."""
    fields = {name: value for name, value in request.query_params.items() if value.strip()}
    if not fields:
        return RedirectResponse("/", 303)
    return await _answered(request, fields, None)


@page_router.post("/search")
async def search_by_form(request: Request) -> Response:
    """Results for a picture; words are sent on to their address."""
    engine: SearchEngine = request.app.state.engine
    try:
        if not content_type(request).lower().startswith("multipart/form-data"):
            raise refusal("body", "send the form as multipart/form-data", status=415)
        with engine.held.hold() as take:
            form = await read_form_of(engine, request, take)
            fields, image = dict(form.fields), form.image or None
            again = fields.pop("again", None)
            if image is None and again is not None and "text" not in fields:
                image = _carried(again)
            if image is None and ("text" in fields or "item_id" in fields):
                return RedirectResponse(f"/search?{urlencode(fields)}", 303)
            if image is None:
                raise refusal("body", "choose a picture or type some words")
            fields.pop("text", None)  # a picture was chosen: it is what is asked with
            fields.pop("item_id", None)
            return await _answered(request, fields, image)
    except ProblemError as error:
        return _refused(request, error, {})


async def _answered(request: Request, fields: dict[str, str], image: bytes | None) -> Response:
    engine: SearchEngine = request.app.state.engine
    started = request.state.started
    try:
        query = to_query(engine, fields_of_form(fields), with_image=image is not None)
        if query.kind == "url":
            raise refusal("image_url", "the page takes no addresses of pictures")
        carried = ""
        if image is not None:
            picture = await decoded(engine, image, started)
            query = replace(query, picture=picture)
            small = encode_thumbnail(picture)
            carried = f"data:{media_type(small)};{_DATA}{base64.b64encode(small).decode()}"
        found = await ask(engine, query, started)
    except ProblemError as error:
        return _refused(request, error, fields)
    answer = found.answer
    return _page(
        request,
        Shown(
            fields=fields,
            kind=query.kind,
            picture=carried,
            results=hits(engine, answer.rows, answer.similarity, answer.score),
            hidden=answer.duplicates,
            degradations=answer.degradations,
            ignored=found.ignored,
            took_ms=sum(ms for name, ms in found.stages_ms.items() if name in ("embed", "search")),
        ),
    )


def _carried(again: str) -> bytes:
    """The small picture that a form carries along, so that filters can change without it.

    Raises:
        ProblemError: If it is not what this page wrote.
    """
    _, found, data = again.partition(_DATA)
    try:
        if not found:
            raise ValueError
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        raise refusal("again", "not a picture of this page; choose it again") from None


def _refused(request: Request, error: ProblemError, fields: dict[str, str]) -> Response:
    shown = Shown(fields=fields, refusal=first_reason(error.problems))
    response = _page(request, shown, error.status)
    if error.status == 503:
        response.headers["Retry-After"] = "1"
    return response


def _page(request: Request, shown: Shown, status: int = 200) -> Response:
    engine: SearchEngine = request.app.state.engine
    catalogue = engine.searcher.catalogue
    body = render(
        shown,
        categories=catalogue.label_names,
        n_items=int(catalogue.alive.sum()),
        page=engine.config.page,
        has_text=engine.searcher.text is not None,
    )
    return HTMLResponse(body, status, headers=HEADERS)
