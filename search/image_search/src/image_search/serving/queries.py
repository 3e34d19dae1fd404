"""What a request asks for, checked: fields of a form, of JSON or of an address to one ``Query``.

In: text by name (a form's fields, a page's address) or a JSON object. Out: ``Query``. Both doors
end in the same model, so that they refuse the same things with the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from image_search.searcher import Filters
from ml_platform.serving.errors import Problem, ProblemError, shorten

M = TypeVar("M", bound=BaseModel)
Kind = Literal["image", "text", "item", "url"]
MAX_TEXT = 300
MAX_URL = 2000
_BIG = 2**53 - 1


class SearchFields(BaseModel):
    """The fields of a search. A picture comes beside them, as the part ``image`` of a form."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    text: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    """Words: "a red shirt"."""
    item_id: int | None = Field(default=None, ge=0, le=_BIG)
    """More like this item of the catalogue."""
    image_url: str | None = Field(default=None, min_length=1, max_length=MAX_URL)
    """A picture's address; refused unless the service is told to fetch."""
    k: int | None = Field(default=None, ge=1, le=1000)
    """How many results."""
    category: Annotated[list[str], Field(min_length=1, max_length=50)] | None = None
    """Only these categories."""
    min_price: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)
    max_price: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)
    user_id: int | None = Field(default=None, ge=0, le=_BIG)
    """Results are then ordered by this user's taste as well."""
    diversity: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """0: by score alone; 1: as different as possible."""

    @model_validator(mode="after")
    def _prices_in_order(self) -> Self:
        low, high = self.min_price, self.max_price
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_price {low:g} above max_price {high:g}")
        return self


@dataclass(frozen=True, eq=False)
class Query:
    """One search, checked; the picture not decoded yet or already.

    Attributes:
        kind: What it brings.
        k: Results wanted.
        filters: What an item must satisfy.
        text: Of kind "text".
        item_id: Of kind "item".
        url: Of kind "url".
        picture: u8[H, W, 3] of kinds "image" and "url", once it is decoded.
        user_id: For personalisation.
        diversity: For re-ranking; None: as configured.
    """

    kind: Kind
    k: int
    filters: Filters
    text: str = ""
    item_id: int = -1
    url: str = ""
    picture: np.ndarray | None = None
    user_id: int | None = None
    diversity: float | None = None


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ProblemError: If it is none.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProblemError(
            422, [Problem(field="body", reason=f"not valid JSON: {error}")]
        ) from None
    if not isinstance(found, dict):
        raise refusal("body", "send a JSON object", found)
    return found


def fields_of_form(fields: Mapping[str, str]) -> dict[str, Any]:
    """A form's text as JSON would have it: categories separated by commas."""
    found: dict[str, Any] = dict(fields)
    if "category" in fields:
        found["category"] = [name.strip() for name in fields["category"].split(",")]
    return found


def read_query(
    given: Mapping[str, Any],
    *,
    with_image: bool,
    label_names: tuple[str, ...],
    page: int,
    most: int,
) -> Query:
    """Checks the fields and that exactly one thing is asked for.

    Args:
        given: Fields by name.
        with_image: Whether a picture came with them.
        label_names: The categories that there are.
        page: Results where ``k`` is not given.
        most: The largest ``k``.

    Raises:
        ProblemError: 422 with every wrong field.
    """
    fields = checked(SearchFields, given)
    sources: dict[Kind, bool] = {
        "image": with_image,
        "text": fields.text is not None,
        "item": fields.item_id is not None,
        "url": fields.image_url is not None,
    }
    asked: list[Kind] = [kind for kind, there in sources.items() if there]
    if len(asked) != 1:
        words = f"{len(asked)} of them came" if asked else "none of them came"
        raise refusal("body", f"send one of image, text, item_id, image_url; {words}")
    if fields.k is not None and fields.k > most:
        raise refusal("k", f"at most {most} results", fields.k)
    return Query(
        kind=asked[0],
        k=fields.k or page,
        filters=filters_of(fields, label_names),
        text=fields.text or "",
        item_id=-1 if fields.item_id is None else fields.item_id,
        url=fields.image_url or "",
        user_id=fields.user_id,
        diversity=fields.diversity,
    )


def filters_of(fields: SearchFields, label_names: tuple[str, ...]) -> Filters:
    """The filters with categories by their positions.

    Raises:
        ProblemError: 422 for a category that does not exist.
    """
    labels = None
    if fields.category is not None:
        labels = frozenset(position_of(name, label_names) for name in fields.category)
    return Filters(labels, fields.min_price, fields.max_price)


def position_of(category: str, label_names: tuple[str, ...]) -> int:
    """A category's position in the catalogue's names; upper and lower case are one.

    Raises:
        ProblemError: 422 with the names that there are.
    """
    folded = [name.casefold() for name in label_names]
    if category.casefold() not in folded:
        known = ", ".join(label_names[:20])
        raise refusal("category", f"no such category; there are {known}", category)
    return folded.index(category.casefold())


def checked(model: type[M], given: Mapping[str, Any]) -> M:
    """The model of these fields.

    Raises:
        ProblemError: 422 with every wrong field.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        problems = [
            Problem(
                field=str(shorten(".".join(map(str, one["loc"])))),
                reason=one["msg"],
                value=None if one["type"] == "missing" else shorten(one["input"]),
            )
            for one in error.errors(include_url=False, include_context=False)
        ]
        raise ProblemError(422, problems) from None


def refusal(field: str, reason: str, value: Any = None, *, status: int = 422) -> ProblemError:
    """One refused field."""
    return ProblemError(status, [Problem(field=field, reason=reason, value=shorten(value))])
