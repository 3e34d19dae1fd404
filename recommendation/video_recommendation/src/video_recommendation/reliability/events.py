"""Events that can be accounted for: what was sent, acknowledged, logged and applied.

In: events with ids that are used once, of users whose items are all different, so that each one is
recognised in the event log by its id and in the state by its user and item. Out: counts of what was
lost, what is not visible and what counts twice.

The log is read by SQLite and the store by its own protocol, past the code that wrote them.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import redis

from video_recommendation.reliability.traffic import Reply
from video_recommendation.reliability.versions import SHARED_ITEMS, VersionMark
from video_recommendation.serving.state import RECORD

FIRST_USER = 50_000_000
"""Users of these events are in no data set."""
USERS_OF_A_SOURCE = 1_000_000
EVENTS_OF_A_USER = 5
ACKNOWLEDGED = ("200", "202")


@dataclass(frozen=True)
class SentEvent:
    """One event."""

    event_id: str
    user_id: int
    item_id: int

    def body(self) -> dict[str, object]:
        """As it is posted."""
        return {
            "event_id": self.event_id,
            "user_id": self.user_id,
            "item_id": self.item_id,
            "event_type": "watch",
        }

    def line(self) -> str:
        """As the load test wants it."""
        return f"POST /v1/events {json.dumps(self.body())}"


class EventSource:
    """Hands out events that were never handed out before.

    Args:
        number: Sources with different numbers share neither ids nor users.
        item_ids: External ids by internal index; the first SHARED_ITEMS are used.
    """

    def __init__(self, number: int, item_ids: Sequence[int]) -> None:
        self._number = number
        self._items = item_ids[:SHARED_ITEMS]
        self._next = 0

    def take(self, n: int) -> list[SentEvent]:
        """The next n events: five in a row belong to one user and name five different items."""
        numbers = range(self._next, self._next + n)
        self._next += n
        first_user = FIRST_USER + self._number * USERS_OF_A_SOURCE
        return [
            SentEvent(
                f"source{self._number}-{i}",
                first_user + i // EVENTS_OF_A_USER,
                self._items[i * 7 % len(self._items)],
            )
            for i in numbers
        ]

    def new_user(self) -> list[SentEvent]:
        """The events of one user that nobody has seen."""
        self._next += -self._next % EVENTS_OF_A_USER
        return self.take(EVENTS_OF_A_USER)


def mixed_lines(
    reads: Sequence[str], events: Sequence[SentEvent], *, event_share: float
) -> list[str]:
    """Request lines in which every event occurs once, spread evenly among the reads."""
    every = 1 / event_share
    lines = []
    for n, event in enumerate(events):
        first, last = round(n * (every - 1)), round((n + 1) * (every - 1))
        lines += [reads[i % len(reads)] for i in range(first, last)]
        lines.append(event.line())
    return lines


@dataclass(frozen=True)
class EventAudit:
    """What became of events.

    Attributes:
        sent: All that were sent at least once.
        acknowledged: Of them, those that were answered with 200 or 202.
        lost: Acknowledged, and not in the log as they were sent.
        invisible: Acknowledged, and not in the state.
        twice: Times that an event stands in the log or in the state beyond the first.
        unasked: In the log without an acknowledgement that reached the client; no fault, for it
            cannot be told apart from a lost answer, and sending again is safe.
    """

    sent: int
    acknowledged: int
    lost: int
    invisible: int
    twice: int
    unasked: int

    @property
    def clean(self) -> bool:
        """Nothing lost, hidden or doubled."""
        return self.lost == self.invisible == self.twice == 0


def audit(
    sent: Sequence[SentEvent],
    acknowledged: Collection[str],
    logged: Iterable[SentEvent],
    applied: Counter[tuple[int, int]],
) -> EventAudit:
    """Compares.

    Args:
        sent: All events that were sent.
        acknowledged: Ids that were answered with 200 or 202.
        logged: What the event log holds.
        applied: By (user id, item id), how often the state holds it.
    """
    in_log = Counter(logged)
    due = [event for event in sent if event.event_id in acknowledged]
    n_applied = {event: applied[event.user_id, event.item_id] for event in sent}
    return EventAudit(
        sent=len(sent),
        acknowledged=len(due),
        lost=sum(event not in in_log for event in due),
        invisible=sum(n_applied[event] == 0 for event in due),
        twice=sum(max(0, in_log[event] - 1) + max(0, n_applied[event] - 1) for event in sent),
        unasked=sum(event in in_log and event.event_id not in acknowledged for event in sent),
    )


def acknowledged_ids(replies: Iterable[Reply]) -> set[str]:
    """Ids of the single events that were answered with 200 or 202."""
    return {
        json.loads(reply.line.split(" ", 2)[2])["event_id"]
        for reply in replies
        if reply.is_event and reply.outcome in ACKNOWLEDGED
    }


def read_log(path: Path) -> list[SentEvent]:
    """All events of a log, whether or not a server has it open."""
    uri = f"file:{path}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        rows = connection.execute("SELECT event_id, body FROM events ORDER BY seq").fetchall()
    bodies = [(event_id, json.loads(body)) for event_id, body in rows]
    return [SentEvent(event_id, body["user_id"], body["item_id"]) for event_id, body in bodies]


def read_state(
    client: redis.Redis, mark: VersionMark, users: Iterable[int]
) -> Counter[tuple[int, int]]:
    """How often a version's histories in the store hold each (user id, item id).

    Args:
        client: A connection to the store.
        mark: The version, with its item ids.
        users: Whose histories to read.

    Raises:
        ValueError: The store holds no state of that version, or that of several logs.
    """
    found = cast("list[bytes]", client.keys(f"vr:{mark.version}:*:applied"))
    if len(found) != 1:
        raise ValueError(f"expected one state of version {mark.version} in the store: {found}")
    prefix = found[0].decode().removesuffix("applied")
    users = sorted(set(users))
    with client.pipeline(transaction=False) as pipeline:
        for user in users:
            pipeline.get(f"{prefix}history:{user}")
        histories = pipeline.execute()
    held: Counter[tuple[int, int]] = Counter()
    for user, raw in zip(users, histories, strict=True):
        records = np.frombuffer(raw or b"", RECORD)
        held.update((user, mark.item_ids[i]) for i in records["item_idx"].tolist())
    return held
