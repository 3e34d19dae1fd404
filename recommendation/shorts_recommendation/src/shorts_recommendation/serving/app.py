"""The HTTP API over one `FeedEngine`.

    GET  /v1/feed      the next videos of a user
    POST /v1/events    what was watched: durable, idempotent, seen by the user's next feed
    POST /v1/uploads   a new video: in the index and the fresh source when it is answered
    GET  /healthz /readyz /metrics /v1/version   from the platform's shell

Models run on a thread of their own; the event loop parses, looks up, waits and writes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, FastAPI, Query, Request
from starlette.responses import Response

from ml_platform.serving.errors import OrjsonResponse, Problem, ProblemError
from ml_platform.serving.event_log import (
    AppendResult,
    EventConflictError,
    EventLogBusyError,
    EventLogError,
    LoggedEvent,
)
from ml_platform.serving.service import JsonRoute, create_service, problem_responses
from shorts_recommendation.serving import schemas
from shorts_recommendation.serving.computing import FeedAnswer, FeedAsk
from shorts_recommendation.serving.engine import FeedEngine
from shorts_recommendation.serving.hot_route import HotRoute
from shorts_recommendation.serving.operations import describe, store_cpu_s, time_state_reads
from shorts_recommendation.serving.protocol import Recommender
from shorts_recommendation.serving.queries import query_parameters, read_query
from shorts_recommendation.serving.records import logged_event, logged_upload
from shorts_recommendation.serving.sampling import sample, threads_cpu_s
from shorts_recommendation.serving.settings import FeedMetrics, ServingSettings

logger = logging.getLogger(__name__)

API_VERSION = "1.0.0"
MAX_IN_FLIGHT = 1024
"""The ladder sheds load long before; this bounds memory."""
_DESCRIPTION = (
    "The next short videos of a user, prefetched and invalidated by what the user does. Refusals "
    'are always `{"detail": [{"field", "reason", "value"}]}`. An answer with `degraded: true` came '
    "from a fallback; `degradations` says which stage and why."
)

router = APIRouter(route_class=JsonRoute)


def create_app(recommender: Recommender, settings: ServingSettings) -> FastAPI:
    """The app; its resources are opened when it starts and closed when it stops.

    Args:
        recommender: The loaded bundle, warmed up.
        settings: Folder, store, knobs.
    """
    metrics = FeedMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        app.state.engine = engine = await asyncio.to_thread(
            FeedEngine, recommender, settings, metrics, loop
        )
        try:
            yield
        finally:
            await asyncio.to_thread(engine.close)

    app = create_service(
        title="shorts_recommendation",
        version=API_VERSION,
        description=_DESCRIPTION,
        metrics=metrics,
        not_ready=lambda: app.state.engine.not_ready(),
        version_info=lambda: describe(app.state.engine),
        lifespan=lifespan,
        max_in_flight=MAX_IN_FLIGHT,
    )
    app.include_router(router)
    app.router.routes.insert(0, HotRoute("/v1/feed", feed))
    return app


@router.get(
    "/v1/feed",
    tags=["feed"],
    response_model=schemas.FeedResponse,
    responses={
        200: {"content": {"application/json": {"example": schemas.FEED_EXAMPLE}}},
        **problem_responses(422, 503),
    },
    openapi_extra={"parameters": query_parameters(schemas.FeedQuery)},
)
async def feed(request: Request) -> Response:
    """The next videos of a user, in the order of play; asking again without events is safe."""
    engine = _ready(request)
    query = read_query(request, schemas.FeedQuery)
    await engine.see_other_workers()
    ask = FeedAsk(
        *(query.user_id, query.k, tuple(query.holding), query.cache == "on"),
        request.state.started,
    )
    answer = await engine.computer.answer(ask)
    request_id = request.state.request_id
    engine.requests.append(_logged_answer(engine, ask, answer, request_id))
    return Response(_feed_body(engine, ask, answer, request_id), media_type="application/json")


@router.post(
    "/v1/events",
    tags=["events"],
    response_model=schemas.EventsResponse,
    responses=problem_responses(409, 413, 415, 422, 503),
)
async def post_events(
    request: Request,
    body: Annotated[schemas.EventsBody, Body(openapi_examples=schemas.EVENT_EXAMPLES)],
) -> Response:
    """Record what users watched; durable and applied when it is answered.

    409: an event_id was used before for a different event; nothing was stored.
    """
    engine = _ready(request)
    batch = isinstance(body, schemas.EventBatch)
    events = body.events if isinstance(body, schemas.EventBatch) else [body]
    await engine.see_other_workers()
    await engine.applier.see_uploads(e.video_id for e in events)
    _refuse_impossible(engine, events, batch)
    away = [u for u in {e.user_id for e in events} if u in engine.users.evicted]
    if not all(await asyncio.gather(*map(engine.newcomers.bring_back, away))):
        reason = "the user's state is being read; nothing was stored, send it again later"
        raise ProblemError(503, [Problem(field="", reason=reason)])
    now_s = engine.clock.now()
    results = await _append(engine, request, [logged_event(e, now_s) for e in events], batch)
    receipts = [
        {"event_id": e.event_id, "seq": r.seq, "status": "duplicate" if r.duplicate else "accepted"}
        for e, r in zip(events, results, strict=True)
    ]
    duplicates = sum(r.duplicate for r in results)
    engine.metrics.events.labels("duplicate").inc(duplicates)
    engine.metrics.events.labels("accepted").inc(len(results) - duplicates)
    return OrjsonResponse(
        {
            "accepted": len(results) - duplicates,
            "duplicates": duplicates,
            "request_id": request.state.request_id,
            "events": receipts,
        }
    )


@router.post(
    "/v1/uploads",
    tags=["uploads"],
    response_model=schemas.UploadResponse,
    responses=problem_responses(409, 413, 415, 422, 503),
)
async def post_upload(request: Request, upload: schemas.Upload) -> Response:
    """Take a new video; it can be recommended when this is answered.

    409: the video_id exists, with other content.
    """
    engine = _ready(request)
    await engine.see_other_workers()
    _refuse_upload(engine, upload)
    record = logged_upload(upload, engine.clock.now())
    result = (await _append(engine, request, [record], False, "video_id"))[0]
    if upload.video_id not in engine.video_idx:
        reason = "it is logged, but the index could not take it; the server's log says why"
        raise ProblemError(503, [Problem(field="video_id", reason=reason, value=upload.video_id)])
    return OrjsonResponse(
        {
            "video_id": upload.video_id,
            "seq": result.seq,
            "status": "duplicate" if result.duplicate else "accepted",
            "videos": len(engine.video_idx),
            "request_id": request.state.request_id,
        }
    )


@router.get("/v1/operations", tags=["operations"], response_model=dict[str, Any])
async def operations(
    request: Request,
    ids: bool = False,
    time_reads: bool = False,
) -> Response:
    """Processor seconds so far, lines and lags.

    With ``ids`` all user and video ids, for a load; with ``time_reads`` what states cost from here
    and from the store.
    """
    engine: FeedEngine = request.app.state.engine
    found = {
        "cpu_s": time.process_time(),
        "store_cpu_s": await asyncio.to_thread(store_cpu_s, engine),
        "threads_cpu_s": threads_cpu_s(),
        "waiting": engine.computer.batcher.waiting(),
        "dropped": engine.computer.batcher.dropped,
        "encoded": engine.computer.encoded(),
        "stream_lag": max(0, engine.applied_seq - engine.consumer.applied_seq),
        **describe(engine),
    }
    if time_reads:
        found["reads"] = await asyncio.to_thread(time_state_reads, engine)
    if ids:
        found["user_ids"] = engine.recommender.users.user_ids
        found["video_ids"] = engine.recommender.catalogue.video_ids
    return OrjsonResponse(found)


@router.get("/v1/operations/samples", include_in_schema=False)
async def samples(
    request: Request, seconds: Annotated[float, Query(gt=0, le=10, allow_inf_nan=False)] = 3.0
) -> Response:
    """Where the threads spend the next seconds: samples by thread and function. One at a time."""
    state = request.app.state
    if getattr(state, "sampling", False):
        raise ProblemError(409, [Problem(field="", reason="samples are being taken already")])
    state.sampling = True
    try:
        return OrjsonResponse(await asyncio.to_thread(sample, seconds))
    finally:
        state.sampling = False


def _ready(request: Request) -> FeedEngine:
    engine: FeedEngine = request.app.state.engine
    if reason := engine.replaying():
        raise ProblemError(503, [Problem(field="", reason=reason)])
    return engine


async def _append(
    engine: FeedEngine,
    request: Request,
    records: Sequence[LoggedEvent],
    batch: bool,
    field: str = "event_id",
) -> list[AppendResult]:
    """Log records, or refuse the request with the reason."""
    try:
        return await engine.append(records)
    except EventConflictError as error:
        engine.metrics.events.labels("conflict").inc(len(error.positions))
        reason = "this id was already used for something different"
        problems = [
            Problem(field=_field(field, p if batch else None), reason=reason, value=i[2:])
            for p, i in zip(error.positions, error.event_ids, strict=True)
        ]
        raise ProblemError(409, problems) from None
    except EventLogError as error:  # too busy, or the disk refuses; either way nothing is stored
        logger.exception("refused, request_id=%s", request.state.request_id)
        busy = isinstance(error, EventLogBusyError)
        reason = "too many events are waiting" if busy else "it cannot be stored at the moment"
        problem = Problem(field="", reason=f"{reason}; nothing was stored, send it again later")
        raise ProblemError(503, [problem]) from None


def _refuse_impossible(engine: FeedEngine, events: Sequence[schemas.Event], batch: bool) -> None:
    """Refuse videos that do not exist and timestamps from the future."""
    problems = []
    lead_s, now_s = engine.clock.max_lead_s, engine.clock.now()
    for position, event in enumerate(events):
        place = position if batch else None
        if event.video_id not in engine.video_idx:
            field = _field("video_id", place)
            problems.append(Problem(field=field, reason="no such video", value=event.video_id))
        if event.timestamp is not None and event.timestamp > now_s + lead_s:
            reason = (
                f"more than {lead_s} s after server time {now_s}, which runs in "
                "the data's era; leave it out to use server time"
            )
            field = _field("timestamp", place)
            problems.append(Problem(field=field, reason=reason, value=event.timestamp))
    if problems:
        raise ProblemError(422, problems)


def _refuse_upload(engine: FeedEngine, upload: schemas.Upload) -> None:
    """Refuse what the index could not take: after it is logged it must be possible to add it."""
    if upload.video_id in engine.video_idx and upload.video_id not in engine.uploads.logged:
        reason = "a video that the service was started with has this id"
        raise ProblemError(409, [Problem(field="video_id", reason=reason, value=upload.video_id)])
    catalogue, problems = engine.recommender.catalogue, []
    dim = catalogue.content.shape[1]
    if len(upload.content) != dim:
        reason = f"the content vector must have {dim} numbers"
        problems.append(Problem(field="content", reason=reason, value=len(upload.content)))
    if upload.creator > catalogue.n_creators:
        reason = f"creators are numbered without gaps; the next new one is {catalogue.n_creators}"
        problems.append(Problem(field="creator", reason=reason, value=upload.creator))
    if problems:
        raise ProblemError(422, problems)


def _field(name: str, position: int | None) -> str:
    return name if position is None else f"events.{position}.{name}"


def _feed_body(engine: FeedEngine, ask: FeedAsk, answer: FeedAnswer, request_id: str) -> bytes:
    stages = answer.stages
    stages.stages_ms["total"] = stages.elapsed_ms()
    engine.metrics.answers.labels(answer.by).inc()
    return orjson.dumps(
        {
            "user_id": ask.user_id,
            "request_id": request_id,
            "version": engine.recommender.version,
            "slate_id": answer.slate_id,
            "answered_by": answer.by,
            "cached": answer.by in ("cache", "store"),
            "degraded": bool(stages.degradations),
            "degradations": stages.degradations,
            "cold_start": answer.cold,
            "state_version": answer.version,
            "batch_size": answer.batch_size,
            "stages_ms": {name: round(ms, 3) for name, ms in stages.stages_ms.items()},
            "items": [orjson.Fragment(item) for item in answer.items],
        }
    )


def _logged_answer(
    engine: FeedEngine, ask: FeedAsk, answer: FeedAnswer, request_id: str
) -> dict[str, Any]:
    """What was shown to whom; the items go in whole when they were chosen, then by id alone."""
    record: dict[str, Any] = {
        "request_id": request_id,
        "time": time.time(),
        "now_s": engine.clock.now(),
        "version": engine.recommender.version,
        "user_id": ask.user_id,
        "slate_id": answer.slate_id,
        "state_version": answer.version,
        "answered_by": answer.by,
        "degraded": bool(answer.stages.degradations),
    }
    if answer.by in ("cache", "store", "stale"):
        record["video_ids"] = answer.video_ids
    else:
        record["items"] = [orjson.Fragment(item) for item in answer.items]
    return record
