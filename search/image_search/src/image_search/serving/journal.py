"""What changed since the bundle was made: adds, deletes, clicks; durable before they are answered.

In: changes. Out: the same changes, in order, when the service starts again. The file is the
platform's event log (SQLite, one fsync for all that waits): an answer goes out after its bytes are
on the disk, so that ``kill -9`` loses nothing that was acknowledged. A change is written first and
applied second; a crash between the two is repaired by the next start, which applies every record.

Names make retries safe. An added item's record is called ``add-<item_id>``: the same item again
is a duplicate and acknowledged once more, another picture under a known id is a conflict. Ids are
never given twice, also not after a delete.

The picture is kept as it was decoded, not as it came: nothing of a hostile file survives, and an
embedding of a later bundle can read it again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from ml_platform.serving.event_log import AppendResult, EventLog, LoggedEvent, StoredEvent

FILE = "changes.sqlite"
READ_AT_ONCE = 64
"""Records of pictures are large."""


class JournalError(RuntimeError):
    """A record cannot be read; the message names it."""


@dataclass(frozen=True, eq=False)
class Added:
    """A new item: id, category's name, price, picture u8[H, W, 3]."""

    item_id: int
    category: str
    price: float
    picture: np.ndarray


@dataclass(frozen=True)
class Deleted:
    """An item that is gone."""

    item_id: int


@dataclass(frozen=True)
class Clicked:
    """A user opened an item; ``at_s`` is the server's clock."""

    event_id: str
    user_id: int
    item_id: int
    at_s: float


Change = Added | Deleted | Clicked


class Journal:
    """The changes of one bundle; thread-safe.

    Args:
        folder: Made when absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = EventLog(folder / FILE)

    async def append(self, change: Change) -> AppendResult:
        """Writes a change; durable when this returns.

        Raises:
            EventConflictError: If the name stands for another change.
            EventLogError: If the disk refuses, or too many wait.
        """
        return (await self._log.append_async([_event(change)]))[0]

    def read(self) -> Iterator[Change]:
        """Every change, oldest first."""
        after = 0
        while found := self._log.read(after, READ_AT_ONCE):
            for event in found:
                yield change_of(event)
            after = found[-1].seq

    def close(self) -> None:
        """Writes what waits."""
        self._log.close()


def _event(change: Change) -> LoggedEvent:
    if isinstance(change, Added):
        head = {"add": change.item_id, "category": change.category, "price": change.price}
        return LoggedEvent(f"add-{change.item_id}", _body(head, _png(change.picture)))
    if isinstance(change, Deleted):
        return LoggedEvent(f"delete-{change.item_id}", _body({"delete": change.item_id}))
    head = {"click": change.item_id, "user": change.user_id}
    return LoggedEvent(
        f"click-{change.event_id}", _body(head), received_at=round(change.at_s * 1e3)
    )


def change_of(event: StoredEvent) -> Change:
    """The change in a record.

    Raises:
        JournalError: If it holds something else.
    """
    head_bytes, _, rest = event.body.partition(b"\n")
    try:
        head = orjson.loads(head_bytes)
        if "add" in head:
            with Image.open(io.BytesIO(rest), formats=["PNG"]) as image:
                picture = np.array(image.convert("RGB"))
            return Added(head["add"], head["category"], head["price"], picture)
        if "delete" in head:
            return Deleted(head["delete"])
        at_s = event.received_at / 1e3
        return Clicked(event.event_id.removeprefix("click-"), head["user"], head["click"], at_s)
    except (orjson.JSONDecodeError, KeyError, OSError) as error:
        raise JournalError(
            f"record {event.seq} ({event.event_id}) cannot be read: {error}"
        ) from error


def _body(head: dict[str, Any], rest: bytes = b"") -> bytes:
    return orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n" + rest


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
