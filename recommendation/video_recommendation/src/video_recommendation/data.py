"""From a dataset to arrays: the interaction log, the time windows, the catalogue, the users.

In: a dataset's name. Out: ``SystemData``, which everything later reads; nothing later touches a
table again. Internal numbers: ``item_idx`` is the row of ``Catalogue``, ``user_idx`` the row of
``Users``; external ids appear only at the edges (API, reports).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from feature_engineering.encoding import hashed_words
from ml_platform.data.datasets import Dataset, load_dataset
from ml_platform.data.interactions import InteractionLog, build_interaction_log
from ml_platform.data.splits import TimeWindows, temporal_windows
from ml_platform.data.synthetic import Oracle, SyntheticConfig
from video_recommendation.config import DataConfig

TITLE_BUCKETS = 1024
TITLE_WORDS = 6
YEAR_BUCKETS = 32
AGE_EDGES = (18, 25, 35, 45, 55)


@dataclass(frozen=True)
class Catalogue:
    """The item table.

    Attributes:
        item_ids: i64[I], external ids, ascending.
        titles: I strings.
        years: i16[I], 0 where unknown.
        genre_names: G names.
        genre_flags: f32[I, G], 1 where the item has the genre.
        title_words: i64[I, TITLE_WORDS], hashed words, 0 is padding.
    """

    item_ids: np.ndarray
    titles: tuple[str, ...]
    years: np.ndarray
    genre_names: tuple[str, ...]
    genre_flags: np.ndarray
    title_words: np.ndarray

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def genres(self) -> tuple[tuple[str, ...], ...]:
        """Names of each item's genres; () for none."""
        return tuple(
            tuple(self.genre_names[g] for g in np.flatnonzero(flags)) for flags in self.genre_flags
        )

    def item_idx(self, item_id: int) -> int | None:
        """Internal index of an external id; None when the catalogue does not have it."""
        if not self.item_ids[0] <= item_id <= self.item_ids[-1]:
            return None
        place = int(np.searchsorted(self.item_ids, item_id))
        return place if self.item_ids[place] == item_id else None

    @property
    def year_bucket(self) -> np.ndarray:
        """i64[I]: five-year steps since 1900, 0 for an unknown year."""
        steps = np.clip((self.years.astype(np.int64) - 1900) // 5 + 1, 1, YEAR_BUCKETS - 1)
        return np.where(self.years == 0, 0, steps)


@dataclass(frozen=True)
class Users:
    """The user table: ``user_ids`` i64[U], and codes i64[U] of demographics, 0 where unknown."""

    user_ids: np.ndarray
    age_group: np.ndarray
    gender: np.ndarray
    occupation: np.ndarray
    n_occupations: int

    def user_idx(self, user_id: int) -> int:
        """Row of an external id; -1 for an unknown user."""
        place = int(np.searchsorted(self.user_ids, np.clip(user_id, -1, np.iinfo(np.int64).max)))
        known = place < len(self.user_ids) and self.user_ids[place] == user_id
        return place if known else -1

    def demographics(self, user_idx: np.ndarray) -> np.ndarray:
        """i64[Q, 3] (age group, gender, occupation); zeros for user -1, an unknown user."""
        table = np.stack([self.age_group, self.gender, self.occupation], axis=1)
        return np.where((user_idx < 0)[:, None], 0, table[np.maximum(user_idx, 0)])


@dataclass(frozen=True)
class SystemData:
    """All that is known, and where time is cut."""

    name: str
    sha256: str
    source: str
    licence: str
    synthetic: bool
    log: InteractionLog
    windows: TimeWindows
    catalogue: Catalogue
    users: Users
    oracle: Oracle | None = field(default=None, repr=False)


def load_data(config: DataConfig) -> SystemData:
    """Loads the dataset (fetching it if need be) and builds the arrays."""
    synthetic = SyntheticConfig(**config.synthetic) if config.dataset == "synthetic" else None
    return system_data(load_dataset(config.dataset, synthetic=synthetic), config)


def system_data(dataset: Dataset, config: DataConfig) -> SystemData:
    """The arrays of a dataset that is in memory already, cut in time as ``config`` says."""
    log = build_interaction_log(dataset, seed=config.tie_seed)
    return SystemData(
        name=dataset.name,
        sha256=dataset.sha256,
        source=dataset.source,
        licence=dataset.licence,
        synthetic=dataset.synthetic,
        log=log,
        windows=temporal_windows(log.timestamp, config.fractions),
        catalogue=build_catalogue(dataset),
        users=build_users(dataset),
        oracle=dataset.oracle,
    )


def build_catalogue(dataset: Dataset) -> Catalogue:
    """Item table to arrays; genres in alphabetical order."""
    items = dataset.items
    split = [tuple(g for g in text.split("|") if g) for text in items["genres"]]
    names = tuple(sorted({name for genres in split for name in genres}))
    column = {name: position for position, name in enumerate(names)}
    flags = np.zeros((len(items), len(names)), dtype=np.float32)
    for row, item_genres in enumerate(split):
        flags[row, [column[name] for name in item_genres]] = 1.0
    titles = tuple(str(title) for title in items["title"])
    return Catalogue(
        item_ids=items["item_id"].to_numpy(np.int64),
        titles=titles,
        years=items["year"].to_numpy(np.int16),
        genre_names=names,
        genre_flags=flags,
        title_words=hashed_words(titles, n_buckets=TITLE_BUCKETS, max_words=TITLE_WORDS),
    )


def build_users(dataset: Dataset) -> Users:
    """User table to codes. The code of a category is its place in alphabetical order, from 1."""
    users = dataset.users
    age = users["age"].to_numpy(np.int64)
    gender = users["gender"].map({"F": 1, "M": 2}).fillna(0).to_numpy(np.int64)
    occupations = sorted(set(users["occupation"]) - {"unknown"})
    codes = {name: code for code, name in enumerate(occupations, start=1)}
    return Users(
        user_ids=users["user_id"].to_numpy(np.int64),
        age_group=np.where(age < 0, 0, np.digitize(age, AGE_EDGES) + 1),
        gender=gender,
        occupation=users["occupation"].map(codes).fillna(0).to_numpy(np.int64),
        n_occupations=len(occupations),
    )
