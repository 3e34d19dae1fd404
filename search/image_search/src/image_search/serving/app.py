"""The HTTP API over one ``SearchEngine``.

    POST   /v1/search            a picture (form), or text, an item, an address (JSON)
    GET    /v1/items/{id}        what is known of an item;  /image: its picture
    POST   /v1/items             adds an item (admin);  DELETE /v1/items/{id} takes one away (admin)
    POST   /v1/events            a user opened an item
    GET    /v1/operations        lanes, memory, drift of the queries
    GET    /  and  /search       the page (page_routes.py)
    GET    /healthz /readyz /metrics /v1/version   from the platform's shell

A route reads its own body, because a picture must be refused while it arrives; what is read is
described to the OpenAPI document by hand (``schemas``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from starlette.responses import Response

from image_search.monitoring.monitor import QueryMonitor
from image_search.searcher import Searcher
from image_search.serving import schemas
from image_search.serving.admin import admin_only
from image_search.serving.asking import ask, busy, decoded, read_form_of, search_request
from image_search.serving.engine import SearchEngine
from image_search.serving.items import described, hits, living_row
from image_search.serving.journal import Added, Clicked
from image_search.serving.metrics import SearchMetrics
from image_search.serving.page_routes import page_router
from image_search.serving.process import cpu_s, rss_bytes
from image_search.serving.queries import checked, position_of, refusal
from image_search.serving.settings import OverloadedError, ServingSettings, TakenError
from image_search.thumbnails import media_type
from ml_platform.serving.errors import OrjsonResponse
from ml_platform.serving.event_log import EventConflictError, EventLogError
from ml_platform.serving.service import JsonRoute, create_service, problem_responses

API_VERSION = "1.0.0"
MAX_IN_FLIGHT = 256
"""The lanes refuse long before; this bounds connections that only send slowly."""
_DESCRIPTION = (
    "Search by picture, by words, or by an item of the catalogue. Refusals are always "
    '`{"detail": [{"field", "reason", "value"}]}`. Prices are synthetic unless an item was added '
    "by hand."
)
ItemId = Annotated[int, Path(ge=0, le=2**53 - 1)]
router = APIRouter(route_class=JsonRoute)
admin = [Depends(admin_only)]


def create_app(searcher: Searcher, settings: ServingSettings) -> FastAPI:
    """The app; its resources are opened when it starts and closed when it stops.

    Args:
        searcher: Of a bundle, warm.
        settings: Limits, folder, token.
    """
    metrics = SearchMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        engine = await asyncio.to_thread(SearchEngine, searcher, settings, metrics, loop)
        app.state.engine = engine
        app.state.monitor = monitor = QueryMonitor(metrics.registry, searcher)
        engine.observers.append(monitor)
        monitor.start()
        try:
            yield
        finally:
            await asyncio.to_thread(monitor.close)
            await asyncio.to_thread(engine.close)

    app = create_service(
        title="image_search",
        version=API_VERSION,
        description=_DESCRIPTION,
        metrics=metrics,
        not_ready=lambda: app.state.engine.not_ready(),
        version_info=lambda: app.state.engine.describe(),
        lifespan=lifespan,
        max_body_bytes=settings.config.upload_bytes,
        max_in_flight=MAX_IN_FLIGHT,
    )
    app.state.clock = time.time
    app.include_router(router)
    app.include_router(page_router)
    return app


@router.post(
    "/v1/search",
    tags=["search"],
    response_model=schemas.SearchResponse,
    responses=problem_responses(404, 413, 415, 422, 503),
    openapi_extra={"requestBody": schemas.search_body()},
)
async def search(request: Request) -> Response:
    """What resembles a picture, fits some words, or is like an item."""
    engine: SearchEngine = request.app.state.engine
    query, stages_ms = await search_request(engine, request)
    found = await ask(engine, query, request.state.started)
    stages_ms |= found.stages_ms
    return OrjsonResponse(
        {
            "results": hits(engine, found.answer.rows, found.answer.similarity, found.answer.score),
            "near_duplicates_hidden": found.answer.duplicates,
            "degradations": found.answer.degradations,
            "ignored_words": found.ignored,
            "kind": query.kind,
            "version": engine.searcher.version,
            "request_id": request.state.request_id,
            "timings_ms": {name: round(ms, 3) for name, ms in stages_ms.items()},
            "batch_size": found.batch,
        }
    )


@router.get(
    "/v1/items/{item_id}",
    tags=["items"],
    response_model=schemas.Item,
    responses=problem_responses(404, 422),
)
async def item(request: Request, item_id: ItemId) -> Response:
    """What is known of an item."""
    engine: SearchEngine = request.app.state.engine
    return OrjsonResponse(described(engine, living_row(engine, item_id)))


@router.get(
    "/v1/items/{item_id}/image",
    tags=["items"],
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}, "image/jpeg": {}}, "description": "The picture, small"},
        **problem_responses(404, 422),
    },
)
async def item_image(request: Request, item_id: ItemId) -> Response:
    """An item's picture, small."""
    engine: SearchEngine = request.app.state.engine
    encoded = engine.searcher.thumbnail(living_row(engine, item_id))
    # An id is never given twice, so its picture never changes; a deleted one may be seen a while.
    headers = {"Cache-Control": "public, max-age=600", "X-Content-Type-Options": "nosniff"}
    return Response(encoded, media_type=media_type(encoded), headers=headers)


