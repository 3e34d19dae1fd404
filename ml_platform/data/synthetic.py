r"""Interactions of any size from a generative model whose truth is known, with its oracle.

In: a ``SyntheticConfig``. Out: a ``Dataset`` (synthetic=True) whose ``oracle`` gives the true
utility of every item for a user at a time. For tests, load and scale; quality on generated data
proves nothing, so tables show the oracle's row beside the models'.

Legend: U users, I items, D factors, B batch, L slate length. τ in [0, 1] is time as a fraction of
the whole span. The model:

- Tastes. User u has p_u, q_u ~ N(0, 1)^D, and at τ the taste (a rotation, so its spread stays 1)
      x_u(τ) = cos(θτ) p_u + sin(θτ) q_u,   θ = drift · π/2,
  so tastes at τ and τ' correlate by cos(θ(τ - τ')). Item i has v_i ~ N(0, 1)^D, and its affinity is
      z_ui(τ) = x_u(τ) · v_i / √D.
  Genres follow the factors: each genre is a direction, an item has the one or two nearest.
- Popularity. Item i has a random rank ρ_i; the catalogue's exposure is Zipf's law with drift
      π_i(τ) ∝ ρ_i^(-zipf_exponent) · exp(drift · (cos(πτ/2) a_i + sin(πτ/2) b_i)),  a, b ~ N(0, 1),
  held constant within each of EPOCHS equal parts of the span.
- Exposure. In a session the logging policy draws L items from π(τ) and lists them by popularity
  plus noise, the more popular first. The user examines position k with probability
  k^(-position_bias) and, having examined, watches with probability σ(taste_strength · z + bias):
  the position-based model (Craswell, Zoeter, Taylor and Ramsey, "An experimental comparison of
  click position-bias models", WSDM 2008, the examination hypothesis).
- Feedback. Each (user, item) counts once, the first time. Rating = 3.4 + 0.9 z + 0.6 ε, rounded
  into 1..5. Events of a session follow its slate, seconds apart, some in the same second.

The oracle's utility is the log rate at which a user who examines every position would watch:
      utility_ui(t) = log π_i(τ) + log σ(taste_strength · z_ui(τ) + bias).
Without position bias a user's new items come in proportion to its exponential, so no ranking has
a higher expected hit rate; with it, popular items are watched more than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml_platform.data.schema import Dataset, content_sha256, ordered_tables, unknown_users

START_S = 1_577_836_800  # 2020-01-01, the first second of generated time
DAY_S = 86_400
EPOCHS = 24
SESSIONS_PER_CHUNK = 16_384  # x L x D floats at a time: about 25 MB with the defaults
MAX_SESSIONS = 8  # for each interaction asked for; then users have seen what is shown
_BIAS = -1.0  # of an average item, a quarter of those examined are watched
GENRES = [
    "Action", "Adventure", "Animation", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Sport", "Thriller", "War", "Western",
]  # fmt: skip


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and shape of the generated data; the same config gives the same data.

    Attributes:
        n_users, n_items, n_interactions: exact sizes (a user may have no interaction).
        n_factors: D, the dimension of tastes.
        zipf_exponent: slope of log popularity over log rank; 0 is uniform.
        drift: 0 (none) to 1 (tastes at the end are independent of those at the start).
        position_bias: examination falls as position^-position_bias; 0 examines everything.
        taste_strength: how much affinity counts for watching; 0 is popularity alone.
        slate_size: L, items shown in a session.
        days: the span of time.
        seed: of everything.
    """

    n_users: int = 1_000
    n_items: int = 1_500
    n_interactions: int = 100_000
    n_factors: int = 16
    zipf_exponent: float = 0.9
    drift: float = 0.3
    position_bias: float = 0.5
    taste_strength: float = 2.0
    slate_size: int = 20
    days: int = 365
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_users", "n_items", "n_interactions", "n_factors", "slate_size", "days"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("zipf_exponent", "position_bias", "taste_strength"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.drift <= 1.0:
            raise ValueError(f"drift must be within [0, 1], got {self.drift}")
        if self.n_interactions > self.n_users * self.n_items:
            raise ValueError(
                f"n_interactions={self.n_interactions:,} is more than the "
                f"{self.n_users * self.n_items:,} pairs of users and items"
            )


