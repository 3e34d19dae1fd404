"""Reading what the service wrote: the request log as impressions, the event log as watches.

In: ``requests.jsonl`` (one JSON line for each answer) and the event log. Out: ``Impressions``, one
row for each item shown, and ``LoggedWatch``, one for each event. Both are read on from where the
last reading stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ml_platform.serving.event_log import EventLog, StoredEvent
from video_recommendation.features import SCHEMA

ORGANIC = "organic"
FLUSH_TIMEOUT_S = 10.0


class RequestLogIncompleteError(RuntimeError):
    """The request log holds fewer answers than were given."""


@dataclass(frozen=True)
class Impressions:
    """R items that were shown, in the order of the log.

    Attributes:
        request_ids: Q requests.
        request: i64[R], number of the request.
        user_id, item_id: i64[R], external ids.
        shown_at: i64[R], Unix seconds.
        position: i64[R], 1 for the first of a list.
        exploration: bool[R], drawn for the exploration slot.
        propensity: f64[R], probability of that draw; 1 where the ranker chose.
        features: f32[R, F], what the ranker saw; NaN rows where it did not run.
    """

    request_ids: tuple[str, ...]
    request: np.ndarray
    user_id: np.ndarray
    item_id: np.ndarray
    shown_at: np.ndarray
    position: np.ndarray
    exploration: np.ndarray
    propensity: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)

    @cached_property
    def row_of(self) -> dict[tuple[str, int], int]:
        """Row of (request id, item id); a list shows an item once."""
        keys = zip(self.request.tolist(), self.item_id.tolist(), strict=True)
        return {(self.request_ids[q], item): row for row, (q, item) in enumerate(keys)}

    @staticmethod
    def none() -> Impressions:
        """No row at all."""
        return impressions_of([])


@dataclass(frozen=True)
class LoggedWatch:
    """One event: somebody watched (and perhaps rated) an item.

    Attributes:
        event_id: "request/item/kind", or "organic/..." where no list was involved.
        request_id: Of the list that showed the item; None for an organic watch.
        user_id, item_id: External ids.
        rating: 1 to 5, or None.
        received_at: Unix seconds.
    """

    event_id: str
    request_id: str | None
    user_id: int
    item_id: int
    rating: float | None
    received_at: int


def impressions_of(records: list[dict[str, Any]]) -> Impressions:
    """Flattens records of the request log."""
    counts = [len(record["items"]) for record in records]
    total = sum(counts)
    request = np.repeat(np.arange(len(records)), counts)
    exploring = [
        (place == record["exploration_place"], record["propensity"])
        for record in records
        for place in range(len(record["items"]))
    ]
    features = np.full((total, len(SCHEMA)), np.nan, dtype=np.float32)
    row = 0
    for record, count in zip(records, counts, strict=True):
        if record["features"] is not None:
            features[row : row + count] = record["features"]["values"]
        row += count
    return Impressions(
        request_ids=tuple(record["request_id"] for record in records),
        request=request,
        user_id=np.repeat(_ints([record["user_id"] for record in records]), counts),
        item_id=_ints([item for record in records for item in record["items"]]),
        shown_at=np.repeat(_ints([record["now"] for record in records]), counts),
        position=_ints([place + 1 for count in counts for place in range(count)]),
        exploration=np.array([drawn for drawn, _ in exploring], dtype=np.bool_),
        propensity=np.array([p if drawn else 1.0 for drawn, p in exploring], dtype=np.float64),
        features=features,
    )


def watch_of(event: StoredEvent) -> LoggedWatch:
    """An event of the log; see ``service`` for how its id was made."""
    body = orjson.loads(event.body)
    request_id = event.event_id.split("/")[0]
    return LoggedWatch(
        event_id=event.event_id,
        request_id=None if request_id == ORGANIC else request_id,
        user_id=body["user_id"],
        item_id=body["item_id"],
        rating=body["rating"],
        received_at=event.received_at,
    )


class LogReader:
    """Reads both logs of one service, each time what is new. Keeps all it has read."""

    def __init__(self, requests: Path, events: EventLog) -> None:
        self._path, self._events = requests, events
        self._offset = 0
        self.records: list[dict[str, Any]] = []
        self.watches: list[LoggedWatch] = []
        self.last_seq = 0

    def read(self, n_requests: int) -> tuple[Impressions, list[LoggedWatch]]:
        """All impressions and events so far.

        Args:
            n_requests: Answers given so far; the request log writes in the background, so the
                reader waits for the last line.

        Raises:
            RequestLogIncompleteError: when they do not come.
        """
        give_up = time.monotonic() + FLUSH_TIMEOUT_S
        while self._read_requests() < n_requests:
            if time.monotonic() > give_up:
                raise RequestLogIncompleteError(
                    f"{self._path} holds {len(self.records)} of {n_requests} answers after "
                    f"{FLUSH_TIMEOUT_S:.0f} s: records were dropped (disk full?)"
                )
            time.sleep(0.01)
        while batch := self._events.read(self.last_seq):
            self.watches += [watch_of(event) for event in batch]
            self.last_seq = batch[-1].seq
        return impressions_of(self.records), self.watches

    def _read_requests(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            self.records += [orjson.loads(line) for line in whole.splitlines()]
        return len(self.records)


def _ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)
