"""Draws the truth of the world: tags, creators, videos, their embeddings, people, shocks.

In: a ``WorldConfig`` and a random generator. Out: the arrays that ``world.World`` holds. Everything
is drawn in a fixed order from one generator, so the seed decides all of it. V videos, U users,
C creators, T tags, D factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.config import WorldConfig
from shorts_recommendation.log import DAY_S, N_TAGS_PER_VIDEO, Catalogue, Users

START_S = 1_735_689_600  # 2025-01-01 00:00 UTC, the first second of the log
TAG_SHARE = 0.4  # most of the variance of a video's factors that its tags explain
CONTENT_CHUNK = 8_192  # videos x 768 floats at a time: 25 MB
_TAG_WEIGHTS = np.array([1.0, 0.5, 0.35], np.float32)  # main tag first
_CONTENT_SHARES = {"mean": 0.08, "topic": 0.60, "factors": 0.14, "creator": 0.08, "noise": 0.10}


@dataclass(frozen=True)
class VideoTruth:
    """What is true of every video and not shown.

    Attributes:
        factors: f32[V, D]; tastes meet them.
        quality: f32[V], N(0, 1).
        clickbait: f32[V] in [0, 1].
        popularity: f64[V], Zipf weights, largest 1; exogenous.
    """

    factors: np.ndarray
    quality: np.ndarray
    clickbait: np.ndarray
    popularity: np.ndarray


@dataclass(frozen=True)
class UserTruth:
    """What is true of every user and not shown.

    Attributes:
        taste_start, taste_end: f32[U, D]; the taste rotates from one towards the other.
        activity: f32[U], mean 1; visits are proportional to it.
    """

    taste_start: np.ndarray
    taste_end: np.ndarray
    activity: np.ndarray


@dataclass(frozen=True)
class Shocks:
    """Trending shocks: ``tag`` i16[S] is ``boost`` f64[S] times as popular in [start_s, end_s)."""

    tag: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    boost: np.ndarray


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, f32."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def tag_directions(config: WorldConfig, rng: np.random.Generator) -> np.ndarray:
    """Directions of tags in taste space, unit f32[T, D]."""
    return unit_rows(rng.standard_normal((config.n_tags, config.n_factors), dtype=np.float32))


def draw_videos(
    config: WorldConfig, directions: np.ndarray, rng: np.random.Generator
) -> tuple[Catalogue, VideoTruth]:
    """The catalogue and its truth."""
    n, n_creators = config.n_videos, config.n_creators or max(1, config.n_videos // 10)
    creator = _creators_of_videos(n, n_creators, rng)
    tags = _tags(config, creator, n_creators, rng)
    language = _languages(config, n_creators, rng)[creator]
    duration = _durations(n, rng)
    upload = _uploads(config, rng)
    quality = np.sqrt(0.4) * rng.standard_normal(n_creators)[creator]
    quality = (quality + np.sqrt(0.6) * rng.standard_normal(n)).astype(np.float32)
    bait_of_creator = rng.beta(0.6, 2.4, n_creators)[creator]
    clickbait = np.clip(bait_of_creator + 0.08 * rng.standard_normal(n), 0, 1).astype(np.float32)
    factors, content = _factors_and_content(config, directions, creator, tags, n_creators, rng)
    popularity = _zipf(config, 0.5 * quality + clickbait + rng.standard_normal(n))
    ids = 1_000_000 + rng.permutation(n).astype(np.int64)
    catalogue = Catalogue(ids, creator, tags, language, duration, upload, content)
    return catalogue, VideoTruth(factors, quality, clickbait, popularity)


def _creators_of_videos(n: int, n_creators: int, rng: np.random.Generator) -> np.ndarray:
    """Productivity falls as rank^-0.7; the last creator has a video, so the count is exact."""
    weight = np.arange(1, n_creators + 1) ** -0.7
    creator = rng.choice(n_creators, n, p=weight / weight.sum()).astype(np.int32)
    creator[rng.integers(n)] = n_creators - 1
    return creator


def _tags(
    config: WorldConfig, creator: np.ndarray, n_creators: int, rng: np.random.Generator
) -> np.ndarray:
    """i16[V, 3]: the main tag is mostly the creator's speciality; one to three, distinct."""
    n, n_tags = len(creator), config.n_tags
    weight = np.arange(1, n_tags + 1) ** -0.5
    weight /= weight.sum()
    speciality = rng.choice(n_tags, (n_creators, 2), p=weight)
    main = speciality[creator, (rng.random(n) < 0.3).astype(int)]
    main = np.where(rng.random(n) < 0.75, main, rng.choice(n_tags, n, p=weight))
    tags = np.full((n, N_TAGS_PER_VIDEO), -1, np.int16)
    tags[:, 0] = main
    count = 1 + rng.binomial(N_TAGS_PER_VIDEO - 1, 0.6, n)
    for place in range(1, N_TAGS_PER_VIDEO):
        other = rng.choice(n_tags, n, p=weight).astype(np.int16)
        fits = (place < count) & (other[:, None] != tags[:, :place]).all(axis=1)
        fits &= tags[:, place - 1] >= 0  # no holes
        tags[fits, place] = other[fits]
    return tags


def _languages(config: WorldConfig, n: int, rng: np.random.Generator) -> np.ndarray:
    """i16[n], shares falling as rank^-2."""
    share = np.arange(1, config.n_languages + 1) ** -2.0
    return rng.choice(config.n_languages, n, p=share / share.sum()).astype(np.int16)


def _durations(n: int, rng: np.random.Generator) -> np.ndarray:
    """f32[n] seconds in [5, 180]: a mixture of two log-normals, clips and longer pieces."""
    short = rng.random(n) < 0.6
    seconds = np.exp(
        np.where(short, np.log(12.0), np.log(48.0))
        + np.where(short, 0.4, 0.55) * rng.standard_normal(n)
    )
    return np.clip(seconds, 5.0, 180.0).astype(np.float32)


