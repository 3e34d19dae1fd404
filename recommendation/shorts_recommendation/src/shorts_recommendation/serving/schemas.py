"""What may be asked and what is answered; also the OpenAPI document.

Bodies are strict: a number in quotes is not a number. Queries come as text and are converted.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
)

MAX_ID = 2**63 - 1
MAX_K = 20
MAX_HOLDING = 20
MAX_BATCH = 100
MAX_WATCH_S = 86_400.0
MAX_DURATION_S = 600.0
MAX_CREATOR = 2**31 - 1

Id = Annotated[int, Field(ge=0, le=MAX_ID)]


class FeedQuery(BaseModel):
    """Query parameters of ``GET /v1/feed``."""

    model_config = ConfigDict(extra="forbid")

    user_id: int = Field(ge=0, le=MAX_ID, description="Unknown users get the cold-start list.")
    k: int = Field(10, ge=1, le=MAX_K, description="Videos wanted: play them in this order.")
    holding: list[Id] = Field(
        default_factory=list,
        max_length=MAX_HOLDING,
        description="Videos that the client still has to play: they are left out and the "
        "sequence goes on after them.",
    )
    cache: Literal["on", "off"] = Field(
        "on", description="off: compute the slate anew, whatever is cached."
    )


class Event(BaseModel):
    """One video on one screen. Sending the same event again is safe; it counts once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    event_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,64}$")] = Field(
        description="Chosen by the client, for example a UUID; makes retries safe."
    )
    user_id: Id
    video_id: Id
    watch_s: float = Field(
        ge=0, le=MAX_WATCH_S, allow_inf_nan=False, description="Seconds, replays included."
    )
    like: bool = False
    share: bool = False
    follow: bool = False
    timestamp: int | None = Field(
        None,
        ge=0,
        le=MAX_ID,
        description="Unix seconds when it came on screen; receipt less watch_s when absent.",
    )


class EventBatch(BaseModel):
    """Up to 100 events, stored all or none."""

    model_config = ConfigDict(extra="forbid")

    events: list[Event] = Field(min_length=1, max_length=MAX_BATCH)


def _shape(value: Any) -> str:
    batch = isinstance(value, EventBatch) or (isinstance(value, dict) and "events" in value)
    return "<batch>" if batch else "<single>"


EventsBody = Annotated[
    Annotated[Event, Tag("<single>")] | Annotated[EventBatch, Tag("<batch>")],
    Discriminator(_shape),
]


class Upload(BaseModel):
    """A new video. Sending the same upload again is safe."""

    model_config = ConfigDict(extra="forbid", strict=True)

    video_id: Id
    creator: int = Field(ge=0, le=MAX_CREATOR)
    tags: list[Annotated[int, Field(ge=0, le=59)]] = Field(min_length=1, max_length=3)
    language: int = Field(ge=0, le=99)
    duration_s: float = Field(gt=0, le=MAX_DURATION_S, allow_inf_nan=False)
    content: list[Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)]] = Field(
        min_length=1, max_length=4096, description="The content encoder's vector, any length > 0."
    )

    @field_validator("content")
    @classmethod
    def _has_a_direction(cls, content: list[float]) -> list[float]:
        if math.hypot(*content) < 1e-6:
            raise ValueError("a content vector of length zero has no direction")
        return content


class EventReceipt(BaseModel):
    """What became of one event."""

    event_id: str
    seq: int
    """Its place in the log; an answer whose state_version is not smaller has seen it."""
    status: Literal["accepted", "duplicate"]


class EventsResponse(BaseModel):
    """All events are durable and applied: the next feed of these users has seen them."""

    accepted: int
    duplicates: int
    request_id: str
    events: list[EventReceipt]


class UploadResponse(BaseModel):
    """The video is durable, in the index and in the fresh source."""

    video_id: int
    seq: int
    status: Literal["accepted", "duplicate"]
    videos: int
    """In the catalogue now."""
    request_id: str


class Item(BaseModel):
    """One video; ``value`` is comparable within one slate only."""

    video_id: int
    value: float
    sources: list[str]
    reason: str
    """Why it stands at this place: relevance, diversity, fresh, exploration, trending."""
    propensity: float


class DegradationInfo(BaseModel):
    """A stage that did not do its work, and why."""

    stage: str
    reason: Literal["error", "budget", "timeout"]
    detail: str


class FeedResponse(BaseModel):
    """The next videos of a user."""

    user_id: int
    request_id: str
    version: str
    slate_id: str
    answered_by: Literal["cache", "store", "computed", "stale", "trending"]
    cached: bool
    degraded: bool
    degradations: list[DegradationInfo]
    cold_start: bool
    """Nothing is known of the user: the list is not personal."""
    state_version: int
    """The last event of the user that the list has seen, as its place in the log."""
    batch_size: int
    """Requests that shared the models' call; 0 for an answer without one."""
    stages_ms: dict[str, float]
    """Of the whole call, for those that share it."""
    items: list[Item]


FEED_EXAMPLE = {
    "user_id": 7,
    "request_id": "6f1c2a",
    "version": "20260101-0000",
    "slate_id": "3-91",
    "answered_by": "computed",
    "cached": False,
    "degraded": False,
    "degradations": [],
    "cold_start": False,
    "state_version": 91,
    "batch_size": 4,
    "stages_ms": {"queue": 0.4, "recommend": 3.1, "total": 3.9},
    "items": [
        {
            "video_id": 50,
            "value": 1.31,
            "sources": ["vector", "tags"],
            "reason": "relevance",
            "propensity": 1.0,
        }
    ],
}
EVENT_EXAMPLES: dict[str, Any] = {
    "one": {
        "summary": "One video watched",
        "value": {
            "event_id": "4e5c0c6e-7c2c-4d3a-9a5e-1f0a7f3b2c11",
            "user_id": 7,
            "video_id": 50,
            "watch_s": 14.5,
            "like": True,
        },
    },
    "batch": {
        "summary": "A batch",
        "value": {
            "events": [
                {"event_id": "a-1", "user_id": 7, "video_id": 50, "watch_s": 14.5},
                {"event_id": "a-2", "user_id": 7, "video_id": 51, "watch_s": 1.2},
            ]
        },
    },
}
