"""What a person really thinks of an item as an answer to a picture: the known truth. SYNTHETIC.

In: users, query pictures (rows of the image set), candidates (rows of the catalogue), a time. Out:
the utility, a logit; its sigmoid, the attraction, is the chance of a click by who looks. The sum of

    VISUAL    x relevance (``content``), centred at that of two pictures of one class
    QUALITY   x quality, standardised over the catalogue
    PRICE     x -|place of the price within its class - the user's price level|
    FRESH     x freshness at that time
    STYLE     x the item's style on the user's taste (of variance about 1)
    INTEREST  x the user's share of the item's class, less an even share
    CHARM     x a number of the item's own, which no feature shows but clicks do

A click needs a look and attraction, independently: the position-based model, in which the chance of
a look depends on the place alone (T. Joachims, A. Swaminathan, T. Schnabel, "Unbiased
Learning-to-Rank with Biased Feedback", WSDM 2017, learn from such clicks).

User -1 is nobody known: no taste, no interest, and the price term in its mean over users. The order
by it is the best that a ranker can give which is not told who asks.

Legend: n searches, C candidates, K places, N items, S styles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit

from image_search.attributes import HALF_LIFE_DAYS, PRICE_SPREAD
from image_search.catalogue import Catalogue
from image_search.clicks.audience import Audience
from image_search.clicks.content import CLASS_WEIGHT, Content
from image_search.clicks.log import DAY_S
from ml_platform.data.interactions import seeded_hash

BASE = -1.6
VISUAL, QUALITY, PRICE, FRESH, STYLE, INTEREST, CHARM = 4.0, 0.6, 0.5, 0.8, 0.7, 0.5, 0.4
CHUNK = 4096
"""Searches at once, so that what is gathered stays in tens of megabytes."""


@dataclass(frozen=True)
class Truth:
    """The utility of every item to everybody.

    Attributes:
        audience: The people.
        query_visual: f32[M, V], by row of the image set.
        item_visual: f32[N, V], by row of the catalogue.
        item_style: f32[N, S].
        item_constant: f32[N]: quality and charm, weighted.
        price_place: f32[N]: log price less its class's median, in standard deviations of a class.
        item_class: i64[N], 0 where nobody knows it.
        age_days: f32[N], at ``now_s``.
        now_s: The log's end, the time of serving.
        examination: f64[K].
    """

    audience: Audience
    query_visual: np.ndarray
    item_visual: np.ndarray
    item_style: np.ndarray
    item_constant: np.ndarray
    price_place: np.ndarray
    item_class: np.ndarray
    age_days: np.ndarray
    now_s: float
    examination: np.ndarray

    def utility(
        self,
        user_idx: np.ndarray,
        query_row: np.ndarray,
        rows: np.ndarray,
        time_s: np.ndarray | None = None,
    ) -> np.ndarray:
        """The utility of candidates.

        Args:
            user_idx: i64[n]; -1: nobody known.
            query_row: i64[n], rows of the image set.
            rows: i64[n, C], rows of the catalogue; -1: no candidate.
            time_s: f64[n]; None: now.

        Returns:
            f32[n, C], -inf where there is no candidate.

        Raises:
            ValueError: If the numbers of users, queries and lists differ.
        """
        users, queries = np.asarray(user_idx), np.asarray(query_row)
        if not len(users) == len(queries) == len(rows):
            raise ValueError(f"{len(users)} users, {len(queries)} queries, {len(rows)} lists")
        time = np.full(len(users), self.now_s) if time_s is None else np.asarray(time_s)
        out = np.empty(rows.shape, dtype=np.float32)
        for begin in range(0, len(rows), CHUNK):
            part = slice(begin, begin + CHUNK)
            out[part] = self._utility(users[part], queries[part], rows[part], time[part])
        return out

    def attraction(
        self,
        user_idx: np.ndarray,
        query_row: np.ndarray,
        rows: np.ndarray,
        time_s: np.ndarray | None = None,
    ) -> np.ndarray:
        """f32[n, C]: the chance of a click by who looks; see ``utility``."""
        value: np.ndarray = expit(self.utility(user_idx, query_row, rows, time_s))
        return value

    def expected_clicks(
        self,
        user_idx: np.ndarray,
        query_row: np.ndarray,
        pages: np.ndarray,
        time_s: np.ndarray | None = None,
    ) -> np.ndarray:
        """f64[n]: clicks that pages i64[n, K'] get in the mean, K' <= K."""
        drawn = self.attraction(user_idx, query_row, pages, time_s).astype(np.float64)
        value: np.ndarray = drawn @ self.examination[: pages.shape[1]]
        return value

    def oracle(self, user_idx: np.ndarray, query_row: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """i64[n, C]: positions of the candidates, the most useful first."""
        return np.argsort(-self.utility(user_idx, query_row, rows), axis=1, kind="stable")

    def age_at(self, rows: np.ndarray, time_s: np.ndarray) -> np.ndarray:
        """f32, of ``rows``' shape: days since an item was listed; negative: not yet."""
        before = (self.now_s - np.asarray(time_s)) / DAY_S
        return (self.age_days[rows] - before.reshape(-1, *[1] * (rows.ndim - 1))).astype(np.float32)

    def _utility(
        self, users: np.ndarray, queries: np.ndarray, rows: np.ndarray, time: np.ndarray
    ) -> np.ndarray:
        at = np.maximum(rows, 0)
        seen = np.einsum("ncv,nv->nc", self.item_visual[at], self.query_visual[queries])
        fresh = np.exp2(-np.maximum(self.age_at(at, time), 0) / HALF_LIFE_DAYS)
        total = BASE + VISUAL * (seen - CLASS_WEIGHT) + self.item_constant[at] + FRESH * fresh
        total = total + self._personal(users, at)
        return np.where(rows >= 0, total, -np.inf).astype(np.float32)

    def _personal(self, users: np.ndarray, at: np.ndarray) -> np.ndarray:
        """f32[n, C]: price, style and interest of users i64[n] in items i64[n, C]."""
        known, who = (users >= 0)[:, None], np.maximum(users, 0)
        audience, place = self.audience, self.price_place[at]
        apart = np.abs(place - audience.price_level[who, None])
        price = -PRICE * np.where(known, apart, mean_distance(place))
        style = np.einsum("ncs,ns->nc", self.item_style[at], audience.taste[who])
        share = (
            audience.interest[who[:, None], self.item_class[at]] - 1 / audience.interest.shape[1]
        )
        likes = STYLE * np.sqrt(self.item_style.shape[1]) * style + INTEREST * share
        return price + np.where(known, likes, 0)


def mean_distance(place: np.ndarray) -> np.ndarray:
    """E|z - p| for p standard normal: the mean of a folded normal distribution."""
    value: np.ndarray = 2 * stats.norm.pdf(place) + place * (2 * stats.norm.cdf(place) - 1)
    return value


def make_truth(
    catalogue: Catalogue,
    picture: np.ndarray,
    content: Content,
    audience: Audience,
    examination: np.ndarray,
    now_s: float,
    seed: int,
) -> Truth:
    """The truth over a catalogue.

    Args:
        catalogue: N items.
        picture: i64[N], each item's row in the image set.
        content: Of the image set.
        audience: The people.
        examination: f64[K].
        now_s: The log's end.
        seed: Of the items' charm.
    """
    kinds = np.maximum(catalogue.label.astype(np.int64), 0)
    quality = catalogue.attributes.quality
    standard = (quality - quality.mean()) / max(float(quality.std()), 1e-6)
    bits = seeded_hash(seed, catalogue.item_id, np.full(len(catalogue), 3)) >> np.uint64(12)
    charm = stats.norm.ppf((bits.astype(np.float64) + 0.5) / 2.0**52)
    return Truth(
        audience=audience,
        query_visual=content.visual,
        item_visual=content.visual[picture],
        item_style=content.style[picture],
        item_constant=(QUALITY * standard + CHARM * charm).astype(np.float32),
        price_place=price_places(catalogue),
        item_class=kinds,
        age_days=catalogue.attributes.age_days,
        now_s=now_s,
        examination=examination,
    )


def price_places(catalogue: Catalogue) -> np.ndarray:
    """f32[N]: the price's place within its class: log price less the class's median, by spread."""
    logs = np.log(catalogue.attributes.price)
    place = np.empty(len(catalogue), dtype=np.float32)
    for kind in np.unique(catalogue.label):
        own = catalogue.label == kind
        place[own] = (logs[own] - np.median(logs[own])) / PRICE_SPREAD
    return place
