"""What a ranker reads of a candidate: fifteen numbers, by the same code in training and serving.

In: candidates i64[B, C] with similarities f32[B, C]. Out: f32[B, C, F], the columns of FEATURES.
Some describe the candidate alone, some the candidate among the query's neighbours, two the query.

What is meant by the neighbours does not depend on which items are scored. ``query_context`` reads
the candidates that the served index finds; serving scores those same candidates, training scores
the items of a logged page, which another embedding chose. So a page's item has the rank that it
would have among today's candidates, and not the one that it had on the page: the page's order is
the old system's and would leak its bias.

Legend: B queries, C candidates, L of the context, N items, F features, G classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_search.attributes import HALF_LIFE_DAYS, PRICE_SPREAD
from image_search.catalogue import Catalogue
from image_search.ranking.counters import Counters, DailyCounters, coec
from image_search.searcher import Ask

GROUPS: dict[str, tuple[str, ...]] = {
    "visual": ("similarity", "similarity_gap", "similarity_rank", "best_similarity"),
    "class": ("class_share", "class_certainty"),
    "price": ("log_price", "price_in_class", "price_gap"),
    "popularity": ("log_popularity",),
    "quality": ("quality",),
    "age": ("freshness", "log_age"),
    "clicks": ("coec", "log_looks"),
}
"""What is left out together when a group's worth is measured."""
FEATURES = tuple(name for group in GROUPS.values() for name in group)
FILE = "features.json"


@dataclass(frozen=True)
class QueryContext:
    """What the index finds for queries.

    Attributes:
        similarity: f32[B, L], falling; -inf where there are fewer.
        class_share: f32[B, G + 1] of the neighbours' classes, the last for those without.
        log_price: f32[B], median of the neighbours.
    """

    similarity: np.ndarray
    class_share: np.ndarray
    log_price: np.ndarray

    def take(self, queries: np.ndarray) -> QueryContext:
        """The context of these queries, i64[B']."""
        return QueryContext(
            self.similarity[queries], self.class_share[queries], self.log_price[queries]
        )


@dataclass(frozen=True)
class Moment:
    """What is known of items at the time of their queries; each f32 of the candidates' shape."""

    age_days: np.ndarray
    clicks: np.ndarray
    looks: np.ndarray
    rate: np.ndarray