@router.post(
    "/v1/items",
    tags=["admin"],
    status_code=201,
    response_model=schemas.AddedResponse,
    responses=problem_responses(401, 403, 409, 413, 415, 422, 503),
    openapi_extra={"requestBody": schemas.add_body()},
    dependencies=admin,
)
async def add_item(request: Request) -> Response:
    """Adds an item: durable, and found by the next search, when it is answered.

    409: the id belongs to another item, or did.
    """
    engine: SearchEngine = request.app.state.engine
    with engine.held.hold() as take:
        form = await read_form_of(engine, request, take)
        given = checked(schemas.AddFields, form.fields)
        if form.image is None:
            raise refusal("image", "send the picture as the part image")
        content = form.image + f"|{given.category}|{given.price}".encode()
        item_id = engine.id_of(content) if given.item_id is None else given.item_id
        names = engine.searcher.catalogue.label_names
        category = names[position_of(given.category, names)]
        picture = await decoded(engine, form.image, request.state.started)
    try:
        duplicate = await engine.add(Added(item_id, category, given.price, picture))
    except TakenError as error:
        raise refusal("item_id", str(error), item_id, status=409) from None
    except (EventLogError, OverloadedError) as error:
        raise busy(engine, "overload", error) from None
    body = {"item_id": item_id, "duplicate": duplicate, "image": f"/v1/items/{item_id}/image"}
    return OrjsonResponse(body, status_code=201)


@router.delete(
    "/v1/items/{item_id}",
    tags=["admin"],
    response_model=schemas.DeletedResponse,
    responses=problem_responses(401, 403, 404, 422, 503),
    dependencies=admin,
)
async def delete_item(request: Request, item_id: ItemId) -> Response:
    """Takes an item away: no later search finds it."""
    engine: SearchEngine = request.app.state.engine
    try:
        await engine.delete(item_id)
    except KeyError:
        raise refusal("item_id", "no such item", item_id, status=404) from None
    except EventLogError as error:
        raise busy(engine, "overload", error) from None
    return OrjsonResponse({"item_id": item_id, "deleted": True})


@router.post(
    "/v1/events",
    tags=["events"],
    response_model=schemas.EventResponse,
    responses=problem_responses(404, 409, 413, 422, 503),
)
async def post_event(request: Request, click: schemas.ClickBody) -> Response:
    """A user opened an item: durable when it is answered; the same event again is safe."""
    engine: SearchEngine = request.app.state.engine
    event = Clicked(click.event_id, click.user_id, click.item_id, request.app.state.clock())
    try:
        duplicate = await engine.click(event)
    except KeyError:
        raise refusal("item_id", "no such item", click.item_id, status=404) from None
    except EventConflictError:
        reason = "was used for another event"
        raise refusal("event_id", reason, click.event_id, status=409) from None
    except EventLogError as error:
        raise busy(engine, "overload", error) from None
    status = "duplicate" if duplicate else "accepted"
    return OrjsonResponse({"event_id": click.event_id, "status": status})


@router.get("/v1/operations", tags=["operations"], response_model=schemas.Operations)
async def operations(request: Request) -> Response:
    """Lanes, memory, and whether the queries are still those of the launch."""
    engine: SearchEngine = request.app.state.engine
    monitor: QueryMonitor = request.app.state.monitor
    return OrjsonResponse(
        {
            "lanes": engine.lanes(),
            "drift": monitor.describe(),
            "uptime_s": request.app.state.clock() - engine.started_s,
            "rss_bytes": rss_bytes(),
            "cpu_s": cpu_s(),
            "held_bytes": engine.held.now,
        }
    )
