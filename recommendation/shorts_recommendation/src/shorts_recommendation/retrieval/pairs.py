"""Training pairs of the two-tower model: what was known of a user, and the video watched through.

In: the log before a moment, the catalogue. Out: ``Pairs``: N long views with the user's last L long
views before each and the last L videos shown and not watched through (refused), newest first, and
the tag profile of that moment. The same things stand in a ``RequestBatch`` (``recent_positive``,
``history``, ``tag_profile``), so the tower reads in training what it reads in service. The profile is added up as ``state.py`` adds it: one decay at
every event, then the event's signal on the tags of its video.

Shapes: N pairs, L history length, T tag slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from shorts_recommendation.log import Catalogue, ImpressionLog
from shorts_recommendation.requests import MAX_RATIO, OUTCOMES, TAG_SLOTS, RequestBatch
from shorts_recommendation.state import event_signal

LONG_VIEW = OUTCOMES.index("long_view")


@dataclass(frozen=True)
class Pairs:
    """Long views as training pairs, in the log's order.

    Attributes:
        user_idx: i32[N].
        video_idx: i32[N], what was watched through.
        timestamp: i64[N].
        history: i32[N, L], long views strictly before, newest first, -1 padded.
        tag_profile: f32[N, T], before the event.
        refused: i32[N, L], shown before and not watched through, newest first, -1 padded.
        rejected: i32[N], the next video after it that the same user refused; -1 where there is
            none. A negative for the loss, and not one that the history gives away.
    """

    user_idx: np.ndarray
    video_idx: np.ndarray
    timestamp: np.ndarray
    history: np.ndarray
    tag_profile: np.ndarray
    refused: np.ndarray
    rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.user_idx)


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
        np.full((len(wanted), length), -1, dtype=np.int32),
        np.full(len(wanted), -1, dtype=np.int32),
    )
    _walk(
        log.user_idx[:end],
        log.video_idx[:end],
        log.long_view[:end].astype(np.int64),
        _signals(log, catalogue, end),
        catalogue.tags,
        place,
        np.float32(decay),
        np.full((2, n_users, length), -1, dtype=np.int32),
        np.zeros((2, n_users), dtype=np.int64),
        np.zeros((n_users, TAG_SLOTS), dtype=np.float32),
        np.full(n_users, -1, dtype=np.int64),
        np.full(len(wanted), -1, dtype=np.int64),
        pairs.history,
        pairs.tag_profile,
        pairs.refused,
        pairs.rejected,
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
    refused,
    rejected,
):
    """One pass over the events: ``ring`` i32[2, U, L] holds refused and watched videos so far.

    ``waiting`` is the user's last pair without a rejected video, ``earlier`` links it to those
    before: the next refused video is given to all of them.
    """
    length = ring.shape[2]
    for row in range(len(user)):
        u, v, kind = user[row], video[row], long_view[row]
        pair = place[row]
        if pair >= 0:
            for back in range(min(written[1, u], length)):
                history[pair, back] = ring[1, u, (written[1, u] - 1 - back) % length]
            for back in range(min(written[0, u], length)):
                refused[pair, back] = ring[0, u, (written[0, u] - 1 - back) % length]
            profile[pair] = live[u]
            earlier[pair] = waiting[u]
            waiting[u] = pair
        elif kind == 0:
            pair = waiting[u]
            while pair >= 0:
                rejected[pair] = v
                pair = earlier[pair]
            waiting[u] = -1
        live[u] *= decay
        for column in range(tags.shape[1]):
            tag = tags[v, column]
            if tag >= 0:
                live[u, tag] += signal[row]
        ring[kind, u, written[kind, u] % length] = v
        written[kind, u] += 1


def refused_videos(batch: RequestBatch, length: int) -> np.ndarray:
    """The last ``length`` videos of a batch's histories that were not watched through.

    i32[B, length], newest first, -1 padded: what ``Pairs.refused`` is in training, as far back as
    the history of the state goes.
    """
    target = np.full((len(batch), length), -1, dtype=np.int32)
    _newest_refused(batch.history, batch.history_outcomes, LONG_VIEW, target)
    return target


@numba.njit(cache=True, nogil=True)
def _newest_refused(history, outcomes, column, target):  # type: ignore[no-untyped-def]
    for b in range(len(history)):
        n = 0
        for place in range(history.shape[1] - 1, -1, -1):
            if n == target.shape[1] or history[b, place] < 0:
                break
            if outcomes[b, place, column] == 0:
                target[b, n] = history[b, place]
                n += 1
