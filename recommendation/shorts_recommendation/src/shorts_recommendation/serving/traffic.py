"""Request lines of a load: feeds and events of users whose activity follows Zipf's law.

In: user and video ids, a rate. Out: lines for `ml_platform.serving.load_test`. The users' ranks are
shuffled, so that the most active ones are not those with the lowest ids. An event watches a random
video and has an id of its own.

Two shapes:

- *Drawn on their own*: each request is a feed or an event by a set share, in no rhythm. With 15%
  events a user asks 5.7 feeds for each event, most of them with nothing new to say: this flatters a
  cache, for people do not ask again before they have watched.
- *Sessions*: a user asks for a feed, sends an event for each of the ``session_events`` videos that
  it plays, and asks again. Every feed but the first of a session follows events of its own user, so
  a slate can come from the cache only where it was computed ahead. This is what a client does.

A few uploads may be mixed in: each changes catalogue, index and lists while feeds are answered.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LONGEST_WATCH_S = 30.0
IN_SESSION = 500
"""Users with a session at the same time."""


@dataclass(frozen=True)
class TrafficPlan:
    """What a load consists of.

    Attributes:
        event_share: Of all requests.
        zipf_exponent: Of the users' activity.
        k: Videos of a feed.
        cached: False asks with ``cache=off``: every feed runs the whole funnel.
        unknown_share: Of the feeds, from users whom nobody knows.
        seed: Of everything drawn.
        session_events: Events between two feeds of a user; 0 draws each request on its own.
        upload_every: One upload in so many requests; 0 for none.
        content_dim: Of an upload's vector.
    """

    event_share: float = 0.15
    zipf_exponent: float = 0.8
    k: int = 10
    cached: bool = True
    unknown_share: float = 0.02
    seed: int = 0
    session_events: int = 0
    upload_every: int = 0
    content_dim: int = 768


class Traffic:
    """An endless supply of request lines; two pieces of it never share an event.

    Args:
        plan: Shares and skew.
        user_ids: i64[U], external.
        video_ids: i64[V], external.
        name: Prefix of the event ids, different for every process that loads one server.
    """

    def __init__(
        self, plan: TrafficPlan, user_ids: np.ndarray, video_ids: np.ndarray, *, name: str = "load"
    ) -> None:
        self.plan, self.name = plan, name
        self._rng = np.random.default_rng(plan.seed)
        self._user_ids = self._rng.permutation(np.asarray(user_ids))
        self._video_ids = np.asarray(video_ids)
        weight = np.arange(1, len(self._user_ids) + 1) ** -plan.zipf_exponent
        self._share = weight / weight.sum()
        self._cumulative = np.cumsum(weight) / weight.sum()
        self._unknown = int(self._user_ids.max()) + 1
        self._numbers = itertools.count()
        self._active: tuple[np.ndarray, np.ndarray] | None = None
        # Two loads of one service must not share an upload either.
        self._first_new = (zlib.crc32(name.encode()) + 1) * 10**6 + int(self._video_ids.max())

    def lines(self, n: int) -> list[str]:
        """The next n request lines."""
        lines = self._of_sessions(n) if self.plan.session_events else self._on_their_own(n)
        if self.plan.upload_every:
            for place in range(self.plan.upload_every - 1, n, self.plan.upload_every):
                lines[place] = self._upload()
        return lines

    def _on_their_own(self, n: int) -> list[str]:
        events = self._rng.random(n) < self.plan.event_share
        return self._lines(self._users(n), events)

    def _of_sessions(self, n: int) -> list[str]:
        """Each user in a session has one next request; a request is that of one of them.

        ``IN_SESSION`` users have one at a time. Who has played a feed's videos asks for the next
        or, as often, leaves to another user.
        """
        rng, length = self._rng, self.plan.session_events + 1
        if self._active is None:
            size = max(1, min(IN_SESSION, len(self._user_ids) // 2))
            drawn = rng.choice(self._user_ids, size, replace=False, p=self._share)
            self._active = drawn, rng.integers(0, length, size)
        users, step = self._active
        turns = rng.integers(0, len(users), n)
        whose, events = np.empty(n, dtype=np.int64), np.empty(n, dtype=bool)
        for i, turn in enumerate(turns.tolist()):
            whose[i], events[i] = users[turn], step[turn] > 0
            step[turn] = (step[turn] + 1) % length
            if step[turn] == 0 and rng.random() < 0.5:
                users[turn] = self._next_user(users)
        return self._lines(whose, events)

    def _next_user(self, active: np.ndarray) -> int:
        """One who has no session; the one who leaves may come straight back."""
        for user_id in self._users(20).tolist():
            if user_id not in active:
                return int(user_id)
        return int(self._rng.choice(np.setdiff1d(self._user_ids, active)))

    def _users(self, n: int) -> np.ndarray:
        return self._user_ids[np.searchsorted(self._cumulative, self._rng.random(n))]

    def _lines(self, users: np.ndarray, events: np.ndarray) -> list[str]:
        plan, rng, n = self.plan, self._rng, len(users)
        unknown = ~events & (rng.random(n) < plan.unknown_share)
        users = np.where(unknown, self._unknown + rng.integers(0, 10**6, n), users)
        videos = rng.choice(self._video_ids, n)
        watched = np.round(rng.uniform(0, LONGEST_WATCH_S, n), 1)
        likes = rng.random(n) < 0.05
        drawn: Iterator[tuple[int, bool, int, float, bool]] = zip(
            *(users.tolist(), events.tolist(), videos.tolist(), watched.tolist(), likes.tolist()),
            strict=True,
        )
        return [self._line(*request) for request in drawn]

    def _upload(self) -> str:
        """A new video of the first creator, its content drawn from the sphere."""
        self._first_new += 1
        content = self._rng.normal(size=self.plan.content_dim).round(3).tolist()
        body = {
            "video_id": self._first_new,
            "creator": 0,
            "tags": [int(self._rng.integers(0, 40))],
            "language": 0,
            "duration_s": 15.0,
            "content": content,
        }
        return f"POST /v1/uploads {json.dumps(body, separators=(',', ':'))}"

    def _line(self, user_id: int, event: bool, video_id: int, watch_s: float, like: bool) -> str:
        if event:
            return event_line(
                f"{self.name}-{next(self._numbers)}", user_id, video_id, watch_s, like
            )
        return f"GET /v1/feed?user_id={user_id}&k={self.plan.k}" + (
            "" if self.plan.cached else "&cache=off"
        )


def event_line(event_id: str, user_id: int, video_id: int, watch_s: float, like: bool) -> str:
    """One event as a request line."""
    return (
        f'POST /v1/events {{"event_id":"{event_id}","user_id":{user_id},"video_id":{video_id},'
        f'"watch_s":{watch_s},"like":{"true" if like else "false"}}}'
    )
