"""Computed slates: in process, bounded, and behind it a copy in the store with a time to live.

In: a slate as the recommender made it. Out: its items as JSON, written once, and a `CachedSlate`
that is current while its version equals that of the user's state and its time has not run out. A
slate that is no longer current is kept: it is the first rung of the fallback ladder.

What counts as the user's next videos: the slate's items without those watched since (only a stale
slate has any) and without those that the client says it still holds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from shorts_recommendation.serving.protocol import SlateLike


@dataclass(slots=True)
class CachedSlate:
    """One slate, ready to be sent.

    Attributes:
        slate_id: Names it in answers and in the request log.
        version: Of the state that it was computed from.
        made_s: Monotonic seconds.
        video_ids: External ids, in order of play.
        items: The JSON object of each.
        stage_ms: Of the call that computed it.
        batch_size: Slates that the call computed; 0 where it is not known any more.
    """

    slate_id: str
    version: int
    made_s: float
    video_ids: list[int]
    items: list[bytes]
    stage_ms: dict[str, float] = field(default_factory=dict)
    batch_size: int = 0

    def take(self, k: int, without: Collection[int]) -> tuple[list[int], list[bytes]]:
        """The first k ids and items that are not among ``without``."""
        if not without:
            return self.video_ids[:k], self.items[:k]
        keep = [i for i, v in enumerate(self.video_ids) if v not in without][:k]
        return [self.video_ids[i] for i in keep], [self.items[i] for i in keep]

    def to_blob(self) -> bytes:
        """Bytes for the store."""
        made_at = time.time() - (time.perf_counter() - self.made_s)  # every process can read it
        items = [item.decode() for item in self.items]
        return orjson.dumps([self.slate_id, self.version, made_at, self.video_ids, items])

    @classmethod
    def from_blob(cls, blob: bytes) -> CachedSlate:
        """What `to_blob` wrote, as old as it was.

        Raises:
            ValueError: The bytes are something else.
        """
        try:
            slate_id, version, made_at, video_ids, items = orjson.loads(blob)
            texts = [item.encode() for item in items]
            age_s = max(0.0, time.time() - made_at)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored slate: {blob[:40]!r}") from error
        return cls(slate_id, version, time.perf_counter() - age_s, video_ids, texts)


def render_slate(
    slate: SlateLike,
    *,
    slate_id: str,
    version: int,
    made_s: float,
    video_ids: np.ndarray,
    source_names: Sequence[str],
) -> CachedSlate:
    """A slate of the recommender as it will be sent.

    Args:
        slate: See `protocol.Slate`.
        slate_id: Its name.
        version: Of the state behind it.
        made_s: Monotonic seconds.
        video_ids: i64[V], external ids by ``video_idx``.
        source_names: Names of the bits of ``slate.sources``.
    """
    ids = video_ids[slate.video_idx].tolist()
    columns = zip(
        *(ids, slate.value.tolist(), slate.sources.tolist(), slate.reasons),
        *(slate.propensity.tolist(),),
        strict=True,
    )
    items = [
        orjson.dumps(
            {
                "video_id": video_id,
                "value": round(value, 5),
                "sources": source_list(bits, source_names),
                "reason": reason,
                "propensity": round(propensity, 6),
            }
        )
        for video_id, value, bits, reason, propensity in columns
    ]
    return CachedSlate(slate_id, version, made_s, ids, items, dict(slate.stage_ms))


def source_list(bits: int, names: Sequence[str]) -> list[str]:
    """Names of the set bits."""
    return [name for b, name in enumerate(names) if bits >> b & 1]


class SlateCache:
    """Slates by row, the least recently asked leave first. For one thread (the event loop's).

    Args:
        capacity: Most slates.
        ttl_s: Seconds for which an untouched slate is current.
    """

    def __init__(self, capacity: int, ttl_s: float) -> None:
        self.capacity, self.ttl_s = capacity, ttl_s
        self._slates: OrderedDict[int, CachedSlate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slates)

    def any(self, row: int) -> CachedSlate | None:
        """The row's slate, current or stale."""
        slate = self._slates.get(row)
        if slate is not None:
            self._slates.move_to_end(row)
        return slate

    def peek(self, row: int) -> CachedSlate | None:
        """The row's slate, without counting as asked; safe from any thread."""
        return self._slates.get(row)

    def current(self, row: int, version: int, now_s: float) -> CachedSlate | None:
        """The row's slate when it was computed from the state of this version, not too long ago."""
        slate = self.any(row)
        if slate is None or slate.version != version or now_s - slate.made_s > self.ttl_s:
            return None
        return slate

    def put(self, row: int, slate: CachedSlate) -> None:
        """Keep a slate, unless a newer one stands there."""
        old = self._slates.get(row)
        if old is not None and old.version > slate.version:
            return
        self._slates[row] = slate
        self._slates.move_to_end(row)
        if len(self._slates) > self.capacity:
            self._slates.popitem(last=False)

    def drop(self, row: int) -> None:
        """Forget the row's slate: the row belongs to somebody else now."""
        self._slates.pop(row, None)

    def clear(self) -> None:
        """Forget all."""
        self._slates.clear()
