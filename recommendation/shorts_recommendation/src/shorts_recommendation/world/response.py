r"""How a person answers one video: the formulas, without state.

In: the interest, the clickbait trait, the duration, and what the session did to the viewer (arrays
that broadcast against each other). Out: probabilities, expectations, or one draw of each feedback.
The symbols and the whole model stand in ``world.world``.

The watch time of who does not skip is a *wish*: the seconds W that interest would carry, cut by the
end of the video. Because W grows less than in proportion to the duration d (``duration`` < 1), the
seconds rise and the ratio falls with d at equal interest: the duration bias that Zhan, Pei, Su and
others ("Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation", KDD 2022)
remove. They find the confounder in a log; here it is written down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from shorts_recommendation.log import LONG_VIEW_S, SKIP_S


@dataclass(frozen=True)
class Behaviour:
    """The constants of the response model; see ``world.world`` for what each multiplies."""

    taste: float = 1.3
    quality: float = 0.5
    language: float = 1.6
    bait: float = 0.9
    position: float = 0.25
    skip_bias: float = 1.4
    skip_slope: float = 1.15
    wish: float = 1.0
    wish_slope: float = 0.7
    duration: float = 0.45
    wish_noise: float = 0.6
    replay: float = 0.45
    replay_decay_s: float = 25.0
    replay_most: float = 3.0
    content: float = -0.6
    content_slope: float = 0.9
    disappointment: float = 3.0
    like: float = -2.75
    share: float = -5.05
    follow: float = -5.45
    like_slope: float = 0.9
    leave: float = -3.5
    leave_bad: float = 1.4
    creator_satiation: float = 0.7
    tag_satiation: float = 0.15
    long_satiation: float = 0.12
    retention: float = 1.2


@dataclass(frozen=True)
class Expected:
    """What a fresh viewer would do, before chance; all f32 of one shape (module ``world``)."""

    long_view: np.ndarray
    skip: np.ndarray
    like: np.ndarray
    watch_s: np.ndarray
    satisfaction: np.ndarray


@dataclass(frozen=True)
class Outcomes:
    """What happened to B impressions; ``satisfaction`` is felt, not observed by the system.

    Attributes:
        watch_s: f32[B].
        long_view, skip, like, share, follow: bool[B].
        satisfaction: f32[B] in [0, 1].
        leaves: bool[B], the session ended after this video.
    """

    watch_s: np.ndarray
    long_view: np.ndarray
    skip: np.ndarray
    like: np.ndarray
    share: np.ndarray
    follow: np.ndarray
    satisfaction: np.ndarray
    leaves: np.ndarray


def skip_probability(behaviour: Behaviour, pull: np.ndarray) -> np.ndarray:
    """Of swiping away within ``SKIP_S``, from the pull e."""
    return expit(-(behaviour.skip_bias + behaviour.skip_slope * pull))


def log_wish(behaviour: Behaviour, pull: np.ndarray, duration_s: np.ndarray) -> np.ndarray:
    """Mean of log(W - SKIP_S), from the pull e and the duration."""
    return (
        behaviour.wish
        + behaviour.wish_slope * pull
        + behaviour.duration * np.log(np.asarray(duration_s, np.float32))
    )


def satisfaction_logit(behaviour: Behaviour, interest: np.ndarray, bait: np.ndarray) -> np.ndarray:
    """m, from the interest (without bait and position) and the clickbait trait."""
    return behaviour.content + behaviour.content_slope * interest - behaviour.disappointment * bait


def replay_probability(behaviour: Behaviour, duration_s: np.ndarray) -> np.ndarray:
    """Of letting a finished video run again."""
    return behaviour.replay * np.exp(-np.asarray(duration_s, np.float32) / behaviour.replay_decay_s)


def expected_response(
    behaviour: Behaviour, interest: np.ndarray, bait: np.ndarray, duration_s: np.ndarray
) -> Expected:
    """Expectations in closed form, for a fresh viewer in the first place of a session."""
    pull = interest + behaviour.bait * bait
    skip = skip_probability(behaviour, pull)
    mean, noise = log_wish(behaviour, pull, duration_s), behaviour.wish_noise
    threshold = np.minimum(duration_s, LONG_VIEW_S) - SKIP_S
    long_view = (1 - skip) * ndtr((mean - np.log(threshold)) / noise)
    once = _mean_below(mean, noise, duration_s - SKIP_S)
    most = behaviour.replay_most * duration_s - SKIP_S
    extra = replay_probability(behaviour, duration_s) * (_mean_below(mean, noise, most) - once)
    logit = satisfaction_logit(behaviour, interest, bait)
    like = (1 - skip) * expit(behaviour.like + behaviour.like_slope * logit)
    watch = skip * (SKIP_S / 2) + (1 - skip) * (SKIP_S + once + extra)
    rows = (long_view, skip, like, watch, expit(logit))
    return Expected(*(np.asarray(row, np.float32) for row in rows))


def _mean_below(mean: np.ndarray, noise: float, cap: np.ndarray) -> np.ndarray:
    """E[min(exp(mean + noise ε), cap)] for ε ~ N(0, 1)."""
    at = (np.log(cap) - mean) / noise
    return np.exp(mean + noise**2 / 2) * ndtr(at - noise) + cap * ndtr(-at)


def draw_watch(
    behaviour: Behaviour, pull: np.ndarray, duration_s: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One draw of (watch_s f32[B], skip bool[B])."""
    n = len(pull)
    skip = rng.random(n) < skip_probability(behaviour, pull)
    swiped = rng.random(n) * SKIP_S
    noise = behaviour.wish_noise * rng.standard_normal(n)
    wish = SKIP_S + np.exp(log_wish(behaviour, pull, duration_s) + noise)
    again = rng.random(n) < replay_probability(behaviour, duration_s)
    cap = np.where(again, behaviour.replay_most * duration_s, duration_s)
    watch_s = np.where(skip, swiped, np.minimum(wish, cap))
    return watch_s.astype(np.float32), skip


def draw_reactions(
    behaviour: Behaviour, logit: np.ndarray, skip: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One draw of (like, share, follow), bool[B]; who skipped does none."""
    chances = rng.random((3, len(logit)))
    bias = np.array([behaviour.like, behaviour.share, behaviour.follow])[:, None]
    done = (chances < expit(bias + behaviour.like_slope * logit)) & ~skip
    return done[0], done[1], done[2]
