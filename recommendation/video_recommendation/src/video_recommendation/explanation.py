"""Why is this item in the list? The reason that a person reads, from what moved the score.

In: the features of the shown items. Out: one sentence each. The ranker's score is split along its
decision paths (``ranking.path_attribution``) over families of features that a person would
recognise, and the family that lifted the item most, compared with the other items of this list,
gives the sentence. For the history families the sentence names the watched title with the strongest
tie.

The sentence explains the ranker, not the world: it says what the model used.
"""

from __future__ import annotations

import numpy as np

from video_recommendation.data import Catalogue
from video_recommendation.features import SCHEMA
from video_recommendation.ranking.lambdarank import LambdaRanker
from video_recommendation.ranking.path_attribution import PathAttribution
from video_recommendation.requests import RequestBatch
from video_recommendation.retrieval.sources import Candidates, Retriever

FAMILIES: dict[str, tuple[str, ...]] = {
    "watched": (
        "co_visitation_score",
        "co_visitation_rank",
        "ease_score",
        "ease_rank",
        "last_event_similarity",
        "recent_similarity",
    ),
    "taste": ("two_tower_score", "two_tower_rank", "n_sources"),
    "genre": ("genre_affinity", "recent_genre_affinity", "genre_liking"),
    "popular": ("log_count_all", "log_count_30d", "recent_popularity_rank"),
    "trending": ("log_count_7d", "log_count_1d", "trend"),
    "new": ("age_days", "fresh_rank"),
    "rated": ("mean_rating", "like_share"),
    "era": ("year", "year_distance"),
}
"""Features of the user or the request alone are in no family: they lift all items alike."""

TIE_EVENTS = 50
"""Last events among which the strongest tie is looked for."""


class Explainer:
    """Makes sentences for one model version."""

    def __init__(self, catalogue: Catalogue, retriever: Retriever, ranker: LambdaRanker) -> None:
        self.catalogue, self.retriever = catalogue, retriever
        columns = [SCHEMA.positions(names) for names in FAMILIES.values()]
        self._attribution = PathAttribution(ranker.booster, columns)

    def reasons(
        self, batch: RequestBatch, candidates: Candidates, features: np.ndarray, rows: np.ndarray
    ) -> list[str]:
        """One sentence for each of the rows.

        Args:
            batch: The one request.
            candidates: Its candidates.
            features: f32[C, F] of the candidates.
            rows: i64[K], the rows that are shown.
        """
        if not len(batch.item_idx):
            return ["Popular with everyone right now"] * len(rows)
        families = self._attribution.groups(features[rows])
        lift = families - families.mean(axis=0)  # what sets it apart within the list
        names = list(FAMILIES)
        return [
            self._sentence(names[best], batch, int(candidates.item_idx[row]))
            for best, row in zip(lift.argmax(axis=1), rows, strict=True)
        ]

    def _sentence(self, family: str, batch: RequestBatch, item: int) -> str:
        if family == "watched":
            return f"Because you watched {self._strongest_tie(batch, item)}"
        if family == "genre":
            return f"You often watch {self._favourite_genre(batch, item)}"
        if family == "era":
            return "From the years you watch most"
        return {
            "taste": "Close to your recent watching",
            "popular": "Popular this month",
            "trending": "Trending this week",
            "new": "New here",
            "rated": "Highly rated",
        }[family]

    def _strongest_tie(self, batch: RequestBatch, item: int) -> str:
        """Title of the recent event that votes most for the item."""
        recent = batch.item_idx[-TIE_EVENTS:]
        ease = self.retriever.item_item.ease[recent, item]
        return self.catalogue.titles[int(recent[int(np.argmax(ease))])]

    def _favourite_genre(self, batch: RequestBatch, item: int) -> str:
        """The item's genre that the history holds most of."""
        counts = self.catalogue.genre_flags[batch.item_idx].sum(axis=0)
        own = np.flatnonzero(self.catalogue.genre_flags[item])
        if not len(own):
            return "films like this"
        return self.catalogue.genre_names[int(own[np.argmax(counts[own])])]
