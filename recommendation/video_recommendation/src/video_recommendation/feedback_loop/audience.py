"""The users of a simulated day: when they come, what they do, when it becomes known.

In: a world, a day, a service. Out: requests and events sent to the service, and ``DayTruth``, what
really happened, which no log shows.

All luck (who comes when, what is examined and watched, how late it is known, who searches) is drawn
from generators seeded by (seed, day, request). Two arms of one seed therefore meet the same users
at the same seconds with the same luck: common random numbers, so that their difference is the
policy's. Delays cross midnight: what is pending stays pending.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from video_recommendation.feedback_loop.service import LiveService, Watch
from video_recommendation.feedback_loop.settings import CLOSE_AT_S, OPEN_AT_S, LoopSettings
from video_recommendation.simulation.world import World

_VISITS, _ANSWER, _ORGANIC, _RETRY = range(4)


@dataclass
class DayTruth:
    """What one day really was. One entry for each request.

    Attributes:
        shown: i64[K] item indices of each list.
        exploration_place: Of each list, -1 for none.
        watched: bool[K] of each list.
        value, best_value: Expected watches of the list shown and of the best one.
    """

    shown: list[np.ndarray] = field(default_factory=list)
    exploration_place: list[int] = field(default_factory=list)
    watched: list[np.ndarray] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    best_value: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Visit:
    """One visit: who, when (Unix seconds), and its number in the day."""

    number: int
    user_idx: int
    at: int


class Audience:
    """All users of one arm: what they have watched, and what is not known yet.

    Attributes:
        watched: bool[U, I], the truth.
    """

    def __init__(self, world: World, settings: LoopSettings) -> None:
        self.world, self.settings, self.seed = world, settings, world.config.seed
        self.watched = np.zeros((world.config.n_users, len(world.item_ids)), dtype=np.bool_)
        table = world.dataset().interactions
        self.watched[table["user_id"] - 1, table["item_id"] - 1] = True
        self._pending: list[tuple[int, int, Watch]] = []
        self._n_pushed = 0

    def visits(self, day: int) -> list[Visit]:
        """The day's visits in time order; the same in every arm."""
        rng = self._rng(day, 0, _VISITS)
        n, world = self.settings.n_requests, self.world
        at = np.sort(rng.integers(OPEN_AT_S, CLOSE_AT_S, n)) + world.day_start(day)
        user = rng.choice(world.config.n_users, n, p=world.activity)
        return [Visit(i, int(u), int(t)) for i, (u, t) in enumerate(zip(user, at, strict=True))]

    def visit(self, service: LiveService, day: int, visit: Visit, truth: DayTruth) -> bool:
        """One request, the answer to it, and what the user finds alone.

        Returns:
            Whether the request was answered in full, by the version it was meant for.
        """
        world, user, k = self.world, visit.user_idx, self.settings.k
        request_id = f"d{day:02d}r{visit.number:05d}"
        answer = service.request(request_id, int(world.user_ids[user]), k, visit.at)
        item = np.array([shown["item_id"] - 1 for shown in answer.items], dtype=np.int64)
        again = self.watched[user, item]
        response = world.respond(
            user, item, self._rng(day, visit.number, _ANSWER), already_watched=again
        )
        self._note(truth, answer.items, item, again, user, day)
        truth.watched.append(response.watched)
        for place in np.flatnonzero(response.watched):
            self._report(
                Watch(
                    at=visit.at + int(response.delay_s[place]),
                    request_id=request_id,
                    user_id=int(world.user_ids[user]),
                    item_id=int(world.item_ids[item[place]]),
                ),
                float(response.rating[place]),
            )
        self.watched[user, item[response.watched]] = True
        self._search(day, visit)
        return not answer.candidate_failed and not answer.stages.degradations

    def deliver(self, service: LiveService, until: int) -> list[Watch]:
        """Sends what has become known before ``until``; some clients send it twice."""
        due: list[Watch] = []
        while self._pending and self._pending[0][0] < until:
            due.append(heapq.heappop(self._pending)[2])
        service.submit(due)
        if due and self._rng(until, 0, _RETRY).uniform() < self.settings.retry_share:
            service.submit(due)
        return due

    @property
    def n_pending(self) -> int:
        """Reports that are on their way."""
        return len(self._pending)

    def _note(
        self,
        truth: DayTruth,
        shown: list[dict[str, object]],
        item: np.ndarray,
        again: np.ndarray,
        user: int,
        day: int,
    ) -> None:
        """The value of the list beside that of the best one the catalogue would have allowed."""
        world = self.world
        wanted = world.watch_probability(user, item) * ~again
        available = world.available(day)
        unseen = available[~self.watched[user, available]]
        truth.shown.append(item)
        places = [place for place, one in enumerate(shown) if one["exploration"]]
        truth.exploration_place.append(places[0] if places else -1)
        truth.value.append(float(wanted @ world.examine_probability(len(item))))
        truth.best_value.append(world.best_value(user, unseen, self.settings.k))

    def _search(self, day: int, visit: Visit) -> None:
        """Now and then a user finds an item without a list: a search, a friend's link."""
        rng = self._rng(day, visit.number, _ORGANIC)
        if rng.uniform() >= self.settings.organic_share:
            return
        world, user = self.world, visit.user_idx
        available = world.available(day)
        unseen = available[~self.watched[user, available]]
        wanted = world.watch_probability(user, unseen)
        found = unseen[np.searchsorted(np.cumsum(wanted), rng.uniform() * wanted.sum())]
        self.watched[user, found] = True
        user_id, item_id = int(world.user_ids[user]), int(world.item_ids[found])
        self._report(Watch(visit.at + int(rng.integers(60, 3_600)), None, user_id, item_id), 0.0)

    def _report(self, watch: Watch, rating: float) -> None:
        self._push(watch)
        if rating > 0:  # given a minute after
            self._push(Watch(watch.at + 60, watch.request_id, watch.user_id, watch.item_id, rating))

    def _push(self, watch: Watch) -> None:
        self._n_pushed += 1  # breaks ties, so that watches are never compared
        heapq.heappush(self._pending, (watch.at, self._n_pushed, watch))

    def _rng(self, day: int, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, day, number, stream))
