"""What the service is started with, what a search comes to, and how it may be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from image_search.config import ServingConfig
from image_search.searcher import Answer
from image_search.serving.queries import Query

OnClick = Callable[[int, int, float], None]
"""(user_id, row, seconds by the server's clock): a user opened an item."""
TOKEN_VARIABLE = "IMAGE_SEARCH_ADMIN_TOKEN"
SHORTEST_TOKEN = 16


class OverloadedError(RuntimeError):
    """The service has more to do than it can in time; retry later."""


class UnreadableError(ValueError):
    """The text tower can read nothing in a text; the message says what it knows."""


class TakenError(ValueError):
    """An item's id belongs to another item, or did: ids are used once."""


@dataclass(frozen=True)
class ServingSettings:
    """What one process is started with.

    Attributes:
        config: Limits and lanes.
        state_dir: Where the journal lies.
        side: Pixels of a decoded picture's longer side.
        admin_token: Of the admin routes; None: they are closed.
        on_click: Told of every click, also of those in the journal.
    """

    config: ServingConfig
    state_dir: Path
    side: int = 256
    admin_token: str | None = field(default=None, repr=False)
    on_click: OnClick | None = None

    def __post_init__(self) -> None:
        if self.admin_token is not None and len(self.admin_token) < SHORTEST_TOKEN:
            raise ValueError(
                f"an admin token of {len(self.admin_token)} characters: take at least "
                f"{SHORTEST_TOKEN} (unset {TOKEN_VARIABLE} to close the admin routes)"
            )


class Observer(Protocol):
    """Told of every answer, on the event loop."""

    def saw(self, query: Query, found: Found) -> None:
        """A query was answered."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        answer: Rows and scores.
        vector: f32[D] of the query.
        stages_ms: By stage. Those of the models are of the whole batch.
        batch: How many queries shared them.
        ignored: Words of a text that were not understood and had no part in the search.
    """

    answer: Answer
    vector: np.ndarray
    stages_ms: dict[str, float]
    batch: int
    ignored: tuple[str, ...] = ()