def _uploads(config: WorldConfig, rng: np.random.Generator) -> np.ndarray:
    """i64[V]: a backlog with exponential ages (mean 45 days), then evenly over the log's hours."""
    old = rng.random(config.n_videos) < config.backlog_share
    age = rng.exponential(45 * DAY_S, config.n_videos) + 1
    later = rng.uniform(0, config.days * DAY_S, config.n_videos)
    return (START_S + np.where(old, -np.minimum(age, 720 * DAY_S), later)).astype(np.int64)


def _zipf(config: WorldConfig, score: np.ndarray) -> np.ndarray:
    """rank^-exponent, rank 1 for the highest score."""
    rank = np.empty(len(score))
    rank[np.argsort(-score)] = np.arange(1, len(score) + 1)
    return rank**-config.zipf_exponent


def _factors_and_content(
    config: WorldConfig,
    directions: np.ndarray,
    creator: np.ndarray,
    tags: np.ndarray,
    n_creators: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Factors f32[V, D] and content f16[V, 768]; what the content says of the factors is known.

    Factors are sqrt(ρ) times what the tags say plus sqrt(1 - ρ) times the rest. Content shows the
    tags (each has a topic direction) and a noisy copy of the rest whose squared correlation with it
    is g, so that a linear probe finds ρ + (1 - ρ) g = ``content_signal`` of the variance (and a few
    per cent more at low signals, because a creator's videos are alike in style and in factors).
    """
    depth, dim = config.n_factors, config.content_dim
    rho = min(TAG_SHARE, config.content_signal)
    g = (config.content_signal - rho) / (1 - rho) if rho < 1 else 0.0
    topics = unit_rows(rng.standard_normal((config.n_tags, dim), dtype=np.float32))
    styles = unit_rows(rng.standard_normal((n_creators, dim), dtype=np.float32))
    of_creator = rng.standard_normal((n_creators, depth), dtype=np.float32)
    lift = np.linalg.qr(rng.standard_normal((dim, depth)))[0].T.astype(np.float32)
    mean = unit_rows(rng.standard_normal((1, dim), dtype=np.float32))
    share = {name: np.float32(np.sqrt(value)) for name, value in _CONTENT_SHARES.items()}
    factors = np.empty((len(creator), depth), np.float32)
    content = np.empty((len(creator), dim), np.float16)
    for begin in range(0, len(creator), CONTENT_CHUNK):
        rows = slice(begin, begin + CONTENT_CHUNK)
        weight = np.where(tags[rows] >= 0, _TAG_WEIGHTS, np.float32(0))[:, :, None]
        said = (weight * directions[tags[rows]]).sum(axis=1)
        topic = (weight * topics[tags[rows]]).sum(axis=1)
        rest = np.sqrt(0.3) * of_creator[creator[rows]]
        rest += np.sqrt(0.7) * rng.standard_normal(rest.shape, dtype=np.float32)
        length = np.linalg.norm(said, axis=1, keepdims=True)
        factors[rows] = np.sqrt(rho * depth) * said / length + np.sqrt(1 - rho) * rest
        copy = np.sqrt(g) * rest + np.sqrt(1 - g) * rng.standard_normal(rest.shape)
        noise = rng.standard_normal((len(rest), dim), dtype=np.float32) / np.float32(np.sqrt(dim))
        seen = share["mean"] * mean + share["topic"] * unit_rows(topic)
        seen += share["factors"] * (copy.astype(np.float32) / np.float32(np.sqrt(depth))) @ lift
        seen += share["creator"] * styles[creator[rows]] + share["noise"] * noise
        content[rows] = unit_rows(seen)
    return factors, content


def draw_users(
    config: WorldConfig, directions: np.ndarray, rng: np.random.Generator
) -> tuple[Users, UserTruth]:
    """The users and their truth."""
    n = config.n_users
    start, end = (_tastes(config, directions, rng) for _ in range(2))
    activity = np.clip(rng.lognormal(0.0, 0.7, n), 0.15, 6.0)
    users = Users(
        user_ids=10_000_000 + rng.permutation(n).astype(np.int64),
        language=_languages(config, n, rng),
        age_group=rng.choice(5, n, p=[0.25, 0.3, 0.2, 0.15, 0.1]).astype(np.int16),
        device=rng.choice(3, n, p=[0.6, 0.3, 0.1]).astype(np.int16),
    )
    return users, UserTruth(start, end, (activity / activity.mean()).astype(np.float32))


def _tastes(config: WorldConfig, directions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """f32[U, D], length sqrt(D): some favourite tags, and a part that no tag says."""
    n, depth = config.n_users, config.n_factors
    favourites = rng.integers(config.n_tags, size=(n, 3))
    taste = 0.6 * rng.standard_normal((n, depth), dtype=np.float32) / np.float32(np.sqrt(depth))
    for place, weight in enumerate((1.0, 0.7, 0.5)):
        taste += np.float32(weight) * directions[favourites[:, place]]
    return np.float32(np.sqrt(depth)) * unit_rows(taste)


def draw_shocks(config: WorldConfig, rng: np.random.Generator) -> Shocks:
    """Tags that are hot for 3 to 12 hours, 4 to 15 times as popular."""
    n = config.n_shocks
    start = START_S + (rng.random(n) * config.days * DAY_S).astype(np.int64)
    hours = rng.uniform(3, 12, n)
    tag = rng.integers(config.n_tags, size=n).astype(np.int16)
    boost = np.exp(rng.uniform(np.log(4), np.log(15), n))
    return Shocks(tag, start, start + (hours * 3600).astype(np.int64), boost)
