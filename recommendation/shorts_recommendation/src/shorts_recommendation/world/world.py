r"""A world of short videos whose truth is known: who likes what, when, and what they would do.

In: a ``WorldConfig`` and a seed. Out: a ``World``: the catalogue and the users that every model may
see, and the truth behind them, which only simulation and the oracle's row may use. On a generated
world quality proves nothing about real people; it proves that the mechanics work, and it says how
much of what could be reached was reached.

Legend: U users, V videos, T tags, D factors, B batch, C candidates. τ in [0, 1] is time as a
fraction of the log's span. σ is the logistic function, [.] is 1 if true.

Taste. User u has p_u, q_u of length √D (favourite tags and a part that no tag says), and at τ
    x_u(τ) = cos(θτ) p_u + sin(θτ) q_u,   θ = taste_drift · π/2,
as in ``ml_platform.data.synthetic``. Video v has factors f_v (tags, creator, its own part), a
quality q_v, a clickbait trait b_v in [0, 1], a language and a duration d_v.

Interest, and the pull that behaviour follows (p is the place in the session, from 0; F fatigue):
    y = taste · x_u(τ)·f_v/√D + quality · q_v - language · [language_u ≠ language_v]
    e = y - F + bait · b_v - position · log(1 + p)
Fatigue, with lags j = 1, 2, .. over the last eight videos and A the slowly decaying long views of
the tag (half-life two days):
    F = creator_satiation · Σ 0.85^(j-1) [same creator] + tag_satiation · Σ 0.85^(j-1) [same tag]
        + long_satiation · log(1 + A)
Watching:
    P(skip) = σ(-(skip_bias + skip_slope · e)); then watch_s is uniform in [0, SKIP_S)
    otherwise W = SKIP_S + exp(wish + wish_slope · e + duration · log d + wish_noise · ε)
    with ε ~ N(0, 1), and watch_s = min(W, d),
    or min(W, replay_most · d) with probability replay · exp(-d / replay_decay_s)
    long_view = watch_s >= min(d, LONG_VIEW_S)
Satisfaction, which is felt and never logged, knows nothing of duration or place:
    m = content + content_slope · (y - F) - disappointment · b_v,   satisfaction = σ(m)
    P(like | no skip) = σ(like + like_slope · m), share and follow alike with lower constants
Leaving and coming back, with H_u the moving mean of the satisfaction of the user's sessions:
    P(leave) = σ(leave + leave_bad · (1 - 2 · satisfaction) + place / 40)
    gap = gap_u · exp(-retention · (H_u - H_0)) · log-normal noise, in hours of local activity

The clickbait trait raises the pull and lowers satisfaction: a system that learns from skips and
seconds alone is drawn to it, and retention pays. Popularity is exogenous: Zipf times the decay with
age times shocks; it steers what the logging policy shows (``logging_policy``), not what people
like.

The three parts, feedback at once, leaving, and the time of return, are those of KuaiSim (Zhao, Liu,
Cai and others, "KuaiSim: A Comprehensive Simulator for Recommender Systems", NeurIPS 2023 Datasets
and Benchmarks). There they are models learned from logs; here, formulas with known constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import WorldConfig
from shorts_recommendation.log import DAY_S, Catalogue, Users
from shorts_recommendation.world.drawing import (
    START_S,
    Shocks,
    UserTruth,
    VideoTruth,
    draw_shocks,
    draw_users,
    draw_videos,
    tag_directions,
)
from shorts_recommendation.world.response import (
    Behaviour,
    Expected,
    expected_response,
    satisfaction_logit,
)

PAIRS_PER_CHUNK = 500_000  # x D floats at a time: 32 MB with 16 factors
_AGE_DECAY_DAYS, _AGE_DECAY_POWER = 1.0, 0.8


@dataclass(frozen=True)
class World:
    """The catalogue, the users, and the truth behind both.

    Attributes:
        config, seed: what was asked for.
        catalogue, users: what a model may see.
        start_s, end_s: the log's span, Unix seconds.
        video_truth, user_truth, shocks: what it may not.
        behaviour: the constants of the response model.
    """

    config: WorldConfig
    seed: int
    catalogue: Catalogue
    users: Users
    start_s: int
    end_s: int
    video_truth: VideoTruth
    user_truth: UserTruth
    shocks: Shocks
    behaviour: Behaviour

    def tastes(self, user_idx: np.ndarray, now_s: np.ndarray) -> np.ndarray:
        """x_u(τ), f32[B, D]; before the log as at its start, after it as at its end."""
        tau = np.clip((np.asarray(now_s) - self.start_s) / (self.end_s - self.start_s), 0.0, 1.0)
        angle = (self.config.taste_drift * np.pi / 2 * tau).astype(np.float32)[:, None]
        truth = self.user_truth
        return (
            np.cos(angle) * truth.taste_start[user_idx] + np.sin(angle) * truth.taste_end[user_idx]
        )

    def interest(
        self, user_idx: np.ndarray, video_idx: np.ndarray, now_s: np.ndarray
    ) -> np.ndarray:
        """Y of pairs, f32[B] or f32[B, C] as ``video_idx`` is."""
        behaviour, truth = self.behaviour, self.video_truth
        taste = self.tastes(user_idx, now_s) * np.float32(
            behaviour.taste / np.sqrt(self.config.n_factors)
        )
        shape = "bd,bd->b" if video_idx.ndim == 1 else "bd,bcd->bc"
        y = np.einsum(shape, taste, truth.factors[video_idx])
        own = self.users.language[user_idx].reshape((-1,) + (1,) * (video_idx.ndim - 1))
        y += np.float32(behaviour.quality) * truth.quality[video_idx]
        y -= np.float32(behaviour.language) * (self.catalogue.language[video_idx] != own)
        return y

    def expected(self, user_idx: np.ndarray, video_idx: np.ndarray, now_s: np.ndarray) -> Expected:
        """What a fresh viewer would do with each candidate: first place, no fatigue.

        Args:
            user_idx: i32[B].
            video_idx: i32[B, C].
            now_s: i64[B].

        Returns:
            f32[B, C] each; the oracle ranks by ``satisfaction``.

        Raises:
            ValueError: for shapes that do not fit or an index outside the world.
        """
        user_idx, video_idx, now_s = self._checked(user_idx, video_idx, now_s)
        step = max(1, PAIRS_PER_CHUNK // max(video_idx.shape[1], 1))
        chunks = []
        for begin in range(0, max(len(user_idx), 1), step):
            rows = slice(begin, begin + step)
            videos = video_idx[rows]
            y = self.interest(user_idx[rows], videos, now_s[rows])
            bait, duration = self.video_truth.clickbait, self.catalogue.duration_s
            chunks.append(expected_response(self.behaviour, y, bait[videos], duration[videos]))
        names = Expected.__dataclass_fields__
        return Expected(**{n: np.concatenate([getattr(c, n) for c in chunks]) for n in names})

    def oracle_top(self, user_idx: np.ndarray, now_s: np.ndarray, k: int) -> np.ndarray:
        """The k videos of highest satisfaction among all that exist, best first, i32[B, k].

        Raises:
            ValueError: if fewer than k videos exist at one of the times.
        """
        user_idx, now_s = np.asarray(user_idx), np.asarray(now_s)
        top = np.empty((len(user_idx), k), np.int32)
        step = max(1, 8_000_000 // len(self.catalogue))
        for begin in range(0, len(user_idx), step):
            rows = slice(begin, begin + step)
            logit = self._satisfaction_of_all(user_idx[rows], now_s[rows])
            if (count := int(np.isfinite(logit).sum(axis=1).min())) < k:
                raise ValueError(f"k is {k}, but only {count} videos exist at one of the times")
            best = np.argpartition(-logit, k - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(logit, best, axis=1), axis=1, kind="stable")
            top[rows] = np.take_along_axis(best, order, axis=1)
        return top

    def _satisfaction_of_all(self, user_idx: np.ndarray, now_s: np.ndarray) -> np.ndarray:
        """M of every video, f32[B, V]; -inf where it does not exist yet."""
        behaviour, truth = self.behaviour, self.video_truth
        scale = np.float32(behaviour.taste / np.sqrt(self.config.n_factors))
        y = (scale * self.tastes(user_idx, now_s)) @ truth.factors.T
        y += np.float32(behaviour.quality) * truth.quality
        foreign = self.catalogue.language[None] != self.users.language[user_idx][:, None]
        y -= np.float32(behaviour.language) * foreign
        logit = satisfaction_logit(behaviour, y, truth.clickbait).astype(np.float32, copy=False)
        logit[self.catalogue.upload_s[None] > now_s[:, None]] = -np.inf
        return logit

    def popularity_at(self, now_s: int) -> np.ndarray:
        """Exogenous weight of every video at a time, f64[V]; 0 where it does not exist yet."""
        age = (now_s - self.catalogue.upload_s) / DAY_S
        decay = (1 + np.maximum(age, 0) / _AGE_DECAY_DAYS) ** -_AGE_DECAY_POWER
        weight = self.video_truth.popularity * decay * (age >= 0)
        heat = np.ones(self.config.n_tags)
        hot = (self.shocks.start_s <= now_s) & (now_s < self.shocks.end_s)
        np.multiply.at(heat, self.shocks.tag[hot], self.shocks.boost[hot])
        return weight * heat[self.catalogue.tags[:, 0]]

    def _checked(
        self, user_idx: np.ndarray, video_idx: np.ndarray, now_s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        user_idx, video_idx, now_s = map(np.asarray, (user_idx, video_idx, now_s))
        if video_idx.ndim != 2 or not len(user_idx) == len(video_idx) == len(now_s):
            raise ValueError(
                f"want user_idx [B], video_idx [B, C], now_s [B]; got {user_idx.shape}, "
                f"{video_idx.shape}, {now_s.shape}"
            )
        for name, index, size in (
            ("user_idx", user_idx, len(self.users)),
            ("video_idx", video_idx, len(self.catalogue)),
        ):
            if index.size and not 0 <= index.min() <= index.max() < size:
                raise ValueError(
                    f"{name} must lie in [0, {size}), got {index.min()} to {index.max()}; "
                    "take padding (-1) out first"
                )
        return user_idx, video_idx, now_s


def make_world(config: WorldConfig, seed: int, behaviour: Behaviour | None = None) -> World:
    """Draws a world; the same config, seed and behaviour give the same world.

    Args:
        config: Sizes and shapes.
        seed: Of everything that is drawn.
        behaviour: Constants of the response model; the tuned defaults if None.
    """
    rng = np.random.default_rng(seed)
    directions = tag_directions(config, rng)
    catalogue, video_truth = draw_videos(config, directions, rng)
    users, user_truth = draw_users(config, directions, rng)
    shocks = draw_shocks(config, rng)
    end = START_S + config.days * DAY_S
    return World(
        config, seed, catalogue, users, START_S, end, video_truth, user_truth, shocks,
        behaviour or Behaviour(),
    )  # fmt: skip
