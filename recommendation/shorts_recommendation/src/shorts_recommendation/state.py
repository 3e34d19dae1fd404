"""What is remembered of every user between events, and how one event changes it.

In: events (user, video, outcomes, time). Out: a ``RequestBatch`` for any users at any moment. The
same arrays and the same two functions serve the replay of the log (``features.replay``), the
simulator and the service: that is how a served feature and a trained one stay equal.

Kept per user: the last L events in a ring, the last long views, the videos seen, the session
embedding (decayed sum of projected content, signed by the outcome, zero at the start of a session),
the same over the long term, a decayed profile by tag, and the session's counts. About 5 KB each.

Signal of an event: +1 for a long view, +1 more for a like, +1 for a share or follow, -0.5 for a
skip, else the watch ratio up to 0.5. It is what the profiles add up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from shorts_recommendation.config import StateConfig
from shorts_recommendation.items import ItemTable
from shorts_recommendation.log import DAY_S, ImpressionLog, Users
from shorts_recommendation.requests import (
    CONTEXT_DIM,
    MAX_RATIO,
    OUTCOMES,
    SESSION_DIM,
    TAG_SLOTS,
    USER_DIM,
    RequestBatch,
)

N_POSITIVE = 20
_SHORT = 5  # events that the short rates look at
_LANGUAGES, _AGES, _DEVICES = 5, 5, 3


@dataclass(frozen=True)
class Outcomes:
    """What happened to B impressions.

    Attributes:
        watch_s: f32[B], replays included.
        long_view, skip, like, share, follow: bool[B].
    """

    watch_s: np.ndarray
    long_view: np.ndarray
    skip: np.ndarray
    like: np.ndarray
    share: np.ndarray
    follow: np.ndarray

    @classmethod
    def of_log(cls, log: ImpressionLog, rows: np.ndarray) -> Outcomes:
        """The outcomes that stand in these rows of a log."""
        return cls(
            log.watch_s[rows],
            log.long_view[rows],
            log.skip[rows],
            log.like[rows],
            log.share[rows],
            log.follow[rows],
        )


class UserStates:
    """States of all users, as arrays by ``user_idx``.

    Args:
        users: Attributes that do not change.
        items: The catalogue as models read it; replace it by ``items`` after uploads.
        config: Lengths and decays.

    Raises:
        ValueError: If the catalogue has more tags than profiles have slots.
    """

    def __init__(self, users: Users, items: ItemTable, config: StateConfig) -> None:
        if items.tags.max(initial=0) >= TAG_SLOTS:
            raise ValueError(f"tag {items.tags.max()}: profiles have room for {TAG_SLOTS} tags")
        n, length = len(users), config.history_length
        self.users, self.items, self.config = users, items, config
        self.n_events = np.zeros(n, dtype=np.int64)
        self.video = np.full((n, length), -1, dtype=np.int32)
        self.outcome = np.zeros((n, length, len(OUTCOMES)), dtype=np.float32)
        self.time_s = np.zeros((n, length), dtype=np.int64)
        self.place = np.zeros((n, length), dtype=np.int16)
        self.n_positive = np.zeros(n, dtype=np.int64)
        self.positive = np.full((n, N_POSITIVE), -1, dtype=np.int32)
        self.seen = np.full((n, config.seen_length), -1, dtype=np.int32)
        self.session = np.zeros((n, SESSION_DIM), dtype=np.float32)
        self.taste = np.zeros((n, SESSION_DIM), dtype=np.float32)
        self.tag_profile = np.zeros((n, TAG_SLOTS), dtype=np.float32)
        self.rates = np.zeros((n, 3), dtype=np.float32)  # decayed long view, skip, like
        self.last_s = np.full(n, -1, dtype=np.int64)
        self.session_start_s = np.zeros(n, dtype=np.int64)
        self.session_counts = np.zeros((n, 3), dtype=np.float32)  # shown, long views, skips
        self.skip_streak = np.zeros(n, dtype=np.float32)
        self.n_sessions = np.zeros(n, dtype=np.int64)

    def copy(self, capacity: int) -> UserStates:
        """The same past with a future of its own, and room for later users.

        Args:
            capacity: Rows in all; rows beyond the known users are empty and have language 0.

        Raises:
            ValueError: If there are more users already.
        """
        more = capacity - len(self.users)
        if more < 0:
            raise ValueError(f"capacity {capacity} is less than the {len(self.users)} users there")
        padded = {
            f.name: np.pad(getattr(self.users, f.name), (0, more)) for f in fields(self.users)
        }
        twin = UserStates(Users(**padded), self.items, self.config)
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                getattr(twin, name)[: len(array)] = array
        return twin

    def apply(
        self, user: np.ndarray, video: np.ndarray, outcomes: Outcomes, now_s: np.ndarray
    ) -> None:
        """One event of each of B different users, in place.

        Raises:
            ValueError: If a user appears twice: their second event depends on the first.
        """
        if len(np.unique(user)) != len(user):
            raise ValueError("a user appears twice in one call; apply their events one by one")
        self._open_sessions(user, now_s)
        columns = _columns(outcomes, self.items.duration_s[video])
        self._remember(user, video, columns, now_s)
        self._move_profiles(user, video, columns)
        self._count(user, outcomes)
        self.last_s[user] = now_s

    def in_session(self, user: np.ndarray, now_s: np.ndarray) -> np.ndarray:
        """bool[B]: whether a request now belongs to the session of the user's last event."""
        last = self.last_s[user]
        return (last >= 0) & (now_s - last <= self.config.session_gap_s)

    def batch(self, user: np.ndarray, now_s: np.ndarray) -> RequestBatch:
        """What B requests at these moments know of their users."""
        user, now_s = np.asarray(user, dtype=np.int32), np.asarray(now_s, dtype=np.int64)
        live = self.in_session(user, now_s)
        order = self._ring(user, self.n_events, self.config.history_length)
        rows = user[:, None]
        history = self.video[rows, order]
        outcomes = self.outcome[rows, order]
        session = self.session[user] * live[:, None]
        newest = self._ring(user, self.n_positive, N_POSITIVE)[:, ::-1]
        tags = self.tag_profile[user]
        return RequestBatch(
            user_idx=user,
            now_s=now_s,
            history=history,
            history_outcomes=outcomes,
            history_time_s=self.time_s[rows, order],
            history_position=self.place[rows, order],
            recent_positive=self.positive[rows, newest],
            tag_profile=tags,
            session=session,
            user=self._user_vector(user, session, tags),
            context=self._context(user, now_s, live, outcomes),
            language=self.users.language[user].astype(np.int16),
            seen=self.seen[user],
        )

    # --- one event --------------------------------------------------------------------------------

    def _open_sessions(self, user: np.ndarray, now_s: np.ndarray) -> None:
        fresh = ~self.in_session(user, now_s)
        new = user[fresh]
        self.session[new] = 0
        self.session_counts[new] = 0
        self.skip_streak[new] = 0
        self.n_sessions[new] += 1
        self.session_start_s[new] = now_s[fresh]

    def _remember(
        self, user: np.ndarray, video: np.ndarray, columns: np.ndarray, now_s: np.ndarray
    ) -> None:
        slot = self.n_events[user] % self.config.history_length
        self.video[user, slot] = video
        self.outcome[user, slot] = columns
        self.time_s[user, slot] = now_s
        self.place[user, slot] = self.session_counts[user, 0].astype(np.int16)
        self.seen[user, self.n_events[user] % self.config.seen_length] = video
        self.n_events[user] += 1
        good = columns[:, 1] > 0
        who = user[good]
        self.positive[who, self.n_positive[who] % N_POSITIVE] = video[good]
        self.n_positive[who] += 1

    def _move_profiles(self, user: np.ndarray, video: np.ndarray, columns: np.ndarray) -> None:
        signal = event_signal(columns)[:, None]
        content = self.items.content[video]
        slow, quick = self.config.profile_decay, self.config.session_decay
        self.session[user] = quick * self.session[user] + signal * content
        self.taste[user] = slow * self.taste[user] + signal * content
        self.rates[user] = slow * self.rates[user] + (1 - slow) * columns[:, 1:4]
        profile = slow * self.tag_profile[user]
        tags = self.items.tags[video]
        for column in range(tags.shape[1]):
            has = tags[:, column] >= 0
            profile[has, tags[has, column]] += signal[has, 0]
        self.tag_profile[user] = profile

    def _count(self, user: np.ndarray, outcomes: Outcomes) -> None:
        shown = np.ones(len(user), dtype=np.float32)
        self.session_counts[user] += np.stack([shown, outcomes.long_view, outcomes.skip], axis=1)
        self.skip_streak[user] = np.where(outcomes.skip, self.skip_streak[user] + 1, 0)

    # --- one request ------------------------------------------------------------------------------

    def _ring(self, user: np.ndarray, written: np.ndarray, length: int) -> np.ndarray:
        """i64[B, length]: slots oldest first; those never written hold padding and come first."""
        return (written[user][:, None] + np.arange(length)) % length

    def _user_vector(self, user: np.ndarray, session: np.ndarray, tags: np.ndarray) -> np.ndarray:
        vector = np.empty((len(user), USER_DIM), dtype=np.float32)
        vector[:, :32] = session
        vector[:, 32:64] = self.taste[user]
        vector[:, 64:124] = tags
        vector[:, 124] = np.log1p(self.n_events[user])
        vector[:, 125:] = self.rates[user]
        return vector

    def _context(
        self, user: np.ndarray, now_s: np.ndarray, live: np.ndarray, outcomes: np.ndarray
    ) -> np.ndarray:
        context = np.zeros((len(user), CONTEXT_DIM), dtype=np.float32)
        day = 2 * np.pi * (now_s % DAY_S) / DAY_S
        week = 2 * np.pi * (now_s % (7 * DAY_S)) / (7 * DAY_S)
        counts = self.session_counts[user] * live[:, None]
        gap = np.where(self.last_s[user] >= 0, now_s - self.last_s[user], 30 * DAY_S)
        recent = outcomes[:, -_SHORT:]
        shown = np.maximum(counts[:, 0], 1)
        context[:, 0], context[:, 1] = np.sin(day), np.cos(day)
        context[:, 2], context[:, 3] = np.sin(week), np.cos(week)
        context[:, 4] = np.log1p(counts[:, 0])
        context[:, 5] = np.log1p(np.maximum((now_s - self.session_start_s[user]) * live, 0)) / 10
        context[:, 6] = np.log1p(np.maximum(gap, 0)) / 10
        context[:, 7] = np.minimum(self.skip_streak[user] * live, 10) / 5
        context[:, 8:12] = outcomes[:, -1, :4]
        context[:, 12], context[:, 13] = recent[:, :, 0].mean(axis=1), recent[:, :, 1].mean(axis=1)
        context[:, 14] = np.log1p(self.n_events[user])
        context[:, 15] = ~live
        _one_hot(context, 16, self.users.device[user], _DEVICES)
        _one_hot(context, 19, self.users.age_group[user], _AGES)
        _one_hot(context, 24, self.users.language[user], _LANGUAGES)
        context[:, 29], context[:, 30] = counts[:, 1] / shown, counts[:, 2] / shown
        context[:, 31] = np.log1p(self.n_sessions[user])
        return context


def event_signal(columns: np.ndarray) -> np.ndarray:
    """f32[B]: how much an event speaks for its video; ``columns`` as OUTCOMES, f32[B, 5]."""
    ratio, long_view, skip, like, share_follow = columns.T
    weak = np.where(long_view > 0, 1.0, np.minimum(ratio, 0.5))
    return (np.where(skip > 0, -0.5, weak) + like + share_follow).astype(np.float32)


def _columns(outcomes: Outcomes, duration_s: np.ndarray) -> np.ndarray:
    ratio = np.minimum(outcomes.watch_s / duration_s, MAX_RATIO)
    share_follow = outcomes.share | outcomes.follow
    columns = [ratio, outcomes.long_view, outcomes.skip, outcomes.like, share_follow]
    return np.stack(columns, axis=1).astype(np.float32)


def _one_hot(target: np.ndarray, start: int, value: np.ndarray, n: int) -> None:
    rows = np.arange(len(value))
    target[rows, start + np.clip(value, 0, n - 1)] = 1.0
