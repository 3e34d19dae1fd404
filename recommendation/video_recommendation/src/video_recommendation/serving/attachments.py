"""What may be hung onto a running engine: the deployment, shadow traffic, a canary, a monitor.

An attachment is made when the app starts, gets the engine, hooks itself in (an observer, a router,
a thread of its own), says how it is doing at ``GET /v1/operations``, and is closed before the
engine. The request path does not know of any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from video_recommendation.serving.engine import ServingEngine


class Attachment(Protocol):
    """Something that watches or steers an engine."""

    name: str
    """Its key in ``GET /v1/operations``."""

    def describe(self) -> dict[str, Any]:
        """How it is doing, as JSON-able values."""

    def close(self) -> None:
        """Unhook and stop its threads."""


Attach = Callable[[ServingEngine], Attachment]
"""Makes an attachment for an engine that has just been opened."""
