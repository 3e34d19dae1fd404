"""The greedy walk of the re-ranker, compiled: plain loops over requests, places and candidates.

In: the arrays of ``reranking.RerankItems`` and the rules as numbers. Out: the arrays of
``reranking.Slates``, written in place. ``reranking`` holds the explanation and the types; its tests
hold a slow twin in numpy.

Why compiled: one place of one request is a dozen numpy calls on 60 numbers, and the calls cost more
than the numbers. Loops over 60 candidates, ten places and 64 dimensions are 40,000
multiplications. ``nogil``: other requests' threads go on meanwhile.

Legend: B requests, P pool, R videos shown before (newest first), k places, D dimension.
"""

from __future__ import annotations

import numba
import numpy as np

RELEVANCE, DIVERSITY, FRESH, EXPLORATION = 0, 1, 2, 3
FRESH_RELAXED, CAP_RELAXED = 1, 2
TAG_WINDOW = 10
"""The tag cap holds in any so many videos in a row."""


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Dot product of two unit vectors f32[D]; the order of its sum is free, so that it is fast."""
    total = np.float32(0.0)
    for d in range(a.shape[0]):
        total += a[d] * b[d]
    return total  # type: ignore[return-value]


@numba.njit(nogil=True, cache=True)
def rescaled(value: np.ndarray, open_: np.ndarray) -> np.ndarray:
    """Values brought to [0, 1] over what may be picked; all 1 when they are equal. f64[P]."""
    low, high = np.inf, -np.inf
    for c in range(len(value)):
        if open_[c]:
            low, high = min(low, value[c]), max(high, value[c])
    relevance = np.ones(len(value))
    if high > low:
        for c in range(len(value)):
            relevance[c] = (value[c] - low) / (high - low)
    return relevance


@numba.njit(nogil=True, cache=True)
def creator_factor(
    creator: int, shown: np.ndarray, n_shown: int, fatigue: float, decay: float
) -> float:
    """What is left of a video's value after its creator's videos in ``shown`` (oldest first)."""
    factor, loss = 1.0, fatigue
    for back in range(n_shown):
        if shown[n_shown - 1 - back] == creator:
            factor *= 1.0 - loss
        loss *= decay
    return factor


@numba.njit(nogil=True, cache=True)
def at_cap(tag: int, shown: np.ndarray, n_shown: int, cap: int) -> bool:
    """Whether one more of this tag would be too many among the last ten."""
    if tag < 0 or cap == 0:
        return False
    count = 0
    for place in range(max(0, n_shown - TAG_WINDOW + 1), n_shown):
        if shown[place] == tag:
            count += 1
    return count >= cap


@numba.njit(nogil=True, cache=True)
def mark_allowed(
    allowed: np.ndarray,
    open_: np.ndarray,
    tag: np.ndarray,
    fresh: np.ndarray,
    shown_tag: np.ndarray,
    n_shown: int,
    cap: int,
    want_fresh: bool,
) -> int:
    """Marks what may stand at this place; the bits of the rules that had to give way.

    Order: the fresh slot gives way first (nobody is hurt by an upload that comes one slate later),
    then the cap (an empty place would be worse than a fourth video of a tag).
    """
    relaxed = 0
    for attempt in range(3):
        fresh_only, capped = want_fresh and attempt == 0, attempt < 2
        found = False
        for c in range(len(open_)):
            allowed[c] = (
                open_[c]
                and not (fresh_only and not fresh[c])
                and not (capped and at_cap(tag[c], shown_tag, n_shown, cap))
            )
            found = found or allowed[c]
        if found:
            return relaxed
        if attempt == 0 and want_fresh:
            relaxed |= FRESH_RELAXED
        elif attempt == 1:
            relaxed |= CAP_RELAXED
    return relaxed


@numba.njit(nogil=True, cache=True)
def best_of(marginal: np.ndarray, allowed: np.ndarray) -> int:
    """The first largest among the allowed; -1 where there is none."""
    best, most = -1, -np.inf
    for c in range(len(marginal)):
        if allowed[c] and marginal[c] > most:
            best, most = c, marginal[c]
    return best


@numba.njit(nogil=True, cache=True)
def drawn_of(allowed: np.ndarray, uniform: float) -> tuple[int, int]:
    """A uniformly drawn candidate of the allowed, and how many there are."""
    count = 0
    for c in range(len(allowed)):
        count += allowed[c]
    left = min(int(uniform * count), count - 1)
    for c in range(len(allowed)):
        if allowed[c]:
            if left == 0:
                return c, count
            left -= 1
    return -1, count


@numba.njit(nogil=True, cache=True)
def see(nearest: np.ndarray, open_: np.ndarray, vectors: np.ndarray, shown: np.ndarray) -> None:
    """Takes one more shown vector into every candidate's largest cosine."""
    for c in range(len(nearest)):
        if open_[c]:
            nearest[c] = max(nearest[c], cosine(vectors[c], shown))


