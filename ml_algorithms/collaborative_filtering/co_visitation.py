"""Co-visitation: which items follow which within one sitting, with weights that fade with the gap.

In: user-major events ``user_ptr`` i64[U + 1], ``item_idx`` i32[N], ``timestamp`` i64[N] (seconds,
ascending within a user). Out: csr f32[I, I]; ``W[i, j]`` is the vote of an event with item ``i``
for item ``j`` next.

    c_ij = sum over event pairs (i before j, same user, gap <= window_s, lag <= max_lag) of
    exp(-gap / decay_s) W_ij = c_ij / (n_i^source_exponent  n_j^target_exponent)          n_i =
    events of item i

Davidson et al., "The YouTube Video Recommendation System", RecSys 2010: relatedness r = c_ij /
f(v_i, v_j), with c_ij the co-watches within sessions (typically 24 hours) and f = c_i c_j as the
simple choice; that is ``source_exponent = target_exponent = backward_weight = 1`` without decay.

Departures: order counts (``backward_weight`` = 0 takes only what came after), near counts more
than far, and the exponents are tunable.

Equal timestamps have no order. A pair with equal timestamps counts ``tie_weight`` in both
directions, and the lag is counted in distinct timestamps of the user, not in rows: shuffling tied
rows changes nothing. (MovieLens timestamps come in bursts of ties; a model that reads row order
there learns the site's list order.)

Legend: U users, I items, N events, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.collaborative_filtering.neighbourhood import prune_columns


def fit_co_visitation(
    user_ptr: npt.NDArray[np.int64],
    item_idx: npt.NDArray[np.int32],
    timestamp: npt.NDArray[np.int64],
    *,
    n_items: int,
    window_s: float,
    max_lag: int,
    decay_s: float = np.inf,
    source_exponent: float = 0.0,
    target_exponent: float = 0.5,
    tie_weight: float = 0.5,
    backward_weight: float = 0.0,
    event_weight: npt.NDArray[np.floating] | None = None,
    neighbours: int | None = None,
) -> sparse.csr_matrix:
    """Count decayed, directed co-visits.

    Time and memory O(pairs in the window): up to N x (events within ``max_lag`` timestamps). A
    burst of n tied events holds n^2 / 2 pairs.

    Args:
        user_ptr: User u's events are rows ``user_ptr[u]:user_ptr[u + 1]`` [U + 1].
        item_idx: Item of each event [N].
        timestamp: Seconds [N], ascending within each user.
        n_items: Catalogue size I.
        window_s: Longest gap that counts, in seconds; np.inf for no limit.
        max_lag: Longest lag, in distinct timestamps of the user; 0 counts only ties.
        decay_s: Time constant of exp(-gap / decay_s); np.inf for no decay.
        source_exponent: Power of the source's popularity that divides a vote: 1 makes row i sum to
            about one event's worth, so that popular history items do not shout.
        target_exponent: Power of the target's popularity that divides a vote: 0 favours popular
            targets, 1 removes popularity.
        tie_weight: Weight of a tied pair in each direction; 0.5 is the expectation over an unknown
            order.
        backward_weight: Weight with which a pair also counts from the later item to the earlier
            one.
        event_weight: Weight of the target event [N], for example recency of the pair in the log; 1
            by default.
        neighbours: Keep so many sources for each target; None keeps all.

    Returns:
        csr f32[I, I], zero diagonal.

    Raises:
        ValueError: If timestamps descend within a user, shapes disagree, or a knob is out of range.
    """
    _check_events(user_ptr, item_idx, timestamp, n_items)
    _check_knobs(window_s, max_lag, decay_s)
    first, second, gap = event_pairs(user_ptr, timestamp, window_s=window_s, max_lag=max_lag)
    weight = np.exp(-gap / decay_s)
    if event_weight is not None:
        weight = weight * np.asarray(event_weight, dtype=np.float64)[second]
    tied = gap == 0
    forward = np.where(tied, tie_weight, 1.0) * weight
    backward = np.where(tied, tie_weight, backward_weight) * weight
    source = np.concatenate([item_idx[first], item_idx[second]])
    target = np.concatenate([item_idx[second], item_idx[first]])
    value = np.concatenate([forward, backward])
    kept = (source != target) & (value > 0.0)
    counts = sparse.coo_matrix(
        (value[kept], (source[kept], target[kept])), shape=(n_items, n_items)
    ).tocsr()
    popularity = np.maximum(np.bincount(item_idx, minlength=n_items), 1).astype(np.float64)
    row_of = np.repeat(np.arange(n_items), np.diff(counts.indptr))
    counts.data /= (
        popularity[row_of] ** source_exponent * popularity[counts.indices] ** target_exponent
    )
    model = counts.astype(np.float32)
    return model if neighbours is None else prune_columns(model, neighbours)


def event_pairs(
    user_ptr: npt.NDArray[np.int64],
    timestamp: npt.NDArray[np.int64],
    *,
    window_s: float,
    max_lag: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List all pairs of rows of one user within the window, earlier row first.

    Row distance 1, 2, 3, ... is taken in turn for all users at once; a row whose partner has
    fallen out of the window stays out at every larger distance, so the active set shrinks and the
    work is the number of pairs.

    Returns:
        first i64[P], second i64[P] (row numbers, first < second), gap i64[P] in seconds, >= 0.
    """
    n_events = timestamp.size
    end_of = np.repeat(user_ptr[1:], np.diff(user_ptr))  # one past the last row of the row's user
    moment = np.concatenate([[0], np.cumsum(_starts_moment(user_ptr, timestamp)[1:])])
    active = np.arange(n_events)
    firsts, seconds = [], []
    distance = 1
    while active.size:
        active = active[active + distance < end_of[active]]
        later = active + distance
        inside = (timestamp[later] - timestamp[active] <= window_s) & (
            moment[later] - moment[active] <= max_lag
        )
        active = active[inside]
        firsts.append(active)
        seconds.append(later[inside])
        distance += 1
    first = np.concatenate(firsts) if firsts else np.zeros(0, dtype=np.int64)
    second = np.concatenate(seconds) if seconds else np.zeros(0, dtype=np.int64)
    return first, second, timestamp[second] - timestamp[first]