@dataclass(frozen=True)
class Oracle:
    """The truth behind generated data. Row u is ``users.user_id[u]``, row i ``items.item_id[i]``.

    Attributes:
        config: what was asked for.
        taste_start, taste_end: f32[U, D], p and q of the module's formulas.
        item_factors: f32[I, D], v.
        log_exposure: f32[EPOCHS, I], log π.
    """

    config: SyntheticConfig
    taste_start: np.ndarray
    taste_end: np.ndarray
    item_factors: np.ndarray
    log_exposure: np.ndarray

    def time_fraction(self, timestamp: np.ndarray) -> np.ndarray:
        """τ f64[B] of Unix seconds i64[B], held within [0, 1]."""
        elapsed = (np.asarray(timestamp) - START_S) / (self.config.days * DAY_S)
        return np.clip(elapsed, 0.0, 1.0)

    def tastes(self, user_idx: np.ndarray, tau: np.ndarray) -> np.ndarray:
        """x_u(τ), f32[B, D]."""
        angle = (self.config.drift * np.pi / 2 * tau).astype(np.float32)[:, None]
        start, end = self.taste_start[user_idx], self.taste_end[user_idx]
        return np.cos(angle) * start + np.sin(angle) * end

    def affinity(self, user_idx: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """z, f32[B, I]: how much each user likes each item, whatever its popularity."""
        taste = self.tastes(user_idx, self.time_fraction(timestamp))
        return taste @ self.item_factors.T / np.float32(np.sqrt(self.config.n_factors))

    def utility(self, user_idx: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """The true utility of every item, f32[B, I], for users i[B] at Unix seconds i64[B].

        Memory is B x I floats: ask in batches.
        """
        epoch = _epoch(self.time_fraction(timestamp))
        log_watch = _log_sigmoid(
            self.config.taste_strength * self.affinity(user_idx, timestamp) + _BIAS
        )
        return (self.log_exposure[epoch] + log_watch).astype(np.float32)


def generate(config: SyntheticConfig) -> Dataset:
    """Generates a data set; 1M interactions in seconds, in memory of O(interactions + catalogue).

    Raises:
        ValueError: if so many distinct (user, item) pairs cannot be reached, because users have
            seen most of what the policy shows.
    """
    rng = np.random.default_rng(config.seed)
    oracle = _draw_truth(config, rng)
    user, item, rating, timestamp = _interactions(oracle, rng)
    interactions = pd.DataFrame(
        {"user_id": user + 1, "item_id": item + 1, "rating": rating, "timestamp": timestamp}
    )
    users = unknown_users(np.arange(1, config.n_users + 1))
    tables = ordered_tables(interactions, _items(oracle, rng), users)
    sha256 = content_sha256(*tables)
    licence = "Generated by ml_platform.data.synthetic; no terms."
    return Dataset("synthetic", *tables, sha256, "generator", licence, True, oracle)


def _draw_truth(config: SyntheticConfig, rng: np.random.Generator) -> Oracle:
    """Draws tastes, item factors and the popularity of every epoch."""
    users, items, factors = config.n_users, config.n_items, config.n_factors
    taste_start = rng.standard_normal((users, factors), dtype=np.float32)
    taste_end = rng.standard_normal((users, factors), dtype=np.float32)
    item_factors = rng.standard_normal((items, factors), dtype=np.float32)
    rank = rng.permutation(items) + 1
    rise, fall = rng.standard_normal((2, items))
    angle = (np.arange(EPOCHS)[:, None] + 0.5) / EPOCHS * np.pi / 2  # middle of each epoch
    wave = np.cos(angle) * rise + np.sin(angle) * fall  # [EPOCHS, I], variance 1 at any time
    log_weight = -config.zipf_exponent * np.log(rank) + config.drift * wave
    log_total = np.log(np.exp(log_weight).sum(axis=1, keepdims=True))
    log_exposure = (log_weight - log_total).astype(np.float32)
    return Oracle(config, taste_start, taste_end, item_factors, log_exposure)


def _interactions(
    oracle: Oracle, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs sessions until there are enough distinct pairs: user, item, rating, timestamp [N]."""
    config = oracle.config
    activity = np.cumsum(rng.lognormal(0.0, 1.0, config.n_users))
    joined = rng.uniform(0.0, 0.7, config.n_users)  # τ of a user's first possible session
    cumulative = np.cumsum(np.exp(oracle.log_exposure.astype(np.float64)), axis=1)
    # Epoch e owns the interval (e, e + 1]: one sorted array serves all epochs in one search.
    exposure = (cumulative / cumulative[:, -1:] + np.arange(EPOCHS)[:, None]).ravel()
    chunks: list[tuple[np.ndarray, ...]] = []
    done, sessions = 0, config.n_interactions // 8 + 64
    while done < MAX_SESSIONS * config.n_interactions + 1_000:
        for begin in range(done, done + sessions, SESSIONS_PER_CHUNK):
            n = min(SESSIONS_PER_CHUNK, done + sessions - begin)
            user = np.searchsorted(activity, rng.uniform(0.0, activity[-1], n), side="right")
            tau = joined[user] + rng.uniform(size=n) * (1.0 - joined[user])
            row, *columns = _sessions(oracle, rng, user, tau, exposure)
            chunks.append((begin + row, *columns))
        done += sessions
        session, user, item, rating, timestamp = map(np.concatenate, zip(*chunks, strict=True))
        pair = user.astype(np.int64) * config.n_items + item
        first = _first_of_pairs(pair, session)
        if len(first) >= config.n_interactions:
            # As few sessions as will do. To drop events instead would leave holes in histories.
            enough = np.partition(session[first], config.n_interactions - 1)
            kept = np.flatnonzero(session <= enough[config.n_interactions - 1])
            kept = kept[_first_of_pairs(pair[kept], timestamp[kept])]
            kept = rng.permutation(kept)[: config.n_interactions]  # at most one session too many
            return user[kept], item[kept], rating[kept], timestamp[kept]
        sessions = int(
            done * min(max(1.2 * config.n_interactions / max(len(first), 1) - 1, 0.2), 8)
        )
    raise ValueError(
        f"{config} reached only {len(first):,} of n_interactions={config.n_interactions:,}: "
        f"ask for fewer, or for more items, a lower zipf_exponent or a lower position_bias"
    )


def _sessions(
    oracle: Oracle,
    rng: np.random.Generator,
    user: np.ndarray,
    tau: np.ndarray,
    exposure: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One session for each user [S] at τ [S].

    Returns:
        Of each watched item: row in ``user``, user, item, rating, Unix seconds.
    """
    config = oracle.config
    shape = (len(user), config.slate_size)
    epoch = _epoch(tau)
    drawn = np.searchsorted(exposure, rng.uniform(size=shape) + epoch[:, None], side="left")
    item = drawn - epoch[:, None] * config.n_items  # [S, L]
    score = oracle.log_exposure[epoch[:, None], item] + rng.standard_normal(shape)
    item = np.take_along_axis(item, np.argsort(-score, axis=1), axis=1)
    taste = oracle.tastes(user, tau)
    affinity = np.einsum("sd,sld->sl", taste, oracle.item_factors[item])
    affinity /= np.sqrt(config.n_factors)
    position = np.arange(1, config.slate_size + 1)
    examined = position**-config.position_bias
    watched = rng.uniform(size=shape) < examined * np.exp(
        _log_sigmoid(config.taste_strength * affinity + _BIAS)
    )
    rating = np.clip(np.rint(3.4 + 0.9 * affinity + 0.6 * rng.standard_normal(shape)), 1, 5)
    pause = rng.integers(0, 30, shape)  # seconds before each position; none means a tie
    start = START_S + (tau * config.days * DAY_S).astype(np.int64)
    time = start[:, None] + np.cumsum(pause, axis=1)
    row, _ = np.nonzero(watched)
    liked = rating[watched].astype(np.float32)
    return row, user[row], item[watched], liked, time[watched]


def _first_of_pairs(pair: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The row of every distinct pair that comes first in ``order``; ties keep the first row."""
    by_order = np.argsort(order, kind="stable")
    _, first = np.unique(pair[by_order], return_index=True)
    return by_order[first]


def _items(oracle: Oracle, rng: np.random.Generator) -> pd.DataFrame:
    """The catalogue: titles, years, and the genres whose directions lie nearest to the factors."""
    factors = oracle.item_factors
    directions = rng.standard_normal((len(GENRES), factors.shape[1]), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    closeness = factors @ directions.T  # [I, genres]
    nearest = np.argsort(-closeness, axis=1)[:, :2]
    second = np.take_along_axis(closeness, nearest[:, 1:], axis=1)[:, 0] > 1.0
    genres = [
        "|".join(GENRES[genre] for genre in sorted(pair[: 1 + both]))
        for pair, both in zip(nearest.tolist(), second.tolist(), strict=True)
    ]
    years = rng.integers(1980, 2020, len(factors))
    ids = np.arange(1, len(factors) + 1)
    titles = [f"Item {item} ({year})" for item, year in zip(ids, years, strict=True)]
    return pd.DataFrame({"item_id": ids, "title": titles, "year": years, "genres": genres})


def _epoch(tau: np.ndarray) -> np.ndarray:
    return np.minimum((tau * EPOCHS).astype(np.int64), EPOCHS - 1)


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    """log(1 / (1 + exp(-x))) without overflow."""
    return -np.logaddexp(np.float32(0.0), -x)
