"""Uploads on their way into the arrays of a running recommender.

In: new videos and arrays by ``video_idx``. Out: arrays with the new rows at their end. Content of
50,000 videos is 154 MB: a copy for each upload would stop the models for as long as several feeds
take. So the arrays are views of buffers with spare rows, and a buffer that is full is replaced by
one of twice its size: n uploads copy at most twice what is there at their end (the doubling array;

A view that was handed out never changes: rows are written behind its end only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from shorts_recommendation.log import Catalogue


@dataclass(frozen=True, slots=True)
class NewVideo:
    """A video that the bundle does not know.

    Attributes:
        video_id: External.
        creator_idx: At most the number of creators: the next one is new.
        tags: i16[3], -1 where there are fewer.
        language: Index.
        duration_s: Seconds.
        content: f32[768], any length above 0.
        upload_s: Unix seconds.
    """

    video_id: int
    creator_idx: int
    tags: np.ndarray
    language: int
    duration_s: float
    content: np.ndarray
    upload_s: int


class SpareRows:
    """Arrays by name that grow at their end. For one thread."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}
        self._used: dict[str, int] = {}
        self.copies = 0
        """Buffers made: each cost a copy of what was there."""

    def append(self, name: str, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The array with rows [n, ...] behind it: a view with room behind it, or of a new buffer.

        Args:
            name: Of the array; `append` knows its own last answer by it.
            array: Of that answer, or any other, which is copied.
            rows: Brought to the array's type.
        """
        old, new = len(array), len(array) + len(rows)
        buffer = self._buffers.get(name)
        own = buffer is not None and array.base is buffer and self._used[name] == old
        if buffer is None or not own or new > len(buffer):
            buffer = np.empty((2 * new, *array.shape[1:]), dtype=array.dtype)
            buffer[:old] = array
            self._buffers[name] = buffer
            self.copies += 1
        buffer[old:new] = rows
        self._used[name] = new
        return buffer[:new]


def check_new(catalogue: Catalogue, videos: Sequence[NewVideo]) -> None:
    """Refuse what the arrays could not take, before anything is changed.

    Raises:
        ValueError: An id that is taken, a content vector of another length or without one, a
            creator beyond the next free number.
    """
    dim, creators = catalogue.content.shape[1], catalogue.n_creators
    taken: set[int] = set()
    for video in videos:
        if video.content.shape != (dim,):
            raise ValueError(f"content must be [{dim}], got {video.content.shape}")
        if not np.linalg.norm(video.content) > 0:
            raise ValueError(f"the content of video {video.video_id} has no direction")
        if video.video_id in taken or (catalogue.video_ids == video.video_id).any():
            raise ValueError(f"video {video.video_id} exists")
        if not 0 <= video.creator_idx <= creators:
            raise ValueError(
                f"creator {video.creator_idx}: creators are numbered without gaps, the next new "
                f"one is {creators}"
            )
        creators = max(creators, video.creator_idx + 1)
        taken.add(video.video_id)


def extended(catalogue: Catalogue, videos: Sequence[NewVideo], spare: SpareRows) -> Catalogue:
    """The catalogue with videos at its end, content brought to unit length."""
    content = np.stack([v.content for v in videos]).astype(np.float32)
    rows = {
        "video_ids": np.array([v.video_id for v in videos], dtype=np.int64),
        "creator_idx": np.array([v.creator_idx for v in videos]),
        "tags": np.stack([v.tags for v in videos]),
        "language": np.array([v.language for v in videos]),
        "duration_s": np.array([v.duration_s for v in videos]),
        "upload_s": np.array([v.upload_s for v in videos], dtype=np.int64),
        "content": content / np.linalg.norm(content, axis=1, keepdims=True),
    }
    return Catalogue(
        **{
            f.name: spare.append(f.name, getattr(catalogue, f.name), rows[f.name])
            for f in fields(Catalogue)
        }
    )