def _starts_moment(
    user_ptr: npt.NDArray[np.int64], timestamp: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """True where a row's timestamp differs from the row before it, or a user begins, bool[N]."""
    starts = np.ones(timestamp.size, dtype=bool)
    starts[1:] = timestamp[1:] != timestamp[:-1]
    begins = user_ptr[:-1]
    starts[begins[begins < timestamp.size]] = True
    return starts


def _check_events(
    user_ptr: npt.NDArray[np.int64],
    item_idx: npt.NDArray[np.int32],
    timestamp: npt.NDArray[np.int64],
    n_items: int,
) -> None:
    n_events = timestamp.size
    if (
        item_idx.size != n_events
        or user_ptr.size == 0
        or user_ptr[0] != 0
        or user_ptr[-1] != n_events
    ):
        raise ValueError(
            f"user_ptr must run from 0 to N: it ends at {user_ptr[-1:]}, with {item_idx.size} "
            f"items and {n_events} timestamps"
        )
    if n_events and not (item_idx.min() >= 0 and item_idx.max() < n_items):
        raise ValueError(
            f"item indices {item_idx.min()}..{item_idx.max()} outside a catalogue of {n_items}"
        )
    descends = np.zeros(n_events, dtype=bool)
    descends[1:] = timestamp[1:] < timestamp[:-1]
    begins = user_ptr[:-1]
    descends[begins[begins < n_events]] = False  # the next user may begin earlier
    if descends.any():
        raise ValueError(
            f"timestamps must ascend within a user; row {int(descends.argmax())} does not"
        )


def _check_knobs(window_s: float, max_lag: int, decay_s: float) -> None:
    if window_s < 0 or max_lag < 0:
        raise ValueError(f"window_s and max_lag must not be negative, got {window_s} and {max_lag}")
    if not decay_s > 0:
        raise ValueError(f"decay_s must be positive (np.inf for no decay), got {decay_s}")
