"""A log as sequences: each user's events in time order, and the windows a transformer reads.

In: a log and ``TrainingRows`` (features.replay: M rows by user, then time). Out: ``Sequences``, the
same M rows with what a token says (``events``) and what is to be predicted (``labels``), and
``Windows`` that cut long histories.

One pass over a window of W events gives the state before each of its W impressions, so that all of
them are training examples at the price of one encoding: Kang and McAuley, "Self-Attentive
Sequential Recommendation" (SASRec, ICDM 2018), section III. Departure: theirs predicts which item
comes next; here the next item is known (it was shown) and its outcome is predicted.

Legend: M rows, E event columns, W window length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.features import TrainingRows
from shorts_recommendation.log import Catalogue, ImpressionLog
from shorts_recommendation.ranking.duration import WatchLabel
from shorts_recommendation.requests import MAX_RATIO

EVENT_COLUMNS = ("watch", "long_view", "skip", "like", "share_follow", "gap", "position")
SHOWN = 5  # videos of the session that the diversity label looks back on
_BLOCK = 512  # rows of content at once: 1.5 MiB stay in the cache while five lags read them


@dataclass(frozen=True)
class Sequences:
    """M impressions, by user and then time.

    Attributes:
        rows: The features known a moment before each.
        user_idx: i32[M].
        video: i32[M].
        time_s: i64[M].
        session: i64[M], the session's id.
        events: f32[M, E], columns of EVENT_COLUMNS: what the impression says once it is over.
        labels: f32[M, 5], columns of heads.TASKS; the diversity label of a session's first
            impression is NaN.
    """

    rows: TrainingRows
    user_idx: np.ndarray
    video: np.ndarray
    time_s: np.ndarray
    session: np.ndarray
    events: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.video)


@dataclass(frozen=True)
class Cuts:
    """n windows of consecutive rows of one user each.

    Attributes:
        first: i64[n], first row read.
        target: i64[n], first row predicted; those before it are context only.
        end: i64[n], one past the last row.
    """

    first: np.ndarray
    target: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def make_sequences(
    catalogue: Catalogue,
    log: ImpressionLog,
    rows: TrainingRows,
    label: WatchLabel,
    *,
    session_gap_s: int,
) -> Sequences:
    """Tokens and labels of every row.

    Raises:
        ValueError: If the rows are not ordered by user and then time.
    """
    taken = rows.log_row
    user, video, time_s = log.user_idx[taken], log.video_idx[taken], log.timestamp[taken]
    step = np.diff(user.astype(np.int64))
    if (step < 0).any() or (np.diff(time_s)[step == 0] < 0).any():
        raise ValueError("rows must be ordered by user, then time, as features.replay gives them")
    duration = catalogue.duration_s[video]
    ratio = np.minimum(log.watch_s[taken] / duration, MAX_RATIO)
    flags = [log.long_view[taken], log.skip[taken], log.like[taken]]
    outcomes = np.stack([ratio, *flags, log.share[taken] | log.follow[taken]], axis=1)
    first = np.r_[True, step != 0] if len(user) else np.zeros(0, bool)
    place = _place_in_session(first, time_s, session_gap_s)
    session = log.session_id[taken]
    watch = label.transform(log.watch_s[taken], duration)
    novelty = distance_to_shown(catalogue.content, video, session)
    labels = np.stack([flags[0], watch, flags[2], flags[1], novelty], axis=1)
    return Sequences(
        rows=rows,
        user_idx=user,
        video=video,
        time_s=time_s,
        session=session,
        events=event_columns(outcomes, duration, _gaps(first, time_s), place, label),
        labels=labels.astype(np.float32),
    )


def event_columns(
    outcomes: np.ndarray,
    duration_s: np.ndarray,
    gap_s: np.ndarray,
    position: np.ndarray,
    label: WatchLabel,
) -> np.ndarray:
    """What a token says of an event beside its video; the one function for training and serving.

    Args:
        outcomes: f32[..., 5], columns of requests.OUTCOMES.
        duration_s: f32[...], of the videos.
        gap_s: [...], seconds since the event before.
        position: [...], place in the session.
        label: Turns watch time into the label's unit.

    Returns:
        f32[..., E].
    """
    columns = np.empty((*gap_s.shape, len(EVENT_COLUMNS)), dtype=np.float32)
    columns[..., 0] = label.transform(outcomes[..., 0] * duration_s, duration_s)
    columns[..., 1:5] = outcomes[..., 1:]
    columns[..., 5] = np.log1p(np.maximum(gap_s, 0)) / 10
    columns[..., 6] = np.log1p(np.maximum(position, 0)) / 4
    return columns


def history_gaps(history: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """i64[B, L]: seconds since the event before, 0 for the oldest one that is remembered."""
    gaps = np.zeros(time_s.shape, dtype=np.int64)
    both = (history[:, 1:] >= 0) & (history[:, :-1] >= 0)
    gaps[:, 1:] = np.where(both, np.diff(time_s, axis=1), 0)
    return gaps


def cut_windows(sequences: Sequences, wanted: np.ndarray, *, window: int, context: int) -> Cuts:
    """Windows in which every wanted row is predicted once, with ``context`` rows before it or all.

    Args:
        sequences: M rows.
        wanted: bool[M]; consecutive within each user (a stretch of time is).
        window: Most rows of a window.
        context: Rows before the first target, where there are as many; less than ``window``.

    Raises:
        ValueError: If ``context`` is not below ``window``.
    """
    if not 0 <= context < window:
        raise ValueError(f"context {context} must lie in 0..{window - 1} (window - 1)")
    targets = np.flatnonzero(wanted)
    if not len(targets):
        return Cuts(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    new_user = np.flatnonzero(np.diff(sequences.user_idx[targets]) != 0) + 1
    begins, ends = np.r_[0, new_user], np.r_[new_user, len(targets)]
    owner_start = np.searchsorted(sequences.user_idx, sequences.user_idx[targets[begins]])
    cuts = []
    for start, begin, end in zip(
        owner_start.tolist(),
        targets[begins].tolist(),
        (targets[ends - 1] + 1).tolist(),
        strict=True,
    ):
        target = begin
        while target < end:
            first = max(start, target - context)
            stop = min(first + window, end)
            cuts.append((first, target, stop))
            target = stop
    first, target, stop = np.array(cuts, dtype=np.int64).T
    return Cuts(first, target, stop)


def distance_to_shown(content: np.ndarray, video: np.ndarray, session: np.ndarray) -> np.ndarray:
    """1 - largest cosine to the last five videos of the session, f32[M]; NaN for its first.

    Args:
        content: f[V, 768], unit rows.
        video: i32[M], in the order shown.
        session: [M].
    """
    best = np.full(len(video), -np.inf, dtype=np.float32)
    for begin in range(0, len(video), _BLOCK):
        first = max(0, begin - SHOWN)
        end = min(begin + _BLOCK, len(video))
        vectors = content[video[first:end]].astype(np.float32)
        for lag in range(1, SHOWN + 1):
            at = np.arange(max(begin, first + lag), end)
            cosine = np.einsum("nd,nd->n", vectors[at - first], vectors[at - first - lag])
            same = session[at] == session[at - lag]
            best[at] = np.maximum(best[at], np.where(same, cosine, -np.inf))
    return np.where(np.isfinite(best), 1 - best, np.nan).astype(np.float32)


def _gaps(first: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """i64[M]: seconds since the same user's event before, 0 for the first."""
    gaps = np.zeros(len(time_s), dtype=np.int64)
    gaps[1:] = np.where(first[1:], 0, np.diff(time_s))
    return gaps


def _place_in_session(first: np.ndarray, time_s: np.ndarray, gap_s: int) -> np.ndarray:
    """i64[M]: 0-based place since the last pause longer than ``gap_s``."""
    opens = first.copy()
    opens[1:] |= np.diff(time_s) > gap_s
    starts = np.flatnonzero(opens)
    lengths = np.diff(np.r_[starts, len(time_s)])
    return np.arange(len(time_s)) - np.repeat(starts, lengths)
