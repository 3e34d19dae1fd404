"""Days of simulated time: people come, watch what their arm's policy puts next, leave, come back.

In: an audience, the states and counters of the service at a moment, policies, and which person is
served by which. Out: a ``Trace``, one row for every video that came on screen.

*Order of time.* Counters are published on a grid of ``counter_period_s``, and nothing else passes
from one person to another. So within one period people do not influence each other, and all whose
clock stands within it may watch their next video together, whatever their clocks say: the result is
that of a simulation event by event, at the price of arrays. A test compares the two. The one
exception is the exposure budget of uploads, which a service counts on within the period, too: a
policy that keeps one (``Counts``) hears of the plays in the order of the steps, not of the clock.

*Interference.* With shared counters both arms write into the trending list and the exposure budget
that both arms read. So does a real platform; the arms then differ by less than a full launch would
change, or by more. ``shared_counters=False`` gives every arm a platform of its own; the people
still belong to one arm each.

Shapes: P people in the experiment, B people of a step, k places of a slate, N rows of the trace.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self, runtime_checkable

import numpy as np

from ml_platform.evaluation.progress import Step
from shorts_recommendation.counters import CounterSnapshot, VideoCounters
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.state import UserStates
from shorts_recommendation.world.response import Outcomes

SWIPE_S = 1  # between two videos; a clock in whole seconds must move


class Policy(Protocol):
    """What an arm is: it answers requests."""

    def next_videos(self, batch: RequestBatch, snapshot: CounterSnapshot, k: int) -> np.ndarray:
        """The next k videos of B requests, i32[B, k], in the order of play, -1 padded."""


@runtime_checkable
class Counts(Protocol):
    """A policy that keeps an exposure budget between two snapshots."""

    def count_exposures(self, videos: np.ndarray, snapshot: CounterSnapshot) -> None:
        """These were played, i32[n]; ``snapshot`` is the last, which does not hold them."""


class People(Protocol):
    """Who watches: ``world.audience.Audience``, or a stand-in of the tests."""

    def open_sessions(self, user_idx: np.ndarray, now_s: np.ndarray) -> None:
        """Starts a session of each."""

    def watch(self, user_idx: np.ndarray, video_idx: np.ndarray, now_s: np.ndarray) -> Outcomes:
        """Shows each one video."""

    def next_visit_s(self, user_idx: np.ndarray, now_s: np.ndarray) -> np.ndarray:
        """Ends the sessions; when each comes back."""


@dataclass(frozen=True)
class Trace:
    """What happened, in the order of time.

    Attributes:
        user: i32[N], user_idx.
        video: i32[N].
        time_s: i64[N].
        watch_s: f32[N].
        long_view, skip, like: bool[N].
        satisfaction: f32[N], the simulator's privilege; no platform sees it.
        opens: bool[N], first of a session.
        exposures: i32[N], how often the platform had shown the video by the last snapshot.
    """

    user: np.ndarray
    video: np.ndarray
    time_s: np.ndarray
    watch_s: np.ndarray
    long_view: np.ndarray
    skip: np.ndarray
    like: np.ndarray
    satisfaction: np.ndarray
    opens: np.ndarray
    exposures: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: np.ndarray | slice) -> Self:
        """The rows of a mask, of indices or of a slice."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class Platform:
    """The service's memory when an experiment starts.

    Attributes:
        states: Of all users; copied before use.
        counters: Of all videos; copied before use.
    """

    states: UserStates
    counters: VideoCounters