@numba.njit(nogil=True, cache=True)
def weigh(
    marginal: np.ndarray,
    allowed: np.ndarray,
    relevance: np.ndarray,
    nearest: np.ndarray,
    creator: np.ndarray,
    shown_creator: np.ndarray,
    n_shown: int,
    rules: tuple[float, float, float, int, float],
) -> None:
    """What each allowed candidate is worth at this place."""
    weight, fatigue, decay = rules[0], rules[1], rules[2]
    for c in range(len(marginal)):
        if allowed[c]:
            kept = creator_factor(creator[c], shown_creator, n_shown, fatigue, decay)
            marginal[c] = weight * relevance[c] * kept
            if n_shown > 0:
                marginal[c] -= (1.0 - weight) * nearest[c]


@numba.njit(nogil=True, cache=True)
def choose(
    marginal: np.ndarray, allowed: np.ndarray, exploration: float, uniform: np.ndarray
) -> tuple[int, bool, float]:
    """The pick (-1: none), whether it was drawn, and its probability."""
    best = best_of(marginal, allowed)
    if best < 0 or exploration == 0.0:
        return best, False, 1.0
    drawn, count = drawn_of(allowed, uniform[1])
    explores = uniform[0] < exploration
    pick = drawn if explores else best
    return pick, explores, exploration / count + (1.0 - exploration) * (pick == best)


@numba.njit(nogil=True, cache=True)
def why(
    pick: int, explores: bool, owed: bool, fresh: bool, relevance: np.ndarray, open_: np.ndarray
) -> int:
    """The reason that is logged."""
    if explores:
        return EXPLORATION
    if owed and fresh:
        return FRESH
    return RELEVANCE if best_of(relevance, open_) == pick else DIVERSITY


@numba.njit(nogil=True, cache=True)
def fill_one(
    videos: np.ndarray,
    value: np.ndarray,
    vectors: np.ndarray,
    creator: np.ndarray,
    tag: np.ndarray,
    fresh: np.ndarray,
    recent_vectors: np.ndarray,
    recent_creator: np.ndarray,
    recent_tag: np.ndarray,
    uniform: np.ndarray,
    fresh_due: np.ndarray,
    rules: tuple[float, float, float, int, float],
    positions: np.ndarray,
    reasons: np.ndarray,
    relaxed: np.ndarray,
    propensity: np.ndarray,
) -> None:
    """One request: fills its k places. Arguments are rows of those of ``fill_slates``."""
    n_pool, n_recent, k = len(videos), len(recent_creator), len(positions)
    open_ = videos >= 0
    relevance = rescaled(value, open_)
    nearest, marginal = np.full(n_pool, -np.inf), np.empty(n_pool)
    allowed = np.empty(n_pool, dtype=np.bool_)
    shown_creator = np.empty(n_recent + k, dtype=np.int64)
    shown_tag = np.empty(n_recent + k, dtype=np.int64)
    n_shown, n_fresh = 0, 0
    for r in range(n_recent - 1, -1, -1):  # oldest first
        if recent_creator[r] >= 0:
            shown_creator[n_shown], shown_tag[n_shown] = recent_creator[r], recent_tag[r]
            n_shown += 1
            see(nearest, open_, vectors, recent_vectors[r])
    for place in range(k):
        owed = fresh_due[place] >= n_fresh
        bits = mark_allowed(allowed, open_, tag, fresh, shown_tag, n_shown, rules[3], owed)
        weigh(marginal, allowed, relevance, nearest, creator, shown_creator, n_shown, rules)
        pick, explores, chance = choose(marginal, allowed, rules[4], uniform[place])
        if pick < 0:
            return
        reasons[place] = why(pick, explores, owed, fresh[pick], relevance, open_)
        positions[place], relaxed[place], propensity[place] = pick, bits, chance
        open_[pick] = False
        n_fresh += fresh[pick]
        shown_creator[n_shown], shown_tag[n_shown] = creator[pick], tag[pick]
        n_shown += 1
        see(nearest, open_, vectors, vectors[pick])


@numba.njit(nogil=True, cache=True)
def fill_slates(
    videos: np.ndarray,
    value: np.ndarray,
    vectors: np.ndarray,
    creator: np.ndarray,
    tag: np.ndarray,
    fresh: np.ndarray,
    recent_vectors: np.ndarray,
    recent_creator: np.ndarray,
    recent_tag: np.ndarray,
    uniform: np.ndarray,
    fresh_due: np.ndarray,
    rules: tuple[float, float, float, int, float],
    positions: np.ndarray,
    reasons: np.ndarray,
    relaxed: np.ndarray,
    propensity: np.ndarray,
) -> None:
    """Every request of the batch, one after the other.

    The first six arguments are the pool, [B, P] and [B, P, D]; the next three were shown before,
    [B, R] and [B, R, D]. ``uniform`` f64[B, k, 2] in [0, 1) says whether to explore, and what.
    ``fresh_due`` i64[k] holds at a fresh slot the number of fresh videos that should stand before
    it, elsewhere -1 (always enough). ``rules``: relevance weight, fatigue, its decay, tag cap,
    exploration. The last four, [B, k], are filled; a place without a candidate keeps what it held.
    """
    for b in range(len(videos)):
        fill_one(
            videos[b],
            value[b],
            vectors[b],
            creator[b],
            tag[b],
            fresh[b],
            recent_vectors[b],
            recent_creator[b],
            recent_tag[b],
            uniform[b],
            fresh_due,
            rules,
            positions[b],
            reasons[b],
            relaxed[b],
            propensity[b],
        )
