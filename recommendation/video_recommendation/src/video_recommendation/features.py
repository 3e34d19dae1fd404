"""The ranker's features: one builder for training rows and for live requests.

In: Q requests, their candidates, the bundle's frozen item statistics and the live counters. Out:
f32[C, F] in the order of ``SCHEMA``. Every value is what was known at the request's own second:
histories are strictly before it, counters are closed at the last full minute, item statistics are
fitted on the training window. Training calls this on a batch of thousands of past requests, serving
on a batch of one; that is the whole parity argument, and a test replays served requests to hold it.

Item activity and user profiles may come from the feature store (``stored_features``): serving reads
them there, training and the offline replay compute them here, by the same function.

Legend: Q requests, C candidates of all requests, H history rows, G genres, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from feature_engineering.encoding import smoothed_mean
from feature_engineering.schema import FeatureSchema, FeatureSpec
from ml_platform.data.interactions import InteractionLog
from video_recommendation.data import Catalogue, Users
from video_recommendation.requests import RequestBatch
from video_recommendation.retrieval.sources import SOURCES, Candidates, Retriever
from video_recommendation.stored_features import (
    ITEM_ACTIVITY,
    OWNER,
    USER_PROFILE,
    StoredFeatures,
    computed,
    item_columns,
)

RECENT_EVENTS = 5
SITTING_S = 3600
NEUTRAL_RATING = 3.5
RATING_PRIOR_WEIGHT = 10.0


def _spec(name: str, group: str, freshness: str, default: float, description: str) -> FeatureSpec:
    return FeatureSpec(
        name=name,
        group=group,  # type: ignore[arg-type]  # checked by the schema's own test
        owner=OWNER,
        freshness=freshness,
        default=default,
        description=description,
    )


SCHEMA = FeatureSchema(
    (
        _spec("two_tower_score", "source", "request", 0, "two-tower logit"),
        _spec("co_visitation_score", "source", "request", 0, "votes of the last 20 events"),
        _spec("ease_score", "source", "request", 0, "votes of the whole history"),
        *(
            _spec(f"{name}_rank", "source", "request", 500, f"place in the {name} list")
            for name in SOURCES
        ),
        _spec("n_sources", "source", "request", 1, "how many sources propose it"),
        _spec("last_event_similarity", "user_item", "request", 0, "cosine with the last item"),
        _spec("recent_similarity", "user_item", "request", 0, "mean cosine with the last 5"),
        _spec("genre_affinity", "user_item", "request", 0, "share of history in its genres"),
        _spec("recent_genre_affinity", "user_item", "request", 0, "the same, last 5 events"),
        _spec("genre_liking", "user_item", "request", 0, "mean rating - 3.5 in its genres"),
        _spec("year_distance", "user_item", "request", 20, "years from the last 5 items' mean"),
        *ITEM_ACTIVITY.specs[:5],
        _spec("age_days", "item", "60 s", -1, "days since its first event, -1 if none"),
        _spec("mean_rating", "item", "bundle", 3.5, "smoothed, training window"),
        _spec("like_share", "item", "bundle", 0.5, "smoothed share rated >= 4"),
        _spec("year", "item", "bundle", 0, "release year, 0 unknown"),
        _spec("history_length", "user", "request", 0, "events so far"),
        _spec("user_mean_rating", "user", "request", 3.5, "smoothed mean of the ratings given"),
        *USER_PROFILE.specs,
        _spec("log_gap_s", "context", "request", 20, "log(1 + s since the last event)"),
        _spec("sitting_events", "context", "request", 0, "events in the last hour"),
        _spec("pool_size", "context", "request", 0, "candidates of this request"),
    )
)

PRERANK_FEATURES = (
    "two_tower_score",
    "co_visitation_score",
    "ease_score",
    "two_tower_rank",
    "co_visitation_rank",
    "ease_rank",
    "n_sources",
    "log_count_30d",
)
"""What the pre-ranker reads: known as soon as retrieval is done, no history is touched."""


@dataclass(frozen=True)
class ItemStatistics:
    """Encodings of items fitted on the training window: mean_rating f32[I], like_share f32[I]."""

    mean_rating: np.ndarray
    like_share: np.ndarray


def fit_item_statistics(log: InteractionLog, like_threshold: float) -> ItemStatistics:
    """Smoothed means over a log that holds only what may be known."""
    liked = (log.rating >= like_threshold).astype(np.float32)
    fitted = [
        smoothed_mean(
            log.item_idx, values, n_categories=log.n_items, prior_weight=RATING_PRIOR_WEIGHT
        )
        for values in (log.rating, liked)
    ]
    return ItemStatistics(*fitted)


@dataclass(frozen=True)
class FeatureBuilder:
    """Builds both feature matrices; holds what does not change from request to request."""

    catalogue: Catalogue
    users: Users
    statistics: ItemStatistics

    def prerank_matrix(
        self, batch: RequestBatch, candidates: Candidates, retriever: Retriever
    ) -> np.ndarray:
        """f32[C, len(PRERANK_FEATURES)], all from retrieval and one counter."""
        columns = _source_columns(candidates)
        now = batch.now[candidates.owner]
        count = retriever.window_counts(candidates.item_idx, now, 30.0)
        columns["log_count_30d"] = np.log1p(count)
        return np.stack([columns[name] for name in PRERANK_FEATURES], axis=1).astype(np.float32)

    def matrix(
        self,
        batch: RequestBatch,
        candidates: Candidates,
        retriever: Retriever,
        stored: StoredFeatures | None = None,
    ) -> np.ndarray:
        """f32[C, F] in the order of ``SCHEMA``.

        Args:
            batch: Q requests.
            candidates: Of all of them.
            retriever: Item vectors, and the counter when nothing is stored.
            stored: Item activity and profiles as a feature store gave them; computed when absent.
        """
        stored = stored or self.stored(batch, candidates, retriever)
        return SCHEMA.assemble(
            {
                **_source_columns(candidates),
                **self._item_columns(batch, candidates, stored),
                **self._user_columns(batch, candidates, stored),
                **self._user_item_columns(batch, candidates, retriever),
            }
        )

    def stored(
        self, batch: RequestBatch, candidates: Candidates, retriever: Retriever
    ) -> StoredFeatures:
        """What a feature store on time would give for these requests, computed here."""
        now = batch.now[candidates.owner]
        return computed(retriever.counter, self.users, candidates.item_idx, batch.user_idx, now)

    def _item_columns(
        self, batch: RequestBatch, candidates: Candidates, stored: StoredFeatures
    ) -> dict[str, np.ndarray]:
        item = candidates.item_idx
        return {
            **item_columns(stored.item_activity, batch.now[candidates.owner]),
            "mean_rating": self.statistics.mean_rating[item],
            "like_share": self.statistics.like_share[item],
            "year": self.catalogue.years[item],
        }

    def _user_columns(
        self, batch: RequestBatch, candidates: Candidates, stored: StoredFeatures
    ) -> dict[str, np.ndarray]:
        lengths = batch.lengths
        rating_sum = np.bincount(batch.owner, weights=batch.rating, minlength=len(batch))
        smoothed = (rating_sum + NEUTRAL_RATING) / (lengths + 1)
        gap = np.full(len(batch), np.exp(20.0))
        some = lengths > 0
        gap[some] = batch.now[some] - batch.timestamp[batch.ptr[1:][some] - 1]
        in_sitting = batch.timestamp > batch.now[batch.owner] - SITTING_S
        per_request = {
            **dict(zip(USER_PROFILE.schema.names, stored.user_profile.T, strict=True)),
            "history_length": lengths,
            "user_mean_rating": smoothed,
            "log_gap_s": np.log1p(gap),
            "sitting_events": np.bincount(batch.owner, weights=in_sitting, minlength=len(batch)),
            "pool_size": candidates.pool_size,
        }
        return {name: values[candidates.owner] for name, values in per_request.items()}

    def _user_item_columns(
        self, batch: RequestBatch, candidates: Candidates, retriever: Retriever
    ) -> dict[str, np.ndarray]:
        item, owner = candidates.item_idx, candidates.owner
        recent = batch.steps_back < RECENT_EVENTS
        ones = np.ones(len(batch.item_idx), dtype=np.float32)
        genres = self.catalogue.genre_flags
        n_genres = np.maximum(genres.sum(axis=1), 1)[item]

        def affinity(weights: np.ndarray) -> np.ndarray:
            """Weighted mean of the history's genre flags, read off at the candidate's genres."""
            profile = _history_mean(batch, weights, genres)
            return np.einsum("cg,cg->c", profile[owner], genres[item]) / n_genres

        recent_vector = _history_mean(batch, ones * recent, retriever.item_vectors)
        last_vector = _history_mean(batch, ones * (batch.steps_back == 0), retriever.item_vectors)
        years = self.catalogue.years.astype(np.float32)
        dated = recent & (years[batch.item_idx] > 0)
        recent_year = _history_mean(batch, ones * dated, years[:, None])[owner, 0]
        comparable = (recent_year > 0) & (years[item] > 0)
        vectors = retriever.item_vectors[item]
        return {
            "last_event_similarity": np.einsum("cd,cd->c", last_vector[owner], vectors),
            "recent_similarity": np.einsum("cd,cd->c", recent_vector[owner], vectors),
            "genre_affinity": affinity(ones),
            "recent_genre_affinity": affinity(ones * recent),
            "genre_liking": affinity(batch.rating - NEUTRAL_RATING),
            "year_distance": np.where(comparable, np.abs(years[item] - recent_year), np.nan),
        }


def _source_columns(candidates: Candidates) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {
        "two_tower_score": candidates.score[:, 0],
        "co_visitation_score": candidates.score[:, 1],
        "ease_score": candidates.score[:, 2],
    }
    for column, name in enumerate(SOURCES):
        columns[f"{name}_rank"] = candidates.rank[:, column]
    columns["n_sources"] = candidates.in_source.sum(axis=1)
    return columns


def _history_mean(batch: RequestBatch, weights: np.ndarray, table: np.ndarray) -> np.ndarray:
    """f32[Q, D]: sum of weight * table[item] over a history / its number of non-zero weights.

    A weight may be negative (a rating below neutral), so the count, not the sum, divides.
    """
    shape = (len(batch), len(table))
    matrix = sparse.csr_matrix((weights.astype(np.float32), batch.item_idx, batch.ptr), shape=shape)
    counts = np.bincount(batch.owner, weights=weights != 0, minlength=len(batch))
    return np.asarray(matrix @ table) / np.maximum(counts, 1)[:, None]
