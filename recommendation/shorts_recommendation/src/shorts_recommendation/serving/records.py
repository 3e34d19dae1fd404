"""What the durable log holds, in both directions: events and uploads as canonical bytes.

The log is the truth; the stream, the states, the counters and the index's uploads are derived
from it by reading these records in order. Ids of the log carry a prefix for their kind, so that
no client can name an event like an upload.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ml_platform.serving.event_log import LoggedEvent, StoredEvent
from shorts_recommendation.serving.schemas import Event, Upload
from shorts_recommendation.serving.users import WatchEvent

UNREADABLE = (ValueError, KeyError, TypeError, OverflowError)
"""What `read_record` raises for bytes that no `logged_event` and no `logged_upload` has written."""


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A new video as the log says it; ``content`` f32[768], ``tags`` i16[3] with -1 padding."""

    seq: int
    video_id: int
    creator_idx: int
    tags: np.ndarray
    language: int
    duration_s: float
    content: np.ndarray
    upload_s: int


def logged_event(event: Event, now_s: int) -> LoggedEvent:
    """An event as the log keeps it."""
    body = {"kind": "watch", **event.model_dump(exclude={"event_id"})}
    return LoggedEvent(f"e:{event.event_id}", _bytes(body), now_s)


def logged_upload(upload: Upload, now_s: int) -> LoggedEvent:
    """An upload as the log keeps it: 4 KB, for the vector goes in as it is."""
    content = np.asarray(upload.content, dtype=np.float32)
    body = {
        "kind": "upload",
        **upload.model_dump(exclude={"content"}),
        "content": base64.b64encode(content.tobytes()).decode(),
    }
    return LoggedEvent(f"u:{upload.video_id}", _bytes(body), now_s)


def read_record(
    stored: StoredEvent, video_idx: Mapping[int, int]
) -> WatchEvent | UploadRecord | None:
    """A record in internal terms; None for an event on a video that is not in the index.

    Args:
        stored: As read from the log.
        video_idx: Internal index by external id.

    Raises:
        UNREADABLE: The bytes are something else.
    """
    body = orjson.loads(stored.body)
    if body["kind"] == "upload":
        return _upload(stored, body)
    video = video_idx.get(body["video_id"])
    if video is None:
        return None
    return WatchEvent(
        stored.seq,
        body["user_id"],
        video,
        _on_screen_s(body, stored.received_at),
        body["watch_s"],
        body["like"],
        body["share"],
        body["follow"],
    )


def _on_screen_s(body: Mapping[str, Any], received_at: int) -> int:
    """When the video came on screen, as the log of training has it: before it was watched."""
    if body["timestamp"] is not None:
        return min(int(body["timestamp"]), received_at)  # a client's clock may run ahead of ours
    return received_at - math.ceil(body["watch_s"])


def _upload(stored: StoredEvent, body: Mapping[str, object]) -> UploadRecord:
    content = np.frombuffer(base64.b64decode(str(body["content"])), np.float32)
    listed = np.array(body["tags"], dtype=np.int16)
    tags = np.full(3, -1, dtype=np.int16)
    tags[: len(listed)] = listed
    return UploadRecord(
        stored.seq,
        int(str(body["video_id"])),
        int(str(body["creator"])),
        tags,
        int(str(body["language"])),
        float(str(body["duration_s"])),
        content,
        stored.received_at,
    )


def _bytes(body: Mapping[str, object]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
