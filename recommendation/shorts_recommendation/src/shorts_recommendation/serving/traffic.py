"""Request lines of a load: feeds and events of users whose activity follows Zipf's law.

In: user and video ids, a rate. Out: lines for `ml_platform.serving.load_test`. The users' ranks are
shuffled, so that the most active ones are not those with the lowest ids. Each request is drawn on
its own: a user's feeds and events come in no rhythm, which is harder on a cache than sessions are,
where events come in bursts. An event watches a random video and has an id of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LONGEST_WATCH_S = 30.0


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
    """

    event_share: float = 0.15
    zipf_exponent: float = 0.8
    k: int = 10
    cached: bool = True
    unknown_share: float = 0.02
    seed: int = 0


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
        self._cumulative = np.cumsum(weight) / weight.sum()
        self._unknown = int(self._user_ids.max()) + 1
        self._numbers = itertools.count()

    def lines(self, n: int) -> list[str]:
        """The next n request lines."""
        plan, rng = self.plan, self._rng
        users = self._user_ids[np.searchsorted(self._cumulative, rng.random(n))]
        events = rng.random(n) < plan.event_share
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

    def most_active(self, n: int) -> list[str]:
        """A feed of each of the n most active users, to fill the cache before a measurement."""
        return [f"GET /v1/feed?user_id={u}&k={self.plan.k}" for u in self._user_ids[:n]]

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