class Simulation:
    """One run.

    Args:
        platform: Where it starts; not changed.
        audience: Who watches; changed.
        policies: One for each arm.
        people: i32[P], user_idx, each once.
        arm: i8[P], the arm of each person.
        start_s: When the experiment starts.
        first_visit_s: i64[P], when each comes first; none before ``start_s``.
        slate_length: k, videos fetched at once.
        refetch_after: Videos of a slate that are played before the next is asked for: 1 asks after
            every event, ``slate_length`` plays the slate out. Guaranteed places of a slate that
            stand behind it are never played.
        shared_counters: Whether the arms read each other's counts.

    Raises:
        ValueError: If a person appears twice, comes before the start or has no policy, or if the
            refetch lies beyond the slate.
    """

    def __init__(
        self,
        platform: Platform,
        audience: People,
        policies: Sequence[Policy],
        people: np.ndarray,
        arm: np.ndarray,
        *,
        start_s: int,
        first_visit_s: np.ndarray,
        slate_length: int = 10,
        refetch_after: int = 10,
        shared_counters: bool = True,
    ) -> None:
        if len(np.unique(people)) != len(people):
            raise ValueError("a person appears twice; everybody belongs to one arm")
        if len(people) and not 0 <= arm.min() <= arm.max() < len(policies):
            raise ValueError(f"arms {arm.min()}..{arm.max()}, but there are {len(policies)}")
        if len(people) and first_visit_s.min() < start_s:
            raise ValueError(f"a first visit at {first_visit_s.min()}, the start is {start_s}")
        if not 1 <= refetch_after <= slate_length:
            raise ValueError(f"refetch_after {refetch_after} must lie in 1..{slate_length}")
        self.audience, self.policies = audience, policies
        self.people, self.arm = np.asarray(people, np.int32), np.asarray(arm, np.int8)
        self.states = platform.states.copy(len(platform.states.n_events))
        n_counters = 1 if shared_counters else len(policies)
        self.counters = [copy.deepcopy(platform.counters) for _ in range(n_counters)]
        self._counter_of = self.arm if not shared_counters else np.zeros(len(people), np.int8)
        self.slate_length, self.refetch_after = slate_length, refetch_after
        self.start_s = start_s
        self._clock = np.asarray(first_visit_s, np.int64).copy()
        self._opens = np.ones(len(people), dtype=bool)  # nobody is in a session
        self._slate = np.full((len(people), slate_length), -1, dtype=np.int32)
        self._place = np.full(len(people), slate_length, dtype=np.int32)
        self._rows: list[tuple[np.ndarray, ...]] = []
        self.n_requests = 0

    def run(self, end_s: int, step: Step = lambda _: None) -> Trace:
        """Plays until ``end_s`` (nothing starts at or after it); ``step`` hears of each period."""
        period = self.counters[0].period_s
        begin = self.start_s
        while begin < end_s:
            until = min(begin - begin % period + period, end_s)
            for counters in self.counters:
                counters.advance(begin)
            while (due := np.flatnonzero(self._clock < until)).size:
                waiting = self._needs_videos(due)
                # Whoever has videos goes on first, so that the others ask in one large batch.
                if waiting.all():
                    self._refill(due)
                else:
                    self._watch_next(due[~waiting])
            begin = until
            step(1)
        self.start_s = end_s
        return self._trace()

    # --- one video of everybody who is due --------------------------------------------------------

    def _watch_next(self, due: np.ndarray) -> None:
        """The next video of people ``due`` (positions in ``people``)."""
        user, now_s = self.people[due], self._clock[due]
        opens = self._opens[due]
        if opens.any():
            self.audience.open_sessions(user[opens], now_s[opens])
        video = self._slate[due, self._place[due]]
        outcomes = self.audience.watch(user, video, now_s)
        self.states.apply(user, video, outcomes, now_s)  # type: ignore[arg-type]  # has all it reads
        self._record(due, video, outcomes)
        self._move_on(due, outcomes)

    def _needs_videos(self, due: np.ndarray) -> np.ndarray:
        """bool[B]: no slate, played far enough, or shorter than its length and at its end."""
        place = self._place[due]
        out = self._slate[due, np.minimum(place, self.slate_length - 1)] < 0
        return (place >= self.refetch_after) | out

    def _refill(self, rows: np.ndarray) -> None:
        for number, policy in enumerate(self.policies):
            mine = rows[self.arm[rows] == number]
            if not mine.size:
                continue
            batch = self.states.batch(self.people[mine], self._clock[mine])
            snapshot = self.counters[self._counter_of[mine[0]]].snapshot
            videos = policy.next_videos(batch, snapshot, self.slate_length)
            if (videos[:, 0] < 0).any():
                person = self.people[mine[np.argmax(videos[:, 0] < 0)]]
                raise ValueError(f"the policy of arm {number} has no video for user {person}")
            self._slate[mine], self._place[mine] = videos, 0
            self.n_requests += len(mine)

    def _record(self, due: np.ndarray, video: np.ndarray, outcomes: Outcomes) -> None:
        now_s = self._clock[due]
        shown = np.empty(len(due), dtype=np.int32)
        counted = np.stack(
            [np.ones(len(due)), outcomes.long_view, outcomes.skip, outcomes.like], axis=1
        ).astype(np.float32)
        for number, counters in enumerate(self.counters):
            mine = self._counter_of[due] == number
            counters.add(video[mine], now_s[mine], counted[mine])
            shown[mine] = counters.snapshot.exposures[video[mine]]
            self._tell(number, video[mine], counters.snapshot)
        row = (
            self.people[due],
            video,
            now_s,
            outcomes.watch_s,
            outcomes.long_view,
            outcomes.skip,
            outcomes.like,
            outcomes.satisfaction,
            self._opens[due],
            shown,
        )
        self._rows.append(row)

    def _tell(self, number: int, video: np.ndarray, snapshot: CounterSnapshot) -> None:
        """Plays, to every policy that reads these counters; what was fetched is no exposure."""
        shared = len(self.counters) == 1
        for policy in self.policies if shared else self.policies[number : number + 1]:
            if isinstance(policy, Counts) and len(video):
                policy.count_exposures(video, snapshot)

    def _move_on(self, due: np.ndarray, outcomes: Outcomes) -> None:
        self._clock[due] += np.ceil(outcomes.watch_s).astype(np.int64) + SWIPE_S
        self._place[due] += 1
        self._opens[due] = outcomes.leaves
        gone = due[outcomes.leaves]
        if gone.size:
            back = self.audience.next_visit_s(self.people[gone], self._clock[gone])
            self._clock[gone] = np.maximum(back, self._clock[gone])
            self._slate[gone], self._place[gone] = -1, self.slate_length

    def _trace(self) -> Trace:
        if not self._rows:
            raise ValueError("nobody came before the end; give more people or more days")
        columns = [np.concatenate(column) for column in zip(*self._rows, strict=True)]
        order = np.lexsort((columns[0], columns[2]))
        return Trace(*(column[order] for column in columns))
