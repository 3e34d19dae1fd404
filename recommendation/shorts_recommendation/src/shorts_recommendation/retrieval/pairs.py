"""Training pairs of the two-tower model: what was known of a user, and the video watched through.

In: the log before a moment, the catalogue. Out: ``Pairs``: N long views with the user's last L long
views before each, newest first, the tag profile of that moment, and a video that the same user was
shown next and refused (did not watch through). The first two stand in a ``RequestBatch``
(``recent_positive``, ``tag_profile``), so the tower reads in training what it reads in service. The
profile is added up as ``state.py`` adds it: one decay at every event, then the event's signal on
the tags of its video.

Shapes: N pairs, L history length, T tag slots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numba
import numpy as np

from shorts_recommendation.log import Catalogue, ImpressionLog
from shorts_recommendation.requests import MAX_RATIO, TAG_SLOTS
from shorts_recommendation.state import event_signal


@dataclass(frozen=True)
class Pairs:
    """Long views as training pairs, in the log's order.

    Attributes:
        user_idx: i32[N].
        video_idx: i32[N], what was watched through.
        timestamp: i64[N].
        history: i32[N, L], long views strictly before, newest first, -1 padded.
        tag_profile: f32[N, T], before the event.
        rejected: i32[N], the next video after it that the same user was shown and did not watch
            through; -1 where there is none. A negative for the loss.
        rejected_s: i64[N], when that was: who learns before it may not know of it.
    """

    user_idx: np.ndarray
    video_idx: np.ndarray
    timestamp: np.ndarray
    history: np.ndarray
    tag_profile: np.ndarray
    rejected: np.ndarray
    rejected_s: np.ndarray

    def __len__(self) -> int:
        return len(self.user_idx)

    def take(self, rows: np.ndarray | slice) -> Pairs:
        """The pairs at these positions."""
        return Pairs(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def known_at(self, until_s: int) -> Pairs:
        """The same pairs without refusals that happened at ``until_s`` or later."""
        known = self.rejected_s < until_s
        return replace(self, rejected=np.where(known, self.rejected, -1).astype(np.int32))


def training_pairs(
    log: ImpressionLog,
    catalogue: Catalogue,
    *,
    until_s: int,
    length: int,
    decay: float,
    since_s: int = 0,
    most: int | None = None,
) -> Pairs:
    """The long views with ``since_s`` <= t < ``until_s``, each with what came before it.

    Args:
        log: In time order.
        catalogue: For tags and durations.
        until_s: Nothing at or after this second is read.
        length: L.
        decay: Of the tag profile, at each event.
        since_s: Earlier long views are history only.
        most: Keep the latest ``most`` pairs; None keeps all.

    Raises:
        ValueError: If there is no long view in the window: nothing to learn from.
    """
    end = int(np.searchsorted(log.timestamp, until_s))
    wanted = np.flatnonzero(log.long_view[:end] & (log.timestamp[:end] >= since_s))
    if not len(wanted):
        raise ValueError(f"no long view between {since_s} and {until_s}: nothing to train on")
    if most is not None:
        wanted = wanted[-most:]
    place = np.full(end, -1, dtype=np.int64)
    place[wanted] = np.arange(len(wanted))
    n_users = int(log.user_idx[:end].max()) + 1
    pairs = Pairs(
        log.user_idx[wanted],
        log.video_idx[wanted],
        log.timestamp[wanted],
        np.full((len(wanted), length), -1, dtype=np.int32),
        np.zeros((len(wanted), TAG_SLOTS), dtype=np.float32),
        np.full(len(wanted), -1, dtype=np.int32),
        np.full(len(wanted), -1, dtype=np.int64),
    )
    _walk(
        log.user_idx[:end],
        log.video_idx[:end],
        log.timestamp[:end],
        log.long_view[:end],
        _signals(log, catalogue, end),
        catalogue.tags,
        place,
        np.float32(decay),
        np.full((n_users, length), -1, dtype=np.int32),
        np.zeros(n_users, dtype=np.int64),
        np.zeros((n_users, TAG_SLOTS), dtype=np.float32),
        np.full(n_users, -1, dtype=np.int64),
        np.full(len(wanted), -1, dtype=np.int64),
        pairs.history,
        pairs.tag_profile,
        pairs.rejected,
        pairs.rejected_s,
    )
    return pairs


def _signals(log: ImpressionLog, catalogue: Catalogue, end: int) -> np.ndarray:
    """f32[N]: how much every event speaks for its video (state.event_signal)."""
    ratio = np.minimum(log.watch_s[:end] / catalogue.duration_s[log.video_idx[:end]], MAX_RATIO)
    columns = [
        ratio,
        log.long_view[:end],
        log.skip[:end],
        log.like[:end],
        log.share[:end] | log.follow[:end],
    ]
    return event_signal(np.stack(columns, axis=1).astype(np.float32))


@numba.njit(cache=True)
def _walk(  # type: ignore[no-untyped-def]
    user,
    video,
    timestamp,
    long_view,
    signal,
    tags,
    place,
    decay,
    ring,
    written,
    live,
    waiting,
    earlier,
    history,
    profile,
    rejected,
    rejected_s,
):
    """One pass over the events: ``ring`` i32[U, L] holds each user's long views so far.

    ``waiting`` is the user's last pair without a rejected video, ``earlier`` links it to those
    before: the next refused video is given to all of them.
    """
    length = ring.shape[1]
    for row in range(len(user)):
        u, v = user[row], video[row]
        pair = place[row]
        if pair >= 0:
            for back in range(min(written[u], length)):
                history[pair, back] = ring[u, (written[u] - 1 - back) % length]
            profile[pair] = live[u]
            earlier[pair] = waiting[u]
            waiting[u] = pair
        live[u] *= decay
        for column in range(tags.shape[1]):
            tag = tags[v, column]
            if tag >= 0:
                live[u, tag] += signal[row]
        if long_view[row]:
            ring[u, written[u] % length] = v
            written[u] += 1
        else:
            pair = waiting[u]
            while pair >= 0:
                rejected[pair] = v
                rejected_s[pair] = timestamp[row]
                pair = earlier[pair]
            waiting[u] = -1
