"""The HTTP API over one `ServingEngine`.

    GET  /v1/recommendations   items for a user
    GET  /v1/similar/{item_id} items like an item
    POST /v1/events            what users did: durable, idempotent, visible in the next answer
    GET  /v1/operations        the deployment, shadow traffic, the canary: how each is doing
    GET  /healthz /readyz /metrics /v1/version   from the platform's shell

Computing runs on the engine's threads, so the event loop only parses, waits and writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Body, FastAPI, Path, Query, Request
from starlette.responses import Response

from ml_platform.operations.assignment import in_share
from ml_platform.serving.clock import MAX_LEAD_S
from ml_platform.serving.errors import OrjsonResponse, Problem, ProblemError
from ml_platform.serving.event_log import (
    EventConflictError,
    EventLogBusyError,
    EventLogError,
    LoggedEvent,
)
from ml_platform.serving.metrics import ServiceMetrics
from ml_platform.serving.observers import tell
from ml_platform.serving.service import JsonRoute, create_service, problem_responses
from video_recommendation.features import SCHEMA
from video_recommendation.serving import schemas
from video_recommendation.serving.attachments import Attach, Attachment
from video_recommendation.serving.engine import ServingEngine, ServingSettings
from video_recommendation.serving.models import Answer, ListRequest
from video_recommendation.serving.observers import AcceptedEvent, served_request
from video_recommendation.serving.protocol import Recommender

logger = logging.getLogger(__name__)

API_VERSION = "1.0.0"
FEATURE_LOG_SALT = "feature_log"
_DESCRIPTION = (
    "Video recommendations that follow what a user does. Refusals are always "
    '`{"detail": [{"field", "reason", "value"}]}`. A response with `degraded: true` was answered '
    "by a fallback; `degradations` says which stage and why."
)

router = APIRouter(route_class=JsonRoute)


def create_app(
    recommender: Recommender, settings: ServingSettings, attach: Sequence[Attach] = ()
) -> FastAPI:
    """The app; its resources are opened when it starts and closed when it stops.

    Args:
        recommender: The loaded bundle.
        settings: Folder, store, budgets, threads.
        attach: What hangs onto the engine: the deployment, shadow traffic, a canary, a monitor.
    """
    metrics = ServiceMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = await asyncio.to_thread(ServingEngine, recommender, settings, metrics)
        app.state.engine = engine
        app.state.attachments = attachments = []
        try:
            for make in attach:
                attachments.append(await asyncio.to_thread(make, engine))
            yield
        finally:
            for attachment in reversed(attachments):
                await asyncio.to_thread(attachment.close)
            await asyncio.to_thread(engine.close)

    app = create_service(
        title="video_recommendation",
        version=API_VERSION,
        description=_DESCRIPTION,
        metrics=metrics,
        not_ready=lambda: app.state.engine.not_ready(),
        version_info=lambda: app.state.engine.describe(),
        lifespan=lifespan,
    )
    app.include_router(router)
    return app


@router.get("/v1/operations", tags=["operations"], response_model=dict[str, Any])
async def operations(request: Request) -> Response:
    """What hangs onto the engine, and how each part is doing."""
    attachments: list[Attachment] = request.app.state.attachments
    return OrjsonResponse({a.name: await asyncio.to_thread(a.describe) for a in attachments})


@router.get(
    "/v1/recommendations",
    tags=["recommendations"],
    response_model=schemas.RecommendationResponse,
    responses={
        200: {"content": {"application/json": {"example": schemas.RECOMMENDATION_EXAMPLE}}},
        **problem_responses(422),
    },
)
async def recommendations(
    request: Request, query: Annotated[schemas.RecommendationQuery, Query()]
) -> Response:
    """Items for a user, best first; seen items are left out. Unknown users get a general list."""
    engine: ServingEngine = request.app.state.engine
    surface = query.surface.value
    wanted = ListRequest(query.user_id, query.k, surface, query.exclude, request.state.started)
    answer = await asyncio.get_running_loop().run_in_executor(
        engine.workers, engine.recommend, wanted
    )
    body = {
        **_list_body(request, answer),
        "user_id": query.user_id,
        "cold_start": answer.cold_start,
    }
    record = logged_request(body, answer, now=answer.now, surface=surface)
    if in_share(record["request_id"], FEATURE_LOG_SALT, engine.settings.feature_log_share):
        record["features"] = logged_features(answer)
    engine.requests.append(record)
    served = served_request(
        answer,
        request_id=request.state.request_id,
        user_id=query.user_id,
        k=query.k,
        surface=surface,
    )
    tell(engine.observers, lambda o: o.request_served(served), engine.metrics.observer_failed)
    return OrjsonResponse(body)


@router.get(
    "/v1/similar/{item_id}",
    tags=["recommendations"],
    response_model=schemas.SimilarResponse,
    responses={
        200: {"content": {"application/json": {"example": schemas.SIMILAR_EXAMPLE}}},
        **problem_responses(404, 422),
    },
)
async def similar(
    request: Request,
    item_id: Annotated[int, Path(ge=0, le=schemas.MAX_ID)],
    query: Annotated[schemas.SimilarQuery, Query()],
) -> Response:
    """Items like one item, most similar first."""
    engine: ServingEngine = request.app.state.engine
    model = (
        engine.production
    )  # one version from here to the response, whatever is swapped meanwhile
    item_idx = model.recommender.catalogue.item_idx(item_id)
    if item_idx is None:
        problem = Problem(field="item_id", reason="no such item", value=item_id)
        raise ProblemError(404, [problem])
    answer = await asyncio.get_running_loop().run_in_executor(
        engine.workers, engine.similar, model, item_idx, query.k, request.state.started
    )
    body = {**_list_body(request, answer), "item_id": item_id}
    engine.requests.append(logged_request(body, answer, now=engine.clock.now(), surface="similar"))
    return OrjsonResponse(body)


@router.post(
    "/v1/events",
    tags=["events"],
    response_model=schemas.EventsResponse,
    responses={
        202: {"model": schemas.EventsResponse, "description": "Durable, not yet applied"},
        **problem_responses(409, 413, 415, 422, 503),
    },
)
async def post_events(
    request: Request,
    body: Annotated[schemas.EventsBody, Body(openapi_examples=schemas.EVENT_EXAMPLES)],
) -> Response:
    """Record what users did.

    Durable before it is answered. 200: the next recommendation sees it; 202: it will, once the
    store is back. 409: an event_id was used before for a different event; nothing was stored.
    """
    engine: ServingEngine = request.app.state.engine
    batch = isinstance(body, schemas.EventBatch)
    events = body.events if isinstance(body, schemas.EventBatch) else [body]
    _refuse_impossible(engine, events, batch)
    now = engine.clock.now()
    try:
        results = await engine.log.append_async([_logged(event, now) for event in events])
    except EventConflictError as error:
        engine.metrics.events.labels("conflict").inc(len(error.positions))
        reason = "this id was already used for a different event"
        problems = [
            Problem(field=_field("event_id", p if batch else None), reason=reason, value=i)
            for p, i in zip(error.positions, error.event_ids, strict=True)
        ]
        raise ProblemError(409, problems) from None
    except EventLogError as error:  # too busy, or the disk refuses; either way nothing is stored
        logger.exception("events refused, request_id=%s", request.state.request_id)
        busy = isinstance(error, EventLogBusyError)
        reason = "too many events are waiting" if busy else "events cannot be stored at the moment"
        problem = Problem(field="", reason=f"{reason}; nothing was stored, send them again later")
        raise ProblemError(503, [problem]) from None
    applied = await asyncio.get_running_loop().run_in_executor(
        engine.appliers, engine.apply_through, max(r.seq for r in results)
    )
    duplicates = sum(r.duplicate for r in results)
    engine.metrics.events.labels("duplicate").inc(duplicates)
    engine.metrics.events.labels("accepted").inc(len(results) - duplicates)
    receipts = [
        {"event_id": e.event_id, "seq": r.seq, "status": "duplicate" if r.duplicate else "accepted"}
        for e, r in zip(events, results, strict=True)
    ]
    content = {
        "accepted": len(results) - duplicates,
        "duplicates": duplicates,
        "applied": applied,
        "request_id": request.state.request_id,
        "events": receipts,
    }
    for event, result in zip(events, results, strict=True):
        if not result.duplicate:
            accepted = _accepted(event, now)
            tell(
                engine.observers,
                lambda o, told=accepted: o.event_accepted(told),  # type: ignore[misc]
                engine.metrics.observer_failed,
            )
    return OrjsonResponse(content, status_code=200 if applied else 202)


def _refuse_impossible(engine: ServingEngine, events: Sequence[schemas.Event], batch: bool) -> None:
    """Refuse items that do not exist and timestamps from the future."""
    problems = []
    latest = engine.clock.now() + MAX_LEAD_S
    for position, event in enumerate(events):
        place = position if batch else None
        if not engine.knows_item(event.item_id):
            field = _field("item_id", place)
            problems.append(Problem(field=field, reason="no such item", value=event.item_id))
        if event.timestamp is not None and event.timestamp > latest:
            reason = (
                f"more than {MAX_LEAD_S} s after server time {latest - MAX_LEAD_S}, which runs in "
                "the data's era; leave it out to use server time"
            )
            field = _field("timestamp", place)
            problems.append(Problem(field=field, reason=reason, value=event.timestamp))
    if problems:
        raise ProblemError(422, problems)


def _logged(event: schemas.Event, now: int) -> LoggedEvent:
    body = event.model_dump(exclude={"event_id"})
    return LoggedEvent(event.event_id, orjson.dumps(body, option=orjson.OPT_SORT_KEYS), now)


def _field(name: str, position: int | None) -> str:
    return name if position is None else f"events.{position}.{name}"


def logged_features(answer: Answer) -> dict[str, Any] | None:
    """What the ranker saw of the items shown, to the bit, with what is needed to compute it again.

    A float32 is written with the fewest digits that name it, so it comes back unchanged. None where
    the ranker did not run.
    """
    rows = [item.features for item in answer.listed if item.features is not None]
    if not rows or len(rows) < len(answer.listed):
        return None
    item_ids = answer.model.recommender.catalogue.item_ids
    return {
        "schema": SCHEMA.sha256,
        "values": np.stack(rows),
        "as_of": [item.features_as_of for item in answer.listed],
        "exclude": [int(item_ids[i]) for i in answer.exclude],
    }


def _accepted(event: schemas.Event, now: int) -> AcceptedEvent:
    body = event.model_dump()
    return AcceptedEvent(
        **{**body, "timestamp": now if event.timestamp is None else event.timestamp}
    )


def _list_body(request: Request, answer: Answer) -> dict[str, Any]:
    stages = answer.stages
    stages.stages_ms["total"] = stages.elapsed_ms()
    return {
        "version": answer.model.version,
        "request_id": request.state.request_id,
        "degraded": bool(stages.degradations),
        "degradations": stages.degradations,
        "stages_ms": {name: round(ms, 3) for name, ms in stages.stages_ms.items()},
        "items": answer.items,
    }


def logged_request(
    body: dict[str, Any], answer: Answer, *, now: int, surface: str
) -> dict[str, Any]:
    """A response as the request log keeps it: what was shown, where, and how it was chosen.

    Args:
        body: The response.
        answer: What it was made from.
        now: Server time of the request, in the data's era.
        surface: Where the list is shown.
    """
    items = body["items"]
    place = next((p for p, item in enumerate(items) if item["exploration"]), None)
    return {
        "request_id": body["request_id"],
        "now": now,
        "version": body["version"],
        "slot": answer.slot,
        "surface": surface,
        "user_id": body.get("user_id"),
        "item_id": body.get("item_id"),  # of a "similar" list: items like which?
        "items": [item["item_id"] for item in items],
        "scores": [item["score"] for item in items],
        "sources": [item["sources"] for item in items],
        "exploration_place": place,
        "propensity": None if place is None else items[place]["propensity"],
        "degraded": body["degraded"],
        "degraded_stages": [d.stage for d in body["degradations"]],
    }
