"""The people at their screens: fatigue, the session, satisfaction so far, the next visit.

In: users, the video that each sees now, and the time. Out: what they did (``Outcomes``). The state
is arrays over all users that every call changes; the formulas stand in ``world.world``. Whoever
shows videos (the logging policy, an experiment, a feedback loop) drives the same audience.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from shorts_recommendation.log import DAY_S, LONG_VIEW_S
from shorts_recommendation.world.response import (
    Outcomes,
    draw_reactions,
    draw_watch,
    satisfaction_logit,
)
from shorts_recommendation.world.world import World

RECENT = 8  # videos of this session that still tire
FADE = 0.85  # of a video's weight in fatigue, with each further video
SATIATION_HALF_LIFE_S = 2 * DAY_S
LONGEST_SESSION = 80
SESSION_LENGTH = 12.0  # mean under the logging policy; sets the gaps that give the wished volume
CONTENT_MEAN = 0.22  # H_0: mean satisfaction of a session under the logging policy
HABIT_WEIGHT = 0.2  # of the last session in H_u
_GAP_NOISE = 0.6
_PEAK_HOUR, _SWING = 20.0, 0.7


class Audience:
    """What the simulated people carry from video to video and from visit to visit.

    Attributes:
        place: i32[U], videos seen in this session.
        habit: f64[U], H_u, the moving mean of the satisfaction of sessions.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        n = len(world.users)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        self._fade = (FADE ** np.arange(RECENT)).astype(np.float32)
        self.place = np.zeros(n, np.int32)
        self.habit = np.full(n, CONTENT_MEAN)
        self._recent_creators = np.full((n, RECENT), -1, np.int32)
        self._recent_tags = np.full((n, RECENT), -1, np.int16)
        self._satiation = np.zeros((n, world.config.n_tags), np.float32)
        self._satiation_at = np.full(n, world.start_s, np.int64)
        self._session_satisfaction = np.zeros(n)
        per_session = SESSION_LENGTH / world.config.impressions_per_user
        self._gap_s = (world.end_s - world.start_s) * per_session / world.user_truth.activity
        self._day_clock = _activity_clock()

    def first_visits_s(self) -> np.ndarray:
        """When each user comes first, i64[U]: somewhere in the first of their gaps."""
        share = self._rng.random(len(self._gap_s))
        return self._later(np.full(len(share), self.world.start_s), share * self._gap_s)

    def open_sessions(self, user_idx: np.ndarray, now_s: np.ndarray) -> None:
        """Starts a session of each user: rested, but with the long-term satiation left over."""
        self.place[user_idx] = 0
        self._session_satisfaction[user_idx] = 0.0
        self._recent_creators[user_idx] = -1
        self._recent_tags[user_idx] = -1
        away = (now_s - self._satiation_at[user_idx]) / SATIATION_HALF_LIFE_S
        self._satiation[user_idx] *= np.exp2(-away, dtype=np.float64).astype(np.float32)[:, None]
        self._satiation_at[user_idx] = now_s

    def fatigue(self, user_idx: np.ndarray, video_idx: np.ndarray) -> np.ndarray:
        """F, f32[B], of showing each user this video next."""
        behaviour, catalogue = self.world.behaviour, self.world.catalogue
        creator, tag = catalogue.creator_idx[video_idx], catalogue.tags[video_idx, 0]
        same_creator = (self._recent_creators[user_idx] == creator[:, None]) @ self._fade
        same_tag = (self._recent_tags[user_idx] == tag[:, None]) @ self._fade
        return (
            np.float32(behaviour.creator_satiation) * same_creator
            + np.float32(behaviour.tag_satiation) * same_tag
            + np.float32(behaviour.long_satiation) * np.log1p(self._satiation[user_idx, tag])
        )

    def watch(self, user_idx: np.ndarray, video_idx: np.ndarray, now_s: np.ndarray) -> Outcomes:
        """Shows each user one video, and changes what they carry.

        Args:
            user_idx: i32[B], each user at most once, with an open session.
            video_idx: i32[B].
            now_s: i64[B], when the video comes on screen.
        """
        world, behaviour = self.world, self.world.behaviour
        duration = world.catalogue.duration_s[video_idx]
        bait = world.video_truth.clickbait[video_idx]
        felt = world.interest(user_idx, video_idx, now_s) - self.fatigue(user_idx, video_idx)
        place = self.place[user_idx]
        pull = felt + behaviour.bait * bait - behaviour.position * np.log1p(place)
        watch_s, skip = draw_watch(behaviour, pull, duration, self._rng)
        long_view = watch_s >= np.minimum(duration, LONG_VIEW_S)
        logit = satisfaction_logit(behaviour, felt, bait)
        like, share, follow = draw_reactions(behaviour, logit, skip, self._rng)
        satisfaction = expit(logit)
        hazard = behaviour.leave + behaviour.leave_bad * (1 - 2 * satisfaction) + place / 40
        leaves = self._rng.random(len(place)) < expit(hazard)
        leaves |= place + 1 >= LONGEST_SESSION
        self._remember(user_idx, video_idx, long_view, satisfaction)
        return Outcomes(
            watch_s, long_view, skip, like, share, follow, satisfaction.astype(np.float32), leaves
        )

    def _remember(
        self,
        user_idx: np.ndarray,
        video_idx: np.ndarray,
        long_view: np.ndarray,
        satisfaction: np.ndarray,
    ) -> None:
        catalogue = self.world.catalogue
        for recent, now in (
            (self._recent_creators, catalogue.creator_idx[video_idx]),
            (self._recent_tags, catalogue.tags[video_idx, 0]),
        ):
            recent[user_idx, 1:] = recent[user_idx, :-1]  # the right side is a copy
            recent[user_idx, 0] = now
        self._satiation[user_idx, catalogue.tags[video_idx, 0]] += long_view
        self._session_satisfaction[user_idx] += satisfaction
        self.place[user_idx] += 1

    def next_visit_s(self, user_idx: np.ndarray, now_s: np.ndarray) -> np.ndarray:
        """Ends the sessions, and says when each user comes back, i64[B]; the dissatisfied later."""
        mean = self._session_satisfaction[user_idx] / np.maximum(self.place[user_idx], 1)
        self.habit[user_idx] += HABIT_WEIGHT * (mean - self.habit[user_idx])
        mood = np.exp(-self.world.behaviour.retention * (self.habit[user_idx] - CONTENT_MEAN))
        noise = np.exp(_GAP_NOISE * self._rng.standard_normal(len(mood)) - _GAP_NOISE**2 / 2)
        return self._later(now_s, self._gap_s[user_idx] * mood * noise) + 60

    def _later(self, now_s: np.ndarray, gap_s: np.ndarray) -> np.ndarray:
        """``gap_s`` of activity after ``now_s``: gaps pass fast in the evening, slowly at night."""
        clock, seconds = self._day_clock
        day, second = np.divmod(now_s, DAY_S)
        busy_day, busy = np.divmod(np.interp(second, seconds, clock) + gap_s, DAY_S)
        return ((day + busy_day) * DAY_S + np.interp(busy, clock, seconds)).astype(np.int64)


def _activity_clock() -> tuple[np.ndarray, np.ndarray]:
    """Activity passed since midnight, at each minute of a day; both run from 0 to DAY_S."""
    seconds = np.arange(0, DAY_S + 1, 60.0)
    turn = 2 * np.pi / DAY_S
    wave = np.sin(turn * (seconds - _PEAK_HOUR * 3600)) + np.sin(turn * _PEAK_HOUR * 3600)
    return seconds + _SWING / turn * wave, seconds
