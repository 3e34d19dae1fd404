"""Requests and responses of the API, as clients see them (ids are external everywhere)."""

from __future__ import annotations

from enum import StrEnum
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
from pydantic_core.core_schema import ValidationInfo

MAX_ID = 2**63 - 1
MAX_K = 100
MAX_BATCH = 500
MAX_EXCLUDE = 500

EventType = Literal["watch", "like", "rating"]


class Surface(StrEnum):
    """Where a list is shown."""

    home = "home"
    up_next = "up_next"


class RecommendationQuery(BaseModel):
    """Query parameters of ``GET /v1/recommendations``."""

    model_config = ConfigDict(extra="forbid")

    user_id: int = Field(ge=0, le=MAX_ID, description="Unknown users get the cold-start list.")
    k: int = Field(20, ge=1, le=MAX_K, description="Most items to return.")
    surface: Surface = Field(Surface.home, description="Where the list is shown.")
    exclude: list[Annotated[int, Field(ge=0, le=MAX_ID)]] = Field(
        default_factory=list,
        max_length=MAX_EXCLUDE,
        description="Item ids to leave out; unknown ones are ignored.",
    )


class SimilarQuery(BaseModel):
    """Query parameters of ``GET /v1/similar/{item_id}``."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(20, ge=1, le=MAX_K, description="Most items to return.")


class Event(BaseModel):
    """One thing a user did. Sending the same event again is safe; it counts once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    event_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,64}$")] = Field(
        description="Chosen by the client, for example a UUID; makes retries safe."
    )
    user_id: int = Field(ge=0, le=MAX_ID)
    item_id: int = Field(ge=0, le=MAX_ID)
    event_type: EventType
    rating: float | None = Field(
        None,
        ge=0.5,
        le=5,
        allow_inf_nan=False,
        validate_default=True,
        description="Required for event_type rating, not allowed for others.",
    )
    timestamp: int | None = Field(
        None, ge=0, le=MAX_ID, description="Unix seconds; the server's time when absent."
    )

    @field_validator("rating")
    @classmethod
    def _rating_fits_the_type(cls, rating: float | None, info: ValidationInfo) -> float | None:
        kind = info.data.get("event_type")  # absent when it was itself refused
        if kind == "rating" and rating is None:
            raise ValueError("a rating event needs a rating from 0.5 to 5")
        if kind in ("watch", "like") and rating is not None:
            raise ValueError(f"a {kind} event carries no rating; use event_type rating")
        return rating


class EventBatch(BaseModel):
    """Up to 500 events, stored all or none."""

    model_config = ConfigDict(extra="forbid")

    events: list[Event] = Field(min_length=1, max_length=MAX_BATCH)


def _shape(value: Any) -> str:
    batch = isinstance(value, EventBatch) or (isinstance(value, dict) and "events" in value)
    return "<batch>" if batch else "<single>"


EventsBody = Annotated[
    Annotated[Event, Tag("<single>")] | Annotated[EventBatch, Tag("<batch>")],
    Discriminator(_shape),
]


class EventReceipt(BaseModel):
    """What became of one event."""

    event_id: str
    seq: int
    """Its place in the log."""
    status: Literal["accepted", "duplicate"]


class EventsResponse(BaseModel):
    """All events are durable. `applied` says whether recommendations already see them."""

    accepted: int
    duplicates: int
    applied: bool
    request_id: str
    events: list[EventReceipt]


class Item(BaseModel):
    """One recommended item; `score` is comparable within one response only."""

    item_id: int
    title: str
    genres: list[str]
    year: int | None
    score: float
    reason: str
    sources: list[str]
    exploration: bool = False
    propensity: float | None = None


class DegradationInfo(BaseModel):
    """A stage that did not do its work, and why."""

    stage: str
    reason: Literal["error", "budget", "timeout"]
    detail: str


class ListResponse(BaseModel):
    """What every list carries."""

    version: str
    request_id: str
    degraded: bool
    degradations: list[DegradationInfo]
    stages_ms: dict[str, float]
    items: list[Item]


class RecommendationResponse(ListResponse):
    """Items for a user."""

    user_id: int
    cold_start: bool
    """No history is known: the list is not personal."""


class SimilarResponse(ListResponse):
    """Items like one item."""

    item_id: int


_ITEM = {
    "item_id": 50,
    "title": "Star Wars (1977)",
    "genres": ["Action", "Sci-Fi"],
    "year": 1977,
    "score": 0.91,
    "reason": "Because you liked The Empire Strikes Back",
    "sources": ["two_tower", "ease"],
    "exploration": False,
    "propensity": None,
}
_LIST = {
    "version": "20260101-0000",
    "request_id": "6f1c2a",
    "degraded": False,
    "degradations": [],
    "stages_ms": {"state": 0.3, "recommend": 9.1},
    "items": [_ITEM],
}
RECOMMENDATION_EXAMPLE = {**_LIST, "user_id": 7, "cold_start": False}
SIMILAR_EXAMPLE = {**_LIST, "item_id": 181}
EVENT_EXAMPLES: dict[str, Any] = {
    "rating": {
        "summary": "One rating",
        "value": {
            "event_id": "4e5c0c6e-7c2c-4d3a-9a5e-1f0a7f3b2c11",
            "user_id": 7,
            "item_id": 50,
            "event_type": "rating",
            "rating": 4.5,
        },
    },
    "batch": {
        "summary": "A batch",
        "value": {
            "events": [
                {"event_id": "a-1", "user_id": 7, "item_id": 50, "event_type": "watch"},
                {"event_id": "a-2", "user_id": 7, "item_id": 181, "event_type": "like"},
            ]
        },
    },
}
