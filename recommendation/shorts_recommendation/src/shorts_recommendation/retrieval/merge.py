"""One list from five: quotas in rounds, refill, no repeats, nothing seen, nothing not yet uploaded.

In: for every request the sources' lists, best first, and what must not be shown. Out: exactly C
videos a request (fewer only where the catalogue has no more), each with a bit for every source that
had named it by the time the list was full.

Sources take turns: in every round each one names its share of ROUND videos, by quota. A video that
an earlier source named costs the later source its place but not the list: rounds go on until the
list is full, so a source that is short or agrees with the others is refilled by all of them, in
proportion. Because of the turns the order of the list means something: its first 100 are the best
of every source. What is left when all sources are exhausted comes from all videos by trend.

Repeats are found by stamping: one array over the catalogue holds the number of the last request
that saw a video, so nothing is ever cleared. Shapes: B requests, S sources, M list length, C.
"""

from __future__ import annotations

import numba
import numpy as np

ROUNDS = 50
"""Rounds in which every source would name its quota, if no two agreed."""


def shares(quotas: tuple[int, ...], head: tuple[int, ...] | None = None) -> np.ndarray:
    """i64[ROUNDS, S]: how many each source names in each round; columns sum to the quotas.

    Args:
        quotas: By source.
        head: What the first tenth of the rounds name, by source; None goes by quota throughout.

    Raises:
        ValueError: If the head takes more of a source than its quota.
    """
    if head is None:
        return _spread(quotas, ROUNDS)
    rest = tuple(q - h for q, h in zip(quotas, head, strict=True))
    if min(rest) < 0:
        raise ValueError(f"a head of {head} does not fit into quotas of {quotas}")
    first = ROUNDS // 10
    return np.concatenate([_spread(head, first), _spread(rest, ROUNDS - first)])


def _spread(quotas: tuple[int, ...], n_rounds: int) -> np.ndarray:
    steps = np.arange(n_rounds + 1)[:, None] * np.array(quotas)[None, :]
    return np.diff(-(-steps // n_rounds), axis=0).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def merge(  # type: ignore[no-untyped-def]
    lists,
    tag_table,
    language,
    tag_choice,
    tag_weight,
    tag_source,
    everything,
    share,
    seen,
    upload_s,
    now_s,
    stamp,
    place,
    first_stamp,
    videos,
    sources,
):
    """Fill ``videos`` and ``sources``; returns nothing.

    Args:
        lists: Tuple of S arrays i32[B, M_s], -1 padded; that of ``tag_source`` is not read.
        tag_table: i32[G, T, M], the best videos of every language and tag.
        language: i64[B].
        tag_choice: i64[B, N], the best tags of every request.
        tag_weight: f32[B, N], how much of the tag source each of them deserves; 0 for none.
        tag_source: Which source the tags are.
        everything: i32[n], the last resort.
        share: i64[R, S], names by round; after the last round the last row repeats.
        seen: i32[B, n_seen], -1 where there is none.
        upload_s: i64[V].
        now_s: i64[B].
        stamp: i64[V], requests' numbers; all below ``first_stamp``.
        place: i32[V], scratch.
        first_stamp: Number of the first request.
        videos: i32[B, C], filled with -1 beforehand.
        sources: u8[B, C], zeros.
    """
    most = videos.shape[1]
    cursor = np.zeros(share.shape[1], np.int64)
    tag_cursor = np.zeros(tag_choice.shape[1], np.int64)
    credit = np.zeros(tag_choice.shape[1], np.float32)
    for b in range(len(videos)):
        number = first_stamp + b
        _stamp_seen(seen[b], number, stamp, place)
        cursor[:], tag_cursor[:], credit[:] = 0, 0, 0
        table, n, turn, alive = tag_table[language[b]], 0, 0, True
        while n < most and alive:
            alive = turn < len(share)  # a round may ask nobody where quotas are below ROUNDS
            for s in range(len(cursor)):
                quota = share[min(turn, len(share) - 1), s]
                if turn >= len(share):  # refill: everybody names something
                    quota = max(quota, 1)
                while quota > 0 and n < most:
                    if s == tag_source:
                        v = _next_tagged(table, tag_choice[b], tag_weight[b], tag_cursor, credit)
                    else:
                        v = _next_listed(lists[s][b], cursor, s)
                    if v < 0:
                        break
                    alive = True
                    if stamp[v] == number:
                        if place[v] >= 0:
                            sources[b, place[v]] |= np.uint8(1 << s)
                            quota -= 1
                    elif upload_s[v] <= now_s[b]:
                        stamp[v], place[v] = number, n
                        videos[b, n], sources[b, n] = v, np.uint8(1 << s)
                        n += 1
                        quota -= 1
            turn += 1
        _fill(everything, upload_s, now_s[b], number, stamp, videos[b], n)


@numba.njit(cache=True, nogil=True)
def _stamp_seen(seen, number, stamp, place):  # type: ignore[no-untyped-def]
    for v in seen:
        if v >= 0:
            stamp[v], place[v] = number, -1


@numba.njit(cache=True, nogil=True)
def _fill(everything, upload_s, now_s, number, stamp, videos, n):  # type: ignore[no-untyped-def]
    """The last resort, from place ``n`` on."""
    for v in everything:
        if n == len(videos):
            return
        if stamp[v] != number and upload_s[v] <= now_s:
            stamp[v] = number
            videos[n] = v
            n += 1


@numba.njit(cache=True, nogil=True)
def _next_listed(names, cursor, s):  # type: ignore[no-untyped-def]
    """The next video of a list, -1 at its end."""
    if cursor[s] >= len(names):
        return -1
    cursor[s] += 1
    return names[cursor[s] - 1]


@numba.njit(cache=True, nogil=True)
def _next_tagged(lists, choice, weight, cursor, credit):  # type: ignore[no-untyped-def]
    """The next video of the tag with most credit: tags take turns in proportion to weight."""
    best = -1
    for t in range(len(weight)):
        if weight[t] <= 0 or cursor[t] >= lists.shape[1] or lists[choice[t], cursor[t]] < 0:
            continue
        credit[t] += weight[t]
        if best < 0 or credit[t] > credit[best]:
            best = t
    if best < 0:
        return -1
    total = np.float32(0.0)
    for t in range(len(weight)):
        total += weight[t]
    credit[best] -= total
    v = lists[choice[best], cursor[best]]
    cursor[best] += 1
    return v


@numba.njit(cache=True, nogil=True, fastmath=True)
def similarities(queries, vectors, videos, target):  # type: ignore[no-untyped-def]
    """``target`` f32[B, C]: products of queries f32[B, D] with their candidates; 0 for padding."""
    for b in range(len(videos)):
        query = queries[b]
        for c in range(videos.shape[1]):
            v = videos[b, c]
            total = np.float32(0.0)
            if v >= 0:
                row = vectors[v]
                for d in range(len(query)):
                    total += query[d] * row[d]
            target[b, c] = total
