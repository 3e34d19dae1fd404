"""Who takes part: the activity of real users, before and after the moment they are assigned.

In: an interaction log. Out: a ``Population``, one row a user, whose metrics are read as an
experiment would read them. No effect and no noise is invented here: counts are heavy-tailed, a
third of the users never come back, and what a user did before says as much about later as it does.

A user is assigned ``BEFORE_S`` seconds after the first event. What came earlier is the period
before, which CUPED may use; what comes in the following ``WITHIN_S`` seconds is the metric. Every
user is measured over the same span, so that a user counts once, complete, on the day of their
result. (A sum that grows while the test runs would change its own early values; no sequential test
covers that.)

MovieLens users rate in one long sitting and seldom return. A period before that is cut by the
calendar, as a company would cut it, therefore holds few of the users who are seen later
(``by_calendar``); the CUPED table shows what each choice of the period before is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_platform.data.interactions import InteractionLog
from ml_platform.operations.experiments import Arm
from video_recommendation.data import SystemData

LIKED = 4.0
"""A rating of this much or more is a like."""
DAY_S = 86_400
BEFORE_S, WITHIN_S = 20 * 60, 7 * DAY_S
# The generator spreads a user's events over months; minutes would hold one event each.
SYNTHETIC_BEFORE_S, SYNTHETIC_WITHIN_S = 30 * DAY_S, 30 * DAY_S
FIRST = 10


@dataclass(frozen=True, eq=False)
class Population:
    """Users as an experiment sees them.

    Attributes:
        name: What the metrics are, in words.
        events, likes: f64[U], in the period that is measured.
        events_before, likes_before: f64[U], before the assignment.
    """

    name: str
    events: np.ndarray
    likes: np.ndarray
    events_before: np.ndarray
    likes_before: np.ndarray

    def __len__(self) -> int:
        return len(self.events)

    def events_per_user(self, rows: np.ndarray | slice = slice(None)) -> Arm:
        """Mean events a user, for the users in ``rows`` (a user may be drawn twice)."""
        return Arm(self.events[rows], before=self.events_before[rows])

    def likes_per_user(self, rows: np.ndarray | slice = slice(None)) -> Arm:
        """Mean likes a user."""
        return Arm(self.likes[rows], before=self.likes_before[rows])

    def liked_share(self, rows: np.ndarray | slice = slice(None)) -> Arm:
        """Likes / events, a ratio metric whose unit is the user."""
        return Arm(
            self.likes[rows],
            per=self.events[rows],
            before=self.likes_before[rows],
            before_per=self.events_before[rows],
        )


def returning_users(data: SystemData) -> Population:
    """All users: their first minutes as the period before, the week that follows as the metric."""
    log = data.log
    before_s = SYNTHETIC_BEFORE_S if data.synthetic else BEFORE_S
    within_s = SYNTHETIC_WITHIN_S if data.synthetic else WITHIN_S
    first = np.repeat(log.timestamp[log.user_ptr[:-1][np.diff(log.user_ptr) > 0]], _counts(log))
    age = log.timestamp - first
    before = age < before_s
    measured = ~before & (age < before_s + within_s)
    return _population("first minutes, then a week", log, before, measured)


def by_calendar(data: SystemData) -> Population:
    """Users who are seen after the training window; what they did in it is the period before."""
    log, cut = data.log, data.windows.train_end
    population = _population("calendar", log, log.timestamp < cut, log.timestamp >= cut)
    there = population.events > 0
    return Population(
        "before and after a date",
        *(
            values[there]
            for values in (
                population.events,
                population.likes,
                population.events_before,
                population.likes_before,
            )
        ),
    )


def first_events(data: SystemData) -> Population:
    """Users by their first ten events, then by the next ten: as many for everybody."""
    log = data.log
    place = np.arange(len(log)) - np.repeat(log.user_ptr[:-1], np.diff(log.user_ptr))
    enough = np.repeat(np.diff(log.user_ptr) >= 2 * FIRST, np.diff(log.user_ptr))
    before = enough & (place < FIRST)
    return _population(
        "ten events, then ten more", log, before, enough & ~before & (place < 2 * FIRST)
    )


def _population(
    name: str, log: InteractionLog, before: np.ndarray, measured: np.ndarray
) -> Population:
    """Counts by user, of users with any row in either period."""
    liked = log.rating >= LIKED
    counts = [
        np.bincount(log.user_idx[mask], minlength=log.n_users).astype(np.float64)
        for mask in (measured, measured & liked, before, before & liked)
    ]
    there = (counts[0] > 0) | (counts[2] > 0)
    return Population(name, *(values[there] for values in counts))


def _counts(log: InteractionLog) -> np.ndarray:
    counts = np.diff(log.user_ptr)
    return counts[counts > 0]