class CandidateFeatures:
    """The features over a catalogue; a ``searcher.RankingFeatures``.

    Args:
        catalogue: May grow; an item added later has neither clicks nor looks.
        counters: What was clicked until now.
        neighbours: Of the candidates, those that describe a query.
        prior_looks: See ``counters.coec``.
        class_price: f64[G + 1], median log price of each class; None: of the catalogue's items.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        counters: Counters,
        neighbours: int,
        prior_looks: float,
        class_price: np.ndarray | None = None,
    ) -> None:
        self.catalogue, self.counters = catalogue, counters
        self.neighbours, self.prior_looks = neighbours, prior_looks
        self.class_price = median_prices(catalogue) if class_price is None else class_price

    def __call__(self, asks: Sequence[Ask], rows: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """f32[B, C, F] of the candidates, now; those of row -1 get finite numbers too."""
        return self.table(self.context(rows, similarity), rows, similarity, self.now(rows))

    def context(self, rows: np.ndarray, similarity: np.ndarray) -> QueryContext:
        """What the candidates i64[B, L] of queries say of them."""
        order = np.argsort(-similarity, axis=1, kind="stable")
        ranked = np.take_along_axis(similarity, order, axis=1)
        near = np.take_along_axis(rows, order[:, : self.neighbours], axis=1)
        there, at = near >= 0, np.maximum(near, 0)
        width = len(self.class_price)
        kinds = self.catalogue.label[at].astype(np.int64) % width  # no class: the last place
        place = np.arange(len(rows))[:, None] * width + kinds
        votes = np.bincount(place[there], minlength=len(rows) * width).reshape(len(rows), width)
        share = votes / np.maximum(there.sum(axis=1, keepdims=True), 1)
        price = np.log(self.catalogue.attributes.price[at]).astype(np.float32)
        return QueryContext(ranked, share.astype(np.float32), _medians(price, there))

    def now(self, rows: np.ndarray) -> Moment:
        """What is known of the candidates at this time."""
        at = np.maximum(rows, 0)
        counted = at < len(self.counters.clicks)
        old = np.where(counted, at, 0)
        return Moment(
            age_days=self.catalogue.attributes.age_days[at],
            clicks=np.where(counted, self.counters.clicks[old], np.float32(0)),
            looks=np.where(counted, self.counters.looks[old], np.float32(0)),
            rate=np.full(rows.shape, self.counters.rate, dtype=np.float32),
        )

    def then(
        self, rows: np.ndarray, time_s: np.ndarray, age_days: np.ndarray, daily: DailyCounters
    ) -> Moment:
        """What was known of logged items i64[n, K] when their day began; ages f32[n, K] of then."""
        day = daily.day_of(time_s)
        return Moment(
            age_days=age_days,
            clicks=daily.clicks[day[:, None], rows],
            looks=daily.looks[day[:, None], rows],
            rate=np.broadcast_to(daily.rate[day, None].astype(np.float32), rows.shape),
        )

    def table(
        self, context: QueryContext, rows: np.ndarray, similarity: np.ndarray, moment: Moment
    ) -> np.ndarray:
        """The columns of FEATURES for items i64[B, C] of queries with this context."""
        at, known = np.maximum(rows, 0), self.catalogue.attributes
        similar = np.where(np.isfinite(similarity), similarity, np.float32(-1)).astype(np.float32)
        best = np.maximum(context.similarity[:, :1], np.float32(-1))
        kinds = self.catalogue.label[at].astype(np.int64) % len(self.class_price)
        price = np.log(known.price[at]).astype(np.float32)
        age = np.maximum(moment.age_days, np.float32(0))
        columns = {
            "similarity": similar,
            "similarity_gap": best - similar,
            "similarity_rank": np.log1p(_better(context.similarity, similar)),
            "best_similarity": best,
            "class_share": np.take_along_axis(context.class_share, kinds, axis=1),
            "class_certainty": context.class_share.max(axis=1, keepdims=True),
            "log_price": price,
            "price_in_class": (price - self.class_price[kinds]) / PRICE_SPREAD,
            "price_gap": price - context.log_price[:, None],
            "log_popularity": np.log1p(known.popularity[at]),
            "quality": known.quality[at],
            "freshness": np.exp2(-age / np.float32(HALF_LIFE_DAYS)),
            "log_age": np.log1p(age),
            "coec": np.log(coec(moment.clicks, moment.looks, moment.rate, self.prior_looks)),
            "log_looks": np.log1p(moment.looks),
        }
        out = np.empty((*rows.shape, len(FEATURES)), dtype=np.float32)
        for n, name in enumerate(FEATURES):
            out[..., n] = columns[name]
        return out

    def save(self, folder: Path) -> None:
        """Writes counters and settings into an existing folder; the catalogue has its own file."""
        self.counters.save(folder)
        settings = {
            "features": FEATURES,
            "neighbours": self.neighbours,
            "prior_looks": self.prior_looks,
            "class_price": self.class_price.tolist(),
        }
        (folder / FILE).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> CandidateFeatures:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: If they were other features, which no ranker of this code has learnt.
        """
        kept = json.loads((folder / FILE).read_text())
        if tuple(kept["features"]) != FEATURES:
            raise ValueError(f"{folder} holds features {kept['features']}, not {list(FEATURES)}")
        return cls(
            catalogue,
            Counters.load(folder),
            int(kept["neighbours"]),
            float(kept["prior_looks"]),
            np.array(kept["class_price"]),
        )


def median_prices(catalogue: Catalogue) -> np.ndarray:
    """f64[G + 1]: median log price of each class, the last of items without; of all, where none."""
    logs = np.log(catalogue.attributes.price.astype(np.float64))
    out = np.full(len(catalogue.label_names) + 1, np.median(logs))
    for kind in np.unique(catalogue.label):
        out[kind] = np.median(logs[catalogue.label == kind])
    return out


def _medians(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """f32[B]: the lower median of those that are there in each row; 0 where none is."""
    ordered = np.sort(np.where(there, values, np.inf), axis=1)
    middle = np.maximum(there.sum(axis=1) - 1, 0) // 2
    found = ordered[np.arange(len(values)), middle]
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def _better(ranked: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """f32[B, C]: how many of ranked f32[B, L], falling, are above each similarity f32[B, C]."""
    rising = -ranked
    found = [np.searchsorted(row, -own) for row, own in zip(rising, similarity, strict=True)]
    return np.array(found, dtype=np.float32).reshape(similarity.shape)
