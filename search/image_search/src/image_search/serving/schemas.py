"""Bodies of the answers, for the OpenAPI document; what goes out is written by orjson directly."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from image_search.serving.queries import SearchFields

MAX_EVENT_ID = 100


class Item(BaseModel):
    """One item of the catalogue."""

    item_id: int
    category: str
    price: float
    """SYNTHETIC, unless the item was added by hand."""
    image: str
    """Path of its picture."""


class Hit(Item):
    """One result."""

    similarity: float
    """Cosine with the query."""
    score: float
    """By which results are ordered."""


class SearchResponse(BaseModel):
    """An answer."""

    results: list[Hit]
    near_duplicates_hidden: int
    degradations: list[str]
    """Stages that a fallback stood in for, as ``stage:reason``; empty when all is well. "rank": the
    order is by similarity. "personalise": as for nobody. "rerank": near-duplicates may show."""
    ignored_words: list[str]
    """Words of the text that were not understood and had no part in the search."""
    kind: str
    version: str
    request_id: str
    timings_ms: dict[str, float]
    batch_size: int


class AddedResponse(BaseModel):
    """What was added; ``duplicate`` when it was there before."""

    item_id: int
    duplicate: bool
    image: str


class DeletedResponse(BaseModel):
    """What was deleted."""

    item_id: int
    deleted: bool = True


class AddFields(BaseModel):
    """The fields of a new item, beside its picture."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    category: str = Field(min_length=1, max_length=100)
    price: float = Field(gt=0, lt=1e9, allow_inf_nan=False)
    item_id: int | None = Field(default=None, ge=0, le=2**53 - 1)
    """Yours; without one it is made from the content, so that a retry is safe either way."""


class ClickBody(BaseModel):
    """A user opened an item of the results."""

    model_config = ConfigDict(extra="forbid")

    event_id: str = Field(min_length=1, max_length=MAX_EVENT_ID, pattern=r"^[A-Za-z0-9._-]+$")
    user_id: int = Field(ge=0, le=2**53 - 1)
    item_id: int = Field(ge=0, le=2**53 - 1)


class EventResponse(BaseModel):
    """The event is durable."""

    event_id: str
    status: str


class Operations(BaseModel):
    """What an operator reads."""

    lanes: dict[str, Any]
    drift: dict[str, Any]
    uptime_s: float
    rss_bytes: int
    cpu_s: float
    held_bytes: int


def search_body() -> dict[str, Any]:
    """The request body of a search for the OpenAPI document: a form or JSON."""
    return {"required": True, "content": {**_form(SearchFields, required=()), **_json()}}


def add_body() -> dict[str, Any]:
    """The request body of an added item: a form."""
    return {"required": True, "content": _form(AddFields, required=("image", "category", "price"))}


def _form(model: type[BaseModel], *, required: tuple[str, ...]) -> dict[str, Any]:
    schema = model.model_json_schema()
    fields = {
        name: {"type": "string"} if name == "category" else part
        for name, part in schema["properties"].items()
    }
    image = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"}
    form = {"type": "object", "properties": {"image": image, **fields}, "required": list(required)}
    return {"multipart/form-data": {"schema": form}}


def _json() -> dict[str, Any]:
    schema = SearchFields.model_json_schema()
    examples = {
        "words": {"value": {"text": "a red circle", "k": 10}},
        "more like this": {"value": {"item_id": 7, "max_price": 50}},
    }
    return {"application/json": {"schema": schema, "examples": examples}}
