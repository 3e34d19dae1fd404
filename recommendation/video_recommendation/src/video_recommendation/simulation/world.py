r"""Users whose true preferences are known: they examine a list, watch, rate, and report later.

In: a ``WorldConfig``. Out: a ``World``; the same config gives the same world, and the same random
generator gives the same answers. What no log can show (the best list, the regret of the shown one,
the quality of an item nobody was offered) can be computed here. It is generated data: it shows
mechanics, never how good a system is on people.

Legend: U users, I items (all that will ever be published), D factors, K list length, L slate.

- Preference. x_u, v_i ~ N(0, 1)^D, q_i ~ N(0, 1). Affinity z_ui = x_u . v_i / sqrt(D) and
      P(watch | examined) = sigmoid(taste_strength z_ui + quality_strength q_i + bias).
  Genres follow v_i, so a new item's taste can be guessed from its content. Nothing tells q_i but
  people's answers: that is what must be learned by showing the item.
- Examination. Position k = 1, 2, ... is examined with probability k^-position_bias, whatever is
  shown there; watched = examined and wanted. This is the position-based model: Craswell, Zoeter,
  Taylor and Ramsey, "An experimental comparison of click position-bias models", WSDM 2008.
- Value of a list: the expected number of watches, sum_k k^-position_bias P(watch | examined, i_k).
  The k most wanted items in descending order have the largest value (rearrangement inequality),
  which is ``best_value``; regret is the difference.
- Rating of a watched item: 3.3 + 0.7 z + 0.5 q + 0.6 noise, rounded into 1..5.
- Delay between impression and the moment its watch is known: log-normal with the given median and
  log standard deviation. With the defaults one in eight takes more than four hours and one in sixty
  more than a day; such a delay is the subject of Chapelle, "Modeling Delayed Feedback in Display
  Advertising", KDD 2014.
- Catalogue. ``n_items`` are published before day 0, ``n_new_items_per_day`` at the start of every
  day; item numbers follow publication, so what is available on a day is a prefix 0..n-1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from ml_platform.data.datasets import Dataset
from ml_platform.data.synthetic import DAY_S, START_S

RATING_MEAN, RATING_TASTE, RATING_QUALITY, RATING_NOISE = 3.3, 0.7, 0.5, 0.6


@dataclass(frozen=True)
class WorldConfig:
    """Size and nature of a world.

    Attributes:
        n_users: U.
        n_items: Items published before day 0.
        n_factors: D.
        n_new_items_per_day, n_days: What is published later, and for how many days.
        history_days: Span of the history before day 0.
        n_sessions: Sessions of that history.
        slate_size: L, items shown in a session of the history.
        taste_strength, quality_strength, bias: Of the watch probability.
        position_bias: Examination falls as position^-position_bias; 0 examines everything.
        delay_median_s, delay_log_sd: Of the log-normal delay.
        rating_share: Share of watches that come with a rating.
        seed: Of everything.
    """

    n_users: int = 400
    n_items: int = 400
    n_factors: int = 6
    n_new_items_per_day: int = 15
    n_days: int = 14
    history_days: int = 60
    n_sessions: int = 5_000
    slate_size: int = 20
    taste_strength: float = 1.5
    quality_strength: float = 1.0
    bias: float = -2.0
    position_bias: float = 0.5
    delay_median_s: float = 1_800.0
    delay_log_sd: float = 1.8
    rating_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        zero_is_fine = {"n_new_items_per_day", "n_days", "taste_strength", "quality_strength",
                        "position_bias", "delay_log_sd", "rating_share", "seed"}  # fmt: skip
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "bias":
                continue
            if value < 0 or (value == 0 and field.name not in zero_is_fine):
                least = "at least 0" if field.name in zero_is_fine else "above 0"
                raise ValueError(f"{field.name} must be {least}, got {value}")
        if self.slate_size > self.n_items:
            raise ValueError(f"slate_size {self.slate_size} is more than n_items {self.n_items}")
        if self.rating_share > 1:
            raise ValueError(f"rating_share must be at most 1, got {self.rating_share}")


@dataclass(frozen=True)
class Response:
    """What a user did with a list of K items.

    Attributes:
        examined: bool[K]; no log ever holds this.
        watched: bool[K].
        rating: f32[K], 1 to 5; 0 where not watched or not rated.
        delay_s: i64[K], seconds from the impression until the watch is known; 0 where not watched.
    """

    examined: np.ndarray
    watched: np.ndarray
    rating: np.ndarray
    delay_s: np.ndarray


class World:
    """The truth. Nothing here is changed by a call: randomness comes from the caller's generator.

    Attributes:
        config: What was asked for.
        user_factors: f32[U, D], x; row u is ``user_ids[u]``.
        item_factors: f32[I, D], v; row i is ``item_ids[i]``.
        quality: f32[I], q.
        published_day: i64[I], ascending from day 0 on; negative for the items of the history.
        activity: f64[U], each user's share of the visits.
        user_ids, item_ids: i64, external ids 1, 2, ...
    """

    def __init__(self, config: WorldConfig) -> None:
        rng = np.random.default_rng(config.seed)
        self.config = config
        n_all = config.n_items + config.n_days * config.n_new_items_per_day
        shape = (config.n_users, config.n_factors)
        self.user_factors = rng.standard_normal(shape, dtype=np.float32)
        self.item_factors = rng.standard_normal((n_all, config.n_factors), dtype=np.float32)
        self.quality = rng.standard_normal(n_all, dtype=np.float32)
        self.published_day = self._publication(rng)
        weight = rng.lognormal(0.0, 0.5, config.n_users)
        self.activity = weight / weight.sum()
        self.user_ids = np.arange(1, config.n_users + 1, dtype=np.int64)
        self.item_ids = np.arange(1, n_all + 1, dtype=np.int64)

    # --- truth ------------------------------------------------------------------------------

    def affinity(self, user_idx: int, item_idx: np.ndarray) -> np.ndarray:
        """The affinity f64[K], z of the formulas."""
        taste = self.user_factors[user_idx].astype(np.float64)
        return self.item_factors[item_idx] @ taste / np.sqrt(self.config.n_factors)

    def watch_probability(self, user_idx: int, item_idx: np.ndarray) -> np.ndarray:
        """P(watch | examined) f64[K] of items i[K] for a user."""
        config = self.config
        affinity = self.affinity(user_idx, item_idx)
        quality = self.quality[item_idx]
        return expit(
            config.taste_strength * affinity + config.quality_strength * quality + config.bias
        )

    def examine_probability(self, k: int) -> np.ndarray:
        """f64[k]: by position, the first is 1."""
        return np.arange(1, k + 1, dtype=np.float64) ** -self.config.position_bias

    def expected_value(self, user_idx: int, item_idx: np.ndarray) -> float:
        """Expected watches of a list in the order given."""
        return float(
            self.watch_probability(user_idx, item_idx) @ self.examine_probability(len(item_idx))
        )

    def best_value(self, user_idx: int, available: np.ndarray, k: int) -> float:
        """Expected watches of the best list of at most ``k`` of the ``available`` items."""
        wanted = -np.sort(-self.watch_probability(user_idx, available))[:k]
        return float(wanted @ self.examine_probability(len(wanted)))

    def known_within(self, seconds: float) -> float:
        """Share of the watches that are known so many seconds after their impression."""
        if seconds <= 0:
            return 0.0
        if self.config.delay_log_sd == 0:
            return float(seconds >= self.config.delay_median_s)
        distance = np.log(seconds / self.config.delay_median_s)
        return float(norm.cdf(distance / self.config.delay_log_sd))

    # --- answers ----------------------------------------------------------------------------

    def respond(
        self,
        user_idx: int,
        item_idx: np.ndarray,
        rng: np.random.Generator,
        *,
        already_watched: np.ndarray | None = None,
    ) -> Response:
        """A user's answer to a list.

        Every call draws the same number of random values, whatever is shown: two policies that are
        given generators of one seed meet the same luck at every position (common random numbers).

        Args:
            user_idx: Who.
            item_idx: i[K], the list, best first.
            rng: The luck.
            already_watched: bool[K], items that the user will not watch again.
        """
        k = len(item_idx)
        luck = rng.uniform(size=(3, k))
        noise = rng.standard_normal((2, k))
        examined = luck[0] < self.examine_probability(k)
        watched = examined & (luck[1] < self.watch_probability(user_idx, item_idx))
        if already_watched is not None:
            watched &= ~already_watched
        liking = (
            RATING_MEAN
            + RATING_TASTE * self.affinity(user_idx, item_idx)
            + RATING_QUALITY * self.quality[item_idx]
            + RATING_NOISE * noise[0]
        )
        rated = watched & (luck[2] < self.config.rating_share)
        delay_s = self.config.delay_median_s * np.exp(self.config.delay_log_sd * noise[1])
        return Response(
            examined=examined,
            watched=watched,
            rating=np.where(rated, np.clip(np.rint(liking), 1, 5), 0).astype(np.float32),
            delay_s=np.where(watched, np.ceil(delay_s), 0).astype(np.int64),
        )

    # --- time and catalogue -------------------------------------------------------------------

    def day_start(self, day: int) -> int:
        """Unix seconds of the first second of a day; day 0 follows the history."""
        return START_S + (self.config.history_days + day) * DAY_S

    def available(self, day: int) -> np.ndarray:
        """i32[...]: items published by the start of a day, always the first so many."""
        return np.flatnonzero(self.published_day <= day).astype(np.int32)

    def dataset(self) -> Dataset:
        """The history before day 0, ready for ``data.system_data``; see ``simulation.history``."""
        from video_recommendation.simulation.history import generate_history

        return generate_history(self)

    def _publication(self, rng: np.random.Generator) -> np.ndarray:
        """Three fifths of the first items are there from the start, the others come in time."""
        config = self.config
        first = rng.integers(-config.history_days, 0, config.n_items)
        old = rng.uniform(size=config.n_items) < 0.6
        first = np.where(old, -config.history_days, first)
        later = np.repeat(np.arange(config.n_days), config.n_new_items_per_day)
        return np.concatenate([first, later])
