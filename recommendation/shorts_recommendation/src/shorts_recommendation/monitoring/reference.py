"""What training leaves behind for the monitor: features and values of the videos it would show.

In: a trained recommender and requests of the last validation hours. Out: a ``ReferenceProfile``
with a column for each cross feature and one for the value by which slates are ordered.

*Which rows?* The monitor sees videos that are shown, ten of a thousand candidates, chosen by the
models themselves. Against all training rows every slate would look drifted for good: what is shown
is near, liked and fresh. So the reference passes the same funnel.

*Families.* Columns that one upstream feeds break together, and the report says so: counters come
from the stream, affinities from the user's states, the rest from the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.reference_profile import Monitored, ReferenceProfile, build_profile
from shorts_recommendation.config import Config, StateConfig
from shorts_recommendation.counters import CounterSnapshot, feature_names
from shorts_recommendation.features import cross_feature_names, cross_features
from shorts_recommendation.items import ItemTable
from shorts_recommendation.requests import RequestBatch

FILE = "drift_reference.npz"
BATCH = 64
COUNTERS, STATES, CATALOGUE = "counters", "states", "catalogue"
OWNERS = {
    COUNTERS: "shorts_recommendation.counters",
    STATES: "shorts_recommendation.state",
    CATALOGUE: "shorts_recommendation.items",
}
_OF_CATALOGUE = ("log_duration", "log_age_h", "language_match")


class SlateLike(Protocol):
    """The part of a slate that is watched."""

    @property
    def video_idx(self) -> np.ndarray:
        """i32[k]."""

    @property
    def value(self) -> np.ndarray:
        """f32[k]."""


class Watched(Protocol):
    """The part of a recommender that is watched."""

    config: Config
    items: ItemTable

    def recommend(
        self, batch: RequestBatch, snapshot: CounterSnapshot, k: int
    ) -> Sequence[SlateLike]:
        """One slate for each request."""


def monitored_columns(config: StateConfig) -> tuple[Monitored, ...]:
    """The cross features in their order, then the value."""
    counted = set(feature_names(config.counter_half_lives_h))
    columns = []
    for name in cross_feature_names(config):
        family = COUNTERS if name in counted else CATALOGUE if name in _OF_CATALOGUE else STATES
        columns.append(Monitored(name, family, OWNERS[family], family))
    return (*columns, Monitored(PREDICTION, PREDICTION, "shorts_recommendation.ranking"))


def shown_rows(
    request: RequestBatch, slate: SlateLike, snapshot: CounterSnapshot, items: ItemTable
) -> np.ndarray:
    """f32[k, F + 1] of one slate: cross features as the ranker saw them, then the value.

    Args:
        request: One request.
        slate: Its answer, with at least one video.
        snapshot: The counters of that moment.
        items: The catalogue.
    """
    cross = cross_features(request, slate.video_idx[None], snapshot, items)[0]
    return np.column_stack([cross, slate.value]).astype(np.float32)


def build_reference(
    recommender: Watched, requests: RequestBatch, snapshot: CounterSnapshot
) -> ReferenceProfile:
    """The profile of what these requests would be shown.

    Args:
        recommender: Trained.
        requests: Of the end of validation, of many people.
        snapshot: The counters of that time.

    Raises:
        ValueError: If no request has an answer.
    """
    rows, people = [], []
    k = recommender.config.reranking.k
    for begin in range(0, len(requests), BATCH):
        part = requests.take(slice(begin, begin + BATCH))
        for place, slate in enumerate(recommender.recommend(part, snapshot, k)):
            if len(slate.video_idx):
                request = part.take(slice(place, place + 1))
                rows.append(shown_rows(request, slate, snapshot, recommender.items))
                people.append(np.full(len(rows[-1]), request.user_idx[0]))
    if not rows:
        raise ValueError(f"none of {len(requests)} requests has an answer: no reference")
    columns = monitored_columns(recommender.config.state)
    return build_profile(np.concatenate(rows), np.concatenate(people), columns)


def save_reference(profile: ReferenceProfile, folder: Path) -> None:
    """Writes ``drift_reference.npz``."""
    np.savez(folder / FILE, **profile.arrays())  # type: ignore[arg-type]


def load_reference(folder: Path) -> ReferenceProfile | None:
    """Reads what ``save_reference`` wrote; None where training left nothing."""
    if not (folder / FILE).is_file():
        return None
    with np.load(folder / FILE) as file:
        return ReferenceProfile.of_arrays(file)


def explain_family(family: str, findings: Sequence[Finding]) -> str | None:
    """The common cause behind columns of one family that moved, as this system would have it."""
    if family != COUNTERS:
        return None
    ways = {f.feature: "down" if f.kind == "missing" else f.direction for f in findings}
    counts = [way for name, way in ways.items() if name.startswith("log_impressions")]
    if counts and set(counts) == {"down"}:
        return (
            "counters run empty, the shortest half-life first: events no longer reach them; "
            "look at stream_lag_events and feed_snapshot_age_seconds before any model"
        )
    if counts and set(counts) == {"up"}:
        return (
            "what is shown was shown far more of late than before: a hit, a campaign, robots, or a "
            "ranker that feeds on its own counts"
        )
    return None
