"""What the platform showed while the log was written, with the exact probability of every choice.

In: users, times, and the hour's popularity. Out: one video for each user, the strategy that drew it
and the propensity. The policy is a mixture with known weights over
    trending  p(v) ∝ popularity_v(hour)
    tags      p(v) = p(tag | profile) · popularity_v / Σ popularity of the main tag
    fresh     uniform over uploads of the last 24 hours (uniform over all, if there are none)
    uniform   uniform over what exists
where the profile is the user's long views by main tag so far, smoothed by ``PROFILE_SMOOTHING``
spread evenly over tags that exist. Who has seen v among their last S videos does not get it again
(S is ``SEEN``, or a quarter of a small catalogue, so that no one ever runs out of videos): a draw
of a seen video is drawn anew, strategy included, so that the choice has exactly
    p(v | unseen) = p(v) / (1 - Σ_{seen s} p(s)),
which is what is logged. All four popularities share one cumulative sum, in the order of main tags:
trending searches all of it, a tag its part.

``choose`` is compiled with numba: it visits every seen video of every impression (about 10^8 visits
for a million impressions), which numpy would turn into ragged temporaries.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from numba import njit

from shorts_recommendation.log import DAY_S
from shorts_recommendation.world.world import World

SEEN = 512  # videos that are not shown again
PROFILE_SMOOTHING = 6.0
HOUR_S = 3600
MOST_DRAWS = 100_000  # then the user has seen all there is


class HourTables(NamedTuple):
    """Popularity of H hours, videos in the order of main tags.

    Attributes:
        first_hour_s: when the first hour begins.
        weight: f32[H, V], by ``video_idx``.
        cumulative: f64[H, V + 1], in the order of ``order``.
        tag_total: f64[H, T].
    """

    first_hour_s: int
    weight: np.ndarray
    cumulative: np.ndarray
    tag_total: np.ndarray


class LoggingPolicy:
    """The policy and what it remembers: long views by tag, and the videos seen.

    Attributes:
        shares: f64[4], weights of the mixture in the order of STRATEGIES.
        profile: f32[U, T], long views by main tag.
        seen: i32[U, S], a ring, -1 where nothing is yet.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        config, catalogue = world.config, world.catalogue
        rest = 1.0 - config.uniform_share
        self.shares = np.array(
            [
                rest * (1 - config.tag_share - config.fresh_share),
                rest * config.tag_share,
                rest * config.fresh_share,
                config.uniform_share,
            ]
        )
        self._main = np.ascontiguousarray(catalogue.tags[:, 0])
        self._order = np.argsort(self._main, kind="stable").astype(np.int32)
        self._tag_start = np.searchsorted(self._main[self._order], np.arange(config.n_tags + 1))
        self._by_upload = np.argsort(catalogue.upload_s, kind="stable").astype(np.int32)
        self._uploads = catalogue.upload_s[self._by_upload]
        n = len(world.users)
        self.profile = np.zeros((n, config.n_tags), np.float32)
        self.seen = np.full((n, min(SEEN, max(1, len(catalogue) // 4))), -1, np.int32)
        self._n_seen = np.zeros(n, np.int64)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))

    def tables(self, first_hour_s: int, hours: int) -> HourTables:
        """The popularity of some hours in a row, each as it stands when the hour begins."""
        n = len(self.world.catalogue)
        weight = np.empty((hours, n), np.float32)
        cumulative = np.zeros((hours, n + 1))
        for hour in range(hours):
            weight[hour] = self.world.popularity_at(first_hour_s + hour * HOUR_S)
            np.cumsum(weight[hour][self._order], dtype=np.float64, out=cumulative[hour, 1:])
        tag_total = np.diff(cumulative[:, self._tag_start], axis=1)
        return HourTables(first_hour_s, weight, cumulative, tag_total)

    def choose(
        self, tables: HourTables, user_idx: np.ndarray, now_s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One unseen video for each user: (video i32[B], strategy i8[B], propensity f32[B]).

        Raises:
            ValueError: if nothing exists yet, or a user has seen (nearly) everything that does.
        """
        existing = np.searchsorted(self._uploads, now_s, side="right")
        if len(now_s) and (existing.min() == 0 or tables.cumulative[:, -1].min() == 0):
            raise ValueError(
                f"no video exists at {now_s.min()}, of n_videos={len(self._order)}: raise n_videos "
                f"or backlog_share, now {self.world.config.backlog_share}"
            )
        fresh_from = np.searchsorted(self._uploads, now_s - DAY_S, side="right")
        hour = (now_s - tables.first_hour_s) // HOUR_S
        video, strategy, propensity = _choose(
            self._rng, user_idx, hour, existing, fresh_from, now_s,
            tables.weight, tables.cumulative, tables.tag_total, self.shares,
            self._order, self._tag_start, self._main, self._by_upload,
            self.world.catalogue.upload_s, self.profile, self.seen,
        )  # fmt: skip
        if (video < 0).any():
            row = int(np.flatnonzero(video < 0)[0])
            raise ValueError(
                f"user {user_idx[row]} has seen nearly all {existing[row]} videos that exist: ask "
                f"for more than n_videos={len(self._order)} or fewer impressions_per_user"
            )
        return video, strategy, propensity

    def observe(self, user_idx: np.ndarray, video_idx: np.ndarray, long_view: np.ndarray) -> None:
        """Remembers that each user (at most once) saw this video."""
        self.profile[user_idx, self._main[video_idx]] += long_view
        self.seen[user_idx, self._n_seen[user_idx] % self.seen.shape[1]] = video_idx
        self._n_seen[user_idx] += 1

    def probabilities(self, tables: HourTables, user: int, now_s: int) -> np.ndarray:
        """p(v | unseen) of every video, f64[V]: the slow, readable form of what is logged."""
        hour = (now_s - tables.first_hour_s) // HOUR_S
        weight = tables.weight[hour].astype(np.float64)
        tag_total = tables.tag_total[hour]
        tag = np.where(tag_total > 0, PROFILE_SMOOTHING / (tag_total > 0).sum(), 0)
        tag = (tag + self.profile[user]) / (tag + self.profile[user]).sum()
        upload = self.world.catalogue.upload_s
        exists = upload <= now_s
        fresh = exists & (upload > now_s - DAY_S)
        if not fresh.any():
            fresh = exists
        p = self.shares[0] * weight / weight.sum()
        p += self.shares[1] * weight * (tag / np.where(tag_total > 0, tag_total, 1))[self._main]
        p += self.shares[2] * fresh / fresh.sum() + self.shares[3] * exists / exists.sum()
        p[self.seen[user][self.seen[user] >= 0]] = 0.0
        return cast(np.ndarray, p / p.sum())


@njit(cache=True)  # type: ignore[untyped-decorator]
def _choose(
    rng: Any, user_idx: Any, hours: Any, existing: Any, fresh_from: Any, now_s: Any,
    weight: Any, cumulative: Any, tag_total: Any, shares: Any,
    order: Any, tag_start: Any, main: Any, by_upload: Any, upload_s: Any, profile: Any, seen: Any,
) -> Any:  # fmt: skip
    video = np.full(len(user_idx), -1, np.int32)
    strategy = np.zeros(len(user_idx), np.int8)
    propensity = np.zeros(len(user_idx), np.float32)
    tag = np.empty(tag_total.shape[1])  # p(tag | profile)
    rate = np.empty(tag_total.shape[1])  # probability for each unit of popularity, by main tag
    for row in range(len(user_idx)):
        hour, watched = hours[row], seen[user_idx[row]]
        total = cumulative[hour, -1]
        _tag_rates(profile[user_idx[row]], tag_total[hour], total, shares, tag, rate)
        n_exist = existing[row]
        lowest = fresh_from[row] if fresh_from[row] < n_exist else 0
        each = shares[3] / n_exist
        each_fresh = shares[2] / (n_exist - lowest)
        oldest = now_s[row] - DAY_S if lowest > 0 else -(1 << 62)
        taken = 0.0
        for v in watched:
            if v < 0:
                break
            taken += weight[hour, v] * rate[main[v]] + each
            if upload_s[v] > oldest:
                taken += each_fresh
        for _ in range(MOST_DRAWS):
            source = _pick(shares, rng.random())
            if source >= 2:
                begin = lowest if source == 2 else 0
                drawn = by_upload[begin + int(rng.random() * (n_exist - begin))]
            else:
                low, high = 0, len(order)
                if source == 1:
                    t = _pick(tag, rng.random())
                    low, high = tag_start[t], tag_start[t + 1]
                drawn = order[_search(cumulative[hour], low, high, rng.random())]
                if weight[hour, drawn] == 0:
                    continue  # rounding at the end of a part
            if not _contains(watched, drawn):
                p = weight[hour, drawn] * rate[main[drawn]] + each
                if upload_s[drawn] > oldest:
                    p += each_fresh
                video[row], strategy[row] = drawn, source
                propensity[row] = p / (1.0 - taken)
                break
    return video, strategy, propensity


@njit(cache=True)  # type: ignore[untyped-decorator]
def _tag_rates(profile: Any, tag_total: Any, total: Any, shares: Any, tag: Any, rate: Any) -> None:
    """Fills p(tag | profile), and the probability of a video for each unit of its popularity."""
    smoothing = PROFILE_SMOOTHING / (tag_total > 0).sum()
    mass = 0.0
    for t in range(len(tag)):
        tag[t] = profile[t] + (smoothing if tag_total[t] > 0 else 0.0)
        mass += tag[t]
    for t in range(len(tag)):
        tag[t] /= mass
        rate[t] = shares[0] / total
        if tag_total[t] > 0:
            rate[t] += shares[1] * tag[t] / tag_total[t]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _pick(shares: Any, draw: Any) -> Any:
    """The place where the running sum of shares passes the draw."""
    place = 0
    while place < len(shares) - 1 and draw >= shares[place]:
        draw -= shares[place]
        place += 1
    return place


@njit(cache=True)  # type: ignore[untyped-decorator]
def _search(cumulative: Any, low: Any, high: Any, draw: Any) -> Any:
    """The place within [low, high) that a uniform draw falls on."""
    at = cumulative[low] + draw * (cumulative[high] - cumulative[low])
    place = low + np.searchsorted(cumulative[low + 1 : high + 1], at, "right")
    return min(place, high - 1)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _contains(watched: Any, video: Any) -> Any:
    """Whether a ring that fills from the left holds the video."""
    for v in watched:
        if v < 0:
            return False
        if v == video:
            return True
    return False
