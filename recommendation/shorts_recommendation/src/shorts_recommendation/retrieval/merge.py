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


def shares(quotas: tuple[int, ...]) -> np.ndarray:
    """i64[ROUNDS, S]: how many each source names in each round; columns sum to the quotas."""
    steps = np.arange(ROUNDS + 1)[:, None] * np.array(quotas)[None, :]
    return np.diff(-(-steps // ROUNDS), axis=0).astype(np.int64)


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
    n_sources, most = share.shape[1], videos.shape[1]
    cursor = np.zeros(n_sources, np.int64)
    tag_cursor = np.zeros(tag_choice.shape[1], np.int64)
    credit = np.zeros(tag_choice.shape[1], np.float32)
    for b in range(len(videos)):
        number = first_stamp + b
        for v in seen[b]:
            if v >= 0:
                stamp[v] = number
                place[v] = -1
        cursor[:] = 0
        tag_cursor[:] = 0
        credit[:] = 0
        n, turn, alive = 0, 0, True
        while n < most and alive:
            alive = False
            row = min(turn, len(share) - 1)
            for s in range(n_sources):
                named = 0
                quota = share[row, s] if turn < len(share) else max(share[row, s], 1)
                while named < quota and n < most:
                    if s == tag_source:
                        v = _next_tagged(
                            tag_table[language[b]], tag_choice[b], tag_weight[b], tag_cursor, credit
                        )
                    elif cursor[s] < lists[s].shape[1]:
                        v = lists[s][b, cursor[s]]
                        cursor[s] += 1
                    else:
                        v = -1
                    if v < 0:
                        break
                    alive = True
                    if stamp[v] == number:
                        if place[v] >= 0:
                            sources[b, place[v]] |= np.uint8(1 << s)
                            named += 1
                        continue
                    if upload_s[v] > now_s[b]:
                        continue
                    stamp[v] = number
                    place[v] = n
                    videos[b, n] = v
                    sources[b, n] = np.uint8(1 << s)
                    n += 1
                    named += 1
            turn += 1
        for v in everything:
            if n == most:
                break
            if stamp[v] != number and upload_s[v] <= now_s[b]:
                stamp[v] = number
                videos[b, n] = v
                n += 1


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
