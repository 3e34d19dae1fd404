"""How a log is cut into past and future, so that nothing a query is scored on leaks backwards.

In: an ``InteractionLog`` [N rows]. Out: ``TimeWindows``, ``Queries`` or a row mask bool[N]. All
functions are vectorised: no loop over users, 1M rows in under a second.

Which split for what (the protocols are compared in docs/07_evaluation.md):

- ``next_event_queries``: the default. Models are frozen at the start of the test window, user
  histories are live, every burst of the user is one query. This is what serving does.
- ``temporal_batch_queries``: one query a user at one cut. Honest about time but weak: few users
  are active on both sides of the cut.
- ``leave_last_out``: the classic protocol of sequence papers. The cut differs from user to user,
  so a model sees other users' future.
- ``stratified_random_split``: for reproducing published tables only. It leaks the future.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import (
    BoolArray,
    Int64Array,
    InteractionLog,
    Queries,
    seeded_hash,
)

# The random split must not follow the order of ties, which hashes the same ids: another stream.
_SPLIT_STREAM = 0x51_7C_C1_B7


@dataclass(frozen=True)
class TimeWindows:
    """Two cuts in time (Unix s): train t < train_end <= validation t < validation_end <= test."""

    train_end: int
    validation_end: int


def temporal_windows(
    timestamp: Int64Array, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> TimeWindows:
    """Cuts time so that the windows hold about these fractions of the rows.

    A cut is a timestamp, so rows of the same second always fall on the same side. Of the two ends
    of the tie that the exact fraction falls into, the nearer one is taken. Where all rows share
    one second, the larger side (train, by default) therefore gets them all.

    Args:
        timestamp: i64[N], any order.
        fractions: of train, validation and test; they sum to 1.

    Raises:
        ValueError: without rows, or if the fractions do not sum to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ValueError(f"fractions must be at least 0 and sum to 1, got {fractions}")
    if not len(timestamp):
        raise ValueError("temporal_windows needs at least one interaction, got none")
    ordered = np.sort(timestamp)
    train, validation, _ = fractions
    return TimeWindows(_cut_near(ordered, train), _cut_near(ordered, train + validation))


def _cut_near(ordered: Int64Array, fraction: float) -> int:
    """The timestamp c such that the share of rows with t < c is as near to fraction as can be."""
    target = fraction * len(ordered)
    inside = ordered[min(int(target), len(ordered) - 1)]
    below = np.searchsorted(ordered, inside, side="left")  # rows before the tie
    upto = np.searchsorted(ordered, inside, side="right")  # and with it
    if target - below <= upto - target:
        return int(inside)
    return int(ordered[upto]) if upto < len(ordered) else int(inside) + 1


def next_event_queries(log: InteractionLog, begin: int, end: int | None) -> Queries:
    """One query for every (user, second) with ``begin <= t < end`` (no end: to the last row).

    The history is all the user's rows strictly before that second, so the tied rows of a burst
    are one query with several relevant items. A query whose items the user all had before is
    left out. A user without history gives a query with an empty history (a cold start).
    """
    if not len(log):
        return _empty_queries()
    in_window = log.timestamp >= begin
    if end is not None:
        in_window &= log.timestamp < end
    # A run of one user and one second; two users never share a run, whatever their seconds.
    changed = np.ones(len(log), dtype=np.bool_)
    changed[1:] = np.diff(log.timestamp) != 0
    changed[log.user_ptr[:-1][np.diff(log.user_ptr) > 0]] = True
    starts = np.flatnonzero(changed)
    ends = np.append(starts[1:], len(log))
    keep = in_window[starts]
    return _queries_of_runs(log, starts[keep], ends[keep], log.timestamp[starts[keep]])


def temporal_batch_queries(log: InteractionLog, cut: int) -> Queries:
    """One query a user at time ``cut``: history is t < cut, relevant is everything from then on.

    Users without a new item after the cut have no query.
    """
    before = np.concatenate(([0], np.cumsum(log.timestamp < cut, dtype=np.int64)))
    begin, end = log.user_ptr[:-1], log.user_ptr[1:]
    history_end = begin + before[end] - before[begin]
    active = history_end < end
    time = np.full(int(active.sum()), cut, dtype=np.int64)
    return _queries_of_runs(log, history_end[active], end[active], time)


def leave_last_out(log: InteractionLog) -> tuple[Queries, BoolArray]:
    """Holds out the last row of every user who has at least two.

    Which of several tied last rows is held out follows the log's seeded order of ties; the others
    stay in the history. A last row that repeats an earlier item is not held out.

    Returns:
        The queries, and bool[N], true for the rows to train on.
    """
    enough = np.diff(log.user_ptr) >= 2
    end = log.user_ptr[1:][enough]
    queries = _queries_of_runs(log, end - 1, end, log.timestamp[end - 1])
    train = np.ones(len(log), dtype=np.bool_)
    train[queries.history_end] = False
    return queries, train


def stratified_random_split(
    log: InteractionLog, *, test_fraction: float = 0.25, seed: int
) -> BoolArray:
    """A random ``test_fraction`` of every user's rows: bool[N], true for test rows.

    A user with n rows keeps round((1 - test_fraction) n) of them in train (halves to even), and
    at least one; on MovieLens-100K that is 74,992 train and 25,008 test rows. The choice hashes
    (seed, user_id, item_id), so it does not depend on the order of the rows.

    Raises:
        ValueError: if test_fraction is not within [0, 1).
    """
    if not 0.0 <= test_fraction < 1.0:
        raise ValueError(f"test_fraction must be within [0, 1), got {test_fraction}")
    counts = np.diff(log.user_ptr)
    n_train = np.maximum(np.rint((1.0 - test_fraction) * counts).astype(np.int64), 1)
    user_id, item_id = log.user_ids[log.user_idx], log.item_ids[log.item_idx]
    order = np.lexsort((seeded_hash(seed ^ _SPLIT_STREAM, user_id, item_id), log.user_idx))
    # The log is user-major, so sorted position minus the user's start is the rank in the user.
    rank = np.arange(len(log)) - np.repeat(log.user_ptr[:-1], counts)
    test = np.zeros(len(log), dtype=np.bool_)
    test[order] = rank >= np.repeat(n_train, counts)
    return test


def _queries_of_runs(
    log: InteractionLog, starts: Int64Array, ends: Int64Array, timestamp: Int64Array
) -> Queries:
    """Queries whose relevant rows are ``starts:ends``, less those without a new item."""
    new_before = np.concatenate(([0], np.cumsum(log.is_first, dtype=np.int64)))
    keep = new_before[ends] > new_before[starts]
    starts, ends = starts[keep], ends[keep]
    user_idx = log.user_idx[starts]
    return Queries(
        user_idx=user_idx,
        timestamp=timestamp[keep],
        history_begin=log.user_ptr[user_idx],
        history_end=starts,
        relevant_end=ends,
    )


def _empty_queries() -> Queries:
    none = np.zeros(0, dtype=np.int64)
    return Queries(none.astype(np.int32), none, none, none, none)
